//! Scenarios on several lab hosts: what they share. Each file in `tests` is one behaviour.

mod check;
mod client;
mod conversation;
mod otlp;
mod resolver;
mod slow;
mod trace;
mod transfer;
mod way;

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, ensure};
pub use check::{Check, all};
pub use client::{Client, WAYS, docker};
pub use conversation::Conversation;
use futures::future::try_join_all;
pub use otlp::OtlpReceiver;
pub use resolver::Resolver;
pub use slow::{slow_calls, slow_disk};
pub use trace::no_trace;
pub use transfer::{Flow, copies, transfers, transfers_to};
pub use way::{goes, subnets, way};
use weft_lab::{EngineKit, Host, HostCommand, Lab, LabBuilder, Launch, Weft, eventually, image};

/// Password of all hosts, unless a scenario is about another.
pub const PASSWORD: &str = "correct horse battery staple";

/// How long anything may take that should happen at once, on a machine that is busy with other hosts.
pub const SOON: Duration = Duration::from_secs(20);

/// How long what docs/reliability.md has happen within a second may take while others keep the machine busy.
pub const A_SECOND: Duration = Duration::from_secs(5);

/// Hosts that run weft and have found each other.
#[derive(Debug)]
pub struct Mesh {
    /// The hosts.
    pub lab: Lab,
    /// What runs on each, in the same order.
    pub weft: Vec<Weft>,
}

impl Mesh {
    /// Starts weft on a number of hosts; each has the first as its peer.
    ///
    /// # Errors
    /// If a host does not get ready or does not find all others.
    pub async fn start(hosts: u8) -> anyhow::Result<Self> {
        Self::start_on(hosts_with_images(hosts).await?).await
    }

    /// Starts weft on two hosts, of which the first has the machine's engine and the second that of the distribution's
    /// next release.
    ///
    /// # Errors
    /// If a host does not get ready or does not find the other.
    pub async fn of_both_engines() -> anyhow::Result<Self> {
        Self::start_on(both_engines(Lab::new()).await?).await
    }

    /// Starts weft on all hosts of a lab, whose engines have the images.
    async fn start_on(lab: Lab) -> anyhow::Result<Self> {
        let first = lab.host(1).clone();
        let launch = |host: &Host| match host.name() == first.name() {
            true => Launch::new(PASSWORD),
            false => Launch::new(PASSWORD).peers(&[&first]),
        };
        let weft = try_join_all(lab.hosts().iter().map(|host| Weft::launch(host, launch(host)))).await?;
        try_join_all(weft.iter().map(|weft| weft.joined(lab.hosts().len() - 1))).await?;
        Ok(Self { lab, weft })
    }

    /// Returns weft on a host by its number, counted from 1.
    ///
    /// # Panics
    /// If the mesh has fewer hosts.
    #[must_use]
    pub fn on(&self, host: usize) -> &Weft {
        &self.weft[host - 1]
    }

    /// Starts a container through the proxy that does nothing until it is asked to.
    ///
    /// # Errors
    /// If it does not start or has no overlay address.
    pub async fn container(&self, host: usize, name: &str, options: &[&str]) -> anyhow::Result<Container> {
        Container::start(self.lab.host(host), name, options).await
    }

    /// Takes all of it down.
    ///
    /// # Errors
    /// If something is left behind.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.lab.stop().await
    }
}

/// Makes hosts whose engines have weft's images and those of the tests.
///
/// # Errors
/// If a host can't be made.
pub async fn hosts_with_images(hosts: u8) -> anyhow::Result<Lab> {
    let lab = Lab::new().hosts(hosts).start().await?;
    try_join_all(lab.hosts().iter().map(Weft::load)).await?;
    Ok(lab)
}

/// Takes the IPv4 address on the underlay from a host, and those of other hosts from its list of names.
///
/// # Errors
/// If the host is gone.
pub async fn only_ipv6(host: &Host) -> anyhow::Result<()> {
    host.exec(&["ip", "-4", "address", "flush", "dev", "eth0"]).await?;
    host.exec(&["sed", "-i", "/^192\\.168\\./d", "/etc/hosts"]).await.map(drop)
}

/// Makes two hosts whose engines have weft's images and those of the tests: the first has the machine's engine, the second
/// that of the distribution's next release.
///
/// # Errors
/// If a host can't be made.
pub async fn both_engines(lab: LabBuilder) -> anyhow::Result<Lab> {
    let lab = lab.hosts(2).engine_of(2, EngineKit::newer()?).start().await?;
    try_join_all(lab.hosts().iter().map(Weft::load)).await?;
    Ok(lab)
}

/// A container on a host.
#[derive(Debug, Clone)]
pub struct Container {
    /// Where it runs.
    pub host: Host,
    /// Its name.
    pub name: String,
    /// Its overlay address.
    pub ipv4: Ipv4Addr,
    /// The twin of that.
    pub ipv6: Ipv6Addr,
}

impl Container {
    /// Starts a container through the proxy that does nothing until it is asked to.
    ///
    /// # Errors
    /// If it does not start or has no overlay address.
    pub async fn start(host: &Host, name: &str, options: &[&str]) -> anyhow::Result<Self> {
        let start = ["run", "--detach", "--name", name];
        // As process 1 it would ignore being told to end.
        let run = ["--init=false", image::BUSYBOX, "sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"];
        host.docker_via_proxy(&[&start, options, &run].concat()).await?;
        Self::find(host, name).await
    }

