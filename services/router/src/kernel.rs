//! The only writer of kernel network state: links, addresses, routes, rules, sysctls, files that name a container's
//! network.
//!
//! [`Kernel`] is a handle to one worker thread that performs one operation after the other. The worker compares what the
//! kernel has with what it should have (`weft_router_core::hostnet` decides both) whenever the kernel says that something
//! changed, and every [`KernelConfig::check_interval`]; so what somebody else takes away is back within a second, inside containers too.

mod attach;
mod dns;
mod elsewhere;
mod expose;
mod host;
mod hosts_file;
mod legacy;
mod links;
mod namespace;
mod news;
mod nftables;
mod ports;
mod privileges;
mod process;
mod publish;
mod rtnetlink;
mod trusted;
mod worker;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context;
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
pub use weft_router_core::hostnet::{
    ALIAS, DesiredTrusted, Entrance, Exposure, HostsFile, Problem, Translation, TransportProtocol, TrustedLink,
};
use weft_router_core::{forward::DropReason, hostnet};
use weft_types::{AllowedAddresses, ContainerId, MacAddress};

pub use self::{
    dns::DnsSockets,
    publish::DesiredServices,
    trusted::{Sources, TrustedState},
};

/// Name of the interface in a container.
pub const CONTAINER_INTERFACE: &str = "ethwe";

/// Commands that may wait for the worker; who sends more waits.
const COMMANDS: usize = 64;

/// What the worker has to know.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// Name of the bridge.
    pub bridge: String,
    /// Ethernet address of the bridge: unique in the mesh and the same after each restart.
    pub bridge_mac: MacAddress,
    /// Name of the data plane's TAP device.
    pub tap: String,
    /// Frames that may wait for the data plane in the TAP device.
    pub tap_queue_length: u32,
    /// MTU of the bridge, of its ports and of every `ethwe`, in bytes.
    pub mtu: u32,
    /// Where the host's `/proc/sys` can be written.
    pub proc_sys: PathBuf,
    /// Where the host's root folder is seen, in which its own `iptables` runs where nftables does not filter.
    pub host_root: PathBuf,
    /// Name of the name server's port on the bridge.
    pub dns_port: String,
    /// Anycast address at which containers reach the name server.
    pub dns_address: Ipv4Addr,
    /// TCP ports on the host's loopback that nobody may reach from outside.
    pub loopback_ports: Vec<u16>,
    /// How often everything is compared with the kernel though the kernel said nothing.
    pub check_interval: Duration,
}

impl KernelConfig {
    /// Returns the configuration that every host has, but for the address of its bridge and the ports that are kept from
    /// outside.
    ///
    /// `peer` is any text that no other host of the mesh has, best the peer's key.
    #[must_use]
    pub fn new(peer: &str, mtu: u32) -> Self {
        let peer: String = peer.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
        let holder: ContainerId = format!("weft:bridge:{peer}").parse().expect("letters and digits make an id");
        Self {
            bridge: "weft".into(),
            bridge_mac: MacAddress::of_container(&holder),
            tap: "weft-tap".into(),
            tap_queue_length: 64,
            mtu,
            proc_sys: "/proc/sys".into(),
            host_root: "/".into(),
            dns_port: "weft-dns".into(),
            dns_address: Ipv4Addr::new(169, 254, 83, 53),
            loopback_ports: Vec::new(),
            check_interval: Duration::from_secs(10),
        }
    }
}

/// What a container's attachment should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachSpec {
    /// Whose it is.
    pub container: ContainerId,
    /// A process of the container, as this process sees it.
    pub pid: u32,
    /// Address of `ethwe`.
    pub mac: MacAddress,
    /// Interface addresses that `ethwe` must have, of both families; it keeps others that it has. Not empty.
    pub addresses: Vec<IpNet>,
    /// What the container may give itself, instead of what it was allowed before.
    pub allowed: AllowedAddresses,
    /// Send multicast by `ethwe`.
    pub multicast_route: bool,
    /// The container's hosts file, if it is to name the container's addresses.
    pub hosts_file: Option<HostsFile>,
    /// Reach the name server by `ethwe`.
    pub dns: bool,
}

/// An attachment that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The host's end of the veth pair.
    pub host_interface: String,
    /// All overlay addresses of `ethwe`, link-local ones left out.
    pub addresses: Vec<IpNet>,
}

/// An attachment that the kernel has, found by its mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedAttachment {
    /// Whose it is.
    pub container: ContainerId,
    /// Address of `ethwe`.
    pub mac: MacAddress,
    /// A process that was in the container when it was attached.
    pub pid: u32,
    /// The host's end of the veth pair.
    pub host_interface: String,
    /// All overlay addresses of `ethwe`, link-local ones left out; empty where the kernel does not tell them.
    pub addresses: Vec<IpNet>,
    /// What the container may give itself.
    pub allowed: AllowedAddresses,
}

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// Where it leads.
    pub destination: IpNet,
    /// The link it uses; empty for routes without one (`blackhole` and the like).
    pub interface: String,
}

