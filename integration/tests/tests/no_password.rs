//! A mesh without a password has to be asked for, says what it is, and does not mix with others.

use anyhow::ensure;
use weft_integration_tests::{Mesh, PASSWORD, hosts_with_images, reports, says};
use weft_lab::{Launch, Weft};

#[tokio::test]
async fn mesh_without_password_warns_and_refuses_those_with_one() -> anyhow::Result<()> {
    let lab = hosts_with_images(3).await?;
    let first = lab.host(1).clone();
    let forgotten = Weft::up(&first, Launch::new("")).await?;
    says(&forgotten, "router", &["no password", "WEFT_PASSWORD", "WEFT_INSECURE_NO_PASSWORD=1"]).await?;

    let open = Launch::new("").with("WEFT_INSECURE_NO_PASSWORD", "1");
    let (one, two) =
        tokio::try_join!(Weft::launch(&first, open.clone()), Weft::launch(lab.host(2), open.peers(&[&first])))?;
    tokio::try_join!(one.joined(1), two.joined(1))?;
    for weft in [&one, &two] {
        says(weft, "router", &["WARN", "without a password anyone may join"]).await?;
        let status = weft.weft(&["status"]).await?;
        ensure!(status.contains("without a password anyone may join"), "the status does not warn: {status}");
    }

    let closed = Weft::up(lab.host(3), Launch::new(PASSWORD).peers(&[&first])).await?;
    for weft in [&closed, &one] {
        says(weft, "router", &["password"]).await?;
        reports(weft, &["password"]).await?;
    }
    reports(&closed, &["host1", "password"]).await?;

    let mesh = Mesh { lab, weft: vec![one, two] };
    let (first, second) = tokio::try_join!(mesh.container(1, "first", &[]), mesh.container(2, "second", &[]))?;
    first.pings(&second.ipv4.to_string()).await?;
    // Sealed all the same.
    let connections = mesh.on(1).router_status().await?.connections;
    ensure!(connections.len() == 1, "the host with a password is connected: {connections:?}");
    ensure!(!connections[0].cipher.is_empty(), "frames are not sealed: {connections:?}");
    mesh.stop().await
}
