//! Debian's Prometheus scrapes hosts under load: every panel and every alert of the project gives an answer, and alerts fire
//! when their faults are there and clear when they have gone.

mod load;
mod prometheus;

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use load::{Load, RESOLVER};
use prometheus::{Prometheus, RATE_INTERVAL, metrics_address};
use weft_integration_tests::{
    Container, OtlpReceiver, PASSWORD, Resolver, goes, hosts_with_images, slow_calls, slow_disk, subnets,
};
use weft_lab::{Host, Lab, Launch, Weft, eventually, image};
use weft_monitoring::{dashboards, rules::Rules, runbook::Runbook};
use weft_proto::router::v1::PathKind;

/// The range of all hosts: small, so that it can be used up.
const RANGE: &str = "10.32.0.0/27";

/// An address of the underlay that no host has.
const NOBODY: &str = "192.168.50.77";

/// How long an alert may take to fire, with all hosts on two processors.
const FIRES: Duration = Duration::from_secs(60);

/// How long all alerts may take to clear.
const CLEARS: Duration = Duration::from_secs(90);

/// Alerts whose faults are not made here, and why; promtool's tests have them all.
const NOT_HERE: [(&str, &str); 6] = [
    ("WeftMemoryGrows", "takes a day"),
    ("WeftVersionsDiffer", "takes images of two versions"),
    ("WeftGossipLag", "takes more gossip than fits a lab"),
    ("WeftFramesLost", "takes more than the machine can send"),
    ("WeftFramesTooLarge", "the kernel drops such frames first"),
    ("WeftNamesSlow", "without processor time for dns nobody learns of it: its metrics come late, too"),
];

/// What is looked at, and what has been seen.
struct Watch {
    prometheus: Prometheus,
    fired: BTreeSet<String>,
    /// Panels that have data only under a fault, with their queries.
    waiting: Vec<(String, Vec<String>)>,
}

impl Watch {
    async fn start(host: &Host, targets: &[&Host]) -> anyhow::Result<Self> {
        let prometheus = Prometheus::start(host, targets).await?;
        Ok(Self { prometheus, fired: BTreeSet::new(), waiting: Vec::new() })
    }

    /// Returns when these alerts fire; none of what they say may be broken.
    async fn fire(&mut self, expected: &[(&str, &str)]) -> anyhow::Result<()> {
        for (alert, host) in expected {
            eventually(&format!("{alert} fires for {host:?}"), FIRES, async || {
                let firing = self.prometheus.firing().await?;
                ensure!(firing.contains(&((*alert).to_owned(), (*host).to_owned())), "these do: {firing:?}");
                Ok(())
            })
            .await?;
            self.fired.insert((*alert).to_owned());
        }
        for text in self.prometheus.said().await? {
            ensure!(!text.contains("<error") && !text.contains("<no value>"), "an alert says {text:?}");
        }
        let mut still = Vec::new();
        for (title, queries) in std::mem::take(&mut self.waiting) {
            if !self.all_have_data(&queries).await? {
                still.push((title, queries));
            }
        }
        self.waiting = still;
        Ok(())
    }

    /// Returns when no alert fires.
    async fn quiet(&self) -> anyhow::Result<()> {
        eventually("all alerts clear", CLEARS, async || {
            let firing = self.prometheus.firing().await?;
            ensure!(firing.is_empty(), "these fire: {firing:?}");
            Ok(())
        })
        .await
    }

