//! What users see of a container is what they asked for, by the request and by the proxy's options.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use weft_lab::image;

use crate::host::Proxied;

#[tokio::test]
async fn inspection_shows_what_was_asked_for() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    for (number, options) in [
        &[image::BUSYBOX][..],
        &[image::CONFIGURED, "word"],
        &["--entrypoint", "/bin/ip", image::CONFIGURED],
        &["--dns", "192.0.2.53", "--dns-search", "example.org", "--volume", "/data", image::NO_SHELL],
        &[
            "--init",
            "--read-only",
            "--tmpfs",
            "/tmp",
            "--user",
            "1:1",
            "--hostname",
            "own",
            image::BUSYBOX,
            "ip",
            "addr",
        ],
    ]
    .iter()
    .enumerate()
    {
        let (direct, proxied) = (format!("direct-{number}"), format!("proxied-{number}"));
        host.engine(&[&["create", "--name", &direct], *options].concat()).await?;
        host.via_proxy(&[&["create", "--name", &proxied], *options].concat()).await?;
        for start in [false, true] {
            if start {
                host.engine(&["start", &direct]).await?;
                host.via_proxy(&["start", &proxied]).await?;
                host.via_proxy(&["wait", &direct, &proxied]).await?;
            }
            let expected = comparable(&host.engine(&["inspect", &direct]).await?)?;
            let shown = comparable(&host.via_proxy(&["inspect", &proxied]).await?)?;
            for (key, value) in &expected {
                let shown = shown.get(key);
                ensure!(shown == Some(value), "{options:?}, started: {start}: {key} is {shown:?} instead of {value}");
            }
        }
        let changed = host.via_proxy(&["diff", &proxied]).await?;
        let expected = host.engine(&["diff", &direct]).await?;
        ensure!(changed == expected, "{options:?}: the file system differs: {changed} instead of {expected}");
        let (own, copy) = (format!("copy-of-{direct}"), format!("copy-of-{proxied}"));
        host.engine(&["commit", &direct, &own]).await?;
        host.via_proxy(&["commit", &proxied, &copy]).await?;
        let format =
            ["inspect", "--format", "{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{json .Config.Volumes}}"];
        let expected = host.engine(&[&["image"], &format[..], &[&own]].concat()).await?;
        let shown = host.engine(&[&["image"], &format[..], &[&copy]].concat()).await?;
        // Only an empty entrypoint keeps the engine from taking the container's; both mean that there is none.
        let shown = shown.replacen("[]", "null", 1);
        ensure!(shown == expected, "{options:?}: the image starts {shown} instead of {expected}");
    }
    host.stop().await
}

/// Returns what an inspection says, without what differs between any two containers, and without the host name that weft makes
/// of the name where the engine takes the id.
fn comparable(inspection: &str) -> anyhow::Result<serde_json::Map<String, Value>> {
    let id = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    let mut inspections: Vec<Value> = serde_json::from_str(inspection)?;
    let inspection = inspections.pop().context("one container")?;
    let (name, id) = (id(&inspection["Name"])?, id(&inspection["Id"])?);
    let text = inspection.to_string().replace(&id, "ID").replace(&id[..12], "ID").replace(&name, "/NAME");
    let Value::Object(mut container) = serde_json::from_str(&text)? else { anyhow::bail!("no object") };
    for key in ["Created", "State", "NetworkSettings", "GraphDriver"] {
        container.remove(key);
    }
    let config = container.get_mut("Config").context("no configuration")?;
    if config["Hostname"] == name.trim_start_matches('/') && config["Domainname"] == "weft.internal" {
        (config["Hostname"], config["Domainname"]) = ("ID".into(), "".into());
    }
    if let Some(Value::Array(mounts)) = container.get_mut("Mounts") {
        for mount in mounts.iter_mut().filter_map(Value::as_object_mut) {
            mount.retain(|key, _| key != "Name" && key != "Source");
        }
    }
    Ok(container)
}

