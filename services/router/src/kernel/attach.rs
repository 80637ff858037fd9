//! Attaching containers, and detaching them.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::event::{Timespec, poll};
use socket2::{Domain, Socket, Type};
use weft_router_core::hostnet::{
    ALIAS, ForwardingEntry, ObservedLink, PortMarker, PortRole, PortSources, announcements, host_interface,
};
use weft_types::{ContainerId, MacAddress};

use super::{
    AttachError, AttachSpec, Attached, CONTAINER_INTERFACE, HostsFile, KernelConfig, Problem,
    elsewhere::{Interface, Losses},
    host::{Owner, marker},
    hosts_file,
    links::{self, IPV6_MINIMUM_MTU, InterfaceRoute, LinkChange, VethPair, Which},
    namespace::{Namespace, on_thread},
    ports::PortGuard,
    process::{Process, has_ended},
    rtnetlink::Channel,
};
use crate::socket::packet_address;

/// How long the bridge may take to pass frames of a new port; it takes less than a millisecond.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the port of a container that ended may stay: the kernel removes it with the container's network namespace, which is
/// cheaper than to have it removed. A namespace that others share may live on.
const LEAVING: Duration = Duration::from_millis(500);

impl Owner {
    /// Makes a container's `ethwe` as it should be; see [`super::Kernel::attach`].
    pub(super) fn attach(&mut self, spec: &AttachSpec) -> Result<Attached, AttachError> {
        let attempt = self.attempt(spec.clone());
        let Attempted { attached, hosts_written } = on_thread(|| Ok(attempt.run()))
            .map_err(|source| AttachError::Failed { container: spec.container.clone(), source })?;
        self.note_attempt(spec, attached.as_ref().ok(), hosts_written);
        attached
    }

    /// Returns all that attaching takes beside the kernel, so that another thread can do it.
    pub(super) fn attempt(&self, spec: AttachSpec) -> Attempt {
        let (config, own_namespace) = (Arc::clone(&self.config), Arc::clone(&self.own_namespace));
        Attempt { config, own_namespace, guard: self.guard.clone(), spec }
    }

    /// Remembers what came of an attempt.
    pub(super) fn note_attempt(
        &mut self,
        spec: &AttachSpec,
        attached: Option<&Attached>,
        hosts_written: anyhow::Result<()>,
    ) {
        let Some(attached) = attached else { return };
        self.leaving.retain(|_, (name, _)| *name != attached.host_interface);
        self.specs.insert(spec.container.clone(), spec.clone());
        match &spec.hosts_file {
            Some(hosts) => self.note_hosts(&spec.container, hosts, hosts_written),
            None => drop(self.hosts_problems.remove(&spec.container)),
        }
    }

    /// Gives containers back what somebody took from them: their interface, its being up, or addresses. Returns how many got
    /// something. Losses that remain are those of containers for which it failed.
    pub(super) fn keep_attachments(&mut self, losses: &mut Losses) -> anyhow::Result<usize> {
        let ports: BTreeMap<ContainerId, ObservedLink> = self
            .channel
            .links()?
            .into_iter()
            .filter_map(|link| marker(&link).map(|marker| (marker.container, link)))
            .collect();
        // Not before: without the list nobody is given anything, and all losses remain.
        let losses_before = std::mem::take(losses);
        let (mut count, mut failures) = (0, Vec::new());
        for spec in self.specs.values().cloned().collect::<Vec<_>>() {
            let inside = ports.get(&spec.container).map(inside);
            let lost = match inside {
                None => true,
                Some(None) => false,
                Some(Some(interface)) => {
                    losses_before.known.contains(&interface)
                        || losses_before.unknown && !self.has_addresses(interface, &spec.addresses)
                }
            };
            if !lost {
                continue;
            }
            match self.attach(&spec) {
                Ok(_) => {
                    count += 1;
                    tracing::info!(container = %spec.container, "gave back what somebody took from the container's network");
                }
                // It has ended, which takes everything along.
                Err(AttachError::NoProcess { .. } | AttachError::ForeignProcess { .. }) => self.forget(&spec.container),
                Err(error) => {
                    inside.flatten().into_iter().for_each(|interface| losses.add(interface));
                    failures.push(error.to_string());
                }
            }
        }
        if failures.is_empty() { Ok(count) } else { Err(anyhow::anyhow!(failures.join("; "))) }
    }

