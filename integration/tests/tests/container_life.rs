//! Addresses and names over the life of a container: kept while it exists, given back when it is removed.

use anyhow::ensure;
use weft_integration_tests::{Container, Mesh, SOON};
use weft_lab::eventually;

#[tokio::test]
async fn restarted_container_keeps_address_and_name() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (kept, other) = (mesh.container(1, "kept", &[]).await?, mesh.container(2, "other", &[]).await?);

    mesh.lab.host(1).docker_via_proxy(&["restart", "--time", "1", "kept"]).await?;
    same(&kept, &other).await?;

    // Started past the proxy.
    mesh.lab.host(1).docker(&["restart", "--time", "1", "kept"]).await?;
    same(&kept, &other).await?;
    mesh.stop().await
}

#[tokio::test]
async fn container_that_docker_restarts_keeps_address_and_name() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let kept = mesh.container(1, "kept", &["--restart", "always"]).await?;
    let other = mesh.container(2, "other", &[]).await?;
    let process = mesh.lab.host(1).docker(&["inspect", "--format", "{{.State.Pid}}", "kept"]).await?;
    mesh.lab.host(1).exec(&["kill", "-9", &process]).await?;
    same(&kept, &other).await?;
    mesh.stop().await
}

#[tokio::test]
async fn dead_container_loses_its_name_and_a_removed_one_its_address() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (short, other) = (mesh.container(1, "short", &[]).await?, mesh.container(2, "other", &[]).await?);
    let known = async || other.resolves("short.weft.internal").await;
    eventually("the name is known", SOON, async || known().await.map(drop)).await?;

    mesh.lab.host(1).docker_via_proxy(&["kill", "short"]).await?;
    eventually("the name is gone", SOON, async || {
        ensure!(known().await.is_err(), "it is still known");
        Ok(())
    })
    .await?;
    ensure!(mesh.on(1).ipam_status().await?.allocated == 1, "a container that still exists lost its address");

    mesh.lab.host(1).docker_via_proxy(&["rm", "short"]).await?;
    eventually("the address is free", SOON, async || {
        let allocated = mesh.on(1).ipam_status().await?.allocated;
        ensure!(allocated == 0, "{allocated} addresses are held; {} was", short.ipv4);
        Ok(())
    })
    .await?;
    mesh.stop().await
}

#[tokio::test]
async fn given_addresses_are_taken() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    for (number, variable) in [(1, "WEFT_CIDR"), (2, "WEAVE_CIDR")] {
        let wanted = format!("10.32.100.{number}");
        let setting = format!("{variable}={wanted}/12");
        let container = mesh.container(number, &format!("given{number}"), &["--env", &setting]).await?;
        ensure!(container.ipv4.to_string() == wanted, "{setting} gave {}", container.ipv4);
    }
    let (one, two) = (mesh.lab.host(1), mesh.lab.host(2));
    Container::find(one, "given1").await?.pings("10.32.100.2").await?;
    let taken = Container::start(two, "thief", &["--env", "WEFT_CIDR=10.32.100.1/12"]).await;
    let Err(error) = taken else { anyhow::bail!("an address was given twice") };
    ensure!(format!("{error:#}").contains("10.32.100.1"), "the error does not name the address: {error:#}");
    mesh.stop().await
}

async fn same(before: &Container, other: &Container) -> anyhow::Result<()> {
    eventually("the container is back with what it had", SOON, async || {
        let after = Container::find(&before.host, &before.name).await?;
        ensure!((after.ipv4, after.ipv6) == (before.ipv4, before.ipv6), "it has {after:?}, had {before:?}");
        other.exec(&["ping", "-c", "1", "-W", "1", &before.name]).await?;
        let answer = other.resolves(&format!("{}.weft.internal", before.name)).await?;
        ensure!(answer.contains(&before.ipv4.to_string()), "its name is {answer}");
        Ok(())
    })
    .await
}
