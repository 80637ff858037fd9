//! Docker's own client while it runs.

use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};
use weft_lab::{Host, HostCommand};

use crate::SOON;

/// The file whose presence changes the size of a terminal.
const RESIZE: &str = "/run/resize";

/// Through weft, and at the engine.
pub const WAYS: [bool; 2] = [true, false];

/// Prepares a Docker command one of both ways.
pub fn docker(host: &Host, through_weft: bool, words: &[&str]) -> HostCommand {
    let words = words.iter().copied();
    if through_weft { host.proxy_command(words) } else { host.docker_command(words) }
}

/// A client that runs, with its pipes; killed when dropped.
#[derive(Debug)]
pub struct Client {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    said: String,
}

impl Client {
    /// Starts it with pipes for stdin and stdout.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn start(command: HostCommand) -> anyhow::Result<Self> {
        let mut process = command
            .into_tokio()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start the client")?;
        let stdin = process.stdin.take();
        let stdout = process.stdout.take().context("no stdout")?;
        Ok(Self { process, stdin, stdout, said: String::new() })
    }

    /// Starts one that has a terminal of 33 lines of 77 columns; one on a host at a time.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn in_terminal(host: &Host, through_weft: bool, line: &str) -> anyhow::Result<Self> {
        let client = docker(host, through_weft, &[]).into_tokio();
        let (program, variables) = (client.as_std().get_args().last(), client.as_std().get_envs());
        let program = program.context("no client")?.to_string_lossy().into_owned();
        let resize = format!("(until [ -e {RESIZE} ]; do sleep 0.05; done; stty rows 41 cols 99 < /dev/tty)");
        let line = format!("rm -f {RESIZE}; stty rows 33 cols 77; {resize} & exec {program} {line}");
        let mut terminal = host.command("script", ["--quiet", "--return", "--command", &line, "/dev/null"]);
        for (name, value) in variables {
            terminal = terminal.env(name, value.unwrap_or_default());
        }
        Self::start(terminal.env("TERM", "xterm"))
    }

    /// Gives its terminal 41 lines of 99 columns.
    ///
    /// # Errors
    /// If the host is gone.
    pub async fn resize(&self, host: &Host) -> anyhow::Result<()> {
        host.exec(&["touch", RESIZE]).await.map(drop)
    }

    /// Returns what was read of what it said.
    #[must_use]
    pub fn said(&self) -> &str {
        &self.said
    }

    /// Waits until it has said a text.
    ///
    /// # Errors
    /// If it does not soon, or ends.
    pub async fn says(&mut self, text: &str) -> anyhow::Result<()> {
        let read = async {
            let mut bytes = [0; 4096];
            while !self.said.contains(text) {
                let count = self.stdout.read(&mut bytes).await?;
                ensure!(count > 0, "it ended");
                self.said.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            Ok(())
        };
        let outcome = timeout(SOON, read).await.context("it does not in time").and_then(|read| read);
        outcome.with_context(|| format!("waiting for {text:?}, it said {:?}", self.said))
    }

    /// Writes a text to its stdin.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn hears(&mut self, text: &str) -> anyhow::Result<()> {
        let stdin = self.stdin.as_mut().context("its stdin has ended")?;
        stdin.write_all(text.as_bytes()).await.context("it does not listen")
    }

    /// Ends its stdin; it goes on.
    pub fn hears_no_more(&mut self) {
        self.stdin = None;
    }

    /// Ends its stdin and returns what it exits with.
    ///
    /// # Errors
    /// If it does not end soon.
    pub async fn ends(mut self) -> anyhow::Result<Option<i32>> {
        drop(self.stdin);
        let mut rest = Vec::new();
        timeout(SOON, self.stdout.read_to_end(&mut rest)).await.context("it does not end")??;
        Ok(timeout(SOON, self.process.wait()).await.context("it does not exit")??.code())
    }

    /// Kills it at once.
    ///
    /// # Errors
    /// If it can't be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.process.kill().await.context("failed to kill the client")
    }
}
