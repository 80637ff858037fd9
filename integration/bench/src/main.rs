//! Throughput, round trips and start time beside rivals, in one run. How and why: README.md beside this crate.
#![expect(clippy::print_stdout, reason = "the results are what the program is for")]

mod contender;
mod measure;

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use contender::Contender;
use futures::future::try_join_all;
use measure::{Transfer, median, now, quantile};
use weft_lab::{Host, Lab, Launch, Weft, image};

/// Compares the overlay with plain VXLAN and a userspace WireGuard.
#[derive(Debug, Parser)]
#[command(name = "weft-bench", version)]
struct Options {
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each transfer takes.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How many containers are started each way.
    #[arg(long, default_value_t = 21)]
    starts: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the one place that says why the run failed")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("weft-bench: {error:#}");
    ExitCode::FAILURE
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let lab = Lab::new().hosts(2).start().await?;
    try_join_all(lab.hosts().iter().map(Weft::load)).await?;
    let (one, two) = (lab.host(1), lab.host(2));
    let weft = [
        Weft::launch(one, Launch::new("a password for the benchmark")).await?,
        Weft::launch(two, Launch::new("a password for the benchmark").peers(&[one])).await?,
    ];
    for host in &weft {
        host.joined(1).await?;
    }
    let contenders = vec![
        Contender::vxlan(one, two).await.context("vxlan")?,
        Contender::weft(one, two).await.context("weft")?,
        Contender::wireguard(one, two).await.context("wireguard-go")?,
    ];

    let mut idle: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut transfers: BTreeMap<&str, Vec<Transfer>> = BTreeMap::new();
    for _ in 0..options.rounds {
        for contender in &contenders {
            let pings = contender.ping("0.005", 300).await.with_context(|| contender.name.to_owned())?;
            idle.entry(contender.name).or_default().extend(pings);
            let transfer = contender.transfer(options.seconds).await.with_context(|| contender.name.to_owned())?;
            transfers.entry(contender.name).or_default().push(transfer);
        }
    }
    let starts = starts(one, options.starts).await.context("starting containers")?;
    print(options, &contenders, &idle, &transfers, &starts);
    drop(contenders);
    lab.stop().await
}

/// Times of `docker run --rm` of a program that does nothing, at the engine's socket and through weft's, in milliseconds.
struct Starts {
    direct: f64,
    through_weft: f64,
    /// Quartiles of what each start through weft took more than its neighbour without.
    difference: [f64; 3],
}

async fn starts(host: &Host, count: usize) -> anyhow::Result<Starts> {
    // A program that takes no time, and fails where the container is attached, or is not, against expectation.
    let attached = ["run", "--rm", image::BUSYBOX, "test", "-e", "/sys/class/net/ethwe"];
    let unattached = ["run", "--rm", image::BUSYBOX, "test", "!", "-e", "/sys/class/net/ethwe"];
    let (mut direct, mut through_weft, mut difference) = (Vec::new(), Vec::new(), Vec::new());
    // Each goes first in every other round: what a start leaves behind burdens the next. The first round warms up.
    for round in 0..=count {
        let mut times = [0.0; 2];
        for way in [round % 2, 1 - round % 2] {
            let start = now();
            if way == 0 {
                host.docker(&unattached).await?;
            } else {
                host.docker_via_proxy(&attached).await?;
            }
            times[way] = start.elapsed().as_secs_f64() * 1e3;
        }
        if round > 0 {
            direct.push(times[0]);
            through_weft.push(times[1]);
            difference.push(times[1] - times[0]);
        }
    }
    let difference = [0.25, 0.5, 0.75].map(|share| quantile(difference.clone(), share));
    Ok(Starts { direct: median(direct), through_weft: median(through_weft), difference })
}

/// What one contender reached in all rounds.
struct Row {
    name: &'static str,
    encrypted: bool,
    rate: f64,
    cpu: f64,
    /// Median and 99th percentile, in milliseconds.
    idle: [f64; 2],
    loaded: [f64; 2],
}

fn print(
    options: &Options,
    contenders: &[Contender],
    idle: &BTreeMap<&str, Vec<f64>>,
    transfers: &BTreeMap<&str, Vec<Transfer>>,
    starts: &Starts,
) {
    let pings = |times: Vec<f64>| [0.5, 0.99].map(|share| quantile(times.clone(), share));
    let rows: Vec<Row> = contenders
        .iter()
        .map(|contender| {
            let of = &transfers[contender.name];
            Row {
                name: contender.name,
                encrypted: contender.encrypted,
                rate: median(of.iter().map(|transfer| transfer.gigabits_per_second).collect()),
                cpu: median(of.iter().map(|transfer| transfer.cpu_seconds_per_gigabyte).collect()),
                idle: pings(idle[contender.name].clone()),
                loaded: pings(of.iter().flat_map(|transfer| transfer.ping_millis.clone()).collect()),
            }
        })
        .collect();
    let rate = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.rate);
    let cpu = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, |row| row.cpu);
    if options.json {
        let tcp: Vec<_> = rows
            .iter()
            .map(|row| {
                serde_json::json!({
                    "name": row.name,
                    "encrypted": row.encrypted,
                    "gigabits_per_second": row.rate,
                    "cpu_seconds_per_gigabyte": row.cpu,
                    "ping_idle_millis": { "p50": row.idle[0], "p99": row.idle[1] },
                    "ping_loaded_millis": { "p50": row.loaded[0], "p99": row.loaded[1] },
                })
            })
            .collect();
        let [lower, middle, upper] = starts.difference;
        let start = serde_json::json!({
            "direct_millis": starts.direct,
            "through_weft_millis": starts.through_weft,
            "difference_millis": { "p25": lower, "p50": middle, "p75": upper },
        });
        println!("{:#}", serde_json::json!({ "tcp": tcp, "docker_run": start }));
        return;
    }
    println!("One TCP stream between two hosts, medians of {} rounds; round trips of ping in ms:\n", options.rounds);
    println!(
        "{:14} {:>9} {:>8} {:>10} {:>9} {:>10} {:>15} {:>15}",
        "", "encrypted", "Gbit/s", "of weft's", "CPU s/GB", "of weft's", "idle p50/p99", "loaded p50/p99"
    );
    for row in &rows {
        let encrypted = if row.encrypted { "yes" } else { "no" };
        let share = row.rate / rate("weft");
        let cost = row.cpu / cpu("weft");
        let both = |[p50, p99]: [f64; 2]| format!("{p50:.2}/{p99:.2}");
        println!(
            "{:14} {encrypted:>9} {:>8.2} {share:>9.2}x {:>9.2} {cost:>9.2}x {:>15} {:>15}",
            row.name,
            row.rate,
            row.cpu,
            both(row.idle),
            both(row.loaded)
        );
    }
    println!("\nweft is {:.1} times as fast as wireguard-go,", rate("weft") / rate("wireguard-go"));
    println!("and reaches {:.0} % of unencrypted VXLAN.", 100.0 * rate("weft") / rate("vxlan"));
    let Starts { direct, through_weft, difference: [lower, middle, upper] } = starts;
    println!(
        "\n`docker run --rm` of a program that does nothing: {direct:.0} ms at the engine, {through_weft:.0} ms through weft.\n\
         Pair by pair, weft takes {middle:+.0} ms more (quartiles {lower:+.0} and {upper:+.0} ms)."
    );
}
