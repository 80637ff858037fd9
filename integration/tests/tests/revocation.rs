//! A host that is lost: its key is revoked, and nobody new gets in with the password that it knows.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{Container, Conversation, Mesh, PASSWORD, SOON, hosts_with_images, reports};
use weft_lab::{Launch, Weft, eventually};
use weft_proto::router::v1::PeerState;

/// How soon the lost host has to be out everywhere after the news, which take less than a second to travel.
const OUT: Duration = Duration::from_secs(5);

/// A name of the third host that nobody else has.
const LOST: &str = "host3";

async fn is_revoked(weft: &Weft) -> anyhow::Result<()> {
    let status = weft.router_status().await?;
    let lost = status.peers.iter().find(|peer| peer.nickname == LOST).context("it is not listed")?;
    ensure!(lost.state() == PeerState::Revoked, "it is {:?}", lost.state());
    let still = status.connections.iter().any(|connection| connection.nickname == LOST);
    ensure!(!still, "there is still a connection with it");
    Ok(())
}

/// Returns when a container gets no answer from another.
async fn no_longer_reaches(from: &Container, to: &Container) -> anyhow::Result<()> {
    eventually(&format!("{} reaches {} no more", from.name, to.name), OUT, async || {
        let answered = from.exec(&["ping", "-c", "1", "-W", "1", &to.ipv4.to_string()]).await.is_ok();
        ensure!(!answered, "it still answers");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_lost_host_is_cut_off_and_stays_out() -> anyhow::Result<()> {
    let lab = hosts_with_images(4).await?;
    let first = lab.host(1).clone();
    let with_peer = || Launch::new(PASSWORD).peers(&[&first]);
    let launches = [Launch::new(PASSWORD), with_peer(), with_peer()];
    let hosts = [1, 2, 3].map(|number| lab.host(number));
    let weft = try_join_all(hosts.into_iter().zip(launches).map(|(host, launch)| Weft::launch(host, launch))).await?;
    try_join_all(weft.iter().map(|weft| weft.joined(2))).await?;
    let mut mesh = Mesh { lab, weft };
    let (one, two, three) = tokio::try_join!(
        mesh.container(1, "one", &[]),
        mesh.container(2, "two", &[]),
        mesh.container(3, "three", &[])
    )?;
    let mut conversation = Conversation::start(&one, &two).await?;
    for container in [&one, &two] {
        container.pings(&three.ipv4.to_string()).await?;
        container.finds("three", Some(three.ipv4), SOON).await?;
    }

    let itself = mesh.on(3).command(["forget", "--revoke", LOST])?.output().await?;
    ensure!(itself.all().contains("a host cannot revoke itself"), "revoking oneself: {}", itself.all());
    let nobody = mesh.on(1).command(["forget", "--revoke", "host9"])?.output().await?;
    ensure!(nobody.all().contains("no peer host9 is known"), "revoking nobody: {}", nobody.all());

    let revoked = mesh.on(1).command(["forget", "--revoke", LOST])?.output().await?;
    ensure!(revoked.status.success(), "{}", revoked.all());
    ensure!(revoked.stderr.contains("set a new WEFT_PASSWORD on all hosts"), "it says {:?}", revoked.stderr);
    for weft in [mesh.on(1), mesh.on(2)] {
        eventually("the lost host is out", OUT, async || is_revoked(weft).await).await?;
    }
    for container in [&one, &two] {
        no_longer_reaches(container, &three).await?;
        container.finds("three", None, OUT).await?;
    }
    conversation.goes_on_within(OUT).await.context("the others' connection")?;
    reports(mesh.on(3), &["the key of", LOST, "was revoked", "no host lets it in"]).await?;
    for weft in [mesh.on(1), mesh.on(2)] {
        reports(weft, &["in force when a host was revoked", "set a new WEFT_PASSWORD"]).await?;
    }

    // Its addresses stay its own, the others go on, and a restart of routers changes nothing.
    let more = mesh.container(2, "more", &[]).await?;
    ensure!(more.ipv4 != three.ipv4, "an address is held twice");
    for host in [2, 3] {
        mesh.on(host).compose(["restart", "router"]).text().await?;
        mesh.on(host).ready().await?;
    }
    mesh.on(2).joined(1).await?;
    is_revoked(mesh.on(2)).await?;
    reports(mesh.on(3), &["was revoked", "no host lets it in"]).await?;
    conversation.goes_on().await.context("the others' connection, after a restart,")?;
    no_longer_reaches(&two, &three).await?;

    // Nobody new gets in with the password that the lost host knows, and both sides say why.
    let stranger = Weft::up(mesh.lab.host(4), with_peer()).await?;
    for weft in [&stranger, mesh.on(1)] {
        reports(weft, &["host4", "is new to", "set a new WEFT_PASSWORD"]).await?;
    }
    mesh.weft.push(stranger);

    // With another one, host by host, it does.
    let new = "another one, and a better one";
    let change = |launch: Launch| launch.with("WEFT_PASSWORD", new).with("WEFT_PASSWORD_OLD", PASSWORD);
    mesh.weft[0].recreate("router", change(Launch::default())).await?;
    mesh.on(1).ready().await?;
    mesh.on(1).joined(1).await?;
    reports(mesh.on(1), &["the old password is still used by", "host2"]).await?;
    mesh.weft[1].recreate("router", change(Launch::default().peers(&[&first]))).await?;
    mesh.on(2).ready().await?;
    mesh.weft[3].recreate("router", Launch::new(new).peers(&[&first])).await?;
    for host in [1, 2, 4] {
        mesh.on(host).joined(2).await?;
    }
    let status = mesh.on(1).router_status().await?;
    let spent = status.problems.iter().any(|problem| problem.reason == "password_known_to_revoked");
    ensure!(!spent, "the new password lets nobody in: {:?}", status.problems);
    conversation.goes_on().await.context("the others' connection, after the change,")?;
    let four = mesh.container(4, "four", &[]).await?;
    one.pings(&four.ipv4.to_string()).await?;
    no_longer_reaches(&four, &three).await?;
    mesh.stop().await
}
