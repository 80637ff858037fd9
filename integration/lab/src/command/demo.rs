//! The demo: what a new user would do, on three hosts of this machine, step by step.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use weft_lab::{Capture, Host, Launch, Project, Underlay, Weft, contains, eventually, image, state, state::LabState};

use super::{hold, hosts};

/// How long a step may take to come true.
const SOON: Duration = Duration::from_secs(30);

/// What is transferred while the underlay is recorded.
const SECRET: &str = "nobody on the way may read this sentence";

/// Runs the demo and leaves its hosts up.
pub(crate) async fn demo(lab: &str) -> anyhow::Result<()> {
    let mut report = Report::default();
    println!("weft {}: three Docker hosts on this machine, one encrypted network\n", Project::VERSION);

    report.step("hosts: namespaces with a Docker Engine each", hold::up(lab, 3, 1500)).await?;
    let state = LabState::read(lab)?;
    let hosts = hosts(&state);
    report.step("images: loaded on each host", try_join_all(hosts.iter().map(Weft::load))).await?;
    let weft = report.step("weft: `docker compose up -d` on each host", launch(&hosts)).await?;
    report.step("mesh: every host is connected with every other", joined(&weft)).await?;
    report.step("command: `docker compose run --rm weft install` on each host", install(&weft)).await?;
    report.step("containers: plain `docker run`, one on each host", containers(&hosts)).await?;

    report.check("ping by address, IPv4 and IPv6, between all hosts", ping_addresses(&hosts)).await;
    report.check("ping by name, between all hosts", ping_names(&hosts)).await;
    report.check("Compose application on two hosts: `visitor` on host2 asks `web` on host1", application(&hosts)).await;
    report.check("TCP transfer from host1 to host2, sealed", transfer(&hosts)).await;
    report.check("capture of the underlay: the transferred text is not in it", sealed(&state, &hosts)).await;
    report.check("weft status, on host1", status(&hosts[0])).await;
    report.finish()
}

/// What went well and what did not.
#[derive(Default)]
struct Report {
    passed: u32,
    failed: Vec<String>,
}

impl Report {
    /// Performs a step without which the rest makes no sense.
    async fn step<T>(&mut self, what: &str, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        match self.perform(what, step).await {
            Ok(done) => Ok(done),
            Err(error) => {
                println!("\nThe hosts stay up as they are:\n");
                Self::further();
                Err(error.context(format!("the demo can't go on without: {what}")))
            }
        }
    }

    /// Performs a check; the rest goes on if it fails. What it returns is shown.
    async fn check(&mut self, what: &str, check: impl Future<Output = anyhow::Result<String>>) {
        match self.perform(what, check).await {
            Ok(shown) => {
                self.passed += 1;
                for line in shown.lines() {
                    println!("       {line}");
                }
            }
            Err(error) => {
                println!("       {error:#}");
                self.failed.push(what.to_owned());
            }
        }
    }

    async fn perform<T>(&self, what: &str, step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let terminal = std::io::stdout().is_terminal();
        if terminal {
            print!("  ...  {what}");
            // Progress only: what can't be shown is not missed.
            drop(std::io::stdout().flush());
        }
        let start = now();
        let outcome = step.await;
        let word = match (terminal, outcome.is_ok()) {
            (true, true) => "\r \x1b[32m ok \x1b[0m",
            (true, false) => "\r \x1b[31mFAIL\x1b[0m",
            (false, true) => "  ok ",
            (false, false) => " FAIL",
        };
        println!("{word}  {what} ({:.1} s)", start.elapsed().as_secs_f64());
        outcome
    }

