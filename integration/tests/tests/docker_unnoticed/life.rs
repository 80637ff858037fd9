//! From one state to the next: names, restarts, pauses, changes, and what ends a container.

use anyhow::{Context, ensure};
use weft_integration_tests::{Check, Container, SOON};
use weft_lab::{eventually, image};

use crate::{ATTACHED, LINGER, Site};

pub(crate) fn checks<'a>(site: &'a Site<'a>) -> Vec<Check<'a>> {
    vec![
        Check::new("rename", rename(site)),
        Check::new("restart policies", policies(site)),
        Check::new("containers from before", old(site)),
        Check::new("pause, update, start and restart", kept(site)),
        Check::new("files before the start", files(site)),
        Check::new("health checks", health(site)),
        Check::new("checkpoints", checkpoints(site)),
    ]
}

async fn rename(site: &Site<'_>) -> anyhow::Result<()> {
    let (old, new) = (format!("old{}", site.number), format!("new{}", site.number));
    site.start(&old, &[], LINGER).await?;
    let container = Container::find(site.host, &old).await?;
    site.other.finds(&old, Some(container.ipv4), SOON).await?;
    site.docker(&["rename", &old, &new]).await?;
    site.other.finds(&new, Some(container.ipv4), SOON).await?;
    site.other.finds(&old, None, SOON).await?;
    site.remove(&[&new]).await
}

/// Each start of the engine's own sees the network before its first instruction.
async fn policies(site: &Site<'_>) -> anyhow::Result<()> {
    let script = format!("{ATTACHED} echo started; exit 3");
    site.start("fails", &["--restart", "on-failure:2"], &script).await?;
    eventually("it was started three times", SOON, async || {
        let state = site.docker(&["inspect", "--format", "{{.State.Status}} {{.RestartCount}}", "fails"]).await?;
        ensure!(state == "exited 2", "it is {state}");
        Ok(())
    })
    .await?;
    let logs = site.docker(&["logs", "fails"]).await?;
    ensure!(logs == "started\nstarted\nstarted", "it says {logs:?}");

    site.start("always", &["--restart", "unless-stopped"], &format!("{ATTACHED} echo started; {LINGER}")).await?;
    let before = Container::find(site.host, "always").await?;
    site.host.docker(&["exec", "always", "kill", "1"]).await?;
    eventually("it is back with what it had", SOON, async || {
        let count = site.docker(&["inspect", "--format", "{{.RestartCount}}", "always"]).await?;
        ensure!(count == "1", "it was restarted {count} times");
        let after = Container::find(site.host, "always").await?;
        ensure!(after.ipv4 == before.ipv4, "it has {}", after.ipv4);
        Ok(())
    })
    .await?;
    let logs = site.docker(&["logs", "always"]).await?;
    ensure!(logs == "started\nstarted", "it says {logs:?}");
    site.docker(&["stop", "always"]).await?;
    let state = site.docker(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "always"]).await?;
    ensure!(state == "exited 0", "stopped by hand it is {state}");
    site.remove(&["fails", "always"]).await
}

/// One that was not made through weft stays what it is.
async fn old(site: &Site<'_>) -> anyhow::Result<()> {
    site.host.docker(&["create", "--name", "before", image::BUSYBOX, "ip", "-o", "link"]).await?;
    let start = async || site.docker(&["start", "--attach", "before"]).await;
    let said = site.until_heard("one from before", start, |said| !said.is_empty()).await?;
    ensure!(said.contains("eth0") && !said.contains("ethwe"), "it has {said}");
    site.remove(&["before"]).await
}

