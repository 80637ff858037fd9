//! The `weft` command on a host, installed as a user installs it.

use anyhow::{Context, ensure};
use weft_integration_tests::{Mesh, SOON};
use weft_lab::eventually;

#[tokio::test]
async fn installed_command_shows_and_changes_the_mesh() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let (one, two) = (mesh.container(1, "one", &[]).await?, mesh.container(2, "two", &[]).await?);
    mesh.on(1).compose(["run", "--rm", "weft", "install"]).text().await?;
    let weft = async |words: &[&str]| mesh.lab.host(1).exec(&[&["weft"], words].concat()).await;

    ensure!(weft(&["version"]).await?.contains(weft_lab::Project::VERSION), "not this version");
    for words in [
        &["status"][..],
        &["status", "peers"],
        &["status", "connections"],
        &["status", "dns"],
        &["status", "ipam"],
        &["ps"],
        &["version"],
    ] {
        let shown = weft(words).await?;
        ensure!(!shown.trim().is_empty(), "weft {words:?} shows nothing");
        let shown = weft(&[words, &["--output", "json"]].concat()).await?;
        serde_json::from_str::<serde_json::Value>(&shown)?;
    }
    ensure!(weft(&["status", "peers"]).await?.contains("host2"), "the peer is not shown");
    ensure!(weft(&["ps"]).await?.contains(&one.ipv4.to_string()), "the container is not shown");
    eventually("the other host's name is shown", SOON, async || {
        let found = weft(&["dns-lookup", "two"]).await?;
        ensure!(found.contains(&two.ipv4.to_string()), "{found:?}");
        Ok(())
    })
    .await?;
    ensure!(weft(&["env"]).await?.contains("DOCKER_HOST=unix:///run/weft/docker/docker.sock"), "env leads elsewhere");

    // A container that was started without weft, attached by hand.
    mesh.lab.host(1).docker(&["run", "--detach", "--name", "late", weft_lab::image::BUSYBOX, "sleep", "3600"]).await?;
    weft(&["attach", "late"]).await?;
    let late = weft_integration_tests::Container::find(mesh.lab.host(1), "late").await?;
    two.pings(&late.ipv4.to_string()).await?;
    weft(&["detach", "late"]).await?;
    ensure!(late.exec(&["ip", "link", "show", "ethwe"]).await.is_err(), "it is still attached");
    mesh.stop().await
}

#[tokio::test]
async fn weave_nets_verbs_for_names_and_scripts() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    mesh.on(1).compose(["run", "--rm", "weft", "install"]).text().await?;
    let weft = async |words: &[&str]| mesh.lab.host(1).exec(&[&["weft"], words].concat()).await;
    let refused = async |words: &[&str], sentence: &str| match weft(words).await {
        Ok(shown) => anyhow::bail!("weft {words:?} was done: {shown}"),
        Err(error) if format!("{error:#}").contains(sentence) => Ok(()),
        Err(error) => Err(error.context(format!("weft {words:?} does not say {sentence:?}"))),
    };

    ensure!(weft(&["prime"]).await?.is_empty(), "prime says something");
    ensure!(weft(&["config"]).await? == "-H=unix:///run/weft/docker/docker.sock", "config leads elsewhere");
    let resolver = weft(&["dns-args"]).await?;
    ensure!(resolver == "--dns=169.254.83.53 --dns-search=weft.internal", "{resolver:?}");
    let report: serde_json::Value = serde_json::from_str(&weft(&["report"]).await?)?;
    ensure!(report["peers"]["peers"].as_array().is_some_and(|peers| peers.len() == 2), "{report}");
    refused(&["report", "--format", "{{.Router}}"], "unexpected argument").await?;

    // A container that asks weft by its own options, and is attached by hand.
    let options: Vec<_> = resolver.split(' ').collect();
    let by_hand = [&["run", "--detach", "--name", "byhand"], &*options, &[weft_lab::image::BUSYBOX, "sleep", "3600"]];
    mesh.lab.host(1).docker(&by_hand.concat()).await?;
    weft(&["attach", "byhand"]).await?;
    let by_hand = weft_integration_tests::Container::find(mesh.lab.host(1), "byhand").await?;

    // Names of a container and of an address outside, as all hosts hear them.
    let (one, two) = (mesh.container(1, "one", &[]).await?, mesh.container(2, "two", &[]).await?);
    weft(&["dns-add", "one", "-h", "alias"]).await?;
    weft(&["dns-add", "192.0.2.9", "2001:db8::9", "-h", "printer.weft.internal"]).await?;
    let answer = async |container: &weft_integration_tests::Container, name: &str, wanted: Option<&str>| {
        eventually("the answer follows", SOON, async || {
            let found = container.exec(&["nslookup", name]).await;
            match (&found, wanted) {
                (Ok(found), Some(wanted)) => ensure!(found.contains(wanted), "{found}"),
                (_, None) => ensure!(format!("{found:?}").contains("NXDOMAIN"), "{found:?}"),
                (Err(error), Some(_)) => anyhow::bail!("{error:#}"),
            }
            Ok(())
        })
        .await
    };
    let address = one.ipv4.to_string();
    answer(&two, "alias.weft.internal", Some(&address)).await?;
    answer(&by_hand, "alias.weft.internal", Some(&address)).await?;
    answer(&two, "printer.weft.internal", Some("192.0.2.9")).await?;
    refused(&["dns-add", "192.0.2.9", "-h", "www.example.org"], "outside of the zone weft.internal.").await?;
    refused(&["dns-add", "192.0.2.9"], "give one with -h").await?;
    refused(&["dns-add", "nobody", "-h", "x"], "no container nobody is attached here").await?;

    // A name by hand does not outlive the address that it means: the next container may be given it.
    let attached = weft(&["attach", "net:10.40.0.0/24", "one"]).await?;
    let second = attached.split_whitespace().find(|address| address.starts_with("10.40.0."));
    let second = second.with_context(|| format!("attached with {attached}"))?;
    weft(&["dns-add", second, "one", "-h", "second"]).await?;
    answer(&two, "second.weft.internal", Some(second)).await?;
    weft(&["detach", "net:10.40.0.0/24", "one"]).await?;
    answer(&two, "second.weft.internal", None).await?;

    // dns and the router start anew at the same time, and docker-proxy; then one name is taken away, and the other goes with its
    // container.
    mesh.on(1).compose(["kill", "dns", "router"]).text().await?;
    mesh.on(1).compose(["start", "dns", "router"]).text().await?;
    mesh.on(1).compose(["restart", "docker-proxy"]).text().await?;
    mesh.on(1).ready().await?;
    weft(&["prime", "--timeout", "60"]).await?;
    answer(&by_hand, "printer.weft.internal", Some("192.0.2.9")).await?;
    answer(&by_hand, "alias.weft.internal", Some(&address)).await?;
    eventually("dns takes orders again", SOON, async || {
        weft(&["dns-remove", "192.0.2.9", "2001:db8::9", "-h", "printer"]).await.map(drop)
    })
    .await?;
    answer(&two, "printer.weft.internal", None).await?;
    answer(&two, "alias.weft.internal", Some(&address)).await?;
    mesh.lab.host(1).docker(&["rm", "--force", "one"]).await?;
    answer(&two, "alias.weft.internal", None).await?;
    mesh.stop().await
}
