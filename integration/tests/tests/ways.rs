//! Hosts of which not every pair reaches each other: a chain, hosts that only answers get in to, and UDP that passes now and then.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{
    Container, Conversation, Flow, Mesh, PASSWORD, SOON, goes, hosts_with_images, transfers, way,
};
use weft_lab::{Host, Lab, Launch, Weft, eventually};
use weft_proto::router::v1::PathKind;

/// How long after a better way works again it may take to be used.
const BACK: Duration = Duration::from_secs(10);

/// How long a way that damages or loses data may be used.
const LEFT: Duration = Duration::from_secs(5);

/// How often UDP is kept from passing.
const CUTS: usize = 50;

/// Starts weft on hosts, each dialling those that are named.
async fn launch(lab: Lab, dials: &[&[usize]]) -> anyhow::Result<Mesh> {
    let launches = lab.hosts().iter().zip(dials).map(|(host, dials)| {
        let peers: Vec<&Host> = dials.iter().map(|number| lab.host(*number)).collect();
        Weft::launch(host, Launch::new(PASSWORD).peers(&peers))
    });
    let weft = try_join_all(launches).await?;
    Ok(Mesh { lab, weft })
}

#[tokio::test]
async fn a_chain_of_hosts_is_one_network() -> anyhow::Result<()> {
    let lab = hosts_with_images(4).await?;
    for (a, b) in [(1, 3), (1, 4), (2, 4)] {
        lab.underlay().cut(lab.link(a, b)).await?;
    }
    let mesh = launch(lab, &[&[2], &[1, 3], &[2, 4], &[3]]).await?;
    for (host, neighbours) in [(1, 1), (2, 2), (3, 2), (4, 1)] {
        mesh.on(host).joined(neighbours).await?;
    }
    let (first, last) = tokio::try_join!(mesh.container(1, "first", &[]), mesh.container(4, "last", &[]))?;
    first.finds("last", Some(last.ipv4), SOON).await?;
    eventually("the ends reach each other", SOON, async || first.pings(&last.ipv4.to_string()).await).await?;
    first.pings(&last.ipv6.to_string()).await?;
    tokio::try_join!(transfers(&first, &last, SOON), transfers(&last, &first, SOON))?;
    goes(mesh.on(1), mesh.lab.host(4), PathKind::Relay, SOON).await?;
    let shown = mesh.on(1).weft(&["status", "connections"]).await?;
    ensure!(shown.contains("relay") && shown.contains("(host4)"), "host4 is not shown:\n{shown}");

    // The ends meet: nothing that goes on breaks, and they talk to each other from then on.
    let mut conversation = Conversation::start(&first, &last).await?;
    conversation.goes_on().await?;
    mesh.lab.underlay().heal(mesh.lab.link(1, 4)).await?;
    goes(mesh.on(1), mesh.lab.host(4), PathKind::DirectUdp, 3 * BACK).await?;
    conversation.goes_on().await.context("the connection, on a shorter way,")?;
    mesh.lab.underlay().cut(mesh.lab.link(1, 4)).await?;
    goes(mesh.on(1), mesh.lab.host(4), PathKind::Relay, SOON).await?;
    conversation.goes_on().await.context("the connection, on the longer way again,")?;
    mesh.stop().await
}

/// Has a host take only what answers it, as behind a NAT; with `changes` its ports look different to each other host.
async fn hide(host: &Host, changes: bool) -> anyhow::Result<()> {
    let flags = if changes { "random,fully-random" } else { "" };
    let rules = format!(
        "add table ip hidden
         add chain ip hidden in {{ type filter hook input priority -10; }}
         add rule ip hidden in iifname eth0 ct state new drop
         add chain ip hidden out {{ type nat hook postrouting priority 90; }}
         add rule ip hidden out oifname eth0 udp sport 6783 masquerade {flags}
         add table ip6 hidden
         add chain ip6 hidden in {{ type filter hook input priority -10; }}
         add rule ip6 hidden in iifname eth0 meta l4proto {{ tcp, udp }} drop
        "
    );
    host.command("nft", ["-f", "-"]).input(rules).text().await?;
    Ok(())
}

/// Starts three hosts, of which the first two dial the third and take only what answers them.
async fn hidden(changes: bool) -> anyhow::Result<(Mesh, [Container; 2])> {
    let lab = hosts_with_images(3).await?;
    tokio::try_join!(hide(lab.host(1), changes), hide(lab.host(2), changes))?;
    let mesh = launch(lab, &[&[3], &[3], &[]]).await?;
    tokio::try_join!(mesh.on(1).joined(1), mesh.on(2).joined(1), mesh.on(3).joined(2))?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    eventually("they reach each other", SOON, async || one.pings(&two.ipv4.to_string()).await).await?;
    Ok((mesh, [one, two]))
}

