//! Hosts that sleep, move, or have many interfaces, and clocks that nobody relies on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Conversation, Flow, Mesh, PASSWORD, Resolver, SOON, hosts_with_images};
use weft_lab::{Host, Launch, Project, Weft, eventually};
use weft_proto::router::v1::PeerState;

/// How long a host sleeps at least, in seconds.
const ASLEEP: u64 = 10;

/// How long after a fault has ended all may take to be as before.
const HEALED: Duration = Duration::from_secs(5);

/// How far one host's clocks are ahead of another's, in seconds.
const AHEAD: u32 = 3600;

/// What a host's resolver calls its peer.
const NAME: &str = "first.example.test";

/// Interfaces that a host has beside those that it needs.
const INTERFACES: u8 = 20;

/// Returns what a host calls one of its peers.
async fn state_of(weft: &Weft, peer: &str) -> anyhow::Result<PeerState> {
    let peers = weft.router_status().await?.peers;
    Ok(peers.iter().find(|known| known.nickname == peer).context("it is forgotten")?.state())
}

/// Returns when a host that was suspended has been missed for as long as the scenario wants.
async fn sleeps_long_enough(weft: &Weft, peer: &str) -> anyhow::Result<()> {
    eventually(&format!("{peer} sleeps"), Duration::from_secs(ASLEEP + 15), async || {
        ensure!(state_of(weft, peer).await? == PeerState::Unreachable, "it is still there");
        let problems = weft.router_status().await?.problems;
        let age = problems.iter().filter(|problem| problem.reason == "peer_unreachable").map(|p| p.age_seconds).max();
        ensure!(age >= Some(ASLEEP), "it has been missed for {age:?} s");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn suspended_host_with_many_interfaces_comes_back() -> anyhow::Result<()> {
    let lab = hosts_with_images(3).await?;
    // Two have the same networks behind their interfaces, as hosts with container engines and virtual machines do.
    for number in [1, 2] {
        let make = format!(
            "for n in $(seq {INTERFACES}); do ip link add extra$n type veth peer name other$n; ip link set other$n up; \
             ip address add 10.200.$n.{number}/24 dev extra$n; \
             ip address add fd00:200:$n::{number}/64 dev extra$n nodad; ip link set extra$n up; done"
        );
        lab.host(number).exec(&["sh", "-c", &make]).await?;
    }
    let first = lab.host(1).clone();
    let launch = |host: &Host| match host.name() == first.name() {
        true => Launch::new(PASSWORD),
        false => Launch::new(PASSWORD).peers(&[&first]),
    };
    let weft = try_join_all(lab.hosts().iter().map(|host| Weft::launch(host, launch(host)))).await?;
    try_join_all(weft.iter().map(|weft| weft.joined(2))).await?;
    let mesh = Mesh { lab, weft };
    let (one, two, three) = tokio::try_join!(
        mesh.container(1, "one", &[]),
        mesh.container(2, "two", &[]),
        mesh.container(3, "three", &[])
    )?;
    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;

    // Nothing of a host that sleeps answers, its kernel neither.
    let host = mesh.lab.host(2).clone();
    mesh.lab.isolate(&host).await?;
    mesh.on(2).compose(["pause"]).text().await?;
    host.docker(&["pause", "two"]).await?;
    sleeps_long_enough(mesh.on(1), "host2").await?;
    tokio::try_join!(one.finds("two", None, SOON), three.finds("two", None, SOON))?;
    one.pings(&three.ipv4.to_string()).await?;
    mesh.lab.rejoin(&host).await?;
    host.docker(&["unpause", "two"]).await?;
    mesh.on(2).compose(["unpause"]).text().await?;
    tokio::try_join!(
        one.finds("two", Some(two.ipv4), HEALED),
        three.finds("two", Some(two.ipv4), HEALED),
        two.finds("three", Some(three.ipv4), HEALED),
    )?;
    conversation.goes_on().await.context("after sleeping")?;
    try_join_all(mesh.weft.iter().map(|weft| weft.joined(2))).await?;
    let new = mesh.container(2, "new", &[]).await?;
    three.pings(&new.ipv4.to_string()).await?;
    for weft in &mesh.weft {
        eventually("nothing is reported any more", SOON, async || {
            let problems = weft.router_status().await?.problems;
            ensure!(problems.is_empty(), "{} reports {problems:?}", weft.host().name());
            Ok(())
        })
        .await?;
    }
    mesh.stop().await
}

/// Gives a host other addresses on the underlay, of both families, instead of those it has.
async fn moves(host: &Host, number: u8) -> anyhow::Result<()> {
    let change = format!(
        "ip address flush dev eth0 scope global && ip address add 192.168.50.{number}/24 dev eth0 && \
         ip address add fd00:50::{number}/64 dev eth0 nodad && ip route replace default via 192.168.50.254"
    );
    host.exec(&["sh", "-c", &change]).await.map(drop)
}

/// Has everything that a host's engine starts from now on see clocks that are `ahead` seconds ahead: those that count from
/// boot, which differ between any two hosts, and not between the lab's.
async fn set_clocks(host: &Host, ahead: u32) -> anyhow::Result<()> {
    let runtime = "/usr/local/bin/runc-ahead";
    let ahead = format!("--boottime {ahead} --monotonic {ahead}");
    let script = format!("#!/bin/sh\nexec unshare --time {ahead} --fork runc \"$@\"\n");
    fs::write(host.path(runtime), script).context("failed to write a runtime")?;
    host.exec(&["chmod", "755", runtime]).await?;
    let file = host.path("/etc/docker/daemon.json");
    let mut configuration: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    configuration["runtimes"] = serde_json::json!({ "ahead": { "path": runtime } });
    configuration["default-runtime"] = "ahead".into();
    fs::write(&file, configuration.to_string()).context("failed to configure the engine")?;
    host.exec(&["sh", "-c", "kill -HUP $(cat /run/docker.pid)"]).await?;
    eventually("the engine has read it", SOON, async || {
        let runtime = host.docker(&["info", "--format", "{{.DefaultRuntime}}"]).await?;
        ensure!(runtime == "ahead", "it is {runtime}");
        Ok(())
    })
    .await
}

/// Returns the offset of the clocks of a service, as the kernel says it.
async fn offset_of(weft: &Weft, service: &str) -> anyhow::Result<String> {
    let container = weft.container(service).await?;
    let process = weft.host().docker(&["inspect", "--format", "{{.State.Pid}}", &container]).await?;
    weft.host().exec(&["cat", &format!("/proc/{process}/timens_offsets")]).await
}

#[tokio::test]
async fn hosts_with_other_clocks_that_move_are_found_again() -> anyhow::Result<()> {
    let lab = hosts_with_images(2).await?;
    set_clocks(lab.host(2), AHEAD).await?;
    let resolver = Resolver::start(lab.host(2), NAME, lab.host(1).ipv4())?;
    let (weft1, weft2) = tokio::try_join!(
        Weft::launch(lab.host(1), Launch::new(PASSWORD)),
        Weft::launch(lab.host(2), Launch::new(PASSWORD).with("WEFT_PEERS", NAME))
    )?;
    tokio::try_join!(weft1.joined(1), weft2.joined(1))?;
    for service in ["router", "ipam", "dns", "docker-proxy"] {
        let offset = offset_of(&weft2, service).await?;
        ensure!(offset.contains(&AHEAD.to_string()), "the clocks of {service} are not ahead: {offset}");
    }
    let mesh = Mesh { lab, weft: vec![weft1, weft2] };
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;

    let flow = Flow::start(&one, &two).await?;

    // The one that names the other dials it from where it is now.
    moves(mesh.lab.host(2), 72).await?;
    let at = |weft: &Weft, address: &'static str| {
        let weft = weft.clone();
        async move {
            eventually(&format!("{} has its peer at {address}", weft.host().name()), SOON, async || {
                let status = weft.router_status().await?;
                let connection = status.connections.first().context("it has no connection")?;
                let endpoint = connection.data_endpoint.as_ref().with_context(|| format!("no path: {connection:?}"))?;
                let endpoint = std::net::SocketAddr::try_from(endpoint)?.ip().to_string();
                let (ipv4, ipv6) = (format!("192.168.50.{address}"), format!("fd00:50::{address}"));
                ensure!(endpoint == ipv4 || endpoint == ipv6, "the path leads to {endpoint}");
                Ok(())
            })
            .await
        }
    };
    at(mesh.on(1), "72").await?;
    conversation.goes_on().await.context("after a host moved")?;
    one.finds("two", Some(two.ipv4), SOON).await?;

    // The one that is named moves, and then so does its name.
    moves(mesh.lab.host(1), 71).await?;
    eventually("it is missed", SOON, async || {
        ensure!(state_of(mesh.on(2), "host1").await? == PeerState::Unreachable, "it is still there");
        Ok(())
    })
    .await?;
    resolver.change("192.168.50.71".parse()?);
    at(mesh.on(2), "71").await?;
    conversation.goes_on().await.context("after the host that is named moved")?;
    two.finds("one", Some(one.ipv4), SOON).await?;

    // Both at once: neither is where the other knows it.
    tokio::try_join!(moves(mesh.lab.host(1), 81), moves(mesh.lab.host(2), 82))?;
    resolver.change("192.168.50.81".parse()?);
    tokio::try_join!(at(mesh.on(1), "82"), at(mesh.on(2), "81"))?;
    conversation.goes_on().await.context("after both moved")?;
    flow.ends().await.context("a transfer during all of that")?;
    for weft in &mesh.weft {
        weft.joined(1).await?;
    }
    mesh.stop().await
}

/// Lists the Rust sources below a folder.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Clocks may be an hour apart, and jump: nothing reads them but what writes the time beside a line of the log.
#[test]
fn no_wall_clock_is_read() -> anyhow::Result<()> {
    let mut found = Vec::new();
    for folder in ["services", "libs"] {
        sources(&Project::root().join(folder), &mut found)?;
    }
    ensure!(found.len() > 100, "only {} sources were found", found.len());
    for path in found {
        let text = fs::read_to_string(&path)?;
        for word in ["SystemTime", "UNIX_EPOCH", "CLOCK_REALTIME", "ClockId::Realtime", "chrono::", "jiff::"] {
            ensure!(!text.contains(word), "{} reads the wall clock: {word}", path.display());
        }
    }
    let lints = fs::read_to_string(Project::root().join("clippy.toml"))?;
    ensure!(lints.contains("std::time::SystemTime::now"), "the lint that forbids it is gone");
    Ok(())
}
