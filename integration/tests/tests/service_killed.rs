//! Any service may be killed at any time: connections between containers survive, and all is as before when it is back.

use anyhow::{Context, ensure};
use weft_integration_tests::{Container, Conversation, Mesh, SOON};
use weft_lab::eventually;

/// The services, as Compose names them.
const SERVICES: [&str; 4] = ["router", "ipam", "dns", "docker-proxy"];

#[tokio::test]
async fn killed_services_come_back_and_connections_survive() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = (mesh.container(1, "one", &[]).await?, mesh.container(2, "two", &[]).await?);
    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;

    for service in SERVICES {
        let what = |step: &str| format!("{step} after {service} was killed");
        mesh.on(1).kill(service).await.with_context(|| what("killing"))?;
        conversation.goes_on().await.with_context(|| what("the connection"))?;
        mesh.on(1).ready().await.with_context(|| what("getting ready"))?;
        mesh.on(1).joined(1).await.with_context(|| what("joining"))?;
        conversation.goes_on().await.with_context(|| what("the connection, later,"))?;

        for (before, other) in [(&one, &two), (&two, &one)] {
            let after = Container::find(&before.host, &before.name).await.with_context(|| what("addresses"))?;
            ensure!((after.ipv4, after.ipv6) == (before.ipv4, before.ipv6), "{}", what("other addresses"));
            let name = format!("{}.weft.internal", other.name);
            eventually(&what("names"), SOON, async || {
                let answer = before.resolves(&name).await?;
                ensure!(answer.contains(&other.ipv4.to_string()), "{name} is {answer}");
                Ok(())
            })
            .await?;
        }
        let new =
            mesh.container(1, &format!("new-after-{service}"), &[]).await.with_context(|| what("a new container"))?;
        ensure!(new.ipv4 != one.ipv4 && new.ipv4 != two.ipv4, "{}", what("an address given twice"));
        two.pings(&new.ipv4.to_string()).await.with_context(|| what("reaching a new container"))?;
    }
    mesh.stop().await
}