#[tokio::test]
async fn options_do_what_they_say() -> anyhow::Result<()> {
    let host = Proxied::start_with(&[
        "--no-default-ipalloc",
        "--rewrite-inspect",
        "--hostname-from-label",
        "host",
        "--hostname-match",
        "^aws-[0-9]+-(.*)$",
        "--hostname-replacement",
        "my-$1",
    ])
    .await?;
    let said = host.via_proxy(&["run", "--rm", image::BUSYBOX, "ip", "-o", "link"]).await?;
    ensure!(!said.contains("ethwe"), "nobody asked for an address: {said}");
    let asks = ["run", "--detach", "--env", "WEAVE_CIDR=", "--name"];
    for (name, options, hostname) in [
        ("aws-17-foo", &[][..], "my-foo"),
        ("plain", &[], "plain"),
        ("labelled", &["--label", "host=store"], "store"),
        ("own", &["--hostname", "chosen"], "chosen"),
    ] {
        host.via_proxy(&[&asks[..], &[name], options, &[image::BUSYBOX, "sleep", "600"]].concat()).await?;
        let said = host.via_proxy(&["exec", name, "hostname"]).await?;
        ensure!(said == hostname, "{name} has the host name {said:?}");
        let address = host.address(name).await?;
        let format = "{{.NetworkSettings.IPAddress}}/{{.NetworkSettings.IPPrefixLen}}";
        let shown = host.via_proxy(&["inspect", "--format", format, name]).await?;
        ensure!(shown == address, "{name} has {address}, and is shown with {shown}");
        ensure!(
            host.services().held().names.values().flatten().any(|known| known == hostname),
            "{hostname} is no name"
        );
    }
    host.stop().await?;

    let host = Proxied::start_with(&["--without-dns"]).await?;
    let show = ["run", "--rm", "--name", "quiet", image::BUSYBOX, "sh", "-c", "cat /etc/resolv.conf; hostname"];
    let said = host.via_proxy(&show).await?;
    ensure!(!said.contains("169.254.83.53") && !said.contains("quiet"), "its resolver and host name: {said}");
    host.stop().await
}

/// Clients from before version 1.24 of the API may say only at the start how a container is to be run.
#[tokio::test]
async fn settings_may_come_with_the_start() -> anyhow::Result<()> {
    let host = Proxied::start().await?;
    let created = json!({ "Image": image::BUSYBOX, "Cmd": ["sh", "-c", "ip -o addr; cat /lent/word"] });
    host.lab_host().exec(&["sh", "-c", "mkdir -p /run/lent && echo borrowed > /run/lent/word"]).await?;
    for (name, body) in [("late", json!({ "Binds": ["/run/lent:/lent:ro"] })), ("never", json!({}))] {
        let answer =
            host.request("POST", &format!("/v1.22/containers/create?name={name}"), &created.to_string()).await?;
        ensure!(answer.starts_with("HTTP/1.1 201 "), "{name}: {answer}");
        let answer = host.request("POST", &format!("/v1.22/containers/{name}/start"), &body.to_string()).await?;
        ensure!(answer.starts_with("HTTP/1.1 204 "), "{name}: {answer}");
        host.via_proxy(&["wait", name]).await?;
        let said = host.via_proxy(&["logs", name]).await?;
        ensure!(said.contains("ethwe") && said.contains("borrowed") == (name == "late"), "{name}: it says {said:?}");
        let shown = host.via_proxy(&["inspect", "--format", "{{.Path}} {{json .HostConfig.Mounts}}", name]).await?;
        ensure!(shown == "sh null", "{name}: it is {shown}");
    }
    // Engines refuse them later on, in their own words.
    let answer = host.request("POST", "/v1.24/containers/late/start", r#"{"Memory":67108864}"#).await?;
    ensure!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("removed in v1.24"), "{answer}");
    host.via_proxy(&["rm", "late", "never"]).await?;
    host.holds_nothing().await?;
    host.stop().await
}
