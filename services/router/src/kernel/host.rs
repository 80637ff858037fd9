//! Observes the host, applies what has to change, and knows what stays wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use anyhow::{Context, anyhow, bail};
use ipnet::IpNet;
use tokio::sync::watch;
use weft_router_core::hostnet::{
    self, ChainRef, Change, DesiredHost, Family, ForwardingEntry, ObservedHost, ObservedLink, PortMarker, PortSources,
};
use weft_types::{AllowedAddresses, ContainerId};

use super::{
    AttachSpec, DnsSockets, HostRoute, KernelConfig, ObservedAttachment, Problem,
    dns::DnsPort,
    expose::{self, Exposed},
    legacy,
    links::{self, IPV6_MINIMUM_MTU, LinkChange, Which},
    namespace::Namespace,
    news::Watched,
    nftables::{self, Nftables, Step},
    ports::PortGuard,
    publish::Published,
    rtnetlink::{Channel, Request},
    trusted::Trusted,
};

/// After so many rounds of observing and changing, somebody else is undoing what we do.
const ROUNDS: usize = 8;

/// The one who writes kernel network state.
pub(super) struct Owner {
    pub(super) config: Arc<KernelConfig>,
    pub(super) channel: Channel,
    pub(super) own_namespace: Arc<Namespace>,
    /// What attached containers are to have, as far as this run was told.
    pub(super) specs: BTreeMap<ContainerId, AttachSpec>,
    /// Why some of their hosts files could not be written.
    pub(super) hosts_problems: BTreeMap<ContainerId, Problem>,
    /// Ports of containers that ended, by number: their names, and until when they may stay.
    pub(super) leaving: BTreeMap<u32, (String, Instant)>,
    pub(super) nftables: Option<Nftables>,
    pub(super) trusted: Trusted,
    pub(super) guard: PortGuard,
    /// Ports of containers, as they were listed last.
    ports: Vec<ObservedLink>,
    /// When the guard of ports is to be compared with the kernel next.
    guard_due: Option<Instant>,
    pub(super) exposed: Exposed,
    pub(super) published: Published,
    dns: Option<DnsPort>,
    dns_sockets: watch::Sender<Option<Arc<DnsSockets>>>,
    subnets: BTreeSet<IpNet>,
    problems: Vec<Problem>,
    watched: Watched,
}

impl Owner {
    pub(super) fn open(
        config: KernelConfig,
        dns_sockets: watch::Sender<Option<Arc<DnsSockets>>>,
        direct: Arc<Mutex<BTreeSet<IpAddr>>>,
    ) -> anyhow::Result<Self> {
        let guard = PortGuard::open(&config);
        Ok(Self {
            config: Arc::new(config),
            channel: Channel::open()?,
            own_namespace: Arc::new(Namespace::current().context("failed to open the own network namespace")?),
            specs: BTreeMap::new(),
            hosts_problems: BTreeMap::new(),
            leaving: BTreeMap::new(),
            nftables: Nftables::open().ok(),
            trusted: Trusted::default(),
            guard,
            ports: Vec::new(),
            guard_due: None,
            exposed: Exposed::default(),
            published: Published::new(direct),
            dns: None,
            dns_sockets,
            subnets: BTreeSet::new(),
            problems: Vec::new(),
            watched: Watched::default(),
        })
    }

    /// Tells whether the kernel has nftables.
    pub(super) fn keeps_rules(&self) -> bool {
        self.nftables.is_some()
    }

