//! The Docker API of one host is used from another, by TLS as the engine's own configuration says, and never without by mistake.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, ensure};
use serde_json::Value;
use weft_integration_tests::{
    Client, Container, Mesh, PASSWORD, both_engines, docker as docker_of, hosts_with_images, says, shows,
};
use weft_lab::{Authority, Host, HostCommand, Lab, Launch, Weft, image};

/// Where the engine's certificates lie, below what compose.yaml mounts.
const CERTIFICATES: &str = "/etc/docker/certificates";

/// Has the engine's configuration ask clients for certificates, as for an engine that listens by TCP.
fn configure(host: &Host) -> anyhow::Result<()> {
    let path = host.path("/etc/docker/daemon.json");
    let text = fs::read_to_string(&path).context("failed to read the engine's configuration")?;
    let mut configuration: Value = serde_json::from_str(&text)?;
    configuration["tlsverify"] = true.into();
    for (name, file) in [("tlscacert", "ca.pem"), ("tlscert", "cert.pem"), ("tlskey", "key.pem")] {
        configuration[name] = format!("{CERTIFICATES}/{file}").into();
    }
    fs::write(path, configuration.to_string()).context("failed to write the engine's configuration")
}

/// Prepares a Docker command at an address, with the certificates of a folder.
fn docker(host: &Host, address: &str, certificates: &str, words: &[&str]) -> HostCommand {
    let command = host.docker_command(words.iter().copied()).env("DOCKER_HOST", address);
    if certificates.is_empty() {
        return command;
    }
    command.env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", certificates)
}

#[tokio::test]
async fn another_host_needs_a_certificate() -> anyhow::Result<()> {
    let lab = both_engines(Lab::new()).await?;
    for (served, client) in [(1, 2), (2, 1)] {
        needs_a_certificate(lab.host(served), lab.host(client)).await.with_context(|| format!("host {served}"))?;
    }
    lab.stop().await
}

async fn needs_a_certificate(served: &Host, client: &Host) -> anyhow::Result<()> {
    let (ours, foreign) = (Authority::new("ours")?, Authority::new("foreign")?);
    ours.write(&served.path(CERTIFICATES), &[&served.ipv4().to_string()])?;
    ours.write(&client.path("/etc/ours"), &[])?;
    foreign.write(&client.path("/etc/foreign"), &[])?;
    fs::copy(client.path("/etc/ours/ca.pem"), client.path("/etc/foreign/ca.pem"))?;
    configure(served)?;

    let address = format!("tcp://{}:12376", served.ipv4());
    let launch = Launch::new(PASSWORD).with("WEFT_DOCKER_PROXY_HOSTS", &address);
    let mut weft = Weft::launch(served, launch.clone()).await?;
    weft.joined(0).await?;
    shows(&weft, &["Address: unix:///run/weft/docker/docker.sock"]).await?;
    shows(&weft, &["Address: ", &address, "(TLS, with client certificates)"]).await?;

    let run = ["run", "--detach", "--name", "remote", "--init=false", image::BUSYBOX, "sleep", "600"];
    docker(client, &address, "/etc/ours", &run).text().await?;
    Container::find(served, "remote").await?;
    let said = docker(client, &address, "/etc/ours", &["exec", "remote", "echo", "heard"]).text().await?;
    ensure!(said == "heard", "exec said {said:?}");
    let refused = docker(client, &address, "/etc/foreign", &["ps"]).output().await?;
    ensure!(!refused.status.success() && refused.stderr.contains("certificate"), "foreign: {refused:?}");
    let refused = docker(client, &address, "", &["ps"]).output().await?;
    ensure!(!refused.status.success() && refused.stderr.contains("HTTPS server"), "without TLS: {refused:?}");

    // What the engine asks for and cannot be had is no reason to be open, and names the file.
    fs::rename(served.path(&format!("{CERTIFICATES}/ca.pem")), served.path("/etc/away.pem"))?;
    weft.recreate("docker-proxy", launch.clone()).await?;
    says(&weft, "docker-proxy", &[&address, "reached from other hosts", &format!("{CERTIFICATES}/ca.pem")]).await?;
    fs::rename(served.path("/etc/away.pem"), served.path(&format!("{CERTIFICATES}/ca.pem")))?;
    weft.ready().await?;

    // Without TLS nobody listens, unless that is said.
    let plain = launch.with("WEFT_DOCKER_PROXY_TLS", "false");
    weft.recreate("docker-proxy", plain.clone()).await?;
    says(&weft, "docker-proxy", &[&address, "reached from other hosts", "--tlsverify", "--insecure-tcp"]).await?;
    shows(&weft, &["docker-proxy ended", &address]).await?;
    weft.recreate("docker-proxy", plain.with("WEFT_DOCKER_PROXY_INSECURE_TCP", "true")).await?;
    weft.ready().await?;
    docker(client, &address, "", &["rm", "--force", "remote"]).text().await?;
    says(&weft, "docker-proxy", &["WARN", "whoever reaches the address has root"]).await
}

