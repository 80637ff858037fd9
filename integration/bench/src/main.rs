//! Throughput and start time beside rivals, in one run. How and why: README.md beside this crate.
#![expect(clippy::print_stdout, reason = "the results are what the program is for")]

mod contender;
mod measure;

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Parser;
use contender::Contender;
use futures::future::try_join_all;
use measure::{Transfer, median, now};
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
    #[arg(long, default_value_t = 11)]
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

    let mut transfers: BTreeMap<&str, Vec<Transfer>> = BTreeMap::new();
    for _ in 0..options.rounds {
        for contender in &contenders {
            let transfer = contender.transfer(options.seconds).await.with_context(|| contender.name.to_owned())?;
            transfers.entry(contender.name).or_default().push(transfer);
        }
    }
    let starts = starts(one, options.starts).await.context("starting containers")?;
    print(options, &contenders, &transfers, &starts);
    drop(contenders);
    lab.stop().await
}

/// Times of `docker run --rm` of a program that does nothing, at the engine's socket and through weft's.
struct Starts {
    direct: Duration,
    through_weft: Duration,
}

async fn starts(host: &Host, count: usize) -> anyhow::Result<Starts> {
    let words = ["run", "--rm", image::BUSYBOX, "true"];
    let (mut direct, mut through_weft) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let start = now();
        host.docker(&words).await?;
        direct.push(start.elapsed());
        let start = now();
        host.docker_via_proxy(&words).await?;
        through_weft.push(start.elapsed());
    }
    Ok(Starts { direct: median(direct), through_weft: median(through_weft) })
}

fn print(options: &Options, contenders: &[Contender], transfers: &BTreeMap<&str, Vec<Transfer>>, starts: &Starts) {
    let of = |name: &str, what: fn(&Transfer) -> f64| {
        median(transfers.get(name).into_iter().flatten().map(what).collect::<Vec<_>>())
    };
    let rate = |name: &str| of(name, |transfer| transfer.gigabits_per_second);
    let cpu = |name: &str| of(name, |transfer| transfer.cpu_seconds_per_gigabyte);
    let (direct, through_weft) = (starts.direct.as_secs_f64() * 1e3, starts.through_weft.as_secs_f64() * 1e3);
    if options.json {
        let rows: Vec<_> = contenders
            .iter()
            .map(|contender| {
                serde_json::json!({
                    "name": contender.name,
                    "encrypted": contender.encrypted,
                    "gigabits_per_second": rate(contender.name),
                    "cpu_seconds_per_gigabyte": cpu(contender.name),
                })
            })
            .collect();
        let start = serde_json::json!({ "direct_millis": direct, "through_weft_millis": through_weft });
        println!("{:#}", serde_json::json!({ "tcp": rows, "docker_run": start }));
        return;
    }
    println!("One TCP stream between two hosts, medians of {} rounds:\n", options.rounds);
    println!("{:14} {:>9} {:>10} {:>12} {:>10}", "", "encrypted", "Gbit/s", "of weft's", "CPU s/GB");
    for contender in contenders {
        let name = contender.name;
        let encrypted = if contender.encrypted { "yes" } else { "no" };
        let share = rate(name) / rate("weft");
        println!("{name:14} {encrypted:>9} {:>10.2} {share:>11.2}x {:>10.2}", rate(name), cpu(name));
    }
    println!("\nweft is {:.1} times as fast as wireguard-go,", rate("weft") / rate("wireguard-go"));
    println!("and reaches {:.0} % of unencrypted VXLAN.", 100.0 * rate("weft") / rate("vxlan"));
    println!(
        "\n`docker run --rm busybox true`: {direct:.0} ms at the engine, {through_weft:.0} ms through weft: {:+.0} ms.",
        through_weft - direct
    );
}
