//! `status`: one section for each service.

use std::{collections::BTreeMap, fmt};

use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::{dns::v1 as dns, ipam::v1 as ipam, proxy::v1 as proxy, router::v1 as router};

use super::{Floating, Identity, PassedOn, Problem, endpoint, prefix};
use crate::ServiceError;

/// Everything on this host.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Status {
    /// The command's version.
    pub version: String,
    /// The router.
    pub router: Section<RouterSection>,
    /// ipam.
    pub ipam: Section<IpamSection>,
    /// dns.
    pub dns: Section<DnsSection>,
    /// docker-proxy.
    pub proxy: Section<ProxySection>,
}

/// What one service says, or why it says nothing.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Section<T> {
    /// It answered.
    Here(T),
    /// It did not.
    Away {
        /// Why.
        away: Problem,
    },
}

impl<T> Section<T> {
    fn new<'a, A>(answer: &'a Result<A, ServiceError>) -> Self
    where
        T: From<&'a A>,
    {
        Self::made(answer.as_ref(), T::from)
    }

    /// Makes of an answer what `make` makes of it.
    pub fn made<A>(answer: Result<A, &ServiceError>, make: impl FnOnce(A) -> T) -> Self {
        match answer {
            Ok(answer) => Self::Here(make(answer)),
            Err(error) => {
                let reason = error.reason().to_owned();
                Self::Away { away: Problem { reason, message: error.to_string(), age_seconds: None } }
            }
        }
    }

    pub(super) const fn is_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }
}

/// The router's section.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RouterSection {
    /// Its version.
    pub version: String,
    /// Who this host is.
    pub identity: Identity,
    /// Whether data is sealed.
    pub encrypted: bool,
    /// Whether a password decides who may join.
    pub password_set: bool,
    /// Subnets of hosts with which data is not sealed, if they trust this host.
    pub trusted_subnets: Vec<String>,
    /// Whether peers are found by themselves.
    pub discovery: bool,
    /// Port of control and data.
    pub port: u32,
    /// How many targets there are.
    pub targets: usize,
    /// How many connections there are, by state: "established", "pending", "retrying", "failed", "connecting".
    pub connections: BTreeMap<&'static str, usize>,
    /// How many peers the mesh has, this host included.
    pub peers: usize,
    /// How many of them cannot be reached.
    pub unreachable_peers: usize,
    /// Links between peers that carry data, both directions counted.
    pub established_links: usize,
    /// Links between peers that do not carry data yet.
    pub pending_links: usize,
    /// The way of the containers' frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_plane: Option<DataPlane>,
    /// How many ports of the host lead to containers; absent where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_ports: Option<usize>,
    /// How many services outside have names inside; absent where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imported_services: Option<usize>,
    /// Floating addresses of this host's containers; absent where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floating_addresses: Option<Floating>,
    /// What keeps the router from working as it should, worst first.
    pub problems: Vec<Problem>,
}

/// The way of the containers' frames.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DataPlane {
    /// Bridge of the containers.
    pub bridge: String,
    /// Its MTU.
    pub mtu_bytes: u32,
    /// Facilities of the kernel in use.
    pub facilities: Vec<String>,
    /// Those that are not to be had.
    pub missing_facilities: Vec<String>,
    /// Frames sent to other hosts.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames received from other hosts.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Dropped frames and datagrams by reason.
    pub drops: BTreeMap<String, u64>,
}

/// The section of ipam.
#[derive(Debug, Serialize, JsonSchema)]
pub struct IpamSection {
    /// Its version.
    pub version: String,
    /// "ready", or what it waits for.
    pub state: String,
    /// All addresses; absent while unknown.
    pub range: Option<String>,
    /// Where addresses come from if nothing is said.
    pub default_subnet: Option<String>,
    /// Prefix of all IPv6 addresses; absent without a ring.
    pub ula_prefix: Option<String>,
    /// Addresses in use on this host.
    pub allocated: u64,
    /// Requests that wait for space.
    pub pending: usize,
    /// What keeps ipam from working as it should.
    pub problems: Vec<Problem>,
}

