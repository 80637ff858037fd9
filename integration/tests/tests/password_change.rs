//! Another password, one host after the other.

use std::time::Duration;

use anyhow::Context;
use weft_integration_tests::{Conversation, Mesh, SOON, reports};
use weft_lab::Launch;

/// How long the mesh may take to be whole once the last host has the new password.
const WHOLE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn connections_survive_a_change_of_the_password() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(3).await?;
    let (one, two, three) = tokio::try_join!(
        mesh.container(1, "one", &[]),
        mesh.container(2, "two", &[]),
        mesh.container(3, "three", &[])
    )?;
    let mut conversation = Conversation::start(&two, &three).await?;
    conversation.goes_on().await?;

    let first = mesh.lab.host(1).clone();
    let launch = Launch::new("another one, and a better one");
    // The one that the others name comes first: they dial it when they start.
    for host in [1, 2, 3] {
        let launch = if host == 1 { launch.clone() } else { launch.clone().peers(&[&first]) };
        mesh.weft[host - 1].recreate("router", launch).await?;
        mesh.on(host).ready().await?;
        if host == 1 {
            reports(mesh.on(3), &["password", "host1"]).await?;
        }
    }
    let joined = async { tokio::try_join!(mesh.on(1).joined(2), mesh.on(2).joined(2), mesh.on(3).joined(2)) };
    tokio::time::timeout(WHOLE, joined).await.context("the mesh is not whole")??;
    conversation.goes_on().await.context("the connection, after the change,")?;
    one.finds("three", Some(three.ipv4), SOON).await?;
    mesh.stop().await
}
