//! The command from another machine: by the engine alone, over TCP, TLS and ssh, and by the name `weave`.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::{io::AsyncReadExt, time::timeout};
use weft_integration_tests::{Container, PASSWORD, SOON, hosts_with_images};
use weft_lab::{Authority, Host, Lab, Project, eventually, image};

/// Folder of certificates on both hosts.
const CERTIFICATES: &str = "/etc/docker/certificates";

/// Has the engine of a host listen on TCP, too, with more of its settings.
async fn listens(lab: &mut Lab, number: usize, port: u16, settings: &[(&str, Value)]) -> anyhow::Result<()> {
    let host = lab.host(number).clone();
    let path = host.path("/etc/docker/daemon.json");
    let mut configuration: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    configuration["hosts"] = serde_json::json!(["unix:///run/docker.sock", format!("tcp://0.0.0.0:{port}")]);
    for (name, value) in settings {
        configuration[*name] = value.clone();
    }
    fs::write(path, configuration.to_string()).context("failed to write the engine's configuration")?;
    lab.stop_engine(number).await?;
    lab.start_engine(number).await
}

/// A machine that has the command and Docker's client, and whose shell points at another host's engine.
struct Shell<'a> {
    host: &'a Host,
    variables: Vec<(&'static str, String)>,
}

impl Shell<'_> {
    /// Runs lines and returns what they print on both outputs, and the exit code.
    async fn runs(&self, lines: &str) -> anyhow::Result<(String, String, Option<i32>)> {
        let variables = self.variables.iter().map(|(name, value)| (*name, value.as_str()));
        let output = self.host.command("sh", ["-c", lines]).envs(variables).output().await?;
        Ok((output.stdout, output.stderr, output.status.code()))
    }

    /// Runs lines that have to succeed, and returns what they print.
    async fn works(&self, lines: &str) -> anyhow::Result<String> {
        let (printed, said, code) = self.runs(lines).await?;
        ensure!(code == Some(0), "{lines:?} ended with {code:?}: {printed}{said}");
        Ok(printed)
    }

    /// Runs lines that have to end with this code, and to say this.
    async fn ends(&self, lines: &str, expected: i32, part: &str) -> anyhow::Result<()> {
        let (printed, said, code) = self.runs(lines).await?;
        let found = code == Some(expected) && format!("{printed}{said}").contains(part);
        ensure!(found, "{lines:?} ended with {code:?}, without {part:?}: {printed}{said}");
        Ok(())
    }

    /// Fails unless what lines print has all of this, at last.
    async fn shows(&self, lines: &str, parts: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("{lines} shows {parts:?}"), SOON, async || {
            let printed = self.works(lines).await?;
            parts.iter().try_for_each(|part| {
                ensure!(printed.contains(part), "no {part:?} in {printed}");
                Ok(())
            })
        })
        .await
    }
}

/// Puts the command on a host.
async fn install(host: &Host) -> anyhow::Result<()> {
    let program = Project::program("weft")?;
    host.exec(&[&program.to_string_lossy(), "install", "--weave"]).await.map(drop)
}

#[tokio::test]
async fn every_command_works_by_the_engine_alone() -> anyhow::Result<()> {
    let mut lab = hosts_with_images(2).await?;
    listens(&mut lab, 1, 2375, &[]).await?;
    let (one, two) = (lab.host(1), lab.host(2));
    install(two).await?;
    let shell = Shell { host: two, variables: vec![("DOCKER_HOST", format!("tcp://{}:2375", one.name()))] };

    before_the_launch(&shell).await?;
    fs::write(two.path("/root/password"), format!("{PASSWORD}\n"))?;
    let said = shell.works("weft --output json launch --password-file /root/password").await?;
    ensure!(said.contains("launched") && said.contains("router"), "{said}");
    ensure!(two.docker(&["ps", "--all", "--quiet"]).await?.is_empty(), "something runs on the client's own host");
    shell.ends("weft launch", 3, "running already").await?;

    one.docker_via_proxy(&["run", "--detach", "--name", "db", image::BUSYBOX, "sleep", "3600"]).await?;
    one.docker(&["run", "--detach", "--name", "late", image::BUSYBOX, "sleep", "3600"]).await?;
    verbs(&shell, one).await?;
    watching_ends_with_its_caller(&shell, one).await?;

    // By ssh, as Docker's client has it: what ssh leads to is the engine.
    let ssh = two.path("/usr/local/bin/ssh");
    fs::write(&ssh, "#!/bin/sh\nexec docker --host tcp://host1:2375 system dial-stdio\n")?;
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755))?;
    let by_ssh = Shell { host: two, variables: vec![("DOCKER_HOST", "ssh://root@host1".to_owned())] };
    by_ssh.works("weft ps db").await?;
    by_ssh.ends("weft config", 0, "-H=ssh://root@host1/run/weft/docker/docker.sock").await?;
    // By a context of the client's; one that leads to a socket is this host's.
    let near = "docker context create near --docker host=unix:///run/near.sock && DOCKER_CONTEXT=near weft setup";
    Shell { host: two, variables: Vec::new() }.ends(near, 1, "unix:///run/near.sock").await?;
    let context = "docker context create far --docker host=tcp://host1:2375 && DOCKER_CONTEXT=far weft ps db";
    Shell { host: two, variables: Vec::new() }.ends(context, 0, "10.").await?;

    shell.ends("weft stop --output json", 0, "stopped").await?;
    ensure!(one.docker(&["ps", "--quiet", "--filter", "label=weft.service"]).await?.is_empty(), "services run");
    shell.ends("weft status", 1, "`weft launch` starts weft").await?;
    shell.ends("weft connect host2", 1, "`weft launch` starts weft").await?;
    // What is stopped leaves containers their network; a reset takes that, too.
    ensure!(one.exec(&["ip", "-o", "link"]).await?.contains("weft"), "the network went with the services");
    let said = shell.works("weft reset").await?;
    ensure!(said.contains("removed links, addresses and rules"), "{said}");
    let links = one.exec(&["ip", "-o", "link"]).await?;
    ensure!(!links.contains("weft"), "links are left: {links}");
    let rules = one.exec(&["nft", "list", "ruleset"]).await?;
    ensure!(!rules.contains("weft"), "rules are left: {rules}");
    ensure!(!one.path("/var/lib/weft/router").exists(), "there is a state left");
    lab.stop().await
}

