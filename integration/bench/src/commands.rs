//! The command on a host of many containers in a mesh of many peers, beside programs that do nothing of the kind.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use weft_lab::{Host, Lab, Launch, Project, Weft, eventually, image};

use crate::measure::{now, quantile};

/// Password of the mesh.
const PASSWORD: &str = "a password for the benchmark";

/// How many containers are started at a time.
const AT_A_TIME: usize = 4;

/// How many peers are started at a time: handshakes take processors, and who does not answer for three seconds is gone.
const PEERS_AT_A_TIME: u8 = 5;

/// How long peers that are started together may take to be there.
const JOINED: Duration = Duration::from_secs(120);

/// How long what is to be done is meant to take, in milliseconds.
const MEANT: f64 = 50.0;

/// A container that is attached and detached by hand.
const BY_HAND: &str = "byhand";

/// What the command does beside a program that does nothing, and Docker's own list.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many containers the host has.
    #[arg(long, default_value_t = 200)]
    containers: usize,
    /// How many other peers the mesh has: routers in network namespaces of their own, each connected with the host.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u8).range(1..=150))]
    peers: u8,
    /// With how many of the peers before it each is connected, too.
    #[arg(long, default_value_t = 0)]
    neighbours: u8,
    /// How often each command is run.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
}

/// How many neighbours the machine keeps in all network namespaces together: by default fewer than so many routers have.
struct Neighbours(Vec<(&'static str, String)>);

impl Neighbours {
    const FILES: [&str; 2] =
        ["/proc/sys/net/ipv4/neigh/default/gc_thresh3", "/proc/sys/net/ipv6/neigh/default/gc_thresh3"];

    /// Has it keep many, until this is dropped.
    fn many() -> anyhow::Result<Self> {
        let mut before = Self(Vec::new());
        for file in Self::FILES {
            before.0.push((file, fs::read_to_string(file).with_context(|| format!("failed to read {file}"))?));
            fs::write(file, "65536").with_context(|| format!("failed to write {file}"))?;
        }
        Ok(before)
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        for (file, value) in &self.0 {
            // The machine has it until its next start then.
            let _ = fs::write(file, value);
        }
    }
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let _neighbours = Neighbours::many()?;
    let lab = Lab::new().hosts(2).start().await?;
    let (host, others) = (lab.host(1), lab.host(2));
    Weft::load(host).await?;
    let weft = Weft::launch(host, Launch::new(PASSWORD)).await?;
    let command = Project::program("weft")?;
    host.exec(&[&command.to_string_lossy(), "install"]).await?;
    start_peers(&weft, others, options).await?;
    stream::iter(0..options.containers)
        .map(|number| start(host, number))
        .buffer_unordered(AT_A_TIME)
        .try_collect::<()>()
        .await?;
    host.docker(&["run", "--detach", "--name", BY_HAND, image::BUSYBOX, "sleep", "1000000"]).await?;

    println!(
        "A host with {} containers in a mesh of {} other peers, each connected with it and with {} more. Times in ms, of {} runs, each \
         command once a round; all include the way into the host's namespaces, which `true` has alone.\n",
        options.containers, options.peers, options.neighbours, options.rounds
    );
    measure(host, options).await?;
    stop_peers(others).await?;
    lab.stop().await
}

/// Returns when so many peers are connected with the host, and it knows of all links.
async fn joined(weft: &Weft, peers: u8, neighbours: u8) -> anyhow::Result<()> {
    let between: usize = (1..=peers).map(|peer| usize::from(neighbours.min(peer - 1))).sum();
    let peers = usize::from(peers);
    // Both ends tell of a link.
    let links = 2 * (peers + between);
    eventually(&format!("{peers} peers are connected"), JOINED, async || {
        let status = weft.router_status().await?;
        let known: usize = status.peers.iter().map(|peer| peer.links.len()).sum();
        ensure!(status.connections.len() == peers, "{} are connected", status.connections.len());
        ensure!(known == links, "{known} links are known of {links}");
        Ok(())
    })
    .await
}

async fn start(host: &Host, number: usize) -> anyhow::Result<()> {
    let name = format!("many{number}");
    let run = ["run", "--detach", "--name", &name, image::BUSYBOX, "sleep", "1000000"];
    host.docker_via_proxy(&run).await.with_context(|| format!("container {number}")).map(drop)
}

/// Starts routers on a host, each in a network namespace of its own that is on the hosts' network.
async fn start_peers(weft: &Weft, host: &Host, options: &Options) -> anyhow::Result<()> {
    // Docker's rules for what passes a host would otherwise hold for the frames that the switch passes on.
    let switch = "set -e; for file in /proc/sys/net/bridge/bridge-nf-call-*; do echo 0 >$file; done\n\
                  ip link add switch up type bridge; ip link set eth0 master switch up";
    host.exec(&["sh", "-c", switch]).await.context("failed to make the peers' network")?;
    let router = Project::program("weft-router")?;
    let first = weft.host().ipv4().to_string();
    let (network, _) = first.rsplit_once('.').context("an IPv4 address")?;
    let address = |number: u8| format!("{network}.{}", 100 + u16::from(number));
    for number in 1..=options.peers {
        let before = number.saturating_sub(options.neighbours).max(1)..number;
        let peers = std::iter::once(first.clone()).chain(before.map(address)).collect::<Vec<_>>().join(",");
        let script = format!(
            "set -e; ip netns add peer{number}; ip link add port{number} type veth peer name eth0 netns peer{number}\n\
             ip link set port{number} master switch up; ip -n peer{number} link set lo up; ip -n peer{number} link set eth0 up\n\
             ip -n peer{number} address add {}/24 dev eth0; mkdir -p /run/peers/{number}\n\
             ip netns exec peer{number} {} --socket-folder /run/peers/{number}/run --state-folder /run/peers/{number}/state \
             --nickname peer{number} --password '{PASSWORD}' --peers {peers} --no-discovery --log-level error \
             </dev/null >/run/peers/{number}/log 2>&1 & echo $! >>/run/peers/ids",
            address(number),
            router.display(),
        );
        host.exec(&["sh", "-c", &script]).await.with_context(|| format!("failed to start peer {number}"))?;
        if number % PEERS_AT_A_TIME == 0 || number == options.peers {
            joined(weft, number, options.neighbours).await?;
        }
    }
    Ok(())
}

async fn stop_peers(host: &Host) -> anyhow::Result<()> {
    host.exec(&["sh", "-c", "kill $(cat /run/peers/ids)"]).await.map(drop)
}

/// Runs every command in turn, and prints what each took.
async fn measure(host: &Host, options: &Options) -> anyhow::Result<()> {
    let last = format!("many{}", options.containers.saturating_sub(1));
    let commands: [&[&str]; 9] = [
        &["true"],
        &["docker", "ps"],
        &["weft", "attach", BY_HAND],
        &["weft", "detach", BY_HAND],
        &["weft", "status"],
        &["weft", "status", "peers"],
        &["weft", "status", "connections"],
        &["weft", "ps"],
        &["weft", "dns-lookup", &last],
    ];
    let mut times = vec![Vec::with_capacity(options.rounds); commands.len()];
    // The first round warms up.
    for round in 0..=options.rounds {
        for (words, times) in commands.iter().zip(&mut times) {
            let began = now();
            host.exec(words).await.with_context(|| words.join(" "))?;
            if round > 0 {
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let both = |times: &Vec<f64>| [0.5, 0.99].map(|share| quantile(times.clone(), share));
    let [nothing, _] = both(&times[0]);
    let [docker, _] = both(&times[1]);
    println!("{:28} {:>8} {:>8} {:>14} {:>16}", "", "median", "99 %", "less `true`", "of `docker ps`");
    for (words, times) in commands.iter().zip(&times) {
        let [median, p99] = both(times);
        let own = median - nothing;
        let remark = if words[0] == "weft" && own > MEANT { "  more than is meant" } else { "" };
        println!("{:28} {median:8.1} {p99:8.1} {own:14.1} {:16.2}{remark}", words.join(" "), median / docker);
    }
    Ok(())
}
