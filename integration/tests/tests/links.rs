//! Links between hosts that are cut, heal, lose packets, or carry only small ones.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Container, Conversation, Mesh, PASSWORD, SOON, hosts_with_images, reports, transfers};
use weft_lab::{Launch, Weft, eventually};
use weft_proto::router::v1::PeerState;

/// How long a cut may go unnoticed.
const NOTICED: Duration = Duration::from_secs(4);

/// How long after a cut has ended all may take to be as before.
const HEALED: Duration = Duration::from_secs(5);

/// Returns when weft says of a host that it cannot be reached, within the time that this may take.
async fn misses(weft: &Weft, host: &str) -> anyhow::Result<()> {
    eventually(&format!("{} misses {host}", weft.host().name()), NOTICED, async || {
        let status = weft.router_status().await?;
        let peer = status.peers.iter().find(|peer| peer.nickname == host).context("it is forgotten")?;
        ensure!(peer.state() == PeerState::Unreachable, "it is {:?}", peer.state());
        let sentence = format!("({host})");
        let told = status.problems.iter().any(|problem| problem.message.contains(&sentence));
        ensure!(told, "the reason is not among {:?}", status.problems);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn cut_is_told_and_heals() -> anyhow::Result<()> {
    let mesh = Mesh::start(3).await?;
    let (one, two, three) = tokio::try_join!(
        mesh.container(1, "one", &[]),
        mesh.container(2, "two", &[]),
        mesh.container(3, "three", &[])
    )?;
    let mut conversation = Conversation::start(&one, &three).await?;
    conversation.goes_on().await?;
    one.finds("three", Some(three.ipv4), SOON).await?;

    // All of host3's links: what it had is suspended.
    mesh.lab.isolate(mesh.lab.host(3)).await?;
    tokio::try_join!(misses(mesh.on(1), "host3"), misses(mesh.on(2), "host3"), misses(mesh.on(3), "host1"))?;
    tokio::try_join!(
        one.finds("three", None, SOON),
        two.finds("three", None, SOON),
        three.finds("two", None, SOON),
        three.finds("three", Some(three.ipv4), SOON),
    )?;
    one.pings(&two.ipv4.to_string()).await?;

    mesh.lab.rejoin(mesh.lab.host(3)).await?;
    tokio::try_join!(
        one.finds("three", Some(three.ipv4), HEALED),
        two.finds("three", Some(three.ipv4), HEALED),
        three.finds("two", Some(two.ipv4), HEALED),
    )?;
    conversation.goes_on().await.context("the connection, after a cut that was noticed,")?;
    try_join_all(mesh.weft.iter().map(|weft| weft.joined(2))).await?;

    // One link: the mesh stays whole, and only what goes straight between the two is hit.
    mesh.lab.underlay().cut(mesh.lab.link(1, 3)).await?;
    reports(mesh.on(3), &[&mesh.lab.host(1).ipv4().to_string()]).await.context("the reason")?;
    one.finds("three", Some(three.ipv4), SOON).await?;
    two.pings(&three.ipv4.to_string()).await?;
    mesh.lab.underlay().heal(mesh.lab.link(1, 3)).await?;
    conversation.goes_on().await.context("the connection, after one link was cut,")?;
    try_join_all(mesh.weft.iter().map(|weft| weft.joined(2))).await?;
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

#[tokio::test]
async fn lossy_link_loses_nothing_of_a_transfer() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    one.pings(&two.ipv4.to_string()).await?;
    mesh.lab.underlay().lose(mesh.lab.link(1, 2), 0.05).await?;
    transfers(&one, &two, Duration::from_secs(60)).await?;
    mesh.on(1).joined(1).await?;
    one.finds("two", Some(two.ipv4), SOON).await?;
    mesh.lab.underlay().lose(mesh.lab.link(1, 2), 0.0).await?;
    transfers(&two, &one, SOON).await?;
    mesh.stop().await
}

/// Starts two hosts whose links carry packets of up to `carried` bytes and drop larger ones without telling.
async fn narrow_mesh(carried: u32, launch: Launch) -> anyhow::Result<Mesh> {
    let lab = hosts_with_images(2).await?;
    for host in lab.hosts() {
        lab.underlay().limit(host, carried, false).await?;
    }
    let first = lab.host(1).clone();
    let (one, two) =
        tokio::try_join!(Weft::launch(&first, launch.clone()), Weft::launch(lab.host(2), launch.peers(&[&first])))?;
    tokio::try_join!(one.joined(1), two.joined(1))?;
    Ok(Mesh { lab, weft: vec![one, two] })
}

#[tokio::test]
async fn underlay_may_be_as_narrow_as_documented() -> anyhow::Result<()> {
    let mesh = narrow_mesh(1479, Launch::new(PASSWORD)).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    let whole = async |from: &Container, size: &str, target: &str| {
        let ping = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, target];
        from.in_network(&ping).await?.output().await
    };
    one.pings(&two.ipv4.to_string()).await?;
    // 1,400 bytes with the headers of IPv4 and ICMP, or of IPv6 and ICMPv6.
    for (size, target) in [("1372", two.ipv4.to_string()), ("1352", two.ipv6.to_string())] {
        let answer = whole(&one, size, &target).await?;
        ensure!(answer.status.success(), "a packet of the whole MTU does not pass: {}", answer.all());
    }
    tokio::try_join!(transfers(&one, &two, SOON), transfers(&two, &one, SOON))?;

    // On a narrower one, packets of the whole MTU that must not be cut are refused, and all else passes.
    for host in mesh.lab.hosts() {
        mesh.lab.underlay().limit(host, 1473, false).await?;
    }
    let target = two.ipv4.to_string();
    let cut = ["ping", "-c", "1", "-W", "1", "-M", "dont", "-s", "1372", &target];
    eventually("what may be cut passes", SOON, async || one.in_network(&cut).await?.text().await.map(drop)).await?;
    // While it is found out what passes, they go in parts.
    eventually("a packet of the whole MTU is refused", SOON, async || {
        let answer = whole(&one, "1372", &target).await?;
        ensure!(!answer.status.success(), "1,473 bytes carry it: {}", answer.all());
        Ok(())
    })
    .await?;
    tokio::try_join!(transfers(&one, &two, SOON), transfers(&two, &one, SOON))?;
    mesh.on(1).joined(1).await?;
    mesh.stop().await
}

#[tokio::test]
async fn narrower_underlay_works_with_the_mtu_that_operations_name() -> anyhow::Result<()> {
    let mesh = narrow_mesh(1400, Launch::new(PASSWORD).with("WEFT_MTU", "1301")).await?;
    let (one, two) = tokio::try_join!(mesh.container(1, "one", &[]), mesh.container(2, "two", &[]))?;
    transfers(&one, &two, SOON).await?;
    mesh.stop().await
}
