//! A connection that lasts while something happens to the network.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};
use weft_lab::eventually;

use crate::{Container, SOON};

/// A TCP connection between two containers over which lines are echoed.
#[derive(Debug)]
pub struct Conversation {
    _process: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
    said: u32,
}

impl Conversation {
    /// Connects.
    ///
    /// # Errors
    /// If the other side does not answer.
    pub async fn start(from: &Container, to: &Container) -> anyhow::Result<Self> {
        to.host.docker(&["exec", "--detach", &to.name, "nc", "-ll", "-p", "7", "-e", "cat"]).await?;
        let target = to.ipv4.to_string();
        eventually("the other side listens", SOON, async || {
            from.exec(&["nc", "-w", "1", &target, "7"]).await.map(drop)
        })
        .await?;
        let mut process = from
            .host
            .docker_command(["exec", "--interactive", &from.name, "nc", &target, "7"])
            .into_tokio()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = process.stdin.take().context("no stdin")?;
        let from = BufReader::new(process.stdout.take().context("no stdout")?).lines();
        Ok(Self { _process: process, to, from, said: 0 })
    }

    /// Says something and waits for its echo.
    ///
    /// # Errors
    /// If the connection broke, or no echo comes soon.
    pub async fn goes_on(&mut self) -> anyhow::Result<()> {
        self.goes_on_within(SOON).await
    }

    /// Says something and waits for its echo, at most so long.
    ///
    /// # Errors
    /// If the connection broke, or no echo comes in time.
    pub async fn goes_on_within(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.said += 1;
        let line = format!("line {}", self.said);
        self.to.write_all(format!("{line}\n").as_bytes()).await.context("the connection broke")?;
        let echo = tokio::time::timeout(limit, self.from.next_line()).await.context("no echo")??;
        ensure!(echo.as_deref() == Some(&line), "{echo:?} came back for {line:?}");
        Ok(())
    }
}
