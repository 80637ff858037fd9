//! Any service may be killed at any time: connections between containers survive, and all is as before when it is back.

use std::time::Duration;

use anyhow::{Context, ensure};
use weft_integration_tests::{Container, Conversation, Mesh, SOON};
use weft_lab::eventually;

/// The services, as Compose names them.
const SERVICES: [&str; 4] = ["router", "ipam", "dns", "docker-proxy"];

/// How long after a killed router's successor listens frames may stay away; `docs/operations.md` promises it.
const BACK: Duration = Duration::from_secs(2);

/// How old a connection has to be so that the peer is dialled again at once, in seconds: `docs/wire-protocol.md`, section 2.10.
const LASTED: u64 = 10;

/// Kills a host's router and checks how long frames stay away once there is another one, both ways.
async fn frames_are_back_soon(mesh: &Mesh, here: &Container, there: &Container) -> anyhow::Result<()> {
    let router = mesh.on(1).process("router").await?;
    let ping = async |from: &Container, to: &Container| {
        let until = format!("until ping -c 1 -W 0.2 {}; do :; done", to.ipv4);
        anyhow::Ok(from.in_network(&["sh", "-c", &until]).await?.limit(BACK))
    };
    let (out, back) = tokio::try_join!(ping(here, there), ping(there, here))?;
    let replaced = format!(
        "kill -9 {router}; while kill -0 {router} 2> /dev/null; do :; done; \
         until ss --no-header --listening --tcp --numeric 'sport = :6783' | grep -q .; do :; done"
    );
    here.host.exec(&["sh", "-c", &replaced]).await?;
    tokio::try_join!(out.text(), back.text()).map(drop)
}

#[tokio::test]
async fn killed_services_come_back_and_connections_survive() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = (mesh.container(1, "one", &[]).await?, mesh.container(2, "two", &[]).await?);
    let mut conversation = Conversation::start(&one, &two).await?;
    conversation.goes_on().await?;

    eventually("the connection has lasted", SOON, async || {
        let status = mesh.on(2).router_status().await?;
        let age = status.connections.first().context("there is no connection")?.age_seconds;
        ensure!(age > LASTED, "it is {age} s old");
        Ok(())
    })
    .await?;
    frames_are_back_soon(&mesh, &one, &two).await.context("after the router was killed")?;
    conversation.goes_on().await.context("the connection, after the router was killed,")?;
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