/// The section of dns.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DnsSection {
    /// Its version.
    pub version: String,
    /// Domain of the containers, with its trailing dot.
    pub zone: String,
    /// Where containers ask.
    pub address: String,
    /// Resolvers for everything else.
    pub upstreams: Vec<String>,
    /// How long answers may be kept.
    pub ttl_seconds: u32,
    /// How many names there are.
    pub records: u64,
    /// What keeps dns from working as it should.
    pub problems: Vec<Problem>,
}

/// The section of docker-proxy.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProxySection {
    /// Its version.
    pub version: String,
    /// What DOCKER_HOST may be set to, best first.
    pub addresses: Vec<String>,
    /// The same addresses, and how clients are asked to prove themselves there.
    pub listeners: Vec<Listener>,
    /// The engine's own socket.
    pub engine_socket: String,
    /// The engine's version; empty while it has not answered.
    pub engine_version: String,
    /// The version of its API.
    pub engine_api_version: String,
    /// How many containers are attached.
    pub attached_containers: u64,
    /// What keeps docker-proxy from working as it should.
    pub problems: Vec<Problem>,
}

/// An address of the Docker API.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Listener {
    /// What DOCKER_HOST may be set to.
    pub address: String,
    /// Whether clients must use TLS.
    pub tls: bool,
    /// Whether they must show a certificate, too.
    pub client_certificates: bool,
}

impl From<&router::GetStatusResponse> for RouterSection {
    fn from(status: &router::GetStatusResponse) -> Self {
        let mut connections = BTreeMap::new();
        for connection in &status.connections {
            let state = match connection.state() {
                router::ConnectionState::Established => "established",
                router::ConnectionState::Unspecified | router::ConnectionState::Pending => "pending",
            };
            *connections.entry(state).or_default() += 1;
        }
        for target in &status.targets {
            let state = match target.state() {
                router::TargetState::Connected => continue,
                router::TargetState::Waiting => "retrying",
                router::TargetState::Refused => "failed",
                router::TargetState::Unspecified | router::TargetState::Connecting => "connecting",
            };
            *connections.entry(state).or_default() += 1;
        }
        let links = || status.peers.iter().flat_map(|peer| &peer.links);
        let unreachable = status.peers.iter().filter(|peer| peer.state() == router::PeerState::Unreachable);
        Self {
            version: status.version.clone(),
            identity: Identity::new(status.peer_name.as_ref(), &status.name, &status.nickname),
            encrypted: status.encrypted,
            password_set: status.password_set,
            trusted_subnets: status.trusted_subnets.iter().map(prefix).collect(),
            discovery: status.discovery,
            port: status.port,
            targets: status.targets.len(),
            connections,
            peers: status.peers.len(),
            unreachable_peers: unreachable.count(),
            established_links: links().filter(|link| link.data_direct || link.data_stream).count(),
            pending_links: links().filter(|link| !link.data_direct && !link.data_stream).count(),
            data_plane: status.data_plane.as_ref().map(Into::into),
            published_ports: None,
            imported_services: None,
            floating_addresses: None,
            problems: status.problems.iter().map(Into::into).collect(),
        }
    }
}

impl From<&router::DataPlaneStatus> for DataPlane {
    fn from(status: &router::DataPlaneStatus) -> Self {
        Self {
            bridge: status.bridge.clone(),
            mtu_bytes: status.mtu_bytes,
            facilities: status.facilities.clone(),
            missing_facilities: status.missing_facilities.clone(),
            sent_frames: status.sent_frames,
            sent_bytes: status.sent_bytes,
            received_frames: status.received_frames,
            received_bytes: status.received_bytes,
            drops: status.drops.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
        }
    }
}

