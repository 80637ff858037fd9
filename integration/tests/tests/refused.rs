//! What can't work says so in one sentence, in the log and in the status, and leaves the rest alone.

use anyhow::ensure;
use weft_integration_tests::{Mesh, PASSWORD, hosts_with_images, reports, says, shows};
use weft_lab::{Launch, Weft};

/// Starts a mesh of two hosts and a third host that differs in one thing.
async fn mesh_and(launch: Launch) -> anyhow::Result<(Mesh, Weft)> {
    let lab = hosts_with_images(3).await?;
    let first = lab.host(1).clone();
    let one = Weft::launch(&first, Launch::new(PASSWORD).with("WEFT_NAME", "first")).await?;
    let two = Weft::launch(lab.host(2), Launch::new(PASSWORD).peers(&[&first])).await?;
    one.joined(1).await?;
    two.joined(1).await?;
    let odd = Weft::up(lab.host(3), launch.peers(&[&first])).await?;
    Ok((Mesh { lab, weft: vec![one, two] }, odd))
}

async fn others_go_on(mesh: Mesh) -> anyhow::Result<()> {
    let (one, two) = (mesh.container(1, "one", &[]).await?, mesh.container(2, "two", &[]).await?);
    one.pings(&two.ipv4.to_string()).await?;
    mesh.on(1).joined(1).await?;
    mesh.stop().await
}

#[tokio::test]
async fn wrong_password() -> anyhow::Result<()> {
    let (mesh, odd) = mesh_and(Launch::new("something else")).await?;
    for weft in [&odd, mesh.on(1)] {
        says(weft, "router", &["password"]).await?;
    }
    reports(&odd, &["password", "host1"]).await?;
    others_go_on(mesh).await
}

#[tokio::test]
async fn name_that_another_host_has() -> anyhow::Result<()> {
    let (mesh, odd) = mesh_and(Launch::new(PASSWORD).with("WEFT_NAME", "first")).await?;
    for weft in [&odd, mesh.on(1)] {
        says(weft, "router", &["first", "name"]).await?;
    }
    reports(&odd, &["first", "name"]).await?;
    others_go_on(mesh).await
}

#[tokio::test]
async fn another_range() -> anyhow::Result<()> {
    let (mesh, odd) = mesh_and(Launch::new(PASSWORD).with("WEFT_IPALLOC_RANGE", "10.128.0.0/12")).await?;
    for weft in [&odd, mesh.on(1)] {
        says(weft, "router", &["10.128.0.0/12", "10.32.0.0/12"]).await?;
    }
    reports(&odd, &["10.128.0.0/12", "10.32.0.0/12"]).await?;
    others_go_on(mesh).await
}

#[tokio::test]
async fn peer_that_nobody_is() -> anyhow::Result<()> {
    let lab = hosts_with_images(1).await?;
    let weft = Weft::up(lab.host(1), Launch::new(PASSWORD).with("WEFT_PEERS", "192.168.50.77,no-such-host")).await?;
    reports(&weft, &["192.168.50.77"]).await?;
    reports(&weft, &["no-such-host"]).await?;
    says(&weft, "router", &["192.168.50.77"]).await?;
    says(&weft, "router", &["no-such-host"]).await?;
    lab.stop().await
}

#[tokio::test]
async fn port_in_use() -> anyhow::Result<()> {
    let lab = hosts_with_images(1).await?;
    let busy = lab.host(1).command("busybox", ["nc", "-l", "-p", "6783"]).into_tokio().spawn()?;
    let weft = Weft::up(lab.host(1), Launch::new(PASSWORD)).await?;
    says(&weft, "router", &["6783", "another process uses the port"]).await?;
    shows(&weft, &["router ended", "6783", "another process uses the port"]).await?;
    drop(busy);
    // Docker starts it again, and then it works.
    weft.ready().await?;
    lab.stop().await
}

#[tokio::test]
async fn range_that_collides_with_a_route() -> anyhow::Result<()> {
    let lab = hosts_with_images(1).await?;
    lab.host(1).exec(&["ip", "route", "add", "10.40.0.0/16", "via", "192.168.50.254"]).await?;
    let weft = Weft::up(lab.host(1), Launch::new(PASSWORD)).await?;
    says(&weft, "router", &["10.40.0.0/16", "10.32.0.0/12"]).await?;
    shows(&weft, &["router ended", "10.40.0.0/16", "10.32.0.0/12"]).await?;
    lab.stop().await
}

#[tokio::test]
async fn missing_privileges() -> anyhow::Result<()> {
    let lab = hosts_with_images(1).await?;
    let image = format!("weft/router:{}", weft_lab::Project::VERSION);
    let run = ["run", "--rm", "--network", "host", "--env", "WEFT_INSECURE_NO_PASSWORD=true", &image];
    let output = lab.host(1).docker_command(run).output().await?;
    ensure!(!output.status.success(), "it runs without privileges");
    ensure!(
        output.stderr.contains("CAP_NET_ADMIN") || output.stderr.contains("NET_ADMIN"),
        "it says {:?}",
        output.all()
    );
    ensure!(output.stderr.lines().filter(|line| line.starts_with("weft-router:")).count() == 1, "{:?}", output.stderr);
    lab.stop().await
}

#[tokio::test]
async fn no_engine() -> anyhow::Result<()> {
    let lab = hosts_with_images(1).await?;
    let image = format!("weft/docker-proxy:{}", weft_lab::Project::VERSION);
    let name = ["--name", "proxy"];
    let run = ["run", "--detach", "--network", "host", "--volume", "/run/weft:/run/weft"];
    lab.host(1).docker(&[&run[..], &name, &[&image]].concat()).await?;
    weft_lab::eventually("the proxy says what it misses", weft_integration_tests::SOON, async || {
        let logs = lab.host(1).docker_command(["logs", "proxy"]).output().await?.all();
        ensure!(logs.contains("docker.sock"), "it logged {logs:?}");
        Ok(())
    })
    .await?;
    lab.stop().await
}
