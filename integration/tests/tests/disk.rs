//! Disks that are full or slow.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Conversation, Mesh, PASSWORD, SOON, hosts_with_images, reports, says, slow_disk};
use weft_lab::{Host, Launch, Weft, eventually};

/// Folders of the services that keep something.
const STORES: [&str; 2] = ["/var/lib/weft/router", "/var/lib/weft/ipam"];

/// Addresses that a container asks for which is to take much of a store.
const MANY: u64 = 60;

/// Starts two hosts, the first with small disks under what weft keeps.
async fn mesh_with_small_disks() -> anyhow::Result<Mesh> {
    let lab = hosts_with_images(2).await?;
    for store in STORES {
        let mount = format!("mkdir -p {store} && mount -t tmpfs -o size=8M,mode=755 weft {store}");
        lab.host(1).exec(&["sh", "-c", &mount]).await?;
    }
    let (one, two) = tokio::try_join!(
        Weft::launch(lab.host(1), Launch::new(PASSWORD)),
        Weft::launch(lab.host(2), Launch::new(PASSWORD).peers(&[lab.host(1)]))
    )?;
    tokio::try_join!(one.joined(1), two.joined(1))?;
    Ok(Mesh { lab, weft: vec![one, two] })
}

/// Leaves no room on a small disk.
async fn fill(host: &Host, store: &str) -> anyhow::Result<()> {
    let fill = format!("cat /dev/zero > {store}/filler 2>/dev/null; ! echo more >> {store}/filler 2>/dev/null");
    host.exec(&["sh", "-c", &fill]).await.context("it has still room").map(drop)
}

/// Makes room again.
async fn empty(host: &Host, store: &str) -> anyhow::Result<()> {
    host.exec(&["rm", &format!("{store}/filler")]).await.map(drop)
}

/// Restarts a service, as an operator does, and waits until all do their job.
async fn restart(weft: &Weft, service: &str) -> anyhow::Result<()> {
    weft.compose(["restart", service]).text().await?;
    weft.ready().await?;
    weft.joined(1).await
}

/// Fails unless no container of the name runs.
async fn does_not_run(host: &Host, name: &str) -> anyhow::Result<()> {
    let running = host.docker(&["ps", "--quiet", "--filter", &format!("name={name}")]).await?;
    ensure!(running.is_empty(), "{name} runs without the network that it was promised");
    Ok(())
}

