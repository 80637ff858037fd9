//! `docker run` while a service is down: it waits and succeeds, or fails soon with one sentence, and leaves nothing behind.

use std::time::Duration;

use anyhow::{Context, ensure};
use weft_integration_tests::{A_SECOND, Container, Mesh, PASSWORD, SOON, hosts_with_images};
use weft_lab::{Host, Launch, Weft, eventually, image};

/// How long a start waits for the container's network, in seconds.
const PATIENCE: &str = "4";

/// How long a client may take to be told that there is no network: the patience, and what the engine needs.
const TOLD: Duration = Duration::from_secs(9);

/// What a container does that ends only when it is told to.
const LINGER: [&str; 4] = ["--init=false", image::BUSYBOX, "sleep", "1000"];

async fn one_host() -> anyhow::Result<Mesh> {
    let lab = hosts_with_images(1).await?;
    let launch = Launch::new(PASSWORD).with("WEFT_DOCKER_PROXY_ATTACH_TIMEOUT", PATIENCE);
    let weft = Weft::launch(lab.host(1), launch).await?;
    weft.joined(0).await?;
    Ok(Mesh { lab, weft: vec![weft] })
}

/// Returns when exactly so many addresses are held, and attachments made.
async fn holds(weft: &Weft, addresses: u64) -> anyhow::Result<()> {
    eventually(&format!("{addresses} addresses are held"), SOON, async || {
        let allocated = weft.ipam_status().await?.allocated;
        ensure!(allocated == addresses, "it is {allocated}");
        let ports = weft.host().exec(&["sh", "-c", "ip -o link | grep -c vethw || true"]).await?;
        ensure!(ports.trim() == addresses.to_string(), "there are {ports} ports for {addresses} addresses");
        Ok(())
    })
    .await
}

/// Runs a container that cannot get its network, and checks what the client and the engine say.
async fn fails(host: &Host, service: &str) -> anyhow::Result<()> {
    let run = [&["run", "--detach", "--restart", "always", "--name", "without"], &LINGER[..]].concat();
    let output = host.proxy_command(run).limit(TOLD).output().await?;
    ensure!(!output.status.success(), "it runs without a network");
    let complaint = output.stderr.trim();
    let sentence = complaint.lines().find(|line| line.contains("Error response from daemon")).unwrap_or_default();
    ensure!(
        sentence.contains("without") && sentence.contains(service),
        "the sentence does not name container and service: {complaint:?}"
    );
    let state = host.docker(&["inspect", "--format", "{{.State.Running}} {{.State.Restarting}}", "without"]).await?;
    ensure!(state == "false false", "it was left behind: {state}");
    Ok(())
}

#[tokio::test]
async fn without_ipam_or_router_a_start_fails_soon_and_leaves_nothing() -> anyhow::Result<()> {
    let mesh = one_host().await?;
    let (host, weft) = (mesh.lab.host(1), mesh.on(1));
    mesh.container(1, "before", &[]).await?;
    for service in ["ipam", "router"] {
        let what = |step: &str| format!("{step} with {service} away");
        weft.compose(["stop", service]).text().await?;
        fails(host, service).await.with_context(|| what("a start"))?;
        weft.compose(["start", service]).text().await?;
        weft.ready().await?;
        // It runs no more, so it has no name and no port, nor an address that was not promised to anybody.
        holds(weft, 1).await.with_context(|| what("what is held after a start"))?;
        host.docker_via_proxy(&["start", "without"]).await.with_context(|| what("a later start after one"))?;
        Container::find(host, "without").await?;
        host.docker_via_proxy(&["rm", "--force", "without"]).await?;
        holds(weft, 1).await.with_context(|| what("what is held at last after a start"))?;
    }
    mesh.stop().await
}

#[tokio::test]
async fn a_start_waits_for_a_service_that_comes_back() -> anyhow::Result<()> {
    let mesh = one_host().await?;
    let (host, weft) = (mesh.lab.host(1), mesh.on(1));
    let asking = mesh.container(1, "asking", &[]).await?;
    for service in ["ipam", "router", "dns"] {
        let name = format!("after-{service}");
        weft.kill(service).await?;
        let container = mesh.container(1, &name, &[]).await.with_context(|| format!("with {service} killed"))?;
        weft.ready().await?;
        asking.finds(&name, Some(container.ipv4), A_SECOND).await?;
    }

    // Names are no condition for a network: they follow.
    weft.compose(["stop", "dns"]).text().await?;
    let container = mesh.container(1, "unnamed", &[]).await.context("with dns away")?;
    weft.compose(["start", "dns"]).text().await?;
    asking.finds("unnamed", Some(container.ipv4), A_SECOND).await?;
    host.docker_via_proxy(&["rm", "--force", "unnamed"]).await?;
    asking.finds("unnamed", None, A_SECOND).await?;
    holds(weft, 4).await?;
    mesh.stop().await
}