/// What a link has carried, as the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// Frames that left by it, each batch as one.
    pub sent_frames: u64,
    /// Bytes that left by it.
    pub sent_bytes: u64,
    /// Frames that came by it.
    pub received_frames: u64,
    /// Bytes that came by it.
    pub received_bytes: u64,
}

/// Why a container was not attached. Nothing of the attempt is left.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// There is no such process, or it just ended.
    #[error("the container {container} has no running process {pid}: start the container, then attach it")]
    NoProcess {
        /// Whom to attach.
        container: ContainerId,
        /// The process that was named.
        pid: u32,
    },
    /// The process is another one than it was: the container has ended.
    #[error(
        "the process {pid} is not of the container {container}, whose id neither its control groups nor the files bound into \
         it bear: the container has ended; start it, then attach it"
    )]
    ForeignProcess {
        /// Whom to attach.
        container: ContainerId,
        /// The process that was named.
        pid: u32,
    },
    /// The process is in the host's own network namespace.
    #[error(
        "the container {container} uses the host's network and cannot be attached: run it with a network of its own"
    )]
    HostNetwork {
        /// Whom to attach.
        container: ContainerId,
    },
    /// Nothing to configure.
    #[error("the container {container} was given no address to attach with")]
    NoAddress {
        /// Whom to attach.
        container: ContainerId,
    },
    /// The container has an interface of that name which is not ours.
    #[error("the container {container} has an interface {CONTAINER_INTERFACE} that is not weft's: rename or remove it")]
    ForeignInterface {
        /// Whom to attach.
        container: ContainerId,
    },
    /// The interface of that name in its network is another container's.
    #[error(
        "the container {container} shares the network of the container {owner}, whose {CONTAINER_INTERFACE} is there: attach \
         that one"
    )]
    SharedNetwork {
        /// Whom to attach.
        container: ContainerId,
        /// Who is attached there.
        owner: ContainerId,
    },
    /// The kernel or a file refused.
    #[error("failed to attach the container {container}: {source:#}")]
    Failed {
        /// Whom to attach.
        container: ContainerId,
        /// What was refused.
        source: anyhow::Error,
    },
}

/// The handle to the owner of kernel network state. Clones share one worker, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Kernel {
    commands: mpsc::Sender<worker::Command>,
    waker: Arc<worker::Waker>,
    problems: Arc<Mutex<Vec<Problem>>>,
    dns_sockets: watch::Receiver<Option<Arc<DnsSockets>>>,
    direct: Arc<Mutex<BTreeSet<IpAddr>>>,
    /// How often sources of trusted peers were let in ahead of what is desired.
    ahead: Arc<AtomicU64>,
    guard: ports::PortGuard,
}

impl Kernel {
    /// Checks that this process may do what it will have to, and starts the worker in the caller's network namespace.
    ///
    /// Nothing is changed before [`Kernel::prepare`].
    ///
    /// # Errors
    /// One sentence for the first privilege that is missing.
    pub fn start(config: KernelConfig) -> anyhow::Result<Self> {
        privileges::check(&config)?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let problems = Arc::default();
        let (dns_sender, dns_sockets) = watch::channel(None);
        let direct = Arc::default();
        let (waker, ahead, guard) =
            worker::spawn(config, receiver, Arc::clone(&problems), dns_sender, Arc::clone(&direct))?;
        Ok(Self { commands, waker, problems, dns_sockets, direct, ahead, guard })
    }

    /// Opens a socket to the filter of what comes from trusted peers, in the caller's network namespace.
    ///
    /// # Errors
    /// If the kernel has no nftables.
    pub fn sources(&self) -> anyhow::Result<Sources> {
        Sources::open(Arc::clone(&self.ahead))
    }

    /// Says in which subnets the containers of other hosts are, by their MACs: what comes from them for all is shown to those
    /// containers alone that share one. Takes one transaction; what the kernel refuses is tried again.
    pub fn set_remote(&self, subnets: BTreeMap<MacAddress, BTreeSet<IpNet>>) {
        self.guard.set_remote(subnets);
    }

    /// Returns how many frames of this host's containers the kernel has dropped, by reason.
    #[must_use]
    pub fn dropped(&self) -> BTreeMap<DropReason, u64> {
        self.guard.dropped()
    }

    /// Makes the host's network as it should be and returns how many changes that took: none when all was right.
    ///
    /// From then on the worker keeps it so. What an earlier run left is used or removed. The TAP device is joined as soon
    /// as the data plane has made it.
    ///
    /// # Errors
    /// What the kernel refused. The rest was done, and is tried again.
    pub async fn prepare(&self) -> anyhow::Result<usize> {
        self.ask(|reply| worker::Command::Prepare { reply }).await?
    }