async fn kept(site: &Site<'_>) -> anyhow::Result<()> {
    site.start("kept", &["--memory", "64m"], LINGER).await?;
    let before = Container::find(site.host, "kept").await?;
    let same = async |how: &str| {
        let after = Container::find(site.host, "kept").await.with_context(|| how.to_owned())?;
        ensure!(after.ipv4 == before.ipv4, "{how} it has {}", after.ipv4);
        before.pings(&site.other.ipv4.to_string()).await.with_context(|| how.to_owned())
    };
    site.docker(&["pause", "kept"]).await?;
    let state = site.docker(&["inspect", "--format", "{{.State.Status}}", "kept"]).await?;
    ensure!(state == "paused", "paused it is {state}");
    site.docker(&["unpause", "kept"]).await?;
    same("after a pause").await?;

    site.docker(&["update", "--memory", "48m", "--memory-swap", "48m", "--restart", "on-failure:1", "kept"]).await?;
    let format = "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}} {{json .Config.Entrypoint}}";
    let updated = site.docker(&["inspect", "--format", format, "kept"]).await?;
    ensure!(updated == "50331648 on-failure null", "updated it is {updated}");
    same("updated").await?;

    site.docker(&["stop", "kept"]).await?;
    site.docker(&["start", "kept"]).await?;
    same("started again").await?;
    site.docker(&["restart", "kept"]).await?;
    same("restarted").await?;
    site.docker(&["network", "create", "beside"]).await?;
    site.docker(&["network", "connect", "beside", "kept"]).await?;
    same("with one more network of Docker's").await?;
    site.docker(&["network", "disconnect", "beside", "kept"]).await?;
    site.docker(&["network", "rm", "beside"]).await?;
    site.docker(&["kill", "--signal", "KILL", "kept"]).await?;
    ensure!(site.wait("kept").await? == "137", "killed it ends otherwise");
    site.remove(&["kept"]).await
}

async fn files(site: &Site<'_>) -> anyhow::Result<()> {
    let words = ["create", "--name", "filled", "--cidfile", "/run/cidfile", image::BUSYBOX, "cat", "/data/given"];
    let id = site.docker(&words).await?;
    ensure!(site.host.exec(&["cat", "/run/cidfile"]).await? == id, "--cidfile has another id");
    site.host.command("tee", ["/run/given"]).input("a file from before\n").text().await?;
    site.docker(&["cp", "/run/given", "filled:/data/given"]).await?;
    let said = site.docker(&["start", "--attach", "filled"]).await?;
    ensure!(said == "a file from before", "it says {said:?}");
    let changed = site.docker(&["diff", "filled"]).await?;
    ensure!(changed == "C /data\nA /data/given", "its file system: {changed:?}");
    site.remove(&["filled"]).await
}

async fn health(site: &Site<'_>) -> anyhow::Result<()> {
    // Seconds would be too long for a test: the engine takes no less than a millisecond.
    let check = "HEALTHCHECK --interval=300ms --retries=1 CMD grep -q yes /tmp/well";
    site.build("checked", &format!("FROM {}\n{check}\n", image::BUSYBOX)).await?;
    let by_hand = ["--health-cmd", "grep -q yes /tmp/well", "--health-interval", "300ms", "--health-retries", "1"];
    for (name, options, image) in [("by-image", &[][..], "checked"), ("by-hand", &by_hand, image::BUSYBOX)] {
        let run = ["run", "--detach", "--name", name];
        let script = format!("echo yes > /tmp/well; {LINGER}");
        site.docker(&[&run[..], options, &[image, "sh", "-c", &script]].concat()).await?;
        let becomes = async |state: &str| {
            eventually(&format!("{name} is {state}"), SOON, async || {
                let now = site.docker(&["inspect", "--format", "{{.State.Health.Status}}", name]).await?;
                ensure!(now == state, "it is {now}");
                Ok(())
            })
            .await
        };
        becomes("healthy").await?;
        site.docker(&["exec", name, "sh", "-c", "echo no > /tmp/well"]).await?;
        becomes("unhealthy").await?;
        let test = site.docker(&["inspect", "--format", "{{json .Config.Healthcheck.Test}}", name]).await?;
        ensure!(test == r#"["CMD-SHELL","grep -q yes /tmp/well"]"#, "{name} is checked by {test}");
    }
    site.remove(&["by-image", "by-hand"]).await
}

/// The engine's word about them is passed on. With `criu`, which the distribution of the lab does not have, and an engine
/// that experiments, they would be made.
async fn checkpoints(site: &Site<'_>) -> anyhow::Result<()> {
    site.start("checked-point", &[], LINGER).await?;
    let words = ["checkpoint", "create", "checked-point", "point"];
    let through = site.output(&words).await?;
    let direct = site.host.docker_command(words).output().await?;
    ensure!(through.all() == direct.all() && through.status == direct.status, "{through:?} instead of {direct:?}");
    site.remove(&["checked-point"]).await
}