    /// Tells whether an interface has these addresses. Those of IPv6 are left out: not every container can have them.
    fn has_addresses(&mut self, interface: Interface, addresses: &[IpNet]) -> bool {
        let present = self.channel.addresses_elsewhere(interface.namespace, interface.index).unwrap_or_default();
        addresses.iter().filter(|address| address.addr().is_ipv4()).all(|address| present.contains(address))
    }

    /// Takes addresses from a container; see [`super::Kernel::detach`].
    pub(super) fn detach(&mut self, container: &ContainerId, addresses: &[IpNet]) -> anyhow::Result<Vec<IpNet>> {
        let name = host_interface(container);
        if addresses.is_empty()
            && let Some(removed) = self.let_go(container, &name)?
        {
            return Ok(removed);
        }
        let found = self.channel.link(&name)?;
        let ours = found.and_then(|link| marker(&link).filter(|m| m.container == *container).map(|m| (link, m)));
        let Some((link, marker)) = ours else {
            self.forget(container);
            return Ok(Vec::new());
        };
        // Not what the container shows: it may hide an address, or be unable to have one of IPv6.
        let given = self.guard.given(&link.name);
        let given = given.or_else(|| self.specs.get(container).map(|spec| spec.addresses.clone()));
        let given = match given {
            Some(given) => given,
            None => self.shown(&link)?,
        };
        let named = |given: &IpNet| addresses.is_empty() || addresses.iter().any(|a| a.addr() == given.addr());
        let (removed, kept): (Vec<IpNet>, Vec<IpNet>) = given.into_iter().partition(named);
        if kept.is_empty() {
            if runs(marker.pid, container) {
                self.channel.perform(vec![links::delete_link(link.index, &link.name)])?;
            } else {
                self.leaving.insert(link.index, (link.name, now() + LEAVING));
            }
            self.forget(container);
            return Ok(removed);
        }
        // Before anything that may fail: what was taken must neither pass nor be given back.
        self.guard.withdraw(&link.name, &removed);
        if let Some(spec) = self.specs.get_mut(container) {
            spec.addresses.retain(|address| !named(address));
        }
        let (taken, left): (Vec<IpNet>, Vec<IpNet>) = self.shown(&link)?.into_iter().partition(named);
        if !taken.is_empty() {
            self.remove_addresses(&link, &marker, &taken)
                .with_context(|| format!("failed to take addresses from the container {container}"))?;
        }
        if let Some(hosts) = self.specs.get(container).and_then(|spec| spec.hosts_file.clone()) {
            let kept: Vec<IpAddr> = left.iter().filter(|address| kept.contains(address)).map(IpNet::addr).collect();
            self.note_hosts(container, &hosts, hosts_file::write(&hosts, &kept));
        }
        Ok(removed)
    }

    /// Lists the addresses that a container shows at its interface, whoever gave them to it.
    fn shown(&mut self, port: &ObservedLink) -> anyhow::Result<Vec<IpNet>> {
        let inside = inside(port).context("the container's interface cannot be found")?;
        let shown = self.channel.addresses_elsewhere(inside.namespace, inside.index);
        shown.context("failed to list the container's addresses")
    }

    /// Leaves the port of a container that ended to the kernel, and returns what the container had; nothing if it lives, or was
    /// attached by an earlier run. Route netlink is not asked: whoever starts and ends containers holds its lock.
    fn let_go(&mut self, container: &ContainerId, name: &str) -> anyhow::Result<Option<Vec<IpNet>>> {
        let Some(spec) = self.specs.get(container).filter(|spec| !runs(spec.pid, container)) else { return Ok(None) };
        let removed = spec.addresses.clone();
        if let Some(index) = self.channel.index(name)? {
            self.leaving.insert(index, (name.to_owned(), now() + LEAVING));
        }
        self.forget(container);
        Ok(Some(removed))
    }

