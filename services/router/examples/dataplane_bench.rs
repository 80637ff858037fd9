//! Measures the packet path between two containers on two hosts, all of them network namespaces of this machine.
//!
//! Needs root and iperf3: `cargo run --release -p weft-router --example dataplane_bench -- [seconds] [masked facility]…`

#[path = "../tests/dataplane/lab.rs"]
mod lab;

use std::{fs, process::Child};

use lab::Lab;
use weft_router::dataplane::Facility;

/// Returns the CPU time that all processes of the machine have used, in seconds.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("read /proc/stat");
    let numbers: Vec<f64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, irq, softirq; in hundredths of a second
    [0, 1, 2, 5, 6].iter().map(|field| numbers[*field]).sum::<f64>() / 100.0
}

/// Returns the CPU time of this process, which is that of both data planes, in seconds.
fn own_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("read /proc/self/stat");
    let fields = stat.rsplit(')').next().unwrap_or("");
    let numbers: Vec<f64> = fields.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    (numbers[10] + numbers[11]) / 100.0
}

fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its result")]
fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds: u32 = arguments.first().and_then(|first| first.parse().ok()).unwrap_or(5);
    arguments.retain(|argument| argument.parse::<u32>().is_err());
    let masked: Vec<Facility> = arguments.iter().map(|name| name.parse().expect("a facility")).collect();
    let lab = Lab::new(&masked, false);
    lab.ping(false, "-c 10 -i 0.01");
    println!("facilities: {:?}", lab.statistics(1).facilities);
    println!("ping, idle: {}", summary(&lab.ping(false, "-q -i 0.002 -c 1000")));

    let mut server = lab.host(2).container.program("iperf3", "-s -1");
    let server = Server(server.stdout(std::process::Stdio::null()).spawn().expect("start iperf3"));
    let target = lab::addresses(2)[0];
    while lab.host(2).container.run("ss", "-Hltn sport = :5201").is_empty() {
        std::thread::yield_now();
    }
    let (before, own_before) = (cpu_seconds(), own_cpu_seconds());
    let mut load = lab.host(1).container.program("iperf3", &format!("-J -C cubic -c {target} -t {seconds}"));
    let load = load.stdout(std::process::Stdio::piped()).spawn().expect("start iperf3");
    let pings = f64::from(seconds) * 0.8 / 0.02;
    println!("ping, loaded: {}", summary(&lab.ping(false, &format!("-q -i 0.02 -c {pings:.0}"))));
    let output = load.wait_with_output().expect("iperf3 ends");
    let (used, own) = (cpu_seconds() - before, own_cpu_seconds() - own_before);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("iperf3 prints JSON");
    let bytes = result["end"]["sum_received"]["bytes"].as_f64().unwrap_or(0.0);
    let rate = result["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0) / 1e9;
    let retransmits = result["end"]["sum_sent"]["retransmits"].as_u64().unwrap_or(0);
    let per_gb = |seconds: f64| seconds / bytes * 1e9;
    println!("TCP, one stream: {rate:.2} Gbit/s, {retransmits} retransmits");
    println!("CPU seconds per GB: {:.2} of the machine, {:.2} of both data planes", per_gb(used), per_gb(own));
    println!("both data planes resident: {:.1} MiB", resident_mib());
    for number in [1, 2] {
        let statistics = lab.statistics(number);
        let drops: Vec<_> = statistics.drops.iter().filter(|(_, count)| **count > 0).collect();
        let traffic = &statistics.peers[&lab::peer(3 - number)];
        println!("host {number}: drops {drops:?}, {traffic:?}, {} batches refused", statistics.refused_batches);
    }
    drop(server);
}

fn summary(ping: &str) -> String {
    ping.lines().filter(|line| line.contains("rtt") || line.contains("loss")).collect::<Vec<_>>().join("; ")
}
