//! Who is attached, and with which address: said in the image, in the request and in a Compose file.

use anyhow::{Context, ensure};
use weft_integration_tests::{Check, SOON};
use weft_lab::{eventually, image};

use crate::{ATTACHED, LINGER, Site};

pub(crate) fn checks<'a>(site: &'a Site<'a>) -> Vec<Check<'a>> {
    vec![
        Check::new("images that decline", declined(site)),
        Check::new("addresses that are given", given(site)),
        Check::new("a Compose file", compose(site)),
        Check::new("old versions of the API", versions(site)),
    ]
}

/// Shows the addresses of a container that is run, and what it is at the engine.
async fn interfaces(site: &Site<'_>, options: &[&str], image: &str) -> anyhow::Result<String> {
    let words = [&["run", "--rm"], options, &[image, "ip", "-o", "addr"]].concat();
    site.until_heard(&words.join(" "), async || site.docker(&words).await, |said| !said.is_empty()).await
}

async fn declined(site: &Site<'_>) -> anyhow::Result<()> {
    let tells = [
        ("ENV WEAVE_CIDR=none", "env", "WEAVE_CIDR=none"),
        ("ENV WEFT_CIDR=none", "env", "WEFT_CIDR=none"),
        ("LABEL weft.network=none", "label", "weft.network=none"),
        ("LABEL weft.cidr=none", "label", "weft.cidr=none"),
    ];
    for (number, (line, kind, setting)) in tells.into_iter().enumerate() {
        let tag = format!("declines{number}");
        site.build(&tag, &format!("FROM {}\n{line}\n", image::BUSYBOX)).await?;
        let option = format!("--{kind}");
        for (options, image) in [(&[][..], &tag[..]), (&[&option[..], setting], image::BUSYBOX)] {
            let said = interfaces(site, options, image).await.with_context(|| setting.to_owned())?;
            ensure!(!said.contains("ethwe") && said.contains("eth0"), "{setting} in {image} gives {said}");
            let id = site.docker(&[&["create"], options, &[image, "ls"]].concat()).await?;
            let format = "{{.Path}} {{.Mounts}} {{.HostConfig.Dns}}";
            let asked = site.host.docker(&["inspect", "--format", format, &id]).await?;
            ensure!(asked == "ls [] []", "{setting} in {image}: the engine was asked for {asked}");
            site.remove(&[&id]).await?;
        }
    }
    // The user's word counts more than the image's.
    for (image, variable, last) in [("declines0", "WEAVE_CIDR", 1), ("declines1", "WEFT_CIDR", 7)] {
        let address = site.address(last);
        let said = interfaces(site, &["--env", &format!("{variable}={address}/12")], image).await?;
        ensure!(said.contains(&address), "{variable} does not override {image}: {said}");
    }
    Ok(())
}

async fn given(site: &Site<'_>) -> anyhow::Result<()> {
    let (named, labelled) = (site.address(2), site.address(3));
    for (tag, line, address) in [
        ("named", format!("ENV WEFT_CIDR={named}/12"), &named),
        ("labelled", format!("LABEL weft.cidr={labelled}/12"), &labelled),
    ] {
        site.build(tag, &format!("FROM {}\n{line}\n", image::BUSYBOX)).await?;
        let said = interfaces(site, &[], tag).await?;
        ensure!(said.contains(&format!("inet {address}/12")), "{line} in the image gives {said}");
    }
    for (option, name, last) in [("--env", "WEFT_CIDR", 4), ("--env", "WEAVE_CIDR", 8), ("--label", "weft.cidr", 9)] {
        let address = site.address(last);
        let setting = format!("{name}={address}/12");
        let said = interfaces(site, &[option, &setting], image::BUSYBOX).await?;
        ensure!(said.contains(&format!("inet {address}/12")), "{setting} gives {said}");
    }
    let refused = site.output(&["create", "--label", "weft.cidr=10.0.0.0.1", image::BUSYBOX]).await?;
    ensure!(!refused.status.success() && refused.stderr.contains("weft.cidr"), "{}", refused.stderr);
    Ok(())
}

/// From the oldest that both engines speak.
async fn versions(site: &Site<'_>) -> anyhow::Result<()> {
    for version in ["1.24", "1.25", "1.30", "1.40"] {
        let ask = async |words: &[&str]| {
            let command = site.host.proxy_command(words.iter().copied()).env("DOCKER_API_VERSION", version);
            command.text().await.with_context(|| version.to_owned())
        };
        let spoken = ask(&["version", "--format", "{{.Client.APIVersion}}"]).await?;
        ensure!(spoken == version, "the client speaks {spoken} instead of {version}");
        let script = format!("{ATTACHED} echo started; {LINGER}");
        ask(&["run", "--detach", "--name", "aged", image::BUSYBOX, "sh", "-c", &script]).await?;
        let said = ask(&["exec", "aged", "ip", "-o", "addr"]).await?;
        ensure!(said.contains("ethwe"), "{version}: it has {said}");
        ask(&["restart", "aged"]).await?;
        eventually("it has started twice", SOON, async || {
            let logs = ask(&["logs", "aged"]).await?;
            ensure!(logs == "started\nstarted", "{version}: it says {logs:?}");
            Ok(())
        })
        .await?;
        let shown = ask(&["inspect", "--format", "{{.Path}} {{.Mounts}} {{json .Config.Entrypoint}}", "aged"]).await?;
        ensure!(shown == "sh [] null", "{version}: it is {shown}");
        ask(&["rm", "--force", "aged"]).await?;
    }
    Ok(())
}

async fn compose(site: &Site<'_>) -> anyhow::Result<()> {
    let [one, two] = [5, 6].map(|last| site.address(last));
    let file = "/run/choice.yaml";
    let service = |name: &str, setting: &str| {
        let command = "[sh, -c, \"trap 'exit 0' TERM; while :; do sleep 0.1; done\"]";
        format!("  {name}:\n    image: {}\n    command: {command}\n    {setting}\n", image::BUSYBOX)
    };
    let services = [
        service("named", &format!("environment: {{ WEFT_CIDR: {one}/12 }}")),
        service("labelled", &format!("labels: {{ weft.cidr: {two}/12 }}")),
        service("declines", "labels: { weft.network: none }"),
        service("plain", "stop_grace_period: 2s"),
    ];
    site.host.command("tee", [file]).input(format!("name: choice\nservices:\n{}", services.concat())).text().await?;
    let compose = ["compose", "--file", file];
    site.docker(&[&compose[..], &["up", "--detach"]].concat()).await?;
    for (service, expected) in [("named", Some(&one[..])), ("labelled", Some(&two)), ("plain", Some("10."))]
        .into_iter()
        .chain([("declines", None)])
    {
        let shown = [&compose[..], &["exec", "-T", service, "ip", "-o", "addr"]].concat();
        let shown = site.docker(&shown).await?;
        match expected {
            Some(address) => ensure!(shown.contains(&format!("ethwe    inet {address}")), "{service} has {shown}"),
            None => ensure!(!shown.contains("ethwe"), "{service} has {shown}"),
        }
    }
    site.docker(&[&compose[..], &["down", "--timeout", "2"]].concat()).await.map(drop)
}