    /// Remembers what became of a hosts file. A container works without: it only lacks its own overlay address there.
    fn note_hosts(&mut self, container: &ContainerId, hosts: &HostsFile, written: anyhow::Result<()>) {
        let Err(error) = written else {
            self.hosts_problems.remove(container);
            return;
        };
        let message = format!(
            "the hosts file {} was not written, so that the container lacks its overlay address in /etc/hosts ({error:#}): if \
             Docker's data root is not /var/lib/docker, set WEFT_DOCKER_ROOT to it",
            hosts.path.display()
        );
        tracing::warn!(%container, "{message}");
        self.hosts_problems.insert(container.clone(), Problem { reason: "hosts_file", message });
    }

    /// Removes the ports of containers that ended some time ago.
    pub(super) fn remove_leaving(&mut self) -> anyhow::Result<()> {
        let now = now();
        let due = self.leaving.iter().filter(|(_, (_, at))| *at <= now);
        self.channel.perform(due.map(|(index, (name, _))| links::delete_link(*index, name)).collect())?;
        self.leaving.retain(|_, (_, at)| *at > now);
        Ok(())
    }

    /// Returns when there are such next.
    pub(super) fn leaving_due(&self) -> Option<Instant> {
        self.leaving.values().map(|(_, at)| *at).min()
    }

    fn forget(&mut self, container: &ContainerId) {
        self.specs.remove(container);
        self.hosts_problems.remove(container);
    }

    fn remove_addresses(&mut self, link: &ObservedLink, marker: &PortMarker, removed: &[IpNet]) -> anyhow::Result<()> {
        let index = link.peer_index.context("its interface cannot be found")?;
        let namespace = Process::open(marker.pid)
            .and_then(|process| process.network())
            .with_context(|| format!("the process {} that was attached is gone", marker.pid))?;
        // The number may belong to another process by now.
        if self.channel.namespace_number(namespace.as_fd())? != link.peer_namespace {
            anyhow::bail!("the process {} is no longer in the container", marker.pid);
        }
        let requests = removed.iter().map(|address| links::remove_address(index, *address)).collect();
        namespace.run(|| Channel::open()?.perform(requests))
    }
}

/// Tells whether this process is of the container.
fn runs(pid: u32, container: &ContainerId) -> bool {
    Process::open(pid).and_then(|process| process.belongs_to(container)).unwrap_or_default()
}

/// Returns the other end of a container's port.
fn inside(port: &ObservedLink) -> Option<Interface> {
    Some(Interface { namespace: port.peer_namespace?, index: port.peer_index? })
}

/// One attaching to come. Several may be under way, each of another container.
#[derive(Debug)]
pub(super) struct Attempt {
    config: Arc<KernelConfig>,
    own_namespace: Arc<Namespace>,
    guard: PortGuard,
    spec: AttachSpec,
}

/// What came of one.
#[derive(Debug)]
pub(super) struct Attempted {
    pub(super) attached: Result<Attached, AttachError>,
    /// Whether the hosts file was written, which decides about nothing else.
    pub(super) hosts_written: anyhow::Result<()>,
}

impl Attempt {
    /// Attaches. The calling thread is in the host's namespace before, in the container's afterwards, and good for nothing else.
    pub(super) fn run(self) -> Attempted {
        let mut hosts_written = Ok(());
        let attached = self.enter().and_then(|attaching| {
            let container = || self.spec.container.clone();
            let attached = attaching.run(&mut hosts_written);
            attached.map_err(|error| {
                error.downcast().unwrap_or_else(|source| AttachError::Failed { container: container(), source })
            })
        });
        Attempted { attached, hosts_written }
    }