/// Waits until so many addresses are held.
async fn holds(weft: &Weft, given: u64) -> anyhow::Result<()> {
    eventually("what was given is held, and nothing else", SOON, async || {
        let held = weft.ipam_status().await?.allocated;
        ensure!(held == given, "{given} addresses were given, and {held} are held");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn full_disk_loses_nothing_and_is_told() -> anyhow::Result<()> {
    let mesh = mesh_with_small_disks().await?;
    let host = mesh.lab.host(1).clone();
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let mut conversation = Conversation::start(&one, &two).await?;
    let (router, ipam) = (STORES[0], STORES[1]);

    // Under the identity: what an operator asks for is not answered with yes; containers come and go, and the router restarts
    // all the same.
    fill(&host, router).await?;
    let named = mesh.on(1).command(["connect", "host2"])?.output().await?;
    ensure!(!named.status.success(), "it is said to be kept: {}", named.all());
    ensure!(named.all().contains("free some space: failed to write"), "the reason is not said: {}", named.all());
    reports(mesh.on(1), &["free some space", "targets.json"]).await?;
    says(mesh.on(1), "router", &["free some space", "targets.json"]).await?;
    let stays = mesh.container(1, "stays", &[]).await.context("with a full disk under the identity")?;
    mesh.container(1, "goes", &[]).await.context("with a full disk under the identity")?;
    two.pings(&stays.ipv4.to_string()).await?;
    host.docker_via_proxy(&["rm", "--force", "goes"]).await.context("with a full disk under the identity")?;
    holds(mesh.on(1), 2).await?;
    let name = mesh.on(1).router_status().await?.peer_name;
    restart(mesh.on(1), "router").await.context("with a full disk")?;
    two.pings(&stays.ipv4.to_string()).await.context("after a restart with a full disk")?;
    ensure!(mesh.on(1).router_status().await?.peer_name == name, "it is somebody else");
    conversation.goes_on().await.context("with a full disk under the identity")?;
    mesh.on(1).command(["connect", "host2"])?.output().await?;
    empty(&host, router).await?;
    eventually("what was not kept is kept", SOON, async || {
        let status = mesh.on(1).router_status().await?;
        ensure!(status.problems.is_empty(), "it reports {:?}", status.problems);
        Ok(())
    })
    .await?;
    restart(mesh.on(1), "router").await?;
    let targets = mesh.on(1).router_status().await?.targets;
    ensure!(targets.iter().any(|target| target.text == "host2"), "the target is lost: {targets:?}");

    // Under the ring: no address is given that is not on disk.
    fill(&host, ipam).await?;
    let mut given = 2;
    let mut refused = None;
    // The store has some room of its own.
    let subnets: Vec<String> = (0..MANY).map(|number| format!("net:10.33.{number}.0/24")).collect();
    let many = format!("WEFT_CIDR={}", subnets.join(" "));
    for number in 0..40 {
        let name = format!("early{number}");
        let words = ["run", "--detach", "--name", &name, "--env", &many, weft_lab::image::BUSYBOX, "sleep", "600"];
        let run = host.proxy_command(words).output().await?;
        if !run.status.success() {
            does_not_run(&host, &name).await?;
            refused = Some((name, run.all()));
            break;
        }
        given += MANY;
    }
    let (name, said) = refused.with_context(|| format!("{given} addresses were given, though the disk is full"))?;
    ensure!(said.contains("make room there"), "the reason is not said: {said}");
    conversation.goes_on().await.context("with a full disk under the ring")?;
    empty(&host, ipam).await?;
    restart(mesh.on(1), "ipam").await.context("after there was room again")?;
    host.docker_via_proxy(&["rm", "--force", &name]).await?;
    holds(mesh.on(1), given).await?;
    let late = mesh.container(1, "late", &[]).await.context("after there was room again")?;
    two.pings(&late.ipv4.to_string()).await?;
    mesh.stop().await
}

#[tokio::test]
async fn slow_disk_delays_and_breaks_nothing() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let mut conversation = Conversation::start(&one, &two).await?;
    let mut tracers = Vec::new();
    for service in ["router", "ipam"] {
        tracers.push(slow_disk(mesh.on(1), service, "200ms").await?);
    }
    let began = now();
    let first = mesh.container(1, "first", &[]).await?;
    let took = began.elapsed();
    ensure!(took > Duration::from_millis(200), "the disk is not slow: {took:?}");
    println!("a start took {took:?}");
    let start = |name: String| {
        let mesh = &mesh;
        async move { mesh.container(1, &name, &[]).await }
    };
    let slow = try_join_all((0..4).map(|number| start(format!("slow{number}")))).await?;
    for weft in &mesh.weft {
        let problems = weft.router_status().await?.problems;
        ensure!(problems.is_empty(), "{} reports {problems:?}", weft.host().name());
    }
    // Also when a write is cut by a crash.
    let cut = try_join_all((0..4).map(|number| start(format!("cut{number}"))));
    let (cut, ()) = tokio::try_join!(cut, mesh.on(1).kill("ipam")).context("while ipam was killed")?;
    let started: Vec<_> = [&one, &two, &first].into_iter().chain(&slow).chain(&cut).collect();
    for container in &started {
        two.pings(&container.ipv4.to_string()).await?;
    }
    let addresses: BTreeSet<_> = started.iter().map(|container| container.ipv4).collect();
    ensure!(addresses.len() == started.len(), "an address was given twice: {started:?}");
    mesh.on(1).ready().await?;
    let held = mesh.on(1).ipam_status().await?.allocated;
    ensure!(held == 10, "10 addresses were given, and {held} are held");
    conversation.goes_on().await?;
    try_join_all(mesh.weft.iter().map(|weft| weft.joined(1))).await?;
    for mut tracer in tracers {
        tracer.kill().await?;
    }
    mesh.stop().await
}

#[expect(clippy::disallowed_methods, reason = "the scenario measures")]
fn now() -> Instant {
    Instant::now()
}
