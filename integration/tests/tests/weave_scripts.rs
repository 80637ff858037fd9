//! Scripts made for Weave Net run as they are, by the name `weave`.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use weft_integration_tests::{Container, PASSWORD, SOON, hosts_with_images};
use weft_lab::{Host, Project, eventually, image};

/// Puts the command on a host under Weave Net's name, beside its own.
async fn install(host: &Host) -> anyhow::Result<()> {
    let program = Project::program("weft")?;
    host.exec(&[&program.to_string_lossy(), "install", "--weave"]).await.map(drop)
}

/// Runs lines of a shell on a host and returns what they print on both outputs, and the exit code.
async fn script(host: &Host, lines: &str) -> anyhow::Result<(String, Option<i32>)> {
    let output = host.command("sh", ["-c", lines]).output().await?;
    Ok((output.all(), output.status.code()))
}

/// Runs lines that have to succeed.
async fn works(host: &Host, lines: &str) -> anyhow::Result<String> {
    let (said, code) = script(host, lines).await?;
    ensure!(code == Some(0), "{lines:?} ended with {code:?}: {said}");
    Ok(said)
}

/// Runs lines that have to end with this code, and to say this.
async fn ends(host: &Host, lines: &str, expected: i32, part: &str) -> anyhow::Result<()> {
    let (said, code) = script(host, lines).await?;
    ensure!(code == Some(expected) && said.contains(part), "{lines:?} ended with {code:?}, without {part:?}: {said}");
    Ok(())
}

/// Fails unless what a command prints has all of this, at last.
async fn shows(host: &Host, lines: &str, parts: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("{lines} shows {parts:?}"), SOON, async || {
        let said = works(host, lines).await?;
        parts.iter().try_for_each(|part| {
            ensure!(said.contains(part), "no {part:?} in {said}");
            Ok(())
        })
    })
    .await
}