    fn enter(&self) -> Result<Attaching<'_>, AttachError> {
        let Self { config, own_namespace, guard, spec } = self;
        let container = || spec.container.clone();
        let failed = |source: anyhow::Error| AttachError::Failed { container: container(), source };
        if spec.addresses.is_empty() {
            return Err(AttachError::NoAddress { container: container() });
        }
        let gone = |context: &'static str| {
            move |error: io::Error| {
                if has_ended(&error) {
                    AttachError::NoProcess { container: container(), pid: spec.pid }
                } else {
                    failed(anyhow::Error::new(error).context(context))
                }
            }
        };
        let process = Process::open(spec.pid).map_err(gone("failed to find its process"))?;
        // The container may have ended since it was asked for, and another process may have the number.
        if !process.belongs_to(&spec.container).map_err(gone("failed to find out whose process it is"))? {
            return Err(AttachError::ForeignProcess { container: container(), pid: spec.pid });
        }
        let namespace = process.network().map_err(gone("failed to open its network namespace"))?;
        if namespace.is(own_namespace).map_err(|error| failed(error.into()))? {
            return Err(AttachError::HostNetwork { container: container() });
        }
        let host = Channel::open().map_err(failed)?;
        let bridge = host.index(&config.bridge).and_then(|index| index.context("the bridge is missing"));
        let bridge = bridge.map_err(failed)?;
        let container = namespace.enter().and_then(|()| Channel::open()).map_err(failed)?;
        Ok(Attaching { config, guard, host, container, namespace, bridge, spec })
    }
}

/// One attaching, on a thread in the container's namespace: `/proc/sys/net` there is the container's.
struct Attaching<'a> {
    config: &'a KernelConfig,
    guard: &'a PortGuard,
    /// To the host's kernel state.
    host: Channel,
    /// To the container's.
    container: Channel,
    namespace: Namespace,
    bridge: u32,
    spec: &'a AttachSpec,
}

/// Both ends of a container's veth pair.
struct Ends {
    host: ObservedLink,
    /// Number of the container's.
    container: u32,
    /// Address of the container's.
    mac: Option<MacAddress>,
    /// Made by this attempt.
    new: bool,
}

