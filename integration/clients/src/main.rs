//! Docker's own clients, each driven through every call it has: once at the engine, and once through weft.
//!
//! What the calls came to is compared. What differs must be known, with a reason, and what is known must differ. The
//! results are written to `docs/docker.md`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command prints for its user")]

mod client;
mod compare;
mod known;
mod outcome;
mod raw;
mod report;
mod rust;
mod steps;

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::{Context, ensure};
use clap::Parser;
use client::{Client, Way};
use compare::Difference;
use futures::future::try_join_all;
use known::KNOWN;
use outcome::Outcome;
use report::{Engine, Results};
use weft_lab::{EngineKit, Host, Lab, Launch, Project, Weft, cache_folder, eventually, state};

/// How long the engine may take to read its configuration.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// Drives Docker's clients at the engine and through weft, and compares what they come to.
#[derive(Debug, Parser)]
struct Arguments {
    /// Drive only these clients, and write no results.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Use only the engine of this number: 1 is the machine's, 2 the newer one.
    #[arg(long, value_name = "NUMBER")]
    engine: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.context("no runtime").and_then(|runtime| runtime.block_on(run(&arguments)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("weft-clients: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let clients: Vec<_> = Client::ALL
        .into_iter()
        .filter(|client| arguments.only.is_empty() || arguments.only.iter().any(|name| name == client.name()))
        .collect();
    ensure!(!clients.is_empty(), "no client has one of the names {:?}: see --help", arguments.only);
    let mut results = Results::default();
    let mut good = true;
    let wanted =
        [false, true].into_iter().filter(|&newer| arguments.engine.is_none_or(|only| only == 1 + usize::from(newer)));
    // Most of the time each waits for processes to start and to end.
    for (engine, same) in try_join_all(wanted.map(|newer| on_engine(newer, &clients))).await? {
        results.engines.push(engine);
        good &= same;
    }
    if arguments.only.is_empty() && arguments.engine.is_none() {
        let seen: BTreeSet<_> = results.reasons();
        for (number, known) in KNOWN.iter().enumerate().filter(|(number, _)| !seen.contains(number)) {
            println!("difference {number} is known but does not occur any more: {}", known.what);
            good = false;
        }
        results.write()?;
    }
    println!(
        "{}",
        if good { "all clients do through weft what they do at the engine" } else { "there are differences" }
    );
    Ok(good)
}

/// Drives all clients on a host of its own.
async fn on_engine(newer: bool, clients: &[Client]) -> anyhow::Result<(Engine, bool)> {
    let kit = if newer { EngineKit::newer()? } else { EngineKit::find()? };
    let lab = Lab::new().hosts(1).engine(kit).start().await?;
    Weft::load(lab.host(1)).await?;
    let host = lab.host(1).clone();
    prepare(&host).await?;
    Weft::launch(&host, Launch::new("correct horse battery staple")).await?.joined(0).await?;
    eventually("weft is healthy", SOON, async || {
        let states = host.docker(&["ps", "--format", "{{.Status}}"]).await?;
        ensure!(states.lines().all(|state| state.ends_with("(healthy)")), "its services are {states}");
        Ok(())
    })
    .await?;
    let version = host.docker(&["version", "--format", "{{.Server.Version}}"]).await?;
    let version = version.split('+').next().unwrap_or_default().to_owned();
    let mut engine = Engine { version, first: !newer, driven: Vec::new() };
    let mut good = true;
    for &client in clients {
        good &= compare_ways(client, &host, &mut engine).await.unwrap_or_else(|error| {
            println!("{} could not be driven at engine {}: {error:#}", client.name(), engine.version);
            false
        });
    }
    lab.stop().await?;
    Ok((engine, good))
}

/// Lets the host's clients find BuildKit, and its engine log the calls it gets.
async fn prepare(host: &Host) -> anyhow::Result<()> {
    let plugins = cache_folder().join("trixie/usr/libexec/docker/cli-plugins");
    let change = format!(
        "ln -sf {}/docker-buildx /usr/local/lib/docker/cli-plugins/
         sed -i 's/{{/{{ \"debug\": true,/' /etc/docker/daemon.json && kill -HUP $(cat /run/docker.pid)",
        plugins.display()
    );
    host.exec(&["sh", "-ec", &change]).await?;
    eventually("the engine logs calls", SOON, async || {
        let debug = host.docker(&["info", "--format", "{{.Debug}}"]).await?;
        ensure!(debug == "true", "it says {debug}");
        Ok(())
    })
    .await
}

async fn compare_ways(client: Client, host: &Host, engine: &mut Engine) -> anyhow::Result<bool> {
    let log = state::host_folder(host.lab(), host.name()).join("engine.log");
    let length = || std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
    reset(host).await?;
    let before = length();
    let (version, at_engine) = client.drive(host, Way::Engine).await.context("at the engine")?;
    let calls = report::calls(&log, before)?;
    reset(host).await?;
    let (_, through_weft) = client.drive(host, Way::Weft).await.context("through weft")?;
    for (way, outcomes) in [("engine", &at_engine), ("weft", &through_weft)] {
        save(&format!("{}-{}-{way}", client.name(), engine.version), outcomes)?;
    }
    // What commands a client has does not depend on the engine.
    let missed = if engine.first { client.missed(host, &at_engine).await? } else { Vec::new() };
    let differences = compare::differences(&at_engine, &through_weft);
    let (known, faults): (Vec<_>, Vec<_>) = differences.into_iter().partition(|one| known::reason(one).is_some());
    println!(
        "{} at engine {}: {} calls, {} known differences",
        client.name(),
        engine.version,
        at_engine.len(),
        known.len()
    );
    for Difference { call, place, engine, weft } in &faults {
        println!("    {call}: {place} differs\n      engine: {engine}\n      weft:   {weft}");
    }
    for call in &missed {
        println!("    {call} is not driven");
    }
    let reasons = known.iter().filter_map(known::reason).collect();
    engine.driven.push(report::Driven { client, version, made: at_engine.len(), calls, reasons, faults: faults.len() });
    Ok(faults.is_empty() && missed.is_empty())
}

/// Writes down what calls came to, for whoever wants to know more than the first difference.
fn save(name: &str, outcomes: &[Outcome]) -> anyhow::Result<()> {
    let folder = Project::program("weft-clients")?.with_file_name("weft-clients-outcomes");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let lines: Vec<_> = outcomes.iter().map(|one| serde_json::json!([one.call, one.outcome]).to_string()).collect();
    let path = folder.join(name);
    std::fs::write(&path, lines.join("\n")).with_context(|| format!("failed to write {}", path.display()))
}

/// Leaves nothing behind of the client before.
async fn reset(host: &Host) -> anyhow::Result<()> {
    let script = Project::root().join("integration/clients/reset.sh");
    host.exec(&["sh", &script.to_string_lossy()]).await.map(drop)
}
