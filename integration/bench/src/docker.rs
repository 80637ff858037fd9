//! The Docker API through weft, beside the engine's own socket.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use clap::Args;
use futures::future::try_join_all;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use weft_lab::{Host, Lab, Launch, Weft, image};

use crate::measure::{median, now, quantile};

/// weft's socket of the Docker API, in a host.
const SOCKET: &str = "/run/weft/docker/docker.sock";

/// How long the image may take to be made, or loaded.
const LIMIT: Duration = Duration::from_secs(300);

/// Start time, image loading and idle streams beside the engine alone.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many containers are started each way, one after the other.
    #[arg(long, default_value_t = 100)]
    starts: usize,
    /// How often ten containers are started at a time, each way.
    #[arg(long, default_value_t = 10)]
    tens: usize,
    /// How often the image is loaded each way.
    #[arg(long, default_value_t = 3)]
    loads: usize,
    /// Size of the image that is loaded, in MB.
    #[arg(long, default_value_t = 1000)]
    megabytes: u64,
    /// How many streams stay open: half of events, half of a container's log.
    #[arg(long, default_value_t = 1000)]
    streams: usize,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let lab = Lab::new().start().await?;
    let host = lab.host(1);
    Weft::load(host).await?;
    let weft = Weft::launch(host, Launch::new("a password for the benchmark")).await?;
    let proxy = Process::of(&weft).await?;
    println!(
        "Both ways in turn: at the engine's socket, and through weft's. Times in ms, medians and 99th percentiles.\n"
    );
    println!("{:44} {:>15} {:>15} {:>15}", "", "engine", "weft", "weft's more");
    Times::of(host, options.starts, 1).await?.print("docker run --rm, one after the other");
    Times::of(host, options.tens, 10).await?.print("docker run --rm, ten at a time");
    load(host, options, &proxy).await.context("loading an image")?;
    streams(host, options.streams, &proxy).await.context("idle streams")?;
    lab.stop().await
}

/// Times that something took at the engine's socket, and through weft's, in milliseconds.
struct Times([Vec<f64>; 2]);

impl Times {
    /// Starts containers `rounds` times, `together` at a time, of a program that takes no time, and fails where the container
    /// is attached, or is not, against expectation.
    async fn of(host: &Host, rounds: usize, together: usize) -> anyhow::Result<Self> {
        let mut times = [Vec::new(), Vec::new()];
        // Each way goes first in every other round: what a start leaves behind burdens the next. The first round warms up.
        for round in 0..=rounds {
            for way in [round % 2, 1 - round % 2] {
                let took = try_join_all((0..together).map(|_| start(host, way == 1))).await?;
                if round > 0 {
                    times[way].extend(took);
                }
            }
        }
        Ok(Self(times))
    }

    fn print(&self, what: &str) {
        let [engine, weft] = [0, 1].map(|way| [0.5, 0.99].map(|share| quantile(self.0[way].clone(), share)));
        let both = |[p50, p99]: [f64; 2]| format!("{p50:.0}/{p99:.0}");
        let more = format!("{:+.0}/{:+.0}", weft[0] - engine[0], weft[1] - engine[1]);
        println!("{what:44} {:>15} {:>15} {more:>15}", both(engine), both(weft));
    }
}

