//! `weft reset` takes weft off a host, before engines of two releases, and says who cannot do without what it keeps.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use weft_integration_tests::{Mesh, PASSWORD, SOON, both_engines};
use weft_lab::{Lab, Launch, Weft, eventually, image};

/// Within this time a host that was lost counts as gone for good: a minute after it was heard for the last time.
const GONE: Duration = Duration::from_secs(90);

#[tokio::test]
async fn nothing_is_left_but_what_containers_cannot_do_without() -> anyhow::Result<()> {
    let lab = both_engines(Lab::new()).await?;
    // Each alone, so that none has to wait for the other.
    let weft = try_join_all(lab.hosts().iter().map(|host| Weft::launch(host, Launch::new(PASSWORD)))).await?;
    let mesh = Mesh { lab, weft };
    for number in [1, 2] {
        resets(&mesh, number).await.with_context(|| format!("on host {number}"))?;
    }
    mesh.stop().await
}

async fn resets(mesh: &Mesh, number: usize) -> anyhow::Result<()> {
    let (host, weft) = (mesh.lab.host(number), mesh.on(number));
    let one = mesh.container(number, "one", &[]).await?;
    host.docker_via_proxy(&["create", "--name", "two", "--volume", "/dev:/dev:ro", image::BUSYBOX, "echo", "ran"])
        .await?;
    host.docker(&["create", "--name", "other", image::BUSYBOX, "true"]).await?;
    weft.compose(["run", "--rm", "weft", "install"]).text().await?;

    let said = weft.compose(["run", "--rm", "weft", "reset"]).text().await?;
    ensure!(said.contains("removed docker-proxy, dns, ipam, router"), "it does not say what went: {said}");
    let kept = said.lines().find(|line| line.starts_with("kept ")).with_context(|| said.clone())?;
    ensure!(kept.contains("one") && kept.contains("two") && !kept.contains("other"), "{kept}");
    let services = host.docker(&["ps", "--all", "--quiet", "--filter", "label=weft.service"]).await?;
    ensure!(services.is_empty(), "services are left: {services}");
    ensure!(one.exec(&["ip", "link", "show", "ethwe"]).await.is_err(), "one still has its interface");
    let links = host.exec(&["ip", "-o", "link"]).await?;
    ensure!(!links.contains("weft"), "links are left: {links}");
    let rules = host.exec(&["nft", "list", "ruleset"]).await?;
    ensure!(!rules.contains("weft"), "rules are left: {rules}");
    let files = host.exec(&["find", "/run/weft", "/var/lib/weft", "-mindepth", "1", "-maxdepth", "1"]).await?;
    ensure!(files == "/var/lib/weft/shim", "these files are left: {files}");
    let programs = host.exec(&["find", "/usr/local", "-type", "f", "-name", "*weft*"]).await?;
    ensure!(programs.is_empty(), "these programs are left: {programs}");

    // They start without weft.
    let ran = host.docker(&["start", "--attach", "two"]).await?;
    ensure!(ran.contains("ran"), "it does not run: {ran}");
    host.docker(&["restart", "--time", "0", "one"]).await?;

    // Made anew without weft, they do not keep it any longer.
    host.docker(&["rm", "--force", "one", "two"]).await?;
    let said = weft.compose(["run", "--rm", "weft", "--output", "json", "reset"]).text().await?;
    let removed: Value = serde_json::from_str(&said).with_context(|| said.clone())?;
    ensure!(removed["services"] == serde_json::json!([]) && removed["waiting"] == serde_json::json!([]), "{said}");
    let files = host.exec(&["find", "/run/weft", "/var/lib/weft", "-mindepth", "1"]).await?;
    ensure!(files.is_empty(), "these files are left: {files}");

    // It comes back as if it had never been here.
    weft.compose(["up", "--detach"]).text().await?;
    weft.ready().await?;
    mesh.container(number, "again", &[]).await.map(drop)
}

/// Waits until ipam has been stopped, and says what the host still has then of what it passes on.
const LEFT_WITHOUT_IPAM: &str = "while docker ps --quiet --filter label=weft.service=ipam | grep -q .; do :; done
ip -o address show dev weft scope global 2>/dev/null; nft list tables | grep weft-publish
iptables -S FORWARD | grep -e weft-publish -e weft-expose; true";

