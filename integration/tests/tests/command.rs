//! The `weft` command on a host, installed as a user installs it.

use anyhow::ensure;
use weft_integration_tests::{Mesh, SOON};
use weft_lab::eventually;

#[tokio::test]
async fn installed_command_shows_and_changes_the_mesh() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = (mesh.container(1, "one", &[]).await?, mesh.container(2, "two", &[]).await?);
    mesh.on(1).compose(["run", "--rm", "weft", "install"]).text().await?;
    let weft = async |words: &[&str]| mesh.lab.host(1).exec(&[&["weft"], words].concat()).await;

    ensure!(weft(&["version"]).await?.contains(weft_lab::Project::VERSION), "not this version");
    for words in [
        &["status"][..],
        &["status", "peers"],
        &["status", "connections"],
        &["status", "dns"],
        &["status", "ipam"],
        &["ps"],
        &["version"],
    ] {
        let shown = weft(words).await?;
        ensure!(!shown.trim().is_empty(), "weft {words:?} shows nothing");
        let shown = weft(&[words, &["--output", "json"]].concat()).await?;
        serde_json::from_str::<serde_json::Value>(&shown)?;
    }
    ensure!(weft(&["status", "peers"]).await?.contains("host2"), "the peer is not shown");
    ensure!(weft(&["ps"]).await?.contains(&one.ipv4.to_string()), "the container is not shown");
    eventually("the other host's name is shown", SOON, async || {
        let found = weft(&["dns-lookup", "two"]).await?;
        ensure!(found.contains(&two.ipv4.to_string()), "{found:?}");
        Ok(())
    })
    .await?;
    ensure!(weft(&["env"]).await?.contains("DOCKER_HOST=unix:///run/weft/docker/docker.sock"), "env leads elsewhere");

    // A container that was started without weft, attached by hand.
    mesh.lab.host(1).docker(&["run", "--detach", "--name", "late", weft_lab::image::BUSYBOX, "sleep", "3600"]).await?;
    weft(&["attach", "late"]).await?;
    let late = weft_integration_tests::Container::find(mesh.lab.host(1), "late").await?;
    two.pings(&late.ipv4.to_string()).await?;
    weft(&["detach", "late"]).await?;
    ensure!(late.exec(&["ip", "link", "show", "ethwe"]).await.is_err(), "it is still attached");
    mesh.stop().await
}