impl Attaching<'_> {
    fn run(mut self, hosts_written: &mut anyhow::Result<()>) -> anyhow::Result<Attached> {
        let name = host_interface(&self.spec.container);
        let ends = match self.find(&name)? {
            Some(ends) => ends,
            None => self.create(&name).inspect_err(|_| self.remove(&name))?,
        };
        let before = if ends.new { Vec::new() } else { self.container.addresses(ends.container)? };
        // Before the port carries anything: what nobody permitted is dropped.
        let AttachSpec { mac, addresses, allowed, .. } = self.spec;
        let addresses = addresses.iter().copied().collect();
        let sources = PortSources { mac: *mac, addresses, allowed: allowed.clone(), confirmed: true };
        let permitted_before = self.guard.permit(&name, sources, ends.new);
        match self.configure(&ends, hosts_written) {
            Ok(addresses) => Ok(Attached { host_interface: name, addresses }),
            Err(error) => {
                self.guard.restore(&name, permitted_before);
                if ends.new {
                    self.remove(&name);
                } else {
                    self.take_back(ends.container, &before);
                }
                Err(error)
            }
        }
    }

    /// Finds a pair that is there already. What is left of one is removed.
    fn find(&mut self, name: &str) -> anyhow::Result<Option<Ends>> {
        if self.host.index(name)?.is_none() && self.container.index(CONTAINER_INTERFACE)?.is_none() {
            return Ok(None);
        }
        let host = self.host.link(name)?.filter(|link| link.kind == "veth");
        let container = self.container.link(CONTAINER_INTERFACE)?;
        match (host, container) {
            (Some(host), Some(container))
                if host.peer_index == Some(container.index) && container.peer_index == Some(host.index) =>
            {
                Ok(Some(Ends { host, container: container.index, mac: container.mac, new: false }))
            }
            (host, container) => {
                if let Some(container) = container {
                    if container.kind != "veth" || container.alias.as_deref() != Some(ALIAS) {
                        return Err(AttachError::ForeignInterface { container: self.spec.container.clone() }.into());
                    }
                    if let Some(owner) = self.owner_of(container.index)? {
                        return Err(AttachError::SharedNetwork { container: self.spec.container.clone(), owner }.into());
                    }
                    self.container.perform(vec![links::delete_link(container.index, CONTAINER_INTERFACE)])?;
                }
                if let Some(host) = host {
                    self.host.perform(vec![links::delete_link(host.index, name)])?;
                }
                Ok(None)
            }
        }
    }

    /// Returns the other container that an interface of this namespace was made for, if it was made for one.
    fn owner_of(&mut self, interface: u32) -> anyhow::Result<Option<ContainerId>> {
        let namespace = self.host.namespace_number(self.namespace.as_fd())?;
        let ports = self.host.links()?;
        let port = ports.iter().find(|port| port.peer_index == Some(interface) && port.peer_namespace == namespace);
        let owner = port.and_then(marker).map(|marker| marker.container);
        Ok(owner.filter(|owner| *owner != self.spec.container))
    }

    fn create(&mut self, name: &str) -> anyhow::Result<Ends> {
        let pair = VethPair {
            name,
            bridge: self.bridge,
            mtu: self.config.mtu,
            peer_name: CONTAINER_INTERFACE,
            peer_mac: self.spec.mac,
            peer_namespace: self.namespace.as_fd(),
        };
        self.host.perform(vec![links::create_veth(&pair)])?;
        let host = self.host.link(name)?.context("the new port is gone")?;
        let container = self.container.index(CONTAINER_INTERFACE)?.context("the new interface is gone")?;
        Ok(Ends { host, container, mac: Some(self.spec.mac), new: true })
    }

    /// Makes both ends right, whatever they are like, and returns the addresses that the container has then.
    fn configure(&mut self, ends: &Ends, hosts_written: &mut anyhow::Result<()>) -> anyhow::Result<Vec<IpNet>> {
        let (host, container) = (ends.host.index, ends.container);
        let (name, mtu) = (ends.host.name.as_str(), self.config.mtu);
        let alias =
            PortMarker { container: self.spec.container.clone(), mac: self.spec.mac, pid: self.spec.pid }.to_string();
        let role = PortRole::Local(self.spec.mac);
        let port = LinkChange {
            alias: Some(alias),
            mtu: Some(mtu),
            master: Some(self.bridge),
            quiet: ends.host.makes_addresses == Some(true),
            up: true,
            ..LinkChange::default()
        };
        self.host.perform(vec![
            links::set_link(Which::Index(host), name, port),
            links::set_port(Which::Index(host), name, role.settings()),
            links::add_forwarding(ForwardingEntry { port: host, mac: self.spec.mac }),
        ])?;

        let ipv6 = self.write_sysctls()?;
        let wanted: Vec<IpNet> =
            self.spec.addresses.iter().copied().filter(|address| ipv6 || address.addr().is_ipv4()).collect();
        let up = LinkChange {
            mac: (ends.mac != Some(self.spec.mac)).then_some(self.spec.mac),
            mtu: Some(mtu),
            up: true,
            ..LinkChange::default()
        };
        let mut requests: Vec<_> = wanted.iter().map(|address| links::add_address(container, *address)).collect();
        requests.push(links::set_link(Which::Index(container), CONTAINER_INTERFACE, up));
        requests.extend(self.routes(container, ipv6).into_iter().map(links::add_route));
        self.container.perform(requests)?;

        self.wait_for_port(name)?;
        let addresses = self.guard.permitted(name, self.container.addresses(container)?);
        let plain: Vec<IpAddr> = addresses.iter().map(IpNet::addr).collect();
        announce(container, self.spec.mac, &plain)?;
        if let Some(hosts) = &self.spec.hosts_file {
            *hosts_written = hosts_file::write(hosts, &plain);
        }
        let ready = LinkChange { alias: Some(ALIAS.into()), ..LinkChange::default() };
        self.container.perform(vec![links::set_link(Which::Index(container), CONTAINER_INTERFACE, ready)])?;
        Ok(addresses)
    }

    /// Sets what netlink cannot, and tells whether the container can have IPv6.
    fn write_sysctls(&self) -> anyhow::Result<bool> {
        let write = |path: &str, value: &str| {
            let path = self.config.proc_sys.join(path);
            // Writing what is there already costs an announcement of the change for some settings.
            if fs::read_to_string(&path).is_ok_and(|present| present.trim_end() == value) {
                return Ok(());
            }
            fs::write(&path, value).with_context(|| format!("failed to write {value} to {}", path.display()))
        };
        // Without it the first address of a subnet would take the others along when it goes.
        write(&format!("net/ipv4/conf/{CONTAINER_INTERFACE}/promote_secondaries"), "1")?;
        let wanted = self.spec.addresses.iter().any(|address| address.addr().is_ipv6());
        let folder = format!("net/ipv6/conf/{CONTAINER_INTERFACE}");
        let possible = self.config.mtu >= IPV6_MINIMUM_MTU && self.config.proc_sys.join(&folder).is_dir();
        if !(wanted && possible) {
            return Ok(false);
        }
        write(&format!("{folder}/accept_ra"), "0")?;
        write(&format!("{folder}/accept_dad"), "0")?;
        write(&format!("{folder}/disable_ipv6"), "0")?;
        // The engine switches it off there too, and a container reaches its own addresses by the loopback.
        write("net/ipv6/conf/lo/disable_ipv6", "0")?;
        Ok(true)
    }

    fn routes(&self, interface: u32, ipv6: bool) -> Vec<InterfaceRoute> {
        let mut destinations: Vec<IpNet> = Vec::new();
        if self.spec.dns {
            destinations.push(Ipv4Net::new_assert(self.config.dns_address, 32).into());
        }
        if self.spec.multicast_route {
            destinations.push(Ipv4Net::new_assert([224, 0, 0, 0].into(), 4).into());
            if ipv6 {
                destinations.push(Ipv6Net::new_assert([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8).into());
            }
        }
        destinations.into_iter().map(|destination| InterfaceRoute { destination, interface }).collect()
    }

    /// Waits until the bridge passes the port's frames, which the kernel arranges a moment after both ends are up.
    fn wait_for_port(&mut self, name: &str) -> anyhow::Result<()> {
        let deadline = now() + PATIENCE;
        while !self.host.link(name)?.with_context(|| format!("the port {name} is gone"))?.forwards {
            if now() > deadline {
                anyhow::bail!("the bridge does not pass frames of the port {name}");
            }
            let pause = Timespec { tv_sec: 0, tv_nsec: 200_000 };
            // There is nothing to hear: the kernel tells nobody when the port of a bridge passes frames.
            let _ = poll(&mut [], Some(&pause));
        }
        Ok(())
    }

    /// Undoes an attempt. What fails here is found as a leftover.
    fn remove(&mut self, name: &str) {
        let outcome = self.host.link(name).and_then(|link| match link {
            Some(link) => self.host.perform(vec![links::delete_link(link.index, name)]),
            None => Ok(()),
        });
        if let Err(error) = outcome {
            tracing::warn!(name, error = %format_args!("{error:#}"), "failed to remove a port");
        }
    }

    fn take_back(&mut self, interface: u32, before: &[IpNet]) {
        let added = self.spec.addresses.iter().filter(|address| !before.contains(address));
        let requests = added.map(|address| links::remove_address(interface, *address)).collect();
        if let Err(error) = self.container.perform(requests) {
            tracing::warn!(error = %format_args!("{error:#}"), "failed to take back addresses");
        }
    }
}

/// Tells neighbours of an interface, who may remember another MAC for an address.
pub(super) fn announce(interface: u32, mac: MacAddress, addresses: &[IpAddr]) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("failed to open a packet socket")?;
    let destination = packet_address(interface, 0)?;
    for frame in announcements(mac, addresses) {
        socket.send_to(&frame, &destination).context("failed to announce the addresses")?;
    }
    // The kernel closes a packet socket only when no processor handles a frame for it any more, which takes 8 ms on an idle
    // machine: the container does not wait for that.
    let _ = std::thread::Builder::new().name("weft-close".into()).spawn(move || drop(socket));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a deadline of waiting for the kernel")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn losses_remain_while_the_kernel_does_not_list_its_links() {
        let mut owner =
            Owner::open(KernelConfig::new("0123abcd", 1400), watch::channel(None).0, Arc::default()).expect("opened");
        owner.channel = Channel::unanswered();
        let lost = Interface { namespace: 1, index: 2 };
        let mut losses = Losses::default();
        losses.add(lost);
        owner.keep_attachments(&mut losses).expect_err("nobody answers");
        assert!(losses.known.contains(&lost));
    }
}