async fn before_the_launch(shell: &Shell<'_>) -> anyhow::Result<()> {
    shell.works("weft setup").await?;
    for (line, code, part) in [
        ("weft launch", 1, "--password-file"),
        ("weft launch --password-file /nonexistent", 1, "/nonexistent"),
        ("weft status", 1, "`weft launch` starts weft"),
        ("weft env", 1, "`weft launch` starts it there"),
        ("weft frobnicate", 2, "frobnicate"),
        ("weft version", 0, "router       weft is not running at tcp://host1:2375"),
        ("weft stop", 0, "not running"),
        ("DOCKER_HOST=tcp://host1:1 weft status", 1, "tcp://host1:1"),
        ("DOCKER_CONTEXT=nowhere DOCKER_HOST= weft status", 1, "nowhere"),
        // What a service refuses ends the launch, with its sentence, and nothing is left of it.
        ("weft launch --password x --mtu 17", 1, "router ended: "),
    ] {
        shell.ends(line, code, part).await?;
    }
    Ok(())
}

async fn verbs(shell: &Shell<'_>, one: &Host) -> anyhow::Result<()> {
    let db = Container::find(one, "db").await?;
    let address = db.ipv4.to_string();
    shell.shows("weft status", &["Service: router", "Service: proxy", "1 attached"]).await?;
    shell.shows("weft status dns", &["db"]).await?;
    shell.shows("weft ps db", &[&address]).await?;
    shell.shows("weft dns-lookup db", &[&address]).await?;
    for words in ["status", "status peers", "ps", "report", "version", "status ipam", "attach late"] {
        let printed = shell.works(&format!("weft {words} --output json")).await?;
        serde_json::from_str::<Value>(&printed).with_context(|| format!("weft {words}: {printed:?}"))?;
    }
    let late = Container::find(one, "late").await?;
    db.pings(&late.ipv4.to_string()).await?;
    shell.works("weft detach late").await?;
    ensure!(late.exec(&["ip", "link", "show", "ethwe"]).await.is_err(), "it is still attached");
    shell.works("weft dns-add 192.0.2.9 -h 'printer' && weft dns-add db -h alias").await?;
    shell.shows("weft dns-lookup alias", &[&address]).await?;
    shell.works("weft dns-remove 192.0.2.9 -h printer").await?;
    let exposed = shell.works("weft expose").await?;
    let exposed = exposed.split_whitespace().next().context("nothing is exposed")?;
    db.pings(exposed).await?;
    ensure!(shell.works("weft hide").await?.contains(exposed), "another address is hidden");
    shell.works("weft connect host9 && weft forget host9 && weft prime && weft log-level dns debug").await?;
    for (line, code, part) in [
        ("weft attach nobody", 1, "nobody"),
        ("weft attach", 2, "required"),
        ("weft dns-add 192.0.2.9 -h www.example.org", 1, "outside of the zone"),
        ("weft rmpeer host9", 1, "host9"),
        ("weft status peers nonsense", 2, "nonsense"),
        // The proxy listens for its own host.
        ("weft env", 1, "--tlsverify"),
    ] {
        shell.ends(line, code, part).await?;
    }
    shell.ends("weft version", 0, &format!("router       {}", Project::VERSION)).await
}

