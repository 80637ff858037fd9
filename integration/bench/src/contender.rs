//! The ways between two hosts.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tokio::process::Child;
use weft_lab::{Host, HostCommand, cache_folder, eventually, image};

use crate::measure::{Transfer, busy_seconds};

/// How long a way may take to carry its first packet.
const LIMIT: Duration = Duration::from_secs(30);

/// Debian 13's wireguard-go, which has segmentation offloads, in the folder where `integration/set-up bench` unpacks it.
const WIREGUARD: &str = "trixie/usr/bin/wireguard-go";

/// One way between two hosts.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) encrypted: bool,
    from: End,
    to: End,
    target: String,
    /// Its daemons, which end with it.
    _daemons: Vec<Child>,
}

/// Where iperf3 runs.
struct End {
    host: Host,
    /// In this container's network, or in the host's.
    container: Option<&'static str>,
}

impl End {
    async fn command(&self, words: &[&str]) -> anyhow::Result<HostCommand> {
        match self.container {
            Some(container) => self.host.in_network_of(container, words).await,
            None => Ok(self.host.command(words[0], words[1..].iter().copied())),
        }
    }
}

impl Contender {
    /// Containers on a bridge that a kernel VXLAN joins.
    pub(crate) async fn vxlan(one: &Host, two: &Host) -> anyhow::Result<Self> {
        let name = "bench-vxlan";
        for (host, other, number) in [(one, two, 1), (two, one, 2)] {
            let run = ["run", "--detach", "--name", name, "--network", "none", image::BUSYBOX, "sleep", "1000000"];
            host.docker(&run).await?;
            let process = host.docker(&["inspect", "--format", "{{.State.Pid}}", name]).await?;
            let script = format!(
                "set -e
                ip link add bench type bridge
                ip link add bench-vxlan type vxlan id 7 dstport 4790 remote {remote} local {local} dev eth0
                ip link set bench-vxlan master bench mtu 1450 up
                ip link add bench-host type veth peer name bench0
                ip link set bench-host master bench mtu 1450 up
                ip link set bench mtu 1450 up
                iptables -I FORWARD -i bench -o bench -j ACCEPT
                ip link set bench0 netns {process}
                nsenter --net --target {process} ip link set bench0 mtu 1450 up
                nsenter --net --target {process} ip addr add 10.99.1.{number}/24 dev bench0",
                remote = other.ipv4(),
                local = host.ipv4(),
            );
            host.exec(&["sh", "-c", &script]).await?;
        }
        let container = Some("bench-vxlan");
        let (from, to) = (End { host: one.clone(), container }, End { host: two.clone(), container });
        Self { name: "vxlan", encrypted: false, from, to, target: "10.99.1.2".to_owned(), _daemons: Vec::new() }
            .ready()
            .await
    }

    /// Containers started through weft.
    pub(crate) async fn weft(one: &Host, two: &Host) -> anyhow::Result<Self> {
        let name = "bench-weft";
        for host in [one, two] {
            host.docker_via_proxy(&["run", "--detach", "--name", name, image::BUSYBOX, "sleep", "1000000"]).await?;
        }
        let shown = two.docker(&["exec", name, "ip", "-4", "-o", "addr", "show", "dev", "ethwe"]).await?;
        let address = shown.split_whitespace().nth(3).and_then(|text| text.split('/').next());
        let target = address.with_context(|| format!("the container has no address: {shown:?}"))?.to_owned();
        let container = Some("bench-weft");
        let (from, to) = (End { host: one.clone(), container }, End { host: two.clone(), container });
        Self { name: "weft", encrypted: true, from, to, target, _daemons: Vec::new() }.ready().await
    }