    /// Returns what was wrong at the last comparison beside what failed. One hosts file speaks for all: what is wrong with
    /// one is most often wrong with each.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let guard = self.guard.problem();
        let others = self.hosts_problems.values().next().into_iter().chain(self.trusted.problem());
        let others = others.chain(self.exposed.problem()).chain(self.published.problem());
        self.problems.iter().chain(others).chain(&guard).cloned().collect()
    }

    /// Tells whether news of route netlink may be about something of ours.
    pub(super) fn is_concerned(&self, news: &[u8]) -> bool {
        self.watched.concerns(news, &[&self.config.bridge, &self.config.tap, &self.config.dns_port])
    }

    /// Makes the host as it should be and returns how many changes that took. Goes on after a failure, and returns all.
    pub(super) fn reconcile(&mut self) -> anyhow::Result<usize> {
        let outcome = self.reconcile_kernel();
        let filters = self.keep_legacy_filters();
        // What fails here is a problem of its own: without VXLAN everything goes sealed.
        let trusted = self.reconcile_trusted().unwrap_or_default();
        // The same: the overlay works without the host in it.
        let exposed = self.reconcile_exposed().unwrap_or_default();
        let published = self.reconcile_published().unwrap_or_default();
        let guarded = self.keep_guard();
        Ok(outcome? + filters + trusted + exposed + published + guarded?)
    }

    /// Has the guard of ports compared with the kernel the next time, because somebody changed rules.
    pub(super) fn check_guard(&mut self) {
        self.guard_due = None;
    }

    /// Makes the guard of ports as it should be, and returns how many changes that took.
    fn keep_guard(&mut self) -> anyhow::Result<usize> {
        let now = super::attach::now();
        let check = self.guard_due.is_none_or(|due| due <= now);
        if check {
            self.guard_due = Some(now + self.config.check_interval);
        }
        for link in &self.ports {
            let Some(marker) = marker(link) else { continue };
            if self.guard.knows(&link.name, marker.mac)? {
                continue;
            }
            let addresses = match (link.peer_namespace, link.peer_index) {
                (Some(namespace), Some(index)) => {
                    self.channel.addresses_elsewhere(namespace, index).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            let addresses = addresses.into_iter().collect();
            tracing::warn!(
                container = %marker.container,
                "nobody remembers what the container was given: it is published when it is attached again"
            );
            let allowed = AllowedAddresses::default();
            self.guard.permit(&link.name, PortSources { mac: marker.mac, addresses, allowed, confirmed: false }, true);
        }
        Ok(self.guard.keep(&self.ports.iter().map(|link| link.name.as_str()).collect(), check))
    }

    pub(super) fn reconcile_kernel(&mut self) -> anyhow::Result<usize> {
        let mut count = 0;
        for _ in 0..ROUNDS {
            let dns = self.dns.as_ref().map(DnsPort::index);
            let translations = &self.published.desired().translations;
            let desired = super::desired(&self.config, dns, &self.exposed, translations);
            let observed = self.observe(&desired)?;
            self.problems = self.find_problems(&desired, &observed);
            let changes = hostnet::difference(&desired, &observed);
            if changes.is_empty() {
                return Ok(count);
            }
            count += changes.len();
            let mut failures = Vec::new();
            for change in changes {
                tracing::info!(%change, "the host's network differs from what it should be");
                if let Err(error) = self.apply(&desired, &observed, change) {
                    failures.push(format!("{error:#}"));
                }
            }
            if !failures.is_empty() {
                bail!("{}", failures.join("; "));
            }
        }
        bail!("another program keeps undoing what weft sets up in the host's network: see the log for what")
    }

    /// Says which subnets ask the name server.
    pub(super) fn set_subnets(&mut self, subnets: BTreeSet<IpNet>) -> anyhow::Result<()> {
        self.subnets = subnets;
        match &mut self.dns {
            Some(port) => port.set_subnets(&self.subnets),
            None => Ok(()),
        }
    }

    pub(super) fn host_routes(&mut self) -> anyhow::Result<Vec<HostRoute>> {
        let names: BTreeMap<u32, String> =
            self.channel.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        let routes = self.channel.main_routes().context("failed to list the host's routes")?;
        let mut routes: Vec<HostRoute> = routes
            .into_iter()
            .map(|(destination, link)| HostRoute {
                destination,
                interface: names.get(&link).cloned().unwrap_or_default(),
            })
            .filter(|route| route.destination.prefix_len() > 0 && route.interface != self.config.bridge)
            .collect();
        routes.sort_unstable();
        routes.dedup();
        Ok(routes)
    }

    pub(super) fn attachments(&mut self) -> anyhow::Result<Vec<ObservedAttachment>> {
        let mut attachments = Vec::new();
        for link in self.channel.links()? {
            let Some(marker) = marker(&link).filter(|_| !self.leaving.contains_key(&link.index)) else { continue };
            let addresses = match (link.peer_namespace, link.peer_index) {
                (Some(namespace), Some(index)) => {
                    self.channel.addresses_elsewhere(namespace, index).unwrap_or_else(|error| {
                        tracing::debug!(container = %marker.container, %error, "failed to list a container's addresses");
                        Vec::new()
                    })
                }
                _ => Vec::new(),
            };
            attachments.push(ObservedAttachment {
                container: marker.container,
                mac: marker.mac,
                pid: marker.pid,
                addresses: self.guard.permitted(&link.name, addresses),
                allowed: self.guard.allowed(&link.name),
                host_interface: link.name,
            });
        }
        attachments.sort_unstable_by(|one, other| one.container.cmp(&other.container));
        Ok(attachments)
    }

    /// Removes every link, rule and table of ours. Goes on after a failure, and returns all.
    pub(super) fn remove_all(&mut self) -> anyhow::Result<()> {
        let mut failures = Vec::new();
        let mut note = |outcome: anyhow::Result<()>| {
            if let Err(error) = outcome {
                failures.push(format!("{error:#}"));
            }
        };
        self.trusted.forget();
        note(self.reconcile_trusted().map(drop));
        self.exposed = Exposed::default();
        self.published = Published::default();
        self.dns = None;
        self.dns_sockets.send_replace(None);
        self.specs.clear();
        self.hosts_problems.clear();
        self.leaving.clear();
        let ours = |link: &ObservedLink| {
            let names = [&self.config.bridge, &self.config.tap, &self.config.dns_port];
            marker(link).is_some() || names.contains(&&link.name) && ["bridge", "tun", "veth"].contains(&&*link.kind)
        };
        match self.channel.links() {
            Ok(links) => {
                for link in links.iter().filter(|link| ours(link)) {
                    note(self.channel.perform(vec![links::delete_link(link.index, &link.name)]));
                }
            }
            Err(error) => note(Err(error)),
        }
        if let Some(nftables) = &mut self.nftables {
            note(nftables.transact(&[Step::RemoveTable(Family::Inet, hostnet::ALIAS)]));
            note(self.guard.remove());
            note(expose::remove_rules(nftables));
            note(marked_rules(nftables).and_then(|chains| {
                let steps: Vec<Step<'_>> = chains
                    .iter()
                    .flat_map(|(chain, rules)| rules.iter().map(move |(handle, _)| Step::DeleteRule(chain, *handle)))
                    .collect();
                if steps.is_empty() { Ok(()) } else { nftables.transact(&steps) }
            }));
        }
        for family in [Family::Ipv4, Family::Ipv6] {
            if nftables::legacy_filter(family).unwrap_or(false) {
                note(legacy::remove(&self.config.host_root, family));
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(anyhow!(failures.join("; "))) }
    }

    fn observe(&mut self, desired: &DesiredHost) -> anyhow::Result<ObservedHost> {
        let links = self.channel.links()?;
        self.leaving.retain(|index, _| links.iter().any(|link| link.index == *index));
        let bridge = links.iter().find(|link| link.name == desired.bridge && link.kind == "bridge");
        let forwarding: BTreeSet<ForwardingEntry> =
            bridge.map(|bridge| self.channel.forwarding(bridge.index)).transpose()?.unwrap_or_default();
        let bridge = bridge.map(|bridge| bridge.index);
        let ours = links.iter().filter(|link| {
            Some(link.index) == bridge || bridge.is_some() && link.master == bridge || marker(link).is_some()
        });
        self.watched = Watched { bridge, links: ours.map(|link| link.index).collect() };
        let read = |path: &String| fs::read_to_string(self.config.proc_sys.join(path)).ok();
        let sysctls = desired
            .sysctls()
            .into_iter()
            .filter_map(|sysctl| read(&sysctl.path).map(|value| (sysctl.path, value.trim_end().to_owned())))
            .collect();
        self.ports = links.iter().filter(|link| marker(link).is_some()).cloned().collect();
        let mut observed = ObservedHost { links, forwarding, sysctls, ..ObservedHost::default() };
        match &mut self.nftables {
            Some(nftables) => {
                observed.table = nftables.table(desired.table.family, &desired.table.name)?;
                observed.chains = marked_rules(nftables)?;
            }
            // Nothing can be written: nothing differs. It is reported as a problem.
            None => observed.table = Some(desired.table.clone()),
        }
        Ok(observed)
    }

    fn apply(&mut self, desired: &DesiredHost, observed: &ObservedHost, change: Change) -> anyhow::Result<()> {
        let bridge = || {
            let bridge = observed.links.iter().find(|link| link.name == desired.bridge);
            bridge.map(|bridge| bridge.index).context("the bridge is missing")
        };
        let request: Request = match change {
            Change::DeleteLink { index, name } => links::delete_link(index, &name),
            Change::CreateBridge => links::create_bridge(&desired.bridge, desired.bridge_mac, desired.mtu),
            Change::CreateDnsPort => {
                let bridge = bridge()?;
                let port = DnsPort::create(&self.config, &mut self.channel, bridge, &self.subnets)
                    .context("failed to make the name server's port")?;
                self.dns_sockets.send_replace(Some(port.sockets()));
                self.dns = Some(port);
                return Ok(());
            }
            Change::SetLink { index, name, alias, mac, mtu, tx_queue_length, master, quiet, up } => {
                // With a smaller MTU the link loses IPv6 as a whole, and the kernel refuses settings of it.
                let quiet = quiet && desired.mtu >= IPV6_MINIMUM_MTU;
                let change = LinkChange { alias, mac, mtu, tx_queue_length, master, quiet, up };
                links::set_link(Which::Index(index), &name, change)
            }
            Change::SetBridge { index, settings } => links::set_bridge(index, settings),
            Change::SetPort { index, name, settings } => links::set_port(Which::Index(index), &name, settings),
            Change::AddForwarding(entry) => links::add_forwarding(entry),
            Change::RemoveForwarding(entry) => links::remove_forwarding(entry),
            Change::WriteSysctl(sysctl) => {
                let path = self.config.proc_sys.join(&sysctl.path);
                return fs::write(&path, &sysctl.value)
                    .with_context(|| format!("failed to write {} to {}", sysctl.value, path.display()));
            }
            Change::ReplaceTable(table) => return self.transact(&[Step::ReplaceTable(&table)]),
            Change::MarkChain { chain, delete, insert } => {
                let deletes = delete.into_iter().map(|handle| Step::DeleteRule(&chain, handle));
                let steps: Vec<Step<'_>> = deletes.chain([Step::InsertRule(&chain, &insert)]).collect();
                return self.transact(&steps).with_context(|| format!("failed to change the chain {}", chain.chain));
            }
        };
        self.channel.perform(vec![request])
    }

    pub(super) fn transact(&mut self, steps: &[Step<'_>]) -> anyhow::Result<()> {
        self.nftables.as_mut().context("the kernel has no nftables")?.transact(steps)
    }

    fn find_problems(&self, desired: &DesiredHost, observed: &ObservedHost) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |reason, message| problems.push(Problem { reason, message });
        let bridge = observed.links.iter().find(|link| link.name == desired.bridge);
        if let Some(link) = bridge.filter(|link| link.kind != "bridge") {
            add(
                "bridge_name_taken",
                format!(
                    "the host has a link {} that is no bridge: rename it, or name weft's bridge otherwise",
                    link.name
                ),
            );
        }
        if !observed.links.iter().any(|link| link.name == desired.tap && link.kind == "tun") {
            add(
                "tap_missing",
                format!("the device {} is missing, so nothing reaches other hosts: restart the router", desired.tap),
            );
        }
        if self.nftables.is_none() {
            add(
                "nftables_missing",
                "the kernel has no nftables, so weft cannot keep its filter rules: load the module nf_tables".into(),
            );
        }
        problems
    }

    /// Has legacy xtables accept the overlay's frames too, and returns how many changes that took. What fails is a problem.
    fn keep_legacy_filters(&mut self) -> usize {
        let mut count = 0;
        for (family, setting, tool) in [
            (Family::Ipv4, "bridge-nf-call-iptables", "iptables-legacy"),
            (Family::Ipv6, "bridge-nf-call-ip6tables", "ip6tables-legacy"),
        ] {
            let path = self.config.proc_sys.join("net/bridge").join(setting);
            let bridged = fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
            if !bridged || !nftables::legacy_filter(family).unwrap_or(false) {
                continue;
            }
            let bridge = &self.config.bridge;
            match legacy::keep(&self.config.host_root, family, bridge) {
                Ok(changes) => count += changes,
                Err(error) => self.problems.push(Problem {
                    reason: "legacy_xtables",
                    message: format!(
                        "the host filters with legacy xtables, which may drop overlay frames between its containers, and weft's \
                         rule cannot be put there ({error:#}): run `{tool} -I FORWARD -i {bridge} -o {bridge} -m comment \
                         --comment {mark} -j ACCEPT` on the host, or let it use iptables-nft",
                        mark = hostnet::ALIAS
                    ),
                }),
            }
        }
        count
    }
}

/// Reads whose port a link is.
pub(super) fn marker(link: &ObservedLink) -> Option<PortMarker> {
    link.alias.as_deref().filter(|_| link.kind == "veth")?.parse().ok()
}

type MarkedRules = BTreeMap<ChainRef, Vec<(u64, hostnet::Rule)>>;

/// Lists the chains of others that have to accept, with the rules in them that are ours.
fn marked_rules(nftables: &mut Nftables) -> anyhow::Result<MarkedRules> {
    let mut chains = MarkedRules::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for name in hostnet::ACCEPTING_CHAINS {
            let chain = ChainRef { family, chain: name.into() };
            if !nftables.has_chain(&chain)? {
                continue;
            }
            let mut rules = nftables.filter_rules(&chain)?;
            rules.retain(|(_, rule)| rule.comment.as_deref() == Some(hostnet::ALIAS));
            chains.insert(chain, rules);
        }
    }
    Ok(chains)
}