async fn start(host: &Host, through_weft: bool) -> anyhow::Result<f64> {
    let attached = ["run", "--rm", image::BUSYBOX, "test", "-e", "/sys/class/net/ethwe"];
    let unattached = ["run", "--rm", image::BUSYBOX, "test", "!", "-e", "/sys/class/net/ethwe"];
    let began = now();
    if through_weft {
        host.docker_via_proxy(&attached).await?;
    } else {
        host.docker(&unattached).await?;
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Loads an image of one large layer.
async fn load(host: &Host, options: &Options, proxy: &Process) -> anyhow::Result<()> {
    let (name, archive) = ("weft/bench-load", "/tmp/weft-bench-load.tar");
    let make = format!(
        "mkdir -p /tmp/weft-bench-load && head -c {}000000 /dev/urandom > /tmp/weft-bench-load/bytes && \
         tar -cf - -C /tmp/weft-bench-load . | docker import - {name} && docker save -o {archive} {name} && \
         docker rmi {name} && rm -r /tmp/weft-bench-load",
        options.megabytes
    );
    host.command("sh", ["-c", &make]).limit(LIMIT).text().await?;
    let mut rates = [Vec::new(), Vec::new()];
    proxy.forget_peak()?;
    let before = proxy.kilobytes("VmRSS")?;
    for round in 0..options.loads {
        for way in [round % 2, 1 - round % 2] {
            let words = ["load", "--quiet", "--input", archive];
            let began = now();
            let command = if way == 1 { host.proxy_command(words) } else { host.docker_command(words) };
            command.limit(LIMIT).text().await?;
            rates[way].push(options.megabytes as f64 / began.elapsed().as_secs_f64());
            host.docker(&["rmi", name]).await?;
        }
    }
    let peak = proxy.kilobytes("VmHWM")?;
    host.exec(&["rm", archive]).await?;
    let [engine, weft] = rates.map(median);
    println!(
        "\ndocker load of {} MB: {engine:.0} MB/s at the engine, {weft:.0} MB/s through weft: {:.2} of it.",
        options.megabytes,
        weft / engine
    );
    println!("docker-proxy had {:.1} MB before, and {:.1} MB at its peak.", before / 1e3, peak / 1e3);
    Ok(())
}

/// Holds streams open through weft on which nothing happens.
async fn streams(host: &Host, count: usize, proxy: &Process) -> anyhow::Result<()> {
    let name = "weft-bench-silent";
    host.docker(&["run", "--detach", "--name", name, image::BUSYBOX, "sleep", "1000000"]).await?;
    let socket = host.path(SOCKET);
    let before = proxy.kilobytes("VmRSS")?;
    let mut open = Vec::with_capacity(count);
    for number in 0..count {
        let target = if number % 2 == 0 {
            "/events?filters=%7B%22container%22%3A%5B%22nothing%22%5D%7D".to_owned()
        } else {
            format!("/containers/{name}/logs?follow=1&stdout=1")
        };
        open.push(stream(&socket, &target).await.with_context(|| format!("stream {number}, {target}"))?);
    }
    let after = proxy.kilobytes("VmRSS")?;
    println!(
        "\n{count} idle streams: docker-proxy has {:.1} MB, {:.1} MB more than before: {:.1} KB for each.",
        after / 1e3,
        (after - before) / 1e3,
        (after - before) / count as f64
    );
    drop(open);
    host.docker(&["rm", "--force", name]).await.map(drop)
}

/// Opens a stream and waits until the engine has answered.
async fn stream(socket: &Path, target: &str) -> anyhow::Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: docker\r\n\r\n").as_bytes()).await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    ensure!(head == *b"HTTP/1.1 200", "the answer is {}", String::from_utf8_lossy(&head));
    Ok(stream)
}

/// docker-proxy, as the kernel sees it.
struct Process {
    folder: PathBuf,
}

impl Process {
    async fn of(weft: &Weft) -> anyhow::Result<Self> {
        let process = weft.process("docker-proxy").await?;
        Ok(Self { folder: weft.host().path(&format!("/proc/{process}")) })
    }

    /// Has the kernel count the largest memory anew.
    fn forget_peak(&self) -> anyhow::Result<()> {
        std::fs::write(self.folder.join("clear_refs"), "5").context("failed to reset the peak")
    }

    /// Reads a figure of the process' memory, in KB of 1024 bytes.
    fn kilobytes(&self, field: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(self.folder.join("status")).context("docker-proxy is gone")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        value.with_context(|| format!("no {field} in {status}"))
    }
}