    /// The hosts themselves over a userspace WireGuard.
    pub(crate) async fn wireguard(one: &Host, two: &Host) -> anyhow::Result<Self> {
        let program = cache_folder().join(WIREGUARD);
        ensure!(program.exists(), "{} is missing; `integration/set-up bench` unpacks it", program.display());
        let mut daemons = Vec::new();
        let mut keys = Vec::new();
        for host in [one, two] {
            daemons.push(
                host.command(&program.to_string_lossy(), ["-f", "wg0"])
                    .into_tokio()
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?,
            );
            let private = host.exec(&["wg", "genkey"]).await?;
            let public = host.command("wg", ["pubkey"]).input(private.clone()).text().await?;
            keys.push((private, public));
        }
        for (host, other, number) in [(one, two, 0), (two, one, 1)] {
            let (private, public) = (&keys[number].0, &keys[1 - number].1);
            let configuration = format!(
                "[Interface]\nPrivateKey = {private}\nListenPort = 51820\n\
                 [Peer]\nPublicKey = {public}\nAllowedIPs = 10.99.2.0/24\nEndpoint = {}:51820\n",
                other.ipv4()
            );
            eventually("wireguard-go takes its settings", LIMIT, async || {
                let set = host.command("wg", ["setconf", "wg0", "/dev/stdin"]);
                set.input(configuration.clone()).text().await.map(drop)
            })
            .await?;
            let address = format!("10.99.2.{}/24", number + 1);
            host.exec(&["ip", "addr", "add", &address, "dev", "wg0"]).await?;
            host.exec(&["ip", "link", "set", "wg0", "mtu", "1420", "up"]).await?;
        }
        let (from, to) = (End { host: one.clone(), container: None }, End { host: two.clone(), container: None });
        let target = "10.99.2.2".to_owned();
        Self { name: "wireguard-go", encrypted: true, from, to, target, _daemons: daemons }.ready().await
    }

    async fn ready(self) -> anyhow::Result<Self> {
        eventually("the other side answers", LIMIT, async || {
            self.from.command(&["ping", "-c", "1", "-W", "1", &self.target]).await?.text().await.map(drop)
        })
        .await?;
        Ok(self)
    }

    /// Pings the other side and returns the round trips, in milliseconds.
    pub(crate) async fn ping(&self, interval: &str, count: u64) -> anyhow::Result<Vec<f64>> {
        let count = count.to_string();
        let printed =
            self.from.command(&["ping", "-n", "-i", interval, "-c", &count, &self.target]).await?.text().await?;
        let times = printed.split_whitespace().filter_map(|word| word.strip_prefix("time=")?.parse().ok());
        let times: Vec<f64> = times.collect();
        ensure!(!times.is_empty(), "no ping was answered: {printed}");
        Ok(times)
    }

    /// Sends for a while, pings meanwhile, and returns what that reached.
    pub(crate) async fn transfer(&self, seconds: u64) -> anyhow::Result<Transfer> {
        let mut server = self.to.command(&["iperf3", "--server", "--one-off"]).await?.into_tokio();
        let mut server = server.stdout(Stdio::null()).spawn().context("failed to start iperf3")?;
        // Connecting without a test would use up the one that the server serves.
        eventually("iperf3 listens", LIMIT, async || {
            let listening = self.to.command(&["ss", "--no-header", "--listening", "--tcp", "sport = :5201"]).await?;
            ensure!(!listening.text().await?.is_empty(), "nobody listens");
            Ok(())
        })
        .await?;
        let seconds_text = seconds.to_string();
        // The machine may prefer another congestion control; all contenders get the same.
        let words = ["iperf3", "--json", "--congestion", "cubic", "--time", &seconds_text, "--client", &self.target];
        let before = busy_seconds()?;
        let load = self.from.command(&words).await?;
        // Fifty each second, for four fifths of the time.
        let (printed, pings) = tokio::join!(load.text(), self.ping("0.02", (seconds * 40).max(1)));
        let busy = busy_seconds()? - before;
        let printed = printed?;
        server.wait().await.context("failed to wait for iperf3")?;
        let printed: serde_json::Value = serde_json::from_str(&printed).context("iperf3 printed something else")?;
        let received = &printed["end"]["sum_received"];
        let number = |name: &str| received[name].as_f64().with_context(|| format!("iperf3 says no {name}: {printed}"));
        Ok(Transfer {
            gigabits_per_second: number("bits_per_second")? / 1e9,
            cpu_seconds_per_gigabyte: busy / (number("bytes")? / 1e9),
            ping_millis: pings?,
        })
    }
}