    /// Makes `ethwe` in a container, or makes the one that is there right, and returns when it carries traffic.
    ///
    /// Idempotent. All or nothing: a new interface is removed again when a step fails. Not cancel safe in that the
    /// attachment may happen though nobody waits for it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(&self, spec: AttachSpec) -> Result<Attached, AttachError> {
        let container = spec.container.clone();
        self.ask(|reply| worker::Command::Attach { spec, reply })
            .await
            .unwrap_or_else(|source| Err(AttachError::Failed { container, source }))
    }

    /// Takes `addresses` from a container, or all when the list is empty, and the interface with the last. Returns those
    /// that it had.
    ///
    /// Idempotent, also when the container is gone.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn detach(&self, container: ContainerId, addresses: Vec<IpNet>) -> anyhow::Result<Vec<IpNet>> {
        self.ask(|reply| worker::Command::Detach { container, addresses, reply }).await?
    }

    /// Says from which subnets containers ask the name server.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn set_subnets(&self, subnets: BTreeSet<IpNet>) -> anyhow::Result<()> {
        self.ask(|reply| worker::Command::SetSubnets { subnets, reply }).await?
    }

    /// Makes the devices of VXLAN as they should be, and their filter before them, as far as the kernel does not refuse it. From then
    /// on the worker keeps them so. `ahead` is what [`Sources::ahead`] was when this was desired.
    ///
    /// # Errors
    /// If the worker has stopped.
    pub async fn set_trusted(&self, desired: DesiredTrusted, ahead: u64) -> anyhow::Result<TrustedState> {
        self.ask(|reply| worker::Command::SetTrusted { desired, ahead, reply }).await
    }

    /// Gives the host exactly these addresses on the overlay, with what they need to be of use, and returns those of them that it
    /// can have: those of IPv6 only where there is IPv6. From [`Kernel::prepare`] on the worker keeps it so.
    ///
    /// # Errors
    /// What the kernel refused; it is tried again until another list is given.
    pub async fn set_exposed(&self, exposures: Vec<Exposure>) -> anyhow::Result<Vec<Exposure>> {
        self.ask(|reply| worker::Command::SetExposed { exposures, reply }).await?
    }

    /// Has exactly these services lead to their targets, and gives the host the addresses that they need, beside those that it is
    /// exposed with. Returns those that it can have, as [`Kernel::set_exposed`] does. From [`Kernel::prepare`] on the worker keeps
    /// it so.
    ///
    /// # Errors
    /// What the kernel refused; it is tried again until other services are given.
    pub async fn set_published(&self, desired: DesiredServices) -> anyhow::Result<Vec<IpNet>> {
        self.ask(|reply| worker::Command::SetPublished { desired, reply }).await?
    }

    /// Returns which targets of services see who their clients are, as of the last comparison.
    #[must_use]
    pub fn direct(&self) -> BTreeSet<IpAddr> {
        self.direct.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts what VXLAN devices have carried, by name.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn vxlan_traffic(&self) -> anyhow::Result<BTreeMap<String, LinkTraffic>> {
        self.ask(|reply| worker::Command::VxlanTraffic { reply }).await?
    }

    /// Lists the unicast routes of the host's main tables, without default routes and without those by the bridge.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn host_routes(&self) -> anyhow::Result<Vec<HostRoute>> {
        self.ask(|reply| worker::Command::HostRoutes { reply }).await?
    }

    /// Lists the attachments that the kernel has, in order of containers.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub async fn observe(&self) -> anyhow::Result<Vec<ObservedAttachment>> {
        self.ask(|reply| worker::Command::Observe { reply }).await?
    }

    /// Removes everything that [`Kernel::prepare`] and [`Kernel::attach`] made, the TAP device included, and keeps it
    /// removed. Every container loses its `ethwe`.
    ///
    /// # Errors
    /// Everything that was refused; the rest was removed.
    pub async fn remove_all(&self) -> anyhow::Result<()> {
        self.ask(|reply| worker::Command::RemoveAll { reply }).await?
    }

    /// Returns what keeps the host's network from being as it should, as of the last comparison.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Watches the name server's sockets: absent until the port is made, replaced with it.
    #[must_use]
    pub fn dns_sockets(&self) -> watch::Receiver<Option<Arc<DnsSockets>>> {
        self.dns_sockets.clone()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> worker::Command) -> anyhow::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok().context("the owner of kernel network state has stopped")?;
        self.waker.wake();
        answer.await.context("the owner of kernel network state has stopped")
    }
}

fn desired(
    config: &KernelConfig,
    dns_index: Option<u32>,
    exposed: &expose::Exposed,
    translations: &[Translation],
) -> hostnet::DesiredHost {
    let own = hostnet::own_table(&config.bridge, &config.loopback_ports);
    let table = hostnet::let_in(own, &config.bridge, exposed.exposures());
    let table = hostnet::let_translated(table, &config.bridge, exposed.held(), translations);
    let is_station = exposed.addresses().next().is_some();
    hostnet::DesiredHost {
        bridge: config.bridge.clone(),
        bridge_mac: config.bridge_mac,
        mtu: config.mtu,
        tap: config.tap.clone(),
        tap_queue_length: config.tap_queue_length,
        dns_port: config.dns_port.clone(),
        dns_mac: dns::MAC,
        dns_index,
        table: if is_station { hostnet::keep_apart(table, &config.bridge, config.bridge_mac) } else { table },
        exposed_by_ipv6: exposed.addresses().any(|address| address.addr().is_ipv6()),
    }
}
