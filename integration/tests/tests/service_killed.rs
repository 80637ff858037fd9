//! Any service may be killed at any time: connections between containers survive, and all is as before when it is back.

use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
};
use weft_integration_tests::{Container, Mesh, SOON};
use weft_lab::eventually;

/// The services, as Compose names them.
const SERVICES: [&str; 4] = ["router", "ipam", "dns", "docker-proxy"];

/// A TCP connection between two containers over which lines are echoed.
struct Conversation {
    _process: Child,
    to: ChildStdin,
    from: Lines<BufReader<ChildStdout>>,
    said: u32,
}

impl Conversation {
    async fn start(from: &Container, to: &Container) -> anyhow::Result<Self> {
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

    async fn goes_on(&mut self) -> anyhow::Result<()> {
        self.said += 1;
        let line = format!("line {}", self.said);
        self.to.write_all(format!("{line}\n").as_bytes()).await.context("the connection broke")?;
        let echo = tokio::time::timeout(SOON, self.from.next_line()).await.context("no echo")??;
        ensure!(echo.as_deref() == Some(&line), "{echo:?} came back for {line:?}");
        Ok(())
    }
}

#[tokio::test]
async fn killed_services_come_back_and_connections_survive() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = (mesh.container(1, "one", &[]).await?, mesh.container(2, "two", &[]).await?);
    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;

    for service in SERVICES {
        let what = |step: &str| format!("{step} after {service} was killed");
        mesh.on(1).kill(service).await.with_context(|| what("killing"))?;
        conversation.goes_on().await.with_context(|| what("the connection"))?;
        mesh.on(1).ready().await.with_context(|| what("getting ready"))?;
        mesh.on(1).joined(1).await.with_context(|| what("joining"))?;
        conversation.goes_on().await.with_context(|| what("the connection, later,"))?;

        for (before, other) in [(&one, &two), (&two, &one)] {
            let after = Container::find(&before.host, &before.name).await.with_context(|| what("addresses"))?;
            ensure!((after.ipv4, after.ipv6) == (before.ipv4, before.ipv6), "{}", what("other addresses"));
            let name = format!("{}.weft.internal", other.name);
            eventually(&what("names"), SOON, async || {
                let answer = before.resolves(&name).await?;
                ensure!(answer.contains(&other.ipv4.to_string()), "{name} is {answer}");
                Ok(())
            })
            .await?;
        }
        let new =
            mesh.container(1, &format!("new-after-{service}"), &[]).await.with_context(|| what("a new container"))?;
        ensure!(new.ipv4 != one.ipv4 && new.ipv4 != two.ipv4, "{}", what("an address given twice"));
        two.pings(&new.ipv4.to_string()).await.with_context(|| what("reaching a new container"))?;
    }
    mesh.stop().await
}
