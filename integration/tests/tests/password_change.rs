//! Another password, one host after the other.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use weft_integration_tests::{Conversation, Mesh, PASSWORD, SOON, reports};
use weft_lab::{Launch, Weft, eventually};

const NEW: &str = "another one, and a better one";

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
    let launch = Launch::new(NEW);
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

/// How long frames may stay away when a router is made anew, on a machine that other hosts keep busy; docs/operations.md says 2 s.
const GAP: Duration = Duration::from_secs(10);

#[tokio::test]
async fn with_the_old_password_beside_the_new_one_nobody_is_cut_off() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(3).await?;
    let (two, three) = tokio::try_join!(mesh.container(2, "two", &[]), mesh.container(3, "three", &[]))?;
    let mut conversation = Conversation::start(&two, &three).await?;
    let first = mesh.lab.host(1).clone();
    let launch = |host: usize, launch: Launch| if host == 1 { launch } else { launch.peers(&[&first]) };

    // In no particular order: those that have it and those that have not stay together.
    for (done, host) in [(1, 2), (2, 1), (3, 3)] {
        let both = Launch::new(NEW).with("WEFT_PASSWORD_OLD", PASSWORD);
        mesh.weft[host - 1].recreate("router", launch(host, both)).await?;
        conversation.goes_on_within(GAP).await.with_context(|| format!("when host {host} changes"))?;
        mesh.on(host).ready().await?;
        for host in 1..=3 {
            mesh.on(host).joined(2).await?;
        }
        if done == 1 {
            reports(mesh.on(2), &["the old password is still used by", "host1", "host3"]).await?;
            reports(mesh.on(3), &["still uses the old password", "host2"]).await?;
        }
    }
    for host in 1..=3 {
        reports(mesh.on(host), &["still takes the old password", "it is dropped"]).await?;
    }
    for host in 1..=3 {
        mesh.weft[host - 1].recreate("router", launch(host, Launch::new(NEW))).await?;
        conversation.goes_on_within(GAP).await.with_context(|| format!("when host {host} forgets the old one"))?;
        mesh.on(host).ready().await?;
    }
    for host in 1..=3 {
        mesh.on(host).joined(2).await?;
        nothing_left(mesh.on(host), SOON).await?;
    }
    mesh.stop().await
}

/// How long an old password may stay once nobody needs it; docs/operations.md says two minutes.
const DROPPED: Duration = Duration::from_secs(120);

/// How long frames may stay away when nothing is restarted, on a machine that other hosts keep busy.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Writes another password where Compose put the first, as docs/operations.md has it.
async fn write_password(weft: &Weft, password: &str) -> anyhow::Result<()> {
    fs::write(weft.host().path("/etc/weft-password"), password)?;
    weft.compose(["cp", "/etc/weft-password", "router:/run/secrets/weft_password"]).text().await?;
    Ok(())
}

/// Waits until nothing is said of passwords any more.
async fn nothing_left(weft: &Weft, within: Duration) -> anyhow::Result<()> {
    eventually("nothing is left to say", within, async || {
        let status = weft.router_status().await?;
        let left = status.problems.iter().find(|problem| problem.message.contains("assword"));
        ensure!(left.is_none(), "it says {left:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn without_a_restart_nothing_waits_and_the_old_password_goes_by_itself() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(3).await?;
    let (two, three) = tokio::try_join!(mesh.container(2, "two", &[]), mesh.container(3, "three", &[]))?;
    let mut conversation = Conversation::start(&two, &three).await?;
    let mut processes = Vec::new();
    for host in 1..=3 {
        processes.push(mesh.on(host).process("router").await?);
    }

    // What is no password changes nothing, and is told in a sentence.
    write_password(mesh.on(2), "short").await?;
    let refused = mesh.on(2).command(["reload-password"])?.output().await?;
    ensure!(!refused.status.success() && refused.stderr.contains("the password has 5 bytes"), "{refused:?}");
    for host in [2, 1, 3] {
        // The last one leaves out the second line.
        let text = if host == 3 { NEW.to_owned() } else { format!("{NEW}\n{PASSWORD}\n") };
        write_password(mesh.on(host), &text).await?;
        let said = mesh.on(host).weft(&["reload-password"]).await?;
        ensure!(said.contains("the new password is in force"), "it says {said:?}");
        conversation.goes_on_within(AT_ONCE).await.with_context(|| format!("when host {host} changes"))?;
        if host == 2 {
            reports(mesh.on(2), &["the old password is still used by", "host1", "host3"]).await?;
            reports(mesh.on(3), &["still uses the old password", "host2"]).await?;
            // One that dies in the middle comes back with both.
            mesh.on(2).kill("router").await?;
            mesh.on(2).joined(2).await.context("after it was killed")?;
            processes[host - 1] = mesh.on(host).process("router").await?;
            reports(mesh.on(2), &["the old password is still used by", "host1", "host3"]).await?;
            conversation.goes_on().await?;
        }
    }
    for host in 1..=3 {
        nothing_left(mesh.on(host), DROPPED).await?;
        ensure!(mesh.on(host).process("router").await? == processes[host - 1], "the router of host {host} restarted");
    }
    conversation.goes_on_within(AT_ONCE).await.context("when the old one is gone")?;

    // Nobody takes the old one now, not even from a member; with the new one it comes in.
    let first = mesh.lab.host(1).clone();
    mesh.weft[2].recreate("router", Launch::new(PASSWORD).peers(&[&first])).await?;
    reports(mesh.on(3), &["the password differs", "host1"]).await?;
    mesh.weft[2].recreate("router", Launch::new(NEW).peers(&[&first])).await?;
    for host in 1..=3 {
        mesh.on(host).joined(2).await?;
    }
    mesh.stop().await
}