#[tokio::test]
async fn what_a_host_passes_on_is_nobodys_before_its_addresses_are_the_others() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (near, _far) = tokio::try_join!(mesh.container(1, "near", &[]), mesh.container(2, "far", &[]))?;
    let (host, weft) = (mesh.lab.host(2), mesh.on(2));
    weft.weft(&["publish", "8080", "far:80"]).await?;
    weft.weft(&["publish", "--udp", "8080", "far:80"]).await?;
    weft.weft(&["import", "db", &format!("{}:5432", mesh.lab.host(1).ipv4())]).await?;
    let passed_on = weft.json(&["status", "services"]).await?;
    let inside = passed_on["imported"][0]["addresses"][0].as_str().context("it has no address inside")?;
    let inside = inside.split('/').next().context("an address")?.parse()?;
    near.finds("db", Some(inside), SOON).await?;

    let (left, ()) = tokio::try_join!(host.exec(&["timeout", "60", "sh", "-c", LEFT_WITHOUT_IPAM]), hands_over(weft))?;
    ensure!(left.is_empty(), "this was left when others had the addresses already: {left}");
    near.finds("db", None, SOON).await?;
    let rules = host.exec(&["nft", "list", "ruleset"]).await?;
    ensure!(!rules.contains("weft"), "rules are left: {rules}");
    let ports = host.exec(&["ss", "-Hlntu", "sport", "=", "8080"]).await?;
    ensure!(ports.is_empty(), "ports are left: {ports}");
    let files = host.exec(&["find", "/var/lib/weft", "-name", "published*"]).await?;
    ensure!(files.is_empty(), "these files are left: {files}");
    owns_all(mesh.on(1)).await?;
    mesh.stop().await
}

/// Fails unless this host owns all addresses, and says so.
async fn owns_all(weft: &Weft) -> anyhow::Result<()> {
    eventually("one host owns all addresses", SOON, async || {
        let shares = weft.ipam_status().await?.shares;
        let named: Vec<_> = shares.iter().filter(|share| share.owned > 0).map(|share| &share.nickname).collect();
        ensure!(named == ["host1"], "they are owned by {named:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn addresses_of_hosts_that_leave_are_the_others() -> anyhow::Result<()> {
    let mesh = Mesh::start(3).await?;
    let one = mesh.container(1, "one", &[]).await?;
    mesh.container(2, "two", &[]).await?;
    mesh.container(3, "three", &[]).await?;

    // One host is lost. As long as it lives, and for a minute after it was heard, nobody takes anything from it.
    refused(&mesh, "host3", "can be reached").await?;
    refused(&mesh, "host9", "no peer called host9").await?;
    for other in [1, 2] {
        mesh.lab.underlay().cut(mesh.lab.link(other, 3)).await?;
    }
    eventually("it is known to be lost", SOON, async || refused(&mesh, "host3", "may come back").await).await?;

    // Meanwhile another one goes in good order, and comes back as somebody new.
    hands_over(mesh.on(2)).await?;
    let shares = mesh.on(1).ipam_status().await?.shares;
    ensure!(shares.iter().all(|share| share.nickname != "host2" || share.owned == 0), "it still owns some: {shares:?}");
    mesh.lab.host(2).docker(&["rm", "--force", "two"]).await?;
    mesh.on(2).compose(["up", "--detach"]).text().await?;
    mesh.on(2).ready().await?;
    let again = mesh.container(2, "again", &[]).await.context("it needs addresses of others now")?;
    again.pings(&one.ipv4.to_string()).await?;
    hands_over(mesh.on(2)).await?;

    let removed = eventually("a lost host's addresses are taken over", GONE, async || {
        mesh.on(1).weft(&["--output", "json", "rmpeer", "host3"]).await
    })
    .await?;
    let removed: Value = serde_json::from_str(&removed).with_context(|| removed.clone())?;
    ensure!(removed["taken_over"][0]["addresses"].as_u64() > Some(0), "{removed}");
    ensure!(removed["taken_over"][0]["peer"]["nickname"] == "host3", "{removed}");
    owns_all(mesh.on(1)).await?;
    mesh.container(1, "more", &[]).await?;

    // It comes back, and learns that it owns nothing any more.
    mesh.lab.underlay().heal(mesh.lab.link(1, 3)).await?;
    mesh.on(3).joined(1).await?;
    owns_all(mesh.on(3)).await?;
    mesh.stop().await
}

/// Resets a host, which has to say who has its addresses.
async fn hands_over(weft: &Weft) -> anyhow::Result<()> {
    let said = weft.compose(["run", "--rm", "weft", "reset"]).output().await?;
    let text = said.all();
    ensure!(said.status.success() && text.contains("handed ") && text.contains("(host"), "{text}");
    Ok(())
}

/// Fails unless `weft rmpeer` fails, and says why.
async fn refused(mesh: &Mesh, peer: &str, why: &str) -> anyhow::Result<()> {
    let said = mesh.on(1).command(["rmpeer", peer])?.output().await?;
    ensure!(!said.status.success() && said.all().contains(why), "{}", said.all());
    Ok(())
}
