//! The overlay beside other ways between two hosts.

use std::collections::BTreeMap;

use anyhow::Context;
use clap::Args;
use futures::future::try_join_all;
use weft_lab::{Lab, Launch, Weft};

use crate::{
    contender::Contender,
    measure::{Transfer, median, quantile},
};

/// Throughput and round trips beside plain VXLAN and a userspace WireGuard.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each transfer takes.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
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
    print(options, &contenders, &idle, &transfers);
    drop(contenders);
    lab.stop().await
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
        println!("{:#}", serde_json::json!({ "tcp": tcp }));
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
}