impl From<&ipam::GetStatusResponse> for IpamSection {
    fn from(status: &ipam::GetStatusResponse) -> Self {
        let state = match status.state() {
            ipam::RingState::Ready if !status.pending.is_empty() => "waiting for IP(s) to become available".to_owned(),
            ipam::RingState::Ready => "ready".to_owned(),
            ipam::RingState::Electing => {
                format!("awaiting consensus (voters: {}, heard: {})", status.voters, status.voters_heard)
            }
            ipam::RingState::WaitingForPeers => "waiting for the first peer, which may have a ring".to_owned(),
            ipam::RingState::Unspecified => "unknown".to_owned(),
        };
        Self {
            version: status.version.clone(),
            state,
            range: status.range.as_ref().map(prefix),
            default_subnet: status.default_subnet.as_ref().map(prefix),
            ula_prefix: status.ula_prefix.as_ref().map(prefix),
            allocated: status.allocated,
            pending: status.pending.len(),
            problems: status.problems.iter().map(Into::into).collect(),
        }
    }
}

impl From<&dns::GetStatusResponse> for DnsSection {
    fn from(status: &dns::GetStatusResponse) -> Self {
        let upstreams = status.upstreams.iter().filter_map(|upstream| upstream.endpoint.as_ref());
        Self {
            version: status.version.clone(),
            zone: status.zone.clone(),
            address: status.address.as_ref().map(endpoint).unwrap_or_default(),
            upstreams: upstreams.map(endpoint).collect(),
            ttl_seconds: status.ttl_seconds,
            records: status.records,
            problems: status.problems.iter().map(Into::into).collect(),
        }
    }
}

impl From<&proxy::GetStatusResponse> for ProxySection {
    fn from(status: &proxy::GetStatusResponse) -> Self {
        Self {
            version: status.version.clone(),
            addresses: status.listeners.iter().map(|listener| listener.address.clone()).collect(),
            listeners: status.listeners.iter().map(Into::into).collect(),
            engine_socket: status.engine_socket.clone(),
            engine_version: status.engine_version.clone(),
            engine_api_version: status.engine_api_version.clone(),
            attached_containers: status.attached_containers,
            problems: status.problems.iter().map(Into::into).collect(),
        }
    }
}

impl From<&proxy::Listener> for Listener {
    fn from(listener: &proxy::Listener) -> Self {
        let proxy::Listener { address, tls, client_certificates } = listener.clone();
        Self { address, tls, client_certificates }
    }
}

impl Status {
    /// Takes what the services say, or why they do not.
    #[must_use]
    pub fn new(
        router: &Result<router::GetStatusResponse, ServiceError>,
        ipam: &Result<ipam::GetStatusResponse, ServiceError>,
        dns: &Result<dns::GetStatusResponse, ServiceError>,
        proxy: &Result<proxy::GetStatusResponse, ServiceError>,
    ) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            router: Section::new(router),
            ipam: Section::new(ipam),
            dns: Section::new(dns),
            proxy: Section::new(proxy),
        }
    }

    /// Takes what the router says that it passes on, if it says it.
    #[must_use]
    pub fn with_services(mut self, services: Option<&PassedOn>) -> Self {
        if let Section::Here(router) = &mut self.router {
            router.published_ports = services.map(|services| services.published.len());
            router.imported_services = services.map(|services| services.imported.len());
        }
        self
    }

    /// Takes what the router says that it may pass for containers, if it says it.
    #[must_use]
    pub fn with_floating(mut self, floating: Option<Floating>) -> Self {
        if let Section::Here(router) = &mut self.router {
            router.floating_addresses = floating;
        }
        self
    }

    /// Tells whether all services answered.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.router.is_here() && self.ipam.is_here() && self.dns.is_here() && self.proxy.is_here()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "Version", &self.version)?;
        section(f, "router", &self.router)?;
        section(f, "ipam", &self.ipam)?;
        section(f, "dns", &self.dns)?;
        section(f, "proxy", &self.proxy)
    }
}

fn section<T: fmt::Display>(f: &mut fmt::Formatter<'_>, name: &str, section: &Section<T>) -> fmt::Result {
    writeln!(f)?;
    line(f, "Service", name)?;
    match section {
        Section::Here(section) => write!(f, "{section}"),
        Section::Away { away } => line(f, "Problem", away),
    }
}

fn line(f: &mut fmt::Formatter<'_>, key: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "{key:>15}: {value}")
}

fn problems(f: &mut fmt::Formatter<'_>, problems: &[Problem]) -> fmt::Result {
    problems.iter().try_for_each(|problem| line(f, "Problem", problem))
}

