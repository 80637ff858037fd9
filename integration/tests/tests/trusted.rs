//! Hosts that trust each other's subnets exchange frames by the kernel's VXLAN; all others, and these when it fails, sealed.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use weft_integration_tests::{
    Conversation, Mesh, PASSWORD, SOON, copies, goes, hosts_with_images, subnets, transfers, way,
};
use weft_lab::{Host, Launch, Weft, contains, eventually};
use weft_proto::router::v1::PathKind;

/// How soon data goes sealed after VXLAN failed.
const AWAY: Duration = Duration::from_secs(5);
/// How soon it goes by VXLAN after that works again.
const BACK: Duration = Duration::from_secs(10);
/// What is seen on the underlay of what is not sealed.
const PLAIN: &str = "this line is of no secret between trusted hosts";

/// Starts three hosts, of which the third trusts nobody.
async fn launch() -> anyhow::Result<Mesh> {
    let lab = hosts_with_images(3).await?;
    let subnets = subnets(lab.hosts());
    let first = lab.host(1).clone();
    let launches = lab.hosts().iter().enumerate().map(|(number, host)| {
        let peers: &[&Host] = if number == 0 { &[] } else { &[&first] };
        let trusted = if number == 2 { "" } else { &subnets };
        Weft::launch(host, Launch::new(PASSWORD).peers(peers).with("WEFT_TRUSTED_SUBNETS", trusted))
    });
    let weft = try_join_all(launches).await?;
    try_join_all(weft.iter().map(|weft| weft.joined(2))).await?;
    Ok(Mesh { lab, weft })
}

/// Returns the devices of trusted peers.
async fn devices(host: &Host) -> anyhow::Result<String> {
    host.exec(&["sh", "-c", "ip -o link | grep weft-vx || true"]).await
}

#[tokio::test]
async fn trusted_hosts_exchange_frames_by_the_kernel_and_sealed_while_that_fails() -> anyhow::Result<()> {
    let mesh = launch().await?;
    let [host1, host2, host3] = [1, 2, 3].map(|number| mesh.lab.host(number));
    tokio::try_join!(goes(mesh.on(1), host2, PathKind::Kernel, SOON), goes(mesh.on(2), host1, PathKind::Kernel, SOON))?;
    let (one, two, three) = tokio::try_join!(
        mesh.container(1, "one", &[]),
        mesh.container(2, "two", &[]),
        mesh.container(3, "three", &[])
    )?;
    let said = one.exec(&["ping", "-c", "20", "-i", "0.05", &two.ipv4.to_string()]).await?;
    ensure!(!said.contains("DUP") && said.contains("20 packets received"), "not each answer came once: {said}");
    one.pings(&two.ipv6.to_string()).await?;
    let shown = mesh.on(1).weft(&["status", "connections"]).await?;
    let line = |host: &Host| shown.lines().find(|line| line.contains(host.name())).unwrap_or_default();
    ensure!(line(host2).contains("unencrypted") && line(host2).contains("kernel"), "{shown}");
    ensure!(line(host3).contains(" encrypted") && !line(host3).contains("kernel"), "{shown}");
    ensure!(shown.contains("not kernel: ") && shown.contains("has no trusted subnets"), "{shown}");

    // What goes where, by what is seen between the hosts and by what the kernel counts.
    let prints = format!("yes '{PLAIN}' | head -n 20000");
    for (to, plain) in [(&two, true), (&three, false)] {
        let before = way(mesh.on(1), host2).await?;
        let capture = mesh.lab.capture().await?;
        copies(&one, to, to.ipv4.into(), &prints, SOON).await?;
        ensure!(contains(&capture.stop().await?, PLAIN.as_bytes()) == plain, "to {}: plain should be {plain}", to.name);
        eventually("the kernel has counted", SOON, async || {
            let sent = way(mesh.on(1), host2).await?.sent_bytes - before.sent_bytes;
            ensure!((sent > 900_000) == plain, "to {}: {sent} bytes went by VXLAN", to.name);
            Ok(())
        })
        .await?;
    }
    tokio::try_join!(transfers(&one, &two, SOON), transfers(&two, &one, SOON))?;
    let metrics = host1.exec(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6782/metrics"]).await?;
    for metric in ["weft_router_peer_vxlan_bytes_total", "weft_router_peer_vxlan_frames_total", "path=\"kernel\""] {
        ensure!(metrics.contains(metric), "{metric} is not shown: {metrics}");
    }

    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;
    let cut = "add table inet cut; add chain inet cut in { type filter hook prerouting priority -300; }; \
               add rule inet cut in udp dport 6784 drop";
    for _ in 0..2 {
        host2.command("nft", ["-f", "-"]).input(cut).text().await?;
        conversation.goes_on_within(AWAY).await.context("when VXLAN fails")?;
        eventually("frames go sealed", AWAY, async || {
            let way = way(mesh.on(1), host2).await?;
            ensure!(way.kind() != PathKind::Kernel, "they go by {way:?}");
            Ok(())
        })
        .await?;
        transfers(&one, &two, SOON).await?;
        host2.exec(&["nft", "delete", "table", "inet", "cut"]).await?;
        goes(mesh.on(1), host2, PathKind::Kernel, BACK).await?;
        conversation.goes_on_within(AWAY).await.context("when VXLAN works again")?;
    }

    // A container that starts talks to others at once, though they hear of it only now: with a second try of TCP's at most.
    for number in 0..5 {
        let name = format!("new{number}");
        let script = format!("nc -w 3 {} 7 < /dev/null && echo reached", two.ipv4);
        let reached = host1
            .docker_via_proxy(&["run", "--rm", "--name", &name, weft_lab::image::BUSYBOX, "sh", "-c", &script])
            .await
            .with_context(|| format!("{name} does not reach the other host in its first seconds"))?;
        ensure!(reached.contains("reached"), "{reached}");
    }

    // Nothing is left that nobody watches.
    ensure!(
        !devices(host1).await?.is_empty() && devices(host3).await?.is_empty(),
        "devices are not where they should be"
    );
    mesh.on(1).compose(["stop", "router"]).text().await?;
    ensure!(devices(host1).await?.is_empty(), "a device is left: {}", devices(host1).await?);
    eventually("the other end removes its own", SOON, async || {
        let left = devices(host2).await?;
        ensure!(left.is_empty(), "it is left: {left}");
        Ok(())
    })
    .await?;
    mesh.on(1).compose(["start", "router"]).text().await?;
    goes(mesh.on(1), host2, PathKind::Kernel, 3 * SOON).await?;
    conversation.goes_on().await.context("after a restart of the router")?;
    mesh.on(1).compose(["kill", "router"]).text().await?;
    mesh.on(1).compose(["down"]).text().await?;
    mesh.on(1).compose(["run", "--rm", "router", "--remove"]).text().await?;
    ensure!(devices(host1).await?.is_empty(), "a device is left: {}", devices(host1).await?);
    let rules = host1.exec(&["nft", "list", "ruleset"]).await?;
    ensure!(!rules.contains("weft"), "rules are left: {rules}");
    mesh.stop().await
}