#[tokio::test]
async fn hosts_that_nobody_gets_in_to_reach_each_other_directly_where_ports_stay() -> anyhow::Result<()> {
    let (mesh, [one, two]) = hidden(false).await?;
    goes(mesh.on(1), mesh.lab.host(2), PathKind::DirectUdp, SOON).await?;
    goes(mesh.on(2), mesh.lab.host(1), PathKind::DirectUdp, SOON).await?;
    transfers(&one, &two, SOON).await?;
    mesh.stop().await
}

#[tokio::test]
async fn hosts_that_nobody_gets_in_to_use_a_third_where_ports_change() -> anyhow::Result<()> {
    let (mesh, [one, two]) = hidden(true).await?;
    goes(mesh.on(1), mesh.lab.host(2), PathKind::Relay, SOON).await?;
    tokio::try_join!(transfers(&one, &two, SOON), transfers(&two, &one, SOON))?;
    mesh.stop().await
}

#[tokio::test]
async fn udp_that_comes_and_goes_breaks_no_connection() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;
    let host = mesh.lab.host(1);
    let rule = "add table inet cut; add chain inet cut in { type filter hook input priority -200; }; \
                add rule inet cut in udp dport 6783 drop";
    let flow = Flow::start(&one, &two).await?;
    for cut in 1..=CUTS {
        host.command("nft", ["-f", "-"]).input(rule).text().await?;
        conversation.goes_on().await.with_context(|| format!("without UDP, time number {cut}"))?;
        host.exec(&["nft", "delete", "table", "inet", "cut"]).await?;
        conversation.goes_on().await.with_context(|| format!("with UDP again, after {cut} cuts"))?;
        // So that not all of them hit the way that UDP has no part in.
        if cut % 10 == 0 {
            goes(mesh.on(1), mesh.lab.host(2), PathKind::DirectUdp, BACK).await?;
        }
    }
    flow.ends().await?;
    mesh.stop().await
}

/// Returns when data goes from one host to another in another way than straight.
async fn leaves(from: &Weft, to: &Host) -> anyhow::Result<()> {
    eventually(&format!("data from {} to {} goes round", from.host().name(), to.name()), LEFT, async || {
        let way = way(from, to).await?;
        ensure!(way.kind() != PathKind::DirectUdp, "it goes by {way:?}");
        Ok(())
    })
    .await
}

/// Returns how many datagrams a host dropped because they did not open.
async fn not_authentic(weft: &Weft) -> anyhow::Result<u64> {
    let status = weft.router_status().await?;
    let drops = status.data_plane.context("it has no data plane")?.drops;
    Ok(drops.get("not_authentic").copied().unwrap_or_default())
}

#[tokio::test]
async fn links_that_damage_datagrams_or_lose_them_one_way_are_gone_round() -> anyhow::Result<()> {
    let mesh = Mesh::start(3).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let mut conversation = Conversation::start(&two, &one).await?;
    conversation.goes_on().await?;
    let flow = Flow::start(&one, &two).await?;
    let (underlay, link) = (mesh.lab.underlay(), mesh.lab.link(1, 2));
    let (first, second) = (mesh.lab.host(1), mesh.lab.host(2));
    for fault in ["bytes are changed, cut off and lost", "what host1 sends is lost", "what host2 sends is lost"] {
        let straight = async |limit: Duration| {
            tokio::try_join!(
                goes(mesh.on(1), second, PathKind::DirectUdp, limit),
                goes(mesh.on(2), first, PathKind::DirectUdp, limit)
            )
        };
        let is_there = async |there: bool| match fault {
            "what host1 sends is lost" => underlay.swallow(first, second, there).await,
            "what host2 sends is lost" => underlay.swallow(second, first, there).await,
            _ => underlay.damage(link, there).await,
        };
        straight(SOON).await.with_context(|| format!("before {fault}"))?;
        let before = not_authentic(mesh.on(2)).await?;
        is_there(true).await?;
        tokio::try_join!(leaves(mesh.on(1), second), leaves(mesh.on(2), first))
            .with_context(|| format!("while {fault}"))?;
        conversation.goes_on().await.with_context(|| format!("the connection, while {fault},"))?;
        if fault.starts_with("bytes") {
            ensure!(not_authentic(mesh.on(2)).await? > before, "what was damaged is not counted");
        }
        is_there(false).await?;
        straight(BACK).await.with_context(|| format!("after {fault}"))?;
        conversation.goes_on().await.with_context(|| format!("the connection, after {fault},"))?;
    }
    flow.ends().await?;
    mesh.stop().await
}
