//! `weft reset` takes weft off a host, before engines of two releases, and says who cannot do without what it keeps.

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use weft_integration_tests::{Mesh, PASSWORD, both_engines};
use weft_lab::{Lab, Launch, Weft, image};

#[tokio::test]
async fn nothing_is_left_but_what_containers_cannot_do_without() -> anyhow::Result<()> {
    let lab = both_engines(Lab::new()).await?;
    // Each alone: a host that is taken off takes the free addresses of its part of the range along.
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
