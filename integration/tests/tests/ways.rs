//! Hosts of which not every pair reaches each other: a chain, hosts that only answers get in to, and UDP that passes now and then.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Container, Conversation, Mesh, PASSWORD, SOON, hosts_with_images, transfers};
use weft_lab::{Host, Lab, Launch, Weft, eventually};
use weft_proto::router::v1::{DataPath, PathKind};

/// How long after a better way works again it may take to be used.
const BACK: Duration = Duration::from_secs(10);

/// How often UDP is kept from passing.
const CUTS: usize = 50;

/// Returns how data goes from one host to another, once it goes.
async fn way(from: &Weft, to: &Host) -> anyhow::Result<DataPath> {
    let status = from.router_status().await?;
    let peer = status.peers.into_iter().find(|peer| peer.nickname == to.name()).context("it is unknown")?;
    let ways = peer.data_paths.clone();
    peer.data_paths.into_iter().find(|way| way.in_use).with_context(|| format!("no way works: {ways:?}"))
}

/// Returns when data goes from one host to another in this way.
async fn goes(from: &Weft, to: &Host, kind: PathKind, limit: Duration) -> anyhow::Result<()> {
    eventually(&format!("data goes from {} to {} by {kind:?}", from.host().name(), to.name()), limit, async || {
        let way = way(from, to).await?;
        ensure!(way.kind() == kind, "it goes by {way:?}");
        Ok(())
    })
    .await
}

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
    let received = "cat > /tmp/all; md5sum < /tmp/all > /tmp/sum";
    // nc ends the connection when its stdin ends.
    let receive = format!("sleep 600 | nc -l -p 9 | sh -c '{received}'");
    two.host.docker(&["exec", "--detach", &two.name, "sh", "-c", &receive]).await?;
    let listens = "netstat -ltn | grep -q ':9 '";
    eventually("the other side listens", SOON, async || two.exec(&["sh", "-c", listens]).await.map(drop)).await?;
    // A megabyte a second, until it is told to end.
    let send = format!(
        "touch /tmp/on; while test -e /tmp/on; do head -c 100000 /dev/urandom; sleep 0.1; done | tee /tmp/all | nc {} 9",
        two.ipv4
    );
    one.host.docker(&["exec", "--detach", &one.name, "sh", "-c", &send]).await?;
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
    one.exec(&["rm", "/tmp/on"]).await?;
    eventually("all has arrived", 3 * SOON, async || {
        let sent = one.exec(&["sh", "-c", "md5sum < /tmp/all"]).await?;
        let got = two.exec(&["cat", "/tmp/sum"]).await?;
        ensure!(sent == got, "what arrived is not what was sent: {got}, not {sent}");
        Ok(())
    })
    .await?;
    mesh.stop().await
}