#[tokio::test]
async fn the_engines_command_line_counts() -> anyhow::Result<()> {
    let mut lab = hosts_with_images(1).await?;
    let host = lab.host(1).clone();
    let ours = Authority::new("ours")?;
    // Where nothing but the command line leads to.
    let folder = "/etc/docker/elsewhere";
    ours.write(&host.path(folder), &["127.0.0.1"])?;
    let script = format!(
        "#!/bin/sh\nexec /usr/sbin/dockerd --tlsverify --tlscacert={folder}/ca.pem --tlscert {folder}/cert.pem \
         --tlskey={folder}/key.pem -H unix:///run/docker.sock \"$@\"\n"
    );
    let program = host.path("/usr/local/sbin/dockerd");
    fs::write(&program, script).context("failed to write the engine's start")?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    lab.stop_engine(1).await?;
    lab.start_engine(1).await?;

    let weft = Weft::launch(&host, Launch::new(PASSWORD)).await?;
    says(&weft, "docker-proxy", &["TCP clients must use TLS", &format!("{folder}/cert.pem")]).await?;
    let address = "tcp://127.0.0.1:12375";
    let ps = ["ps", "--quiet", "--filter", "label=weft.service=router"];
    ensure!(docker(&host, address, folder, &ps).text().await?.lines().count() == 1, "the API is another's");
    ensure!(!docker(&host, address, "", &ps).output().await?.status.success(), "it is open");
    lab.stop().await
}

#[tokio::test]
async fn a_stop_is_an_end_that_clients_see() -> anyhow::Result<()> {
    let mesh = Mesh::of_both_engines().await?;
    for number in [1, 2] {
        stops(&mesh, number).await.with_context(|| format!("host {number}"))?;
    }
    mesh.stop().await
}

async fn stops(mesh: &Mesh, number: usize) -> anyhow::Result<()> {
    let host = mesh.lab.host(number);
    let script = "echo said; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    host.docker_via_proxy(&["run", "--detach", "--name", "there", image::BUSYBOX, "sh", "-c", script]).await?;
    let mut logs = Client::start(docker_of(host, true, &["logs", "--follow", "there"]))?;
    logs.says("said").await?;
    let wait = Client::start(docker_of(host, true, &["wait", "there"]))?;
    let attached = Client::start(docker_of(host, true, &["attach", "--no-stdin", "there"]))?;
    let restart = ["restart", "docker-proxy"];
    mesh.on(number).compose(restart).text().await?;
    for client in [logs, attached] {
        client.ends().await.context("a client hangs on a proxy that is gone")?;
    }
    ensure!(wait.ends().await? != Some(0), "the end of the proxy looks like that of the container");
    mesh.on(number).ready().await?;
    ensure!(host.docker_via_proxy(&["exec", "there", "echo", "again"]).await? == "again", "it is not there again");
    Ok(())
}