    async fn all_have_data(&self, queries: &[String]) -> anyhow::Result<bool> {
        for query in queries {
            if !self.prometheus.has_data(query).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns when each panel that always has data has some, and notes those that have not.
    async fn see_panels(&mut self) -> anyhow::Result<()> {
        for dashboard in dashboards::all() {
            for panel in dashboard.panels() {
                let what = format!("{}: {}", dashboard.title, panel.title);
                let query = |query: &str| query.replace("$__rate_interval", RATE_INTERVAL).replace("$host", ".+");
                let queries: Vec<String> = panel.queries.iter().map(|one| query(one.expression)).collect();
                if panel.only.is_some() {
                    self.waiting.push((what, queries));
                    continue;
                }
                eventually(&format!("the panel {what} has data"), FIRES, async || {
                    ensure!(self.all_have_data(&queries).await?, "none for {queries:?}");
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }
}

fn launch(host: &Host) -> Launch {
    Launch::new(PASSWORD)
        .with("WEFT_IPALLOC_RANGE", RANGE)
        .with("WEFT_DNS_UPSTREAMS", &RESOLVER.to_string())
        .with("WEFT_METRICS_LISTEN", &metrics_address(host))
        .with("WEFT_OTLP_ENDPOINT", &format!("http://{}", OtlpReceiver::ADDRESS))
}

#[tokio::test]
async fn panels_have_data_under_load() -> anyhow::Result<()> {
    watched(false).await
}

#[tokio::test]
#[ignore = "takes six minutes: `make lab-long` runs it"]
async fn every_alert_fires_and_clears() -> anyhow::Result<()> {
    watched(true).await
}

/// Starts hosts, sees the alerts of a start fire and clear, and all panels with data under load; then makes one fault after
/// another, if asked to.
async fn watched(faults: bool) -> anyhow::Result<()> {
    let mut lab = hosts_with_images(if faults { 3 } else { 2 }).await?;
    let hosts = [lab.host(1).clone(), lab.host(2).clone()];
    let [first, second] = &hosts;
    let one = Weft::launch(first, launch(first)).await?;
    let mut watch = Watch::start(first, &[first, second]).await?;
    // The second host is told to join one that does not exist.
    let mut two = Weft::up(second, launch(second).with("WEFT_PEERS", NOBODY)).await?;
    watch.fire(&[("WeftNoRing", second.name()), ("WeftHostAlone", second.name())]).await?;
    two.weft(&["connect", first.name()]).await?;
    two.weft(&["forget", NOBODY]).await?;
    try_join_all([one.joined(1), two.joined(1)]).await?;
    two.ready().await?;

    let compose =
        one.compose(["--profile", "monitoring", "config", "--services"]).env("WEFT_GRAFANA_PASSWORD", "secret");
    let started = compose.text().await.context("compose.yaml with the profile monitoring")?;
    ensure!(started.contains("grafana") && started.contains("prometheus"), "it has only {started}");
    let resolver = Resolver::of_every_name(one.host(), RESOLVER)?;
    let _other_resolver = Resolver::of_every_name(two.host(), RESOLVER)?;
    let _receivers = [OtlpReceiver::start(&one).await?, OtlpReceiver::start(&two).await?];
    let containers = [Container::start(first, "one", &[]).await?, Container::start(second, "two", &[]).await?];
    let [a, b] = &containers;
    let load = [Load::start(a, b).await?, Load::start(b, a).await?];

    watch.see_panels().await.context("under load")?;
    for alert in Rules::read()?.alerts() {
        watch.prometheus.query(&alert.expr).await.with_context(|| alert.alert.clone())?;
    }
    watch.quiet().await.context("under load")?;

    if faults {
        make_faults(&mut watch, &mut lab, (&one, &mut two), containers, load, resolver).await?;
    }
    watch.prometheus.stop().await?;
    lab.stop().await
}

/// Makes each fault, one after another, and sees its alerts fire and clear.
async fn make_faults(
    watch: &mut Watch,
    lab: &mut Lab,
    (one, two): (&Weft, &mut Weft),
    containers: [Container; 2],
    load: [Load; 2],
    resolver: Resolver,
) -> anyhow::Result<()> {
    let [a, b] = &containers;
    let hosts = [one.host().clone(), two.host().clone()];
    let second = &hosts[1];
    services(watch, two).await.context("services")?;
    addresses(watch, one, &containers).await.context("addresses")?;
    let resolver = names(watch, one, resolver).await.context("names")?;
    frames(watch, a, b).await.context("frames")?;
    calls(watch, second).await.context("calls")?;
    targets(watch, one).await.context("targets")?;
    paths(watch, second).await.context("paths")?;
    nothing_scraped(watch, &hosts).await.context("nothing scraped")?;
    host_away(watch, one, two, b).await.context("a host away")?;
    facilities(watch, two).await.context("facilities")?;
    files(watch, one).await.context("files")?;
    disk(watch, one).await.context("disk")?;
    connections(watch, two).await.context("connections")?;
    let third = no_link(watch, lab).await.context("no link")?;
    trust(two, third).await.context("trust")?;
    for load in load {
        load.stop().await?;
    }
    engine(watch, lab, two).await.context("engine")?;
    drop(resolver);

    ensure!(watch.waiting.is_empty(), "no fault gave these panels data: {:?}", watch.waiting);
    let elsewhere = NOT_HERE.map(|(alert, _)| alert.to_owned());
    let all: BTreeSet<String> = Rules::read()?.alerts().map(|alert| alert.alert.clone()).collect();
    let seen: BTreeSet<String> = watch.fired.iter().cloned().chain(elsewhere).collect();
    ensure!(all == seen, "alerts are missing here, or are gone: {:?}", all.symmetric_difference(&seen));
    Ok(())
}

/// A service is kept down; another one is killed again and again.
async fn services(watch: &mut Watch, two: &Weft) -> anyhow::Result<()> {
    let host = two.host().name();
    two.compose(["stop", "ipam"]).text().await?;
    // It waits for an address until it is given up.
    let start = two.host().proxy_command(["run", "--rm", "--name", "waits", image::BUSYBOX, "true"]);
    let mut start = start.into_tokio().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    watch.fire(&[("WeftServiceDown", host), ("WeftAttachmentsFail", host)]).await?;
    start.wait().await?;
    two.compose(["start", "ipam"]).text().await?;

    for _ in 0..3 {
        let started = "process_start_time_seconds{service=\"dns\", host=\"host2\"}";
        let before = watch.prometheus.query(started).await?;
        two.kill("dns").await?;
        eventually("the new process is scraped", FIRES, async || {
            let values = |results: &[serde_json::Value]| -> Vec<String> {
                results.iter().map(|result| result["value"][1].to_string()).collect()
            };
            let now = watch.prometheus.query(started).await?;
            ensure!(!now.is_empty() && values(&now) != values(&before), "it is the old one");
            Ok(())
        })
        .await?;
    }
    watch.fire(&[("WeftServiceRestarts", host)]).await?;
    two.ready().await?;
    watch.quiet().await
}

/// A container takes nearly all addresses, and another one what is left.
async fn addresses(watch: &mut Watch, one: &Weft, containers: &[Container]) -> anyhow::Result<()> {
    let host = one.host();
    let free = (1..=30).map(|last| std::net::Ipv4Addr::new(10, 32, 0, last));
    let free = free.filter(|address| containers.iter().all(|container| container.ipv4 != *address));
    let free: Vec<String> = free.map(|address| format!("{address}/27")).collect();
    let wanted = format!("WEFT_CIDR={}", free.join(" "));
    Container::start(host, "greedy", &["--env", &wanted]).await?;
    let refused = async || host.proxy_command(["run", "--rm", image::BUSYBOX, "true"]).output().await;
    for _ in 0..2 {
        let output = refused().await?;
        ensure!(!output.status.success() && output.stderr.contains("are in use"), "it was not refused: {output:?}");
    }
    watch.fire(&[("WeftAddressesRunOut", host.name()), ("WeftAddressesExhausted", host.name())]).await?;
    host.docker_via_proxy(&["rm", "--force", "greedy"]).await?;
    watch.quiet().await
}

/// The host's resolver goes away.
async fn names(watch: &mut Watch, one: &Weft, resolver: Resolver) -> anyhow::Result<Resolver> {
    let host = one.host().name();
    drop(resolver);
    watch.fire(&[("WeftUpstreamDown", host), ("WeftNamesFail", host)]).await?;
    let resolver = Resolver::of_every_name(one.host(), RESOLVER)?;
    watch.quiet().await?;
    Ok(resolver)
}

/// A container uses an address that is not its own.
async fn frames(watch: &mut Watch, from: &Container, to: &Container) -> anyhow::Result<()> {
    let foreign = "10.32.0.29";
    from.in_network(&["ip", "address", "add", &format!("{foreign}/27"), "dev", "ethwe"]).await?.text().await?;
    let pings = from.in_network(&["ping", "-q", "-i", "0.1", "-I", foreign, &to.ipv4.to_string()]).await?;
    let mut pings = pings.into_tokio().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let fired = watch.fire(&[("WeftFramesForged", to.host.name())]).await;
    pings.kill().await?;
    fired?;
    from.in_network(&["ip", "address", "delete", &format!("{foreign}/27"), "dev", "ethwe"]).await?.text().await?;
    watch.quiet().await
}

/// A container is started again and again whose port is taken.
async fn calls(watch: &mut Watch, host: &Host) -> anyhow::Result<()> {
    Container::start(host, "first", &["--publish", "127.0.0.1:8080:80"]).await?;
    let second = ["create", "--name", "second", "--publish", "127.0.0.1:8080:80", image::BUSYBOX, "true"];
    host.docker_via_proxy(&second).await?;
    for _ in 0..10 {
        let output = host.proxy_command(["start", "second"]).output().await?;
        ensure!(!output.status.success(), "the port is free");
    }
    watch.fire(&[("WeftDockerCallsFail", host.name())]).await?;
    host.docker_via_proxy(&["rm", "--force", "first", "second"]).await?;
    watch.quiet().await
}

/// A target is added that does not exist. Each reason that is said has its entry in the runbook.
async fn targets(watch: &mut Watch, one: &Weft) -> anyhow::Result<()> {
    let host = one.host().name();
    one.weft(&["connect", "nosuchhost"]).await?;
    watch.fire(&[("WeftTargetNotConnected", host), ("WeftProblem", host)]).await?;
    let runbook = Runbook::read()?;
    for problem in watch.prometheus.query("max by (reason) (max_over_time(weft_problem_age_seconds[1h]))").await? {
        let reason = problem["metric"]["reason"].as_str().unwrap_or_default();
        ensure!(runbook.reasons.contains_key(reason), "the runbook has no entry for {reason:?}");
    }
    one.weft(&["forget", "nosuchhost"]).await?;
    watch.quiet().await
}

/// A firewall drops datagrams, and lets connections pass.
async fn paths(watch: &mut Watch, host: &Host) -> anyhow::Result<()> {
    let rule = |verb| ["iptables", verb, "INPUT", "-i", "eth0", "-p", "udp", "--dport", "6783", "-j", "DROP"];
    host.exec(&rule("-I")).await?;
    watch.fire(&[("WeftNoDataPath", "host1"), ("WeftNoDataPath", "host2")]).await?;
    host.exec(&rule("-D")).await?;
    watch.quiet().await
}

/// Somebody empties targets.yml.
async fn nothing_scraped(watch: &mut Watch, hosts: &[Host]) -> anyhow::Result<()> {
    watch.prometheus.scrape(&[])?;
    watch.fire(&[("WeftNothingScraped", "")]).await?;
    watch.prometheus.scrape(&hosts.iter().collect::<Vec<_>>())?;
    watch.quiet().await
}

/// A host's router ends, while a container wants an address that only that host can give.
async fn host_away(watch: &mut Watch, one: &Weft, two: &Weft, theirs: &Container) -> anyhow::Result<()> {
    let (here, there) = (one.host().name(), two.host().name());
    two.compose(["stop", "router"]).text().await?;
    let away = [
        ("WeftHostNotScraped", there),
        ("WeftPeerUnreachable", here),
        ("WeftHostAlone", here),
        ("WeftOwnersUnreachable", here),
    ];
    watch.fire(&away).await?;
    let wanted = format!("WEFT_CIDR={}/27", theirs.ipv4);
    let start = one.host().proxy_command(["run", "--rm", "--env", &wanted, image::BUSYBOX, "true"]);
    let mut start = start.into_tokio().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    watch.fire(&[("WeftAddressesPending", here)]).await?;
    start.wait().await?;
    two.compose(["start", "router"]).text().await?;
    two.ready().await?;
    // It has its targets from the option again.
    two.weft(&["forget", NOBODY]).await?;
    watch.quiet().await
}

/// A router has to do without a facility of the kernel, and has it again.
async fn facilities(watch: &mut Watch, two: &mut Weft) -> anyhow::Result<()> {
    let host = two.host().clone();
    two.recreate("router", launch(&host).with("WEFT_ROUTER_MASK", "batched-send")).await?;
    watch.fire(&[("WeftFacilityMissing", host.name())]).await?;
    two.recreate("router", launch(&host)).await?;
    two.ready().await?;
    watch.quiet().await
}

/// A service may have hardly more files open than it has.
async fn files(watch: &mut Watch, one: &Weft) -> anyhow::Result<()> {
    let (host, process) = (one.host(), one.process("docker-proxy").await?);
    let open = host.exec(&["sh", "-c", &format!("ls /proc/{process}/fd | wc -l")]).await?;
    let open: u64 = open.trim().parse().with_context(|| open.clone())?;
    let limits = host.exec(&["prlimit", "--pid", &process, "--nofile", "--noheadings", "--output", "SOFT"]).await?;
    let set = async |soft: String| {
        let limit = format!("--nofile={soft}:");
        host.exec(&["prlimit", "--pid", &process, &limit]).await
    };
    set((open + 1).to_string()).await?;
    let fired = watch.fire(&[("WeftFilesRunOut", host.name())]).await;
    set(limits.trim().to_owned()).await?;
    fired?;
    watch.quiet().await
}

/// The disk under the ring takes its time.
async fn disk(watch: &mut Watch, one: &Weft) -> anyhow::Result<()> {
    let mut tracer = slow_disk(one, "ipam", "400ms").await?;
    let starts = async {
        loop {
            drop(one.host().docker_via_proxy(&["run", "--rm", image::BUSYBOX, "true"]).await);
        }
    };
    let slow = [("WeftDiskSlow", one.host().name())];
    let fired = tokio::select! {
        fired = watch.fire(&slow) => fired,
        () = starts => Ok(()),
    };
    tracer.kill().await?;
    fired?;
    watch.quiet().await
}

/// docker-proxy waits for each connection that it opens.
async fn connections(watch: &mut Watch, two: &Weft) -> anyhow::Result<()> {
    let mut tracer = slow_calls(two, "docker-proxy", "connect", "300ms").await?;
    let fired = watch.fire(&[("WeftDockerSlow", two.host().name())]).await;
    tracer.kill().await?;
    fired?;
    watch.quiet().await
}

/// A third host, which reaches the first one only.
async fn no_link(watch: &mut Watch, lab: &Lab) -> anyhow::Result<Weft> {
    let host = lab.host(3);
    lab.underlay().cut(lab.link(2, 3)).await?;
    let three = Weft::launch(host, launch(host).peers(&[lab.host(1)])).await?;
    watch.fire(&[("WeftPeerNotDirect", lab.host(2).name())]).await?;
    lab.underlay().heal(lab.link(2, 3)).await?;
    three.joined(2).await?;
    watch.quiet().await?;
    Ok(three)
}

/// Two hosts trust each other, and exchange frames by VXLAN from then on.
async fn trust(two: &mut Weft, mut three: Weft) -> anyhow::Result<()> {
    let trusted = subnets(&[two.host().clone(), three.host().clone()]);
    for weft in [&mut *two, &mut three] {
        let launch = launch(weft.host()).with("WEFT_TRUSTED_SUBNETS", &trusted);
        weft.recreate("router", launch).await?;
    }
    goes(two, three.host(), PathKind::Kernel, FIRES).await
}

/// The engine is killed.
async fn engine(watch: &mut Watch, lab: &mut Lab, two: &Weft) -> anyhow::Result<()> {
    lab.kill_engine(2).await?;
    watch.fire(&[("WeftEngineAway", two.host().name())]).await?;
    lab.start_engine(2).await?;
    two.ready().await?;
    watch.quiet().await
}