/// The command in the router's container would otherwise go on for ever.
async fn watching_ends_with_its_caller(shell: &Shell<'_>, one: &Host) -> anyhow::Result<()> {
    let variables = shell.variables.iter().map(|(name, value)| (*name, value.as_str()));
    let watch = shell.host.command("weft", ["status", "--watch=1"]).envs(variables);
    let mut watch = watch.into_tokio().stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdout = watch.stdout.take().context("no stdout")?;
    let mut said = String::new();
    let reading = async {
        let mut bytes = [0; 4096];
        while said.matches("Service: proxy").count() < 2 {
            let count = stdout.read(&mut bytes).await?;
            ensure!(count > 0, "it ended");
            said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        Ok(())
    };
    timeout(SOON, reading).await.context("it is not shown again")??;
    let processes = async || one.exec(&["pgrep", "-f", "^/weft status --watch"]).await;
    processes().await.context("it is not the command on the other host that watches")?;
    watch.kill().await?;
    eventually("the command in the container has ended", SOON, async || {
        ensure!(processes().await.is_err(), "it goes on");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_first_steps_of_weave_net_work_from_another_machine() -> anyhow::Result<()> {
    let mut lab = hosts_with_images(2).await?;
    listens(&mut lab, 1, 2375, &[]).await?;
    let two = lab.host(2);
    install(two).await?;
    let shell = Shell { host: two, variables: Vec::new() };
    let script = format!(
        r#"set -e
        export DOCKER_HOST=tcp://host1:2375
        weave setup
        weave launch --password '{PASSWORD}'
        weave prime
        eval "$(weave env)"
        test "$DOCKER_HOST" = tcp://host1:12375
        test "$ORIG_DOCKER_HOST" = tcp://host1:2375
        docker run -d --name a1 {busybox} sleep 3600
        docker run -d --name a2 {busybox} sleep 3600
        docker exec a2 ping -c 1 a1.weave.local
        weave status
        weave ps a1
        weave dns-lookup a1
        weave report -f '{{{{.IPAM.Range}}}}'
        docker $(weave config) exec a1 ping -c 1 a2
        weave stop
        eval "$(weave env --restore)"
        test "$DOCKER_HOST" = tcp://host1:2375
        weave launch --password '{PASSWORD}'
        weave version
        weave reset"#,
        busybox = image::BUSYBOX
    );
    let said = shell.works(&script).await?;
    for part in ["Service: router", "10.32.0.0/12", "weave script 0", "weave 0", "removed docker-proxy"] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    ensure!(two.docker(&["ps", "--all", "--quiet"]).await?.is_empty(), "something runs on the client's own host");

    // At weft's proxy alone, nobody says what is behind it: what starts and stops names the socket.
    shell.works(&format!("DOCKER_HOST=tcp://host1:2375 weave launch --password '{PASSWORD}'")).await?;
    let proxy = "DOCKER_HOST=tcp://host1:12375";
    shell.ends(&format!("{proxy} weft ps"), 0, "").await?;
    shell.ends(&format!("{proxy} weft stop"), 1, "the engine's own socket").await?;
    shell.ends(&format!("{proxy} weft reset"), 1, "the engine's own socket").await?;
    shell.ends(&format!("{proxy} weft launch"), 3, "running already").await?;
    shell.works("DOCKER_HOST=host1:2375 weft ps").await?;

    // A context stays, and says what is behind the proxy.
    let script = r#"set -e
        docker context create far --docker host=tcp://host1:2375
        export DOCKER_CONTEXT=far
        eval "$(weft env)"
        test "$DOCKER_HOST" = tcp://host1:12375
        weft ps
        weft stop"#;
    shell.ends(script, 0, "eval $(weft env --restore)").await?;
    lab.stop().await
}

#[tokio::test]
async fn tls_is_the_clients_own() -> anyhow::Result<()> {
    let mut lab = hosts_with_images(2).await?;
    let ours = Authority::new("ours")?;
    ours.write(&lab.host(1).path(CERTIFICATES), &["host1"])?;
    ours.write(&lab.host(2).path(CERTIFICATES), &[])?;
    let file = |name: &str| Value::from(format!("{CERTIFICATES}/{name}.pem"));
    let settings = [
        ("tls", true.into()),
        ("tlsverify", true.into()),
        ("tlscacert", file("ca")),
        ("tlscert", file("cert")),
        ("tlskey", file("key")),
    ];
    listens(&mut lab, 1, 2376, &settings).await?;
    let two = lab.host(2);
    install(two).await?;
    let tls = [("DOCKER_TLS_VERIFY", "1".to_owned()), ("DOCKER_CERT_PATH", CERTIFICATES.to_owned())];
    let variables = [("DOCKER_HOST", "tcp://host1:2376".to_owned())].into_iter().chain(tls);
    let shell = Shell { host: two, variables: variables.collect() };
    shell.works(&format!("weave launch --password '{PASSWORD}'")).await?;
    let script = format!(
        r#"set -e
        eval "$(weave env)"
        test "$DOCKER_HOST" = tcp://host1:12375
        docker run -d --name a1 {} sleep 3600
        weave ps a1"#,
        image::BUSYBOX
    );
    let said = shell.works(&script).await?;
    ensure!(said.contains("10."), "{said}");
    shell.works("weave stop").await?;
    lab.stop().await
}
