//! A container's process sees its overlay addresses in its first instruction, whatever its image and options.

use anyhow::{Context, ensure};
use weft_integration_tests::Mesh;
use weft_lab::{Host, image};

async fn run(host: &Host, words: &[&str]) -> anyhow::Result<String> {
    host.docker_via_proxy(&[&["run", "--rm"], words].concat()).await
}

fn has_overlay(what: &str, said: &str) -> anyhow::Result<()> {
    ensure!(said.contains("ethwe") && said.contains("inet 10.32."), "{what}: no overlay IPv4 in {said:?}");
    ensure!(said.contains("inet6 fd"), "{what}: no overlay IPv6 in {said:?}");
    Ok(())
}

#[tokio::test]
async fn first_instruction_sees_the_overlay() -> anyhow::Result<()> {
    let mesh = Mesh::start(1).await?;
    let host = mesh.lab.host(1);

    has_overlay("image without a shell", &run(host, &[image::NO_SHELL]).await?)?;
    let said = run(host, &[image::CONFIGURED]).await?;
    has_overlay("image with entrypoint and user", &said)?;
    ensure!(said.contains("first second as 1000 in /data with hello"), "the image's own start is lost: {said:?}");
    let said = run(host, &[image::CONFIGURED, "other"]).await?;
    ensure!(said.contains("other  as 1000"), "the user's command is lost: {said:?}");

    let addresses = ["ip", "-o", "addr"];
    for (what, options) in [
        ("read-only", vec!["--read-only"]),
        ("another user", vec!["--user", "1234:1234"]),
        ("no capabilities", vec!["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]),
        ("no other network", vec!["--network", "none"]),
        ("an init", vec!["--init"]),
        ("a working folder", vec!["--workdir", "/data"]),
        ("a terminal", vec!["--tty"]),
    ] {
        let words = [options, vec![image::BUSYBOX], addresses.to_vec()].concat();
        has_overlay(what, &run(host, &words).await.context(what)?)?;
    }
    let said = run(host, &["--entrypoint", "/bin/ip", image::BUSYBOX, "-o", "addr"]).await?;
    has_overlay("another entrypoint", &said)?;
    mesh.stop().await
}

#[tokio::test]
async fn other_networks_are_left_alone() -> anyhow::Result<()> {
    let mesh = Mesh::start(1).await?;
    let host = mesh.lab.host(1);

    let said = run(host, &["--network", "host", image::BUSYBOX, "ip", "-o", "link"]).await?;
    ensure!(said.contains("docker0") && !said.contains("ethwe"), "the host's network: {said:?}");
    let owner = mesh.container(1, "owner", &[]).await?;
    let said = run(host, &["--network", "container:owner", image::BUSYBOX, "ip", "-o", "addr"]).await?;
    ensure!(said.contains(&owner.ipv4.to_string()), "another container's network: {said:?}");
    ensure!(said.matches("inet 10.32.").count() == 1, "it was given an address of its own: {said:?}");
    mesh.stop().await
}

#[tokio::test]
async fn engine_reports_what_the_user_asked_for() -> anyhow::Result<()> {
    let mesh = Mesh::start(1).await?;
    let host = mesh.lab.host(1);
    let inspect = async |name: &str, proxy: bool| {
        let format =
            "{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{json .HostConfig.Binds}} {{.Path}} {{json .Args}}";
        let words = ["inspect", "--format", format, name];
        if proxy { host.docker_via_proxy(&words).await } else { host.docker(&words).await }
    };
    host.docker(&["create", "--name", "plain", image::CONFIGURED, "word"]).await?;
    host.docker_via_proxy(&["create", "--name", "attached", image::CONFIGURED, "word"]).await?;
    let (plain, attached) = (inspect("plain", false).await?, inspect("attached", true).await?);
    ensure!(plain == attached, "through the proxy {attached}, without it {plain}");

    let code = host.proxy_command(["run", "--rm", image::BUSYBOX, "sh", "-c", "exit 7"]).output().await?;
    ensure!(code.status.code() == Some(7), "exit code 7 became {}", code.status);
    let missing = host.proxy_command(["run", "--rm", image::BUSYBOX, "/no/such/program"]).output().await?;
    ensure!(missing.status.code() == Some(127), "a missing program exits with {}", missing.status);
    let piped =
        host.proxy_command(["run", "--rm", "--interactive", image::BUSYBOX, "cat"]).input("through").text().await?;
    ensure!(piped == "through", "stdin became {piped:?}");
    mesh.stop().await
}