    fn finish(self) -> anyhow::Result<()> {
        println!();
        if self.failed.is_empty() {
            println!("All {} checks passed. The hosts stay up:\n", self.passed);
        } else {
            println!("{} checks passed, {} failed; the hosts stay up:\n", self.passed, self.failed.len());
        }
        Self::further();
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join("; "));
        }
        Ok(())
    }

    /// Says what can be done with the hosts, and how they are taken down.
    fn further() {
        let lab = std::env::current_exe().map_or_else(|_| "weft-lab".to_owned(), |path| path.display().to_string());
        println!("  {lab} shell host1          # a shell on host1; then for instance:");
        println!("      eval $(weft env); docker run --rm -it busybox ping two");
        println!("      weft status connections; weft status dns; weft ps");
        println!("  {lab} link cut host1 host2 # and heal, lose, limit");
        println!("  make demo-down                 # take it all down");
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place of the demo that measures time")]
fn now() -> Instant {
    Instant::now()
}

async fn launch(hosts: &[Host]) -> anyhow::Result<Vec<Weft>> {
    let first = &hosts[0];
    try_join_all(hosts.iter().map(|host| {
        let launch = Launch::new("a password for the demo");
        Weft::launch(host, if host.name() == first.name() { launch } else { launch.peers(&[first]) })
    }))
    .await
}

async fn joined(weft: &[Weft]) -> anyhow::Result<()> {
    try_join_all(weft.iter().map(|one| one.joined(weft.len() - 1))).await.map(drop)
}

async fn install(weft: &[Weft]) -> anyhow::Result<()> {
    let install = |one: &Weft| one.compose(["run", "--rm", "weft", "install"]).text();
    try_join_all(weft.iter().map(install)).await?;
    let version = weft[0].host().exec(&["weft", "version"]).await?;
    ensure!(version.contains(Project::VERSION), "`weft version` says {version:?}");
    Ok(())
}

/// Names of the containers, one on each host.
const NAMES: [&str; 3] = ["one", "two", "three"];

async fn containers(hosts: &[Host]) -> anyhow::Result<()> {
    let start = |(host, name): (&Host, &'static str)| {
        let words = ["run", "--detach", "--name", name, image::BUSYBOX, "sleep", "1000000"];
        let host = host.clone();
        async move { host.docker_via_proxy(&words).await }
    };
    try_join_all(hosts.iter().zip(NAMES).map(start)).await.map(drop)
}

async fn addresses(host: &Host, container: &str) -> anyhow::Result<[String; 2]> {
    let words = ["exec", container, "ip", "-o", "addr", "show", "dev", "ethwe", "scope", "global"];
    let shown = host.docker(&words).await?;
    let words: Vec<_> = shown.split_whitespace().collect();
    let find = |family: &str| {
        let pair = words.windows(2).find(|pair| pair[0] == family);
        let address = pair.and_then(|pair| pair[1].split('/').next()).map(str::to_owned);
        address.with_context(|| format!("{container} has no {family} address: {shown}"))
    };
    Ok([find("inet")?, find("inet6")?])
}

async fn ping(host: &Host, from: &str, to: &str) -> anyhow::Result<()> {
    eventually(&format!("{from} pings {to}"), SOON, async || {
        host.docker(&["exec", from, "ping", "-c", "1", "-W", "1", to]).await.map(drop)
    })
    .await
}

async fn ping_addresses(hosts: &[Host]) -> anyhow::Result<String> {
    let mut shown = Vec::new();
    for (to_host, to) in hosts.iter().zip(NAMES) {
        let addresses = addresses(to_host, to).await?;
        for (from_host, from) in hosts.iter().zip(NAMES).filter(|(_, from)| *from != to) {
            for address in &addresses {
                ping(from_host, from, address).await?;
            }
        }
        shown.push(format!("{to}: {}", addresses.join(" and ")));
    }
    Ok(shown.join("\n"))
}

async fn ping_names(hosts: &[Host]) -> anyhow::Result<String> {
    for to in NAMES {
        for (host, from) in hosts.iter().zip(NAMES).filter(|(_, from)| *from != to) {
            ping(host, from, to).await?;
            ping(host, from, &format!("{to}.weft.internal")).await?;
        }
    }
    hosts[0].docker(&["exec", NAMES[0], "nslookup", "three.weft.internal"]).await
}

async fn application(hosts: &[Host]) -> anyhow::Result<String> {
    let file = Project::root().join("integration/lab/demo/compose.yaml");
    let file = file.to_string_lossy();
    for (host, service) in [(&hosts[0], "web"), (&hosts[1], "visitor")] {
        host.docker_via_proxy(&["compose", "--file", &file, "up", "--detach", service]).await?;
    }
    eventually("the visitor is greeted", SOON, async || {
        let logs = ["compose", "--file", &file, "logs", "--no-color", "--no-log-prefix", "visitor"];
        let logs = hosts[1].docker_via_proxy(&logs).await?;
        ensure!(logs.contains("hello from web"), "it got {logs:?}");
        // Compose puts terminal sequences before the lines.
        Ok(logs.lines().filter_map(|line| line.find("hello").map(|at| &line[at..])).collect::<Vec<_>>().join("\n"))
    })
    .await
}

async fn transfer(hosts: &[Host]) -> anyhow::Result<String> {
    let target = addresses(&hosts[1], NAMES[1]).await?[0].clone();
    let mut server = hosts[1].in_network_of(NAMES[1], &["iperf3", "--server", "--one-off"]).await?.into_tokio();
    let mut server = server.stdout(std::process::Stdio::null()).spawn().context("failed to start iperf3")?;
    let result = eventually("iperf3 runs", SOON, async || {
        let words = ["iperf3", "--json", "--time", "5", "--client", &target];
        hosts[0].in_network_of(NAMES[0], &words).await?.text().await
    })
    .await?;
    drop(server.kill().await);
    let result: serde_json::Value = serde_json::from_str(&result).context("iperf3 printed something else")?;
    let received = &result["end"]["sum_received"];
    let rate = received["bits_per_second"].as_f64().context("iperf3 says no rate")?;
    let bytes = received["bytes"].as_f64().unwrap_or_default();
    Ok(format!("{:.1} GB in 5 s: {:.2} Gbit/s on one connection", bytes / 1e9, rate / 1e9))
}

async fn sealed(state: &LabState, hosts: &[Host]) -> anyhow::Result<String> {
    let target = addresses(&hosts[1], NAMES[1]).await?[0].clone();
    let file = state::lab_folder(&state.name).join("underlay.pcap");
    let capture = Capture::start(&Underlay::of(state.underlay), &file).await?;
    let receive = ["nc", "-ll", "-p", "7000", "-e", "sh", "-c", "cat > /tmp/part; mv /tmp/part /tmp/received"];
    hosts[1].docker(&[&["exec", "--detach", NAMES[1]], &receive[..]].concat()).await?;
    let text = format!("{SECRET}\n").repeat(10_000);
    eventually("the text arrives", SOON, async || {
        let send = ["exec", "--interactive", NAMES[0], "nc", "-w", "2", &target, "7000"];
        hosts[0].docker_command(send).input(text.clone()).text().await.map(drop)
    })
    .await?;
    eventually("all of the text has arrived", SOON, async || {
        let received = hosts[1].docker(&["exec", NAMES[1], "wc", "-c", "/tmp/received"]).await?;
        ensure!(received.starts_with(&text.len().to_string()), "received: {received}");
        Ok(())
    })
    .await?;
    let recorded = capture.stop().await?;
    ensure!(recorded.len() > text.len() / 100, "only {} bytes were recorded", recorded.len());
    ensure!(!contains(&recorded, SECRET.as_bytes()), "{SECRET:?} crossed the underlay in the clear");
    Ok(format!(
        "{} bytes of text arrived; in {} recorded bytes the sentence does not occur",
        text.len(),
        recorded.len()
    ))
}

async fn status(host: &Host) -> anyhow::Result<String> {
    host.exec(&["weft", "status"]).await
}
