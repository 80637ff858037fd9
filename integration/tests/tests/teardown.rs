//! Taking weft off a host: what stays for the containers, and how nothing stays.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use weft_integration_tests::{Conversation, Mesh, PASSWORD, SOON, hosts_with_images};
use weft_lab::{Host, Launch, Weft, eventually};

/// Lists everything that weft could leave on a host, a line each.
async fn traces(host: &Host) -> anyhow::Result<BTreeSet<String>> {
    let lists = [
        ("link", "ip -o link | cut -d: -f2 | cut -d@ -f1"),
        ("address", "ip -o address | awk '{ print $2, $4 }' | grep -v ' fe80:'"),
        // Of both families; the kernel makes some for each link that is up.
        ("route", "ip route show table all | grep -vE 'fe80:|ff00::'"),
        ("policy", "ip rule; ip -6 rule"),
        // Without counters and handles.
        ("rule", "nft --stateless list ruleset"),
        ("socket", "ss -Hxln | awk '{ print $5 }' | grep / ; ss -Htuln | awk '{ print $1, $5 }'"),
        // Which ones, of every kind that containers have.
        ("namespace", "for n in /proc/[0-9]*/ns/[cimnptu]*; do readlink $n; done | sort -u"),
        ("setting", "sysctl -a 2>/dev/null | grep -F bridge-nf"),
        ("file", "find /run/weft /var/lib/weft /usr/local -xdev 2>/dev/null"),
        // With what is in them: others' files stay as they are.
        ("configuration", "find /etc -xdev -type f -exec md5sum {} +; find /etc -xdev ! -type f"),
        // The engine keeps the folder of its containers once it had one, and the names of their networks for a minute.
        ("runtime", "find /run/docker -maxdepth 3 | grep -vE '^/run/docker/(netns|runtime-runc)(/|$)'"),
        ("network", "docker network ls --format '{{.ID}} {{.Name}} {{.Driver}}'"),
        ("volume", "docker volume ls --quiet"),
        ("image", "docker image ls --all --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'"),
        ("container", "docker ps --all --no-trunc --format '{{.ID}} {{.Names}}'"),
    ];
    let mut found = BTreeSet::new();
    for (kind, list) in lists {
        let listed = host.command("sh", ["-c", list]).output().await?.stdout;
        found.extend(listed.lines().map(|line| format!("{kind} {}", line.trim_end())));
    }
    Ok(found)
}

/// Waits until a host has what it had before, and beside that only what `stays` says.
async fn left(host: &Host, before: &BTreeSet<String>, stays: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    eventually("only what is documented is left", SOON, async || {
        let now = traces(host).await?;
        let more: Vec<_> = now.difference(before).filter(|trace| !stays(trace)).collect();
        let less: Vec<_> = before.difference(&now).collect();
        ensure!(more.is_empty() && less.is_empty(), "it has {more:#?} more, and lacks {less:#?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn host_is_as_before_when_weft_is_taken_off() -> anyhow::Result<()> {
    let lab = hosts_with_images(2).await?;
    let host = lab.host(1).clone();
    let before = traces(&host).await?;
    let (weft1, weft2) = tokio::try_join!(
        Weft::launch(lab.host(1), Launch::new(PASSWORD)),
        Weft::launch(lab.host(2), Launch::new(PASSWORD).peers(&[&host]))
    )?;
    let mesh = Mesh { lab, weft: vec![weft1, weft2] };
    mesh.on(1).compose(["run", "--rm", "weft", "install"]).text().await?;
    let (one, beside, two) = tokio::try_join!(
        mesh.container(1, "one", &[]),
        mesh.container(1, "beside", &[]),
        mesh.container(2, "two", &[])
    )?;
    one.pings(&two.ipv4.to_string()).await?;
    let mut conversation = Conversation::start(&one, &beside).await?;

    // What keeps weft's network up is not taken away under it.
    let remove = ["run", "--rm", "router", "--remove"];
    let refused = mesh.on(1).compose(remove).output().await?;
    ensure!(!refused.status.success(), "it was removed while the router runs: {}", refused.all());
    ensure!(refused.all().contains("stop it first"), "the reason is not said: {}", refused.all());

    // Without weft the containers of a host still have each other.
    mesh.on(1).compose(["down", "--volumes"]).text().await?;
    conversation.goes_on().await.context("between containers of one host, without weft,")?;

    // Containers that end take their part along. What is left is documented.
    host.docker(&["rm", "--force", "one", "beside"]).await?;
    let kernel = |trace: &str| {
        let (kind, what) = trace.split_once(' ').unwrap_or_default();
        match kind {
            "link" => matches!(what.trim(), "weft" | "weft-tap"),
            // The table, and the mark in Docker's chains.
            "rule" => true,
            _ => false,
        }
    };
    let files = |trace: &str| {
        ["/run/weft", "/var/lib/weft", "/usr/local"].iter().any(|folder| trace.starts_with(&format!("file {folder}")))
    };
    left(&host, &before, |trace| kernel(trace) || files(trace)).await.context("after the containers and `down`")?;
    let rules = host.exec(&["nft", "list", "ruleset"]).await?;
    ensure!(rules.contains("weft"), "the rules went by themselves: then this scenario proves nothing");

    mesh.on(1).compose(remove).text().await?;
    left(&host, &before, files).await.context("after --remove")?;
    mesh.on(1).compose(remove).text().await.context("removing what is not there")?;

    // As docs/operations.md says it. Folders that `install` made below /usr/local stay, empty.
    let clean = "rm -rf /run/weft /var/lib/weft; \
                 find /usr/local \\( -name weft -o -name _weft -o -name 'weft*.1' -o -name weft.fish \\) -type f -delete";
    host.exec(&["sh", "-c", clean]).await?;
    let empty = host.exec(&["find", "/usr/local", "-xdev", "-type", "d", "-empty"]).await?;
    let is_folder_for_empty = |path: &str| empty.lines().any(|folder| folder.starts_with(path));
    left(&host, &before, |trace| trace.strip_prefix("file ").is_some_and(is_folder_for_empty))
        .await
        .context("after the folders")?;
    mesh.stop().await
}

#[tokio::test]
async fn containers_that_run_lose_the_overlay_and_nothing_else() -> anyhow::Result<()> {
    let mesh = Mesh::start(1).await?;
    let one = mesh.container(1, "one", &[]).await?;
    mesh.on(1).compose(["down"]).text().await?;
    mesh.on(1).compose(["run", "--rm", "router", "--remove"]).text().await?;
    ensure!(one.exec(&["ip", "link", "show", "ethwe"]).await.is_err(), "ethwe is still there");
    one.exec(&["ip", "link", "show", "eth0"]).await.context("Docker's own network")?;

    // weft comes back, and so does its network.
    mesh.on(1).compose(["up", "--detach"]).text().await?;
    mesh.on(1).ready().await?;
    eventually("it is attached again, as before", SOON, async || {
        let again = weft_integration_tests::Container::find(mesh.lab.host(1), "one").await?;
        ensure!((again.ipv4, again.ipv6) == (one.ipv4, one.ipv6), "it has other addresses: {again:?}");
        Ok(())
    })
    .await?;
    mesh.stop().await
}