    /// Finds a container that runs.
    ///
    /// # Errors
    /// If it has no overlay address.
    pub async fn find(host: &Host, name: &str) -> anyhow::Result<Self> {
        let shown = host.docker(&["exec", name, "ip", "-o", "addr", "show", "dev", "ethwe", "scope", "global"]).await?;
        let addresses = addresses(&shown);
        let what = || format!("{}: {name} has no overlay address in {shown:?}", host.name());
        let ipv4 = addresses.iter().find_map(|text| text.parse().ok()).with_context(what)?;
        let ipv6 = addresses.iter().find_map(|text| text.parse().ok()).with_context(what)?;
        Ok(Self { host: host.clone(), name: name.to_owned(), ipv4, ipv6 })
    }

    /// Runs a command in it.
    ///
    /// # Errors
    /// If it fails.
    pub async fn exec(&self, words: &[&str]) -> anyhow::Result<String> {
        self.host.docker(&[&["exec", &self.name], words].concat()).await
    }

    /// Pings an address or a name once it answers.
    ///
    /// # Errors
    /// If it does not answer soon.
    pub async fn pings(&self, target: &str) -> anyhow::Result<()> {
        eventually(&format!("{} pings {target}", self.name), SOON, async || {
            self.exec(&["ping", "-c", "1", "-W", "1", target]).await.map(drop)
        })
        .await
    }

    /// Returns when it resolves a name to an address, or with `None` does not know it.
    ///
    /// # Errors
    /// If that takes longer than `limit`.
    pub async fn finds(&self, name: &str, address: Option<Ipv4Addr>, limit: Duration) -> anyhow::Result<()> {
        eventually(&format!("{} finds {name} at {address:?}", self.name), limit, async || {
            let answer = self.resolves(&format!("{name}.weft.internal")).await;
            match address {
                Some(address) => {
                    let answer = answer?;
                    // nslookup ends each address with its line.
                    let found = answer.lines().any(|line| line.ends_with(&format!(": {address}")));
                    ensure!(found, "the answer is {answer}");
                }
                None => ensure!(format!("{answer:?}").contains("NXDOMAIN"), "it is still known: {answer:?}"),
            }
            Ok(())
        })
        .await
    }

    /// Asks for the addresses of a name, as its own resolver does, without waiting for them.
    ///
    /// # Errors
    /// If the name is not known.
    pub async fn resolves(&self, name: &str) -> anyhow::Result<String> {
        self.exec(&["nslookup", name]).await
    }

    /// Prepares a command of the host inside the container's network.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn in_network(&self, words: &[&str]) -> anyhow::Result<HostCommand> {
        self.host.in_network_of(&self.name, words).await
    }
}

/// Returns the addresses in what `ip -o addr` printed.
fn addresses(shown: &str) -> Vec<String> {
    let words: Vec<_> = shown.split_whitespace().collect();
    let families = words.windows(2).filter(|pair| matches!(pair[0], "inet" | "inet6"));
    families.filter_map(|pair| pair[1].split('/').next()).map(str::to_owned).collect()
}

/// Waits until what weft logs and reports contains all of `words`.
///
/// # Errors
/// If no line of the log, or no message of the status, has them soon.
pub async fn says(weft: &Weft, service: &str, words: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("{service} on {} says {words:?}", weft.host().name()), SOON, async || {
        let logs = weft.logs(service).await?;
        let found = logs.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "it logged:\n{logs}");
        Ok(())
    })
    .await
}

/// Waits until the router's status, with all problems, connections and targets, contains all of `words`.
///
/// # Errors
/// If it does not soon.
pub async fn reports(weft: &Weft, words: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("the status of {} says {words:?}", weft.host().name()), SOON, async || {
        let status = weft.router_status().await?;
        let targets = status.targets.iter().filter_map(|target| target.problem.as_ref());
        let connections = status.connections.iter().filter_map(|connection| connection.problem.as_ref());
        let messages: Vec<_> =
            status.problems.iter().chain(targets).chain(connections).map(|problem| problem.message.clone()).collect();
        let found = messages.iter().any(|message| words.iter().all(|word| message.contains(word)));
        ensure!(found, "it says {messages:?}");
        Ok(())
    })
    .await
}

/// Waits until a line of `weft status` contains all of `words`, whichever services run.
///
/// # Errors
/// If it does not soon.
pub async fn shows(weft: &Weft, words: &[&str]) -> anyhow::Result<()> {
    eventually(&format!("`weft status` on {} shows {words:?}", weft.host().name()), SOON, async || {
        let status = weft.command(["status"])?.output().await?.all();
        let found = status.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "it shows:\n{status}");
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_found() {
        let shown = "2: ethwe    inet 10.32.0.1/12 brd 10.47.255.255 scope global ethwe\\    valid_lft forever\n\
                     2: ethwe    inet6 fd01::a20:1/108 scope global \\    valid_lft forever";
        assert_eq!(addresses(shown), ["10.32.0.1", "fd01::a20:1"]);
    }
}
