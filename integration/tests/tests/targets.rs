//! `weft connect` and `weft forget` while weft runs.

use anyhow::ensure;
use weft_integration_tests::{Container, Mesh, PASSWORD, SOON, hosts_with_images, reports};
use weft_lab::{Launch, Weft, eventually};

/// Returns the targets of a host, as `weft status targets` shows them.
async fn targets(weft: &Weft) -> anyhow::Result<Vec<String>> {
    let status = weft.router_status().await?;
    Ok(status.targets.into_iter().map(|target| target.text).collect())
}

#[tokio::test]
async fn peers_named_at_run_time_are_kept() -> anyhow::Result<()> {
    let lab = hosts_with_images(2).await?;
    // The peer of the second host is misspelt: it waits, and gives no addresses.
    let (one, two) = tokio::try_join!(
        Weft::launch(lab.host(1), Launch::new(PASSWORD)),
        Weft::launch(lab.host(2), Launch::new(PASSWORD).with("WEFT_PEERS", "hots1"))
    )?;
    reports(&two, &["hots1"]).await?;
    let Err(error) = Container::start(lab.host(2), "early", &[]).await else {
        anyhow::bail!("a host that waits for its mesh gave an address");
    };
    ensure!(format!("{error:#}").contains("none of the peers"), "the error does not say what it waits for: {error:#}");

    two.weft(&["connect", "host1"]).await?;
    two.weft(&["forget", "hots1"]).await?;
    tokio::try_join!(one.joined(1), two.joined(1))?;
    ensure!(targets(&two).await? == ["host1"], "its targets are {:?}", targets(&two).await?);
    lab.host(2).docker_via_proxy(&["rm", "--force", "early"]).await?;
    let mut mesh = Mesh { lab, weft: vec![one, two] };
    let (first, second) = tokio::try_join!(mesh.container(1, "first", &[]), mesh.container(2, "second", &[]))?;
    first.pings(&second.ipv4.to_string()).await?;

    // What was added is dialled after a restart too, and what was forgotten is not.
    restart(mesh.on(2)).await?;
    let kept = targets(mesh.on(2)).await?;
    ensure!(kept == ["host1"], "after the restart its targets are {kept:?}");
    mesh.on(2).joined(1).await?;

    // Forgetting ends no connection.
    mesh.on(2).weft(&["forget", "host1"]).await?;
    mesh.on(2).joined(1).await?;
    ensure!(targets(mesh.on(2)).await?.is_empty(), "a forgotten target is still there");
    let unknown = mesh.on(2).command(["forget", "host7"])?.output().await?;
    ensure!(unknown.all().contains("host7 was no target"), "forgetting what is no target: {}", unknown.all());
    restart(mesh.on(2)).await?;
    ensure!(targets(mesh.on(2)).await?.is_empty(), "what was forgotten is back");
    // The other host dials it, because it was part of the mesh.
    mesh.on(2).joined(1).await?;
    first.pings(&second.ipv4.to_string()).await?;

    // Peers that the configuration names anew count, unless the peers of before are asked for.
    for (resume, expected) in [("1", &[][..]), ("", &["host1"][..])] {
        let launch = Launch::new(PASSWORD).with("WEFT_PEERS", "host1").with("WEFT_ROUTER_RESUME", resume);
        mesh.weft[1].recreate("router", launch).await?;
        mesh.on(2).ready().await?;
        ensure!(targets(mesh.on(2)).await? == expected, "with resume {resume:?}: {:?}", targets(mesh.on(2)).await?);
    }
    mesh.on(2).joined(1).await?;
    mesh.stop().await
}

#[tokio::test]
async fn meshes_that_were_founded_apart_do_not_mix() -> anyhow::Result<()> {
    let lab = hosts_with_images(2).await?;
    let launch = |number| Weft::launch(lab.host(number), Launch::new(PASSWORD));
    let (one, two) = tokio::try_join!(launch(1), launch(2))?;
    tokio::try_join!(one.joined(0), two.joined(0))?;
    two.weft(&["connect", "host1"]).await?;
    for weft in [&one, &two] {
        reports(weft, &["two networks were founded apart"]).await?;
    }
    let mesh = Mesh { lab, weft: vec![one, two] };
    // Each goes on alone.
    let (first, beside) = tokio::try_join!(mesh.container(1, "first", &[]), mesh.container(1, "beside", &[]))?;
    mesh.container(2, "second", &[]).await?;
    first.finds("beside", Some(beside.ipv4), SOON).await?;
    first.finds("second", None, SOON).await?;
    mesh.stop().await
}

/// Restarts the router, as an operator does, and waits until it does its job.
async fn restart(weft: &Weft) -> anyhow::Result<()> {
    let before = weft.router_status().await?.peer_name;
    weft.compose(["restart", "router"]).text().await?;
    weft.ready().await?;
    eventually("it answers again", SOON, async || {
        ensure!(weft.router_status().await?.peer_name == before, "it is somebody else");
        Ok(())
    })
    .await
}
