//! What others may do while a container waits for its network.

use std::time::Duration;

use anyhow::{Context, ensure};
use weft_integration_tests::SOON;
use weft_lab::{Host, eventually};

use crate::{LINGER, Site};

/// How long a container that waits may take to end once it is told to: less than the engine's patience of ten seconds.
const AT_ONCE: Duration = Duration::from_secs(8);

/// How long a container is kept waiting.
const A_WHILE: Duration = Duration::from_secs(1);

/// Holds a service up until dropped or let go.
struct Held<'a> {
    host: &'a Host,
    process: String,
}

impl<'a> Held<'a> {
    async fn up(site: &'a Site<'a>, service: &str) -> anyhow::Result<Self> {
        let container = site.weft.container(service).await?;
        let process = site.host.docker(&["inspect", "--format", "{{.State.Pid}}", &container]).await?;
        site.host.exec(&["kill", "-STOP", &process]).await?;
        Ok(Self { host: site.host, process })
    }

    async fn let_go(self) -> anyhow::Result<()> {
        self.host.exec(&["kill", "-CONT", &self.process]).await.map(drop)
    }
}

pub(crate) async fn check(site: &Site<'_>) -> anyhow::Result<()> {
    command_waits_too(site).await.context("exec")?;
    ends_when_told(site).await.context("stop")
}

/// Waits until the engine says that a container runs.
async fn runs(site: &Site<'_>, name: &str) -> anyhow::Result<()> {
    eventually(&format!("{name} runs"), SOON, async || {
        let state = site.host.docker(&["inspect", "--format", "{{.State.Running}}", name]).await?;
        ensure!(state == "true", "it does not");
        Ok(())
    })
    .await
}

async fn command_waits_too(site: &Site<'_>) -> anyhow::Result<()> {
    let held = Held::up(site, "ipam").await?;
    let run = site.start("held", &[], LINGER);
    let exec = async {
        runs(site, "held").await?;
        let mut exec = Box::pin(site.docker(&["exec", "held", "ip", "-o", "addr"]));
        // Time enough for a command that does not wait.
        let early = tokio::time::timeout(A_WHILE, &mut exec).await;
        held.let_go().await?;
        match early {
            Ok(said) => said,
            Err(_) => exec.await,
        }
    };
    let (run, said) = tokio::join!(run, exec);
    run.context("the start")?;
    let said = said?;
    ensure!(said.contains("ethwe") && said.contains("inet 10."), "a command ran before the network was there: {said}");
    site.remove(&["held"]).await
}

/// What waits ends as soon as it is told to, and holds nothing afterwards.
async fn ends_when_told(site: &Site<'_>) -> anyhow::Result<()> {
    let held = Held::up(site, "ipam").await?;
    let words = ["run", "--detach", "--name", "told", weft_lab::image::BUSYBOX, "sh", "-c", LINGER];
    let run = site.output(&words);
    let stop = async {
        runs(site, "told").await?;
        let stopped = site.host.proxy_command(["stop", "--time", "10", "told"]).limit(AT_ONCE).text().await;
        held.let_go().await?;
        stopped
    };
    let (run, stopped) = tokio::join!(run, stop);
    stopped?;
    drop(run?);
    let state = site.docker(&["inspect", "--format", "{{.State.Status}}", "told"]).await?;
    ensure!(state == "exited", "it is {state}");
    site.remove(&["told"]).await
}