impl fmt::Display for RouterSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "Name", &self.identity)?;
        let encryption = match (self.encrypted, self.password_set) {
            (true, true) => "enabled",
            (true, false) => "enabled, but without a password anyone may join",
            (false, _) => "disabled",
        };
        line(f, "Encryption", encryption)?;
        line(f, "PeerDiscovery", if self.discovery { "enabled" } else { "disabled" })?;
        line(f, "Port", self.port)?;
        line(f, "Targets", self.targets)?;
        let total: usize = self.connections.values().sum();
        let order = ["established", "pending", "retrying", "failed", "connecting"];
        let states = order.iter().filter_map(|state| Some(format!("{} {state}", self.connections.get(state)?)));
        let states = states.collect::<Vec<_>>().join(", ");
        let states = if states.is_empty() { states } else { format!(" ({states})") };
        line(f, "Connections", format_args!("{total}{states}"))?;
        let Self { peers, established_links, pending_links, unreachable_peers, .. } = self;
        let mut links = Vec::new();
        if *established_links > 0 {
            links.push(format!("{established_links} established"));
        }
        if *pending_links > 0 {
            links.push(format!("{pending_links} pending"));
        }
        let links = if links.is_empty() { String::new() } else { format!(" (with {} connections)", links.join(", ")) };
        let unreachable = match unreachable_peers {
            0 => String::new(),
            count => format!(", {count} unreachable"),
        };
        line(f, "Peers", format_args!("{peers}{links}{unreachable}"))?;
        let trusted = self.trusted_subnets.join(", ");
        line(f, "TrustedSubnets", if trusted.is_empty() { "none" } else { &trusted })?;
        if let Some(count) = self.published_ports.filter(|count| *count > 0) {
            line(f, "PublishedPorts", count)?;
        }
        if let Some(count) = self.imported_services.filter(|count| *count > 0) {
            line(f, "ImportedServices", count)?;
        }
        if let Some(floating) = self.floating_addresses.filter(|floating| floating.addresses > 0) {
            line(f, "Floating", floating)?;
        }
        if let Some(data_plane) = &self.data_plane {
            line(f, "Bridge", format_args!("{} (MTU {})", data_plane.bridge, data_plane.mtu_bytes))?;
            if !data_plane.missing_facilities.is_empty() {
                line(f, "Without", data_plane.missing_facilities.join(", "))?;
            }
        }
        problems(f, &self.problems)
    }
}

impl fmt::Display for IpamSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "Status", &self.state)?;
        for (key, value) in
            [("Range", &self.range), ("DefaultSubnet", &self.default_subnet), ("IPv6", &self.ula_prefix)]
        {
            if let Some(value) = value {
                line(f, key, value)?;
            }
        }
        line(f, "Active", self.allocated)?;
        problems(f, &self.problems)
    }
}

impl fmt::Display for DnsSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "Domain", &self.zone)?;
        line(f, "Address", &self.address)?;
        let upstreams = if self.upstreams.is_empty() { "none".to_owned() } else { self.upstreams.join(", ") };
        line(f, "Upstream", upstreams)?;
        line(f, "TTL", self.ttl_seconds)?;
        line(f, "Entries", self.records)?;
        problems(f, &self.problems)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protection = match (self.tls, self.client_certificates) {
            _ if self.address.starts_with("unix://") => "",
            (true, true) => " (TLS, with client certificates)",
            (true, false) => " (TLS, without client certificates)",
            (false, _) => " (without TLS)",
        };
        write!(f, "{}{protection}", self.address)
    }
}

impl fmt::Display for ProxySection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listeners.iter().try_for_each(|listener| line(f, "Address", listener))?;
        if self.engine_version.is_empty() {
            line(f, "Engine", format_args!("no answer yet on {}", self.engine_socket))?;
        } else {
            line(f, "Engine", format_args!("{} (API {})", self.engine_version, self.engine_api_version))?;
        }
        line(f, "Containers", format_args!("{} attached", self.attached_containers))?;
        problems(f, &self.problems)
    }
}