#[tokio::test]
async fn the_first_steps_of_weave_net_work_as_they_are_written() -> anyhow::Result<()> {
    let lab = hosts_with_images(2).await?;
    let (one, two) = (lab.host(1), lab.host(2));
    for host in [one, two] {
        install(host).await?;
    }
    before_the_launch(one).await?;

    let said = works(one, &format!("weave launch --password '{PASSWORD}' --no-fastdp")).await?;
    let router = one.docker(&["ps", "--quiet", "--no-trunc", "--filter", "label=weft.service=router"]).await?;
    ensure!(said.contains(&router) && said.contains("--no-fastdp does nothing"), "{said}");
    works(two, &format!("WEAVE_PASSWORD='{PASSWORD}' weave launch host1")).await?;
    ends(one, &format!("weave launch --password '{PASSWORD}'"), 3, "running already").await?;

    works(one, &format!(r#"eval "$(weave env)"; docker run -d --name a1 {} sleep 3600"#, image::BUSYBOX)).await?;
    works(two, &format!("docker $(weave config) run -d --name a2 {} sleep 3600", image::BUSYBOX)).await?;
    let a1 = Container::find(one, "a1").await?;
    let a2 = Container::find(two, "a2").await?;
    let found = works(two, "weave dns-lookup a1").await?;
    ensure!(found.trim() == a1.ipv4.to_string(), "scripts take it for one address: {found}");
    works(two, "docker exec a2 ping -c 1 a1.weave.local").await?;
    works(two, "docker exec a2 ping -c 1 a1").await?;
    a1.pings(&a2.ipv4.to_string()).await?;

    statuses(one, two).await?;
    verbs(one).await?;

    // As a unit of systemd waits for its end.
    works(one, "docker attach weave > /tmp/attached & weave stop && wait $!").await?;
    a1.exec(&["ip", "link", "show", "ethwe"]).await.context("the container has lost its network")?;
    ends(one, "weave stop", 0, "not running").await?;
    ends(one, "weave connect host2", 1, "router is not running").await?;
    works(one, &format!(r#"DOCKER_HOST="" weave launch --password '{PASSWORD}' --resume"#)).await?;
    shows(one, "weave status connections", &["established", "host2"]).await?;
    let said = works(two, "weave reset --force").await?;
    ensure!(said.contains("removed docker-proxy, dns, ipam, router"), "{said}");
    let left = two.exec(&["find", "/usr/local/bin", "-name", "we*"]).await?;
    ensure!(left.is_empty(), "these programs are left: {left}");
    lab.stop().await
}

/// What the command says where nothing runs.
async fn before_the_launch(host: &Host) -> anyhow::Result<()> {
    works(host, "weave setup").await?;
    for (line, code, part) in [
        ("weave", 1, "Usage: weave"),
        ("weave help", 0, "Usage: weave"),
        ("weave launch --help", 0, "--ipalloc-range"),
        ("weave frobnicate", 1, "frobnicate"),
        ("weave launch --awsvpc", 1, "no AWSVPC mode"),
        ("weave launch --frobnicate", 1, "--frobnicate"),
        ("weave launch --ipalloc-range=", 1, "needs a range"),
        ("weave launch --docker-api unix:///nonexistent.sock", 1, "/nonexistent.sock"),
        ("weave stop now", 1, "now"),
        ("weave launch-router", 1, "has been removed"),
        ("weave version", 0, "weave script"),
        ("weave status", 1, "Service: router"),
        ("weave env", 1, "docker-proxy is not running"),
        ("weft launch", 1, "--password-file"),
        ("weft launch --frobnicate", 2, "--frobnicate"),
        ("weft setup /nonexistent.tar", 1, "/nonexistent.tar"),
    ] {
        ends(host, line, code, part).await?;
    }
    // What a service refuses ends the launch, with its sentence, and nothing is left of it.
    for (options, part) in [
        ("--mtu 17", "router ended: "),
        ("--no-restart --mtu 17", "router ended: "),
        ("--log-level nonsense", "ended: invalid value 'nonsense'"),
    ] {
        ends(host, &format!("weft launch --password '{PASSWORD}' {options}"), 1, part).await?;
        nothing_runs(host).await?;
    }
    // Nor of one that the engine ends.
    host.docker(&["create", "--name", "weft-dns-1", image::BUSYBOX]).await?;
    ends(host, &format!("weft launch --password '{PASSWORD}'"), 1, "not all services could be started: ").await?;
    host.docker(&["rm", "weft-dns-1"]).await?;
    nothing_runs(host).await
}

async fn nothing_runs(host: &Host) -> anyhow::Result<()> {
    let left = host.docker(&["ps", "--all", "--quiet"]).await?;
    ensure!(left.is_empty(), "these containers are left: {left}");
    Ok(())
}

async fn statuses(one: &Host, two: &Host) -> anyhow::Result<()> {
    shows(one, "weave status", &["Service: router", "Encryption: enabled", "Domain: weave.local.", "Service: proxy"])
        .await?;
    shows(one, "weave status connections", &["established", "host2"]).await?;
    shows(one, "weave status peers", &["host1", "host2"]).await?;
    shows(two, "weave status targets", &["host1"]).await?;
    shows(two, "weave status dns", &["a1", "a2"]).await?;
    shows(one, "weave status ipam", &["host1", "host2"]).await?;
    ends(one, "weave status frobnicate", 1, "frobnicate").await?;
    shows(one, "weave ps", &["10."]).await?;
    shows(one, "weave version", &["weave script 0", "weave 0"]).await?;
    shows(one, "weave report", &["    \"Router\": {", "\"NickName\": \"host2\""]).await?;
    shows(one, "weave report -f '{{.IPAM.Range}} {{.DNS.Domain}}'", &["10.32.0.0/12 weave.local."]).await?;
    ends(one, "weave report -f '{{.Frob'", 1, "makes no sense").await
}

async fn verbs(host: &Host) -> anyhow::Result<()> {
    works(host, "weave prime").await?;
    shows(host, "weave dns-args", &["--dns-search=weave.local"]).await?;
    works(host, "weave connect host2 && weave forget host2 && weave connect --replace host2").await?;
    shows(host, "weave status targets", &["host2"]).await?;
    ends(host, "weave connect", 1, "PEER").await?;
    ends(host, "weave connect 'a b'", 1, "a b").await?;
    ends(host, "weave rmpeer host9", 1, "host9").await?;
    works(host, &format!("docker run -d --name late {} sleep 3600", image::BUSYBOX)).await?;
    works(host, "weave attach net:10.33.1.0/24 late && weave detach net:10.33.1.0/24 late").await?;
    works(host, "weave attach net:default net:10.33.1.0/24 late").await?;
    let own = works(host, "weave detach late").await?;
    ensure!(own.trim().parse::<Ipv4Addr>().is_ok(), "one address is taken, that of the default subnet: {own}");
    shows(host, "weave ps late", &["10.33.1."]).await?;
    ends(host, "weave attach nobody", 1, "nobody").await?;
    let exposed = works(host, "weave expose").await?;
    ensure!(exposed.trim().parse::<Ipv4Addr>().is_ok(), "scripts take it for one address: {exposed}");
    shows(host, "weave ps weave:expose", &["weave:expose", exposed.trim()]).await?;
    let hidden = works(host, "weave hide").await?;
    ensure!(hidden == exposed, "{hidden} was hidden, and {exposed} exposed");
    works(host, "weave dns-add 192.0.2.9 -h printer.weave.local").await?;
    shows(host, "weave dns-lookup printer", &["192.0.2.9"]).await?;
    works(host, "weave dns-remove 192.0.2.9 -h printer.weave.local").await.map(drop)
}
