//! The engine is restarted, killed and upgraded: its containers come back with what they had.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use weft_integration_tests::{Container, Conversation, Mesh, SOON};
use weft_lab::{EngineKit, Host, eventually};

/// Containers on the host whose engine is restarted.
const CONTAINERS: u32 = 50;

/// Containers on the host whose engine leaves them alone.
const RESTORED: u32 = 10;

/// How long the engine and all containers may take to come back, weft's own among them.
const BACK: Duration = Duration::from_secs(40);

/// Prints each running container of the test with its overlay address.
const LIST: &str = r#"docker inspect --format '{{.Name}} {{.State.Pid}}' $(docker ps --quiet --filter name=many-) |
    while read name pid; do
        echo "${name#/} $(nsenter --net --target "$pid" ip -4 -o addr show dev ethwe | awk '{ print $4 }')"
    done"#;

/// Returns the overlay addresses of the containers by their names.
async fn addresses(host: &Host) -> anyhow::Result<BTreeMap<String, String>> {
    let lines = host.exec(&["sh", "-c", LIST]).await?;
    let pairs = lines.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, address)| (name.to_owned(), address.trim_end_matches("/12").to_owned())).collect())
}

/// Returns when all containers have what they had, and the other host's one resolves and reaches them all.
async fn all_are_back(host: &Host, had: &BTreeMap<String, String>, other: &Container) -> anyhow::Result<()> {
    eventually("all have their addresses", BACK, async || {
        let have = addresses(host).await?;
        ensure!(have == *had, "they have {have:?}, had {had:?}");
        Ok(())
    })
    .await?;
    let each = |line: &dyn Fn(&str, &str) -> String| -> String {
        had.iter().map(|(name, address)| line(name, address)).collect::<Vec<_>>().join(" && ")
    };
    let named = each(&|name, address| format!("nslookup -type=a {name}.weft.internal | grep -q ': {address}$'"));
    let reached = each(&|_, address| format!("ping -q -c 1 -W 1 {address} >/dev/null"));
    for (what, script) in [("all are named", named), ("all are reached", reached)] {
        eventually(what, SOON, async || other.exec(&["sh", "-c", &script]).await.map(drop)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn containers_come_back_after_the_engine() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(2).await?;
    let other = mesh.container(2, "other", &[]).await?;
    let start = |number: u32| {
        let mesh = &mesh;
        async move { mesh.container(1, &format!("many-{number}"), &["--restart", "always"]).await }
    };
    stream::iter(1..=CONTAINERS).map(start).buffer_unordered(10).try_collect::<Vec<_>>().await?;
    let had = addresses(mesh.lab.host(1)).await?;
    ensure!(had.len() == CONTAINERS as usize, "{} containers of {CONTAINERS} run", had.len());

    mesh.lab.stop_engine(1).await?;
    mesh.lab.start_engine(1).await?;
    all_are_back(mesh.lab.host(1), &had, &other).await.context("after a restart")?;

    mesh.lab.kill_engine(1).await?;
    mesh.lab.start_engine(1).await?;
    all_are_back(mesh.lab.host(1), &had, &other).await.context("after a kill")?;

    mesh.lab.stop_engine(1).await?;
    mesh.lab.upgrade_engine(1, EngineKit::newer()?).await?;
    all_are_back(mesh.lab.host(1), &had, &other).await.context("after an upgrade")?;
    let new = mesh.container(1, "new", &[]).await.context("a container of the newer engine")?;
    other.finds("new", Some(new.ipv4), SOON).await?;
    mesh.stop().await
}

#[tokio::test]
async fn with_live_restore_containers_do_not_notice_the_engine() -> anyhow::Result<()> {
    let mut mesh = Mesh::start(2).await?;
    let host = mesh.lab.host(1).clone();
    let change = "sed -i 's/{/{ \"live-restore\": true,/' /etc/docker/daemon.json && kill -HUP $(cat /run/docker.pid)";
    host.exec(&["sh", "-ec", change]).await?;
    eventually("the engine has changed its mind", SOON, async || {
        let live = host.docker(&["info", "--format", "{{.LiveRestoreEnabled}}"]).await?;
        ensure!(live == "true", "it says {live}");
        Ok(())
    })
    .await?;
    let start = |number: u32| {
        let mesh = &mesh;
        async move { mesh.container(1, &format!("many-{number}"), &["--restart", "always"]).await }
    };
    let (many, two) = tokio::try_join!(try_join_all((1..=RESTORED).map(start)), mesh.container(2, "two", &[]))?;
    let (one, had) = (&many[0], addresses(&host).await?);
    ensure!(had.len() == RESTORED as usize, "{} containers of {RESTORED} run", had.len());
    // From the other host: what reads an `exec` ends with the engine.
    let mut conversation = Conversation::start(&two, one).await?;
    conversation.goes_on().await?;
    let processes = async || {
        let list = "docker inspect --format '{{.Name}} {{.State.Pid}}' $(docker ps --quiet --filter name=many-) | sort";
        host.exec(&["sh", "-c", list]).await
    };
    let (before, rules) = (processes().await?, rules(&host).await?);

    for (way, kill) in [("stopped", false), ("killed", true)] {
        let what = |step: &str| format!("{step} after the engine was {way}");
        if kill {
            mesh.lab.kill_engine(1).await?;
        } else {
            mesh.lab.stop_engine(1).await?;
        }
        conversation.goes_on().await.with_context(|| what("the connection, without an engine,"))?;
        // The engine makes its chains anew, in front of what is there.
        host.exec(&["sh", "-ec", "iptables -F; ip6tables -F"]).await?;
        mesh.lab.start_engine(1).await?;
        conversation.goes_on().await.with_context(|| what("the connection"))?;
        ensure!(processes().await? == before, "{}", what("a container was restarted"));
        mesh.on(1).ready().await.with_context(|| what("getting ready"))?;
        let name = format!("new-{way}");
        let new = eventually(&what("the proxy is back"), SOON, async || {
            host.docker_via_proxy(&["version"]).await?;
            mesh.container(1, &name, &[]).await
        })
        .await?;
        two.finds(&name, Some(new.ipv4), SOON).await?;
        two.pings(&new.ipv4.to_string()).await?;
        conversation.goes_on().await.with_context(|| what("the connection, later,"))?;
        host.docker_via_proxy(&["rm", "--force", &name]).await?;
        all_are_back(&host, &had, &two).await.with_context(|| what("all containers"))?;
        eventually(&what("weft's rules are as before"), SOON, async || {
            let now = self::rules(&host).await?;
            ensure!(now == rules, "they are:\n{now}\nand were:\n{rules}");
            Ok(())
        })
        .await?;
    }
    mesh.stop().await
}

/// Returns weft's table, and its rules in the chains of others, whose own rules may stand around them in any order.
async fn rules(host: &Host) -> anyhow::Result<String> {
    let list =
        "nft --stateless list table inet weft; iptables -S | grep -i weft | sort; ip6tables -S | grep -i weft | sort";
    host.exec(&["sh", "-c", list]).await
}
