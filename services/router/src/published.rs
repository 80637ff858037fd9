//! Which ports of the host lead to containers, and which names inside to services outside, over restarts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::kernel::{DesiredServices, Entrance, Translation, TransportProtocol};

/// File with what is published.
pub const PUBLISHED_FILE: &str = "published.json";

/// Ports of the host that lead to containers.
pub const MOST_PORTS: usize = 64;

/// Services outside that have names inside.
pub const MOST_IMPORTS: usize = 64;

/// Containers of a family that a port leads to; of more it leads to those with the lowest addresses.
pub const MOST_BACKENDS: usize = 32;

/// How clients of a service speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// By connections.
    Tcp,
    /// By datagrams.
    Udp,
}

impl From<Protocol> for TransportProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A port of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Not 0.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// An address of the host; absent: all of both families.
    pub address: Option<IpAddr>,
}

impl HostPort {
    /// Tells whether both cannot be had at a time.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let addresses = self.address == other.address || self.address.is_none() || other.address.is_none();
        self.port == other.port && self.protocol == other.protocol && addresses
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.port))?,
            None => write!(f, "{}", self.port)?,
        }
        write!(f, " ({})", self.protocol)
    }
}

/// Whom a port leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Whoever has the name, in the form in which it was given.
    Name(String),
    /// Whoever has the address.
    Address(IpAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// What a port leads to, and who was there last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Whom.
    pub target: Target,
    /// Port there.
    pub port: u16,
    /// Connections begin with a header that names the client.
    pub proxy_protocol: bool,
    /// Interface addresses of the containers that are there. [`Published::backends`] tells which get connections.
    pub backends: BTreeSet<IpNet>,
    /// Subnets that they are in, or were in before the last one went.
    pub subnets: BTreeSet<Ipv4Net>,
}

impl Terms {
    /// Says who is there from now on, and tells whether that is news.
    pub fn set_backends(&mut self, found: impl IntoIterator<Item = IpNet>) -> bool {
        let backends: BTreeSet<IpNet> = found.into_iter().collect();
        if backends == self.backends {
            return false;
        }
        if !backends.is_empty() {
            self.subnets = backends.iter().filter_map(v4_subnet).collect();
        }
        self.backends = backends;
        true
    }
}

/// Returns the subnet of an address, or of the address whose twin it is.
#[must_use]
pub fn v4_subnet(address: &IpNet) -> Option<Ipv4Net> {
    match address {
        IpNet::V4(address) => Some(address.trunc()),
        IpNet::V6(twin) => {
            let [.., length, _, _, _, _, a, b, c, d] = twin.addr().octets();
            let own = Ipv4Net::new([a, b, c, d].into(), length).ok()?;
            (twin.prefix_len() == 96 + length).then(|| own.trunc())
        }
    }
}

/// A service outside that has a name inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// An address, or a name as the host looks it up.
    pub host: String,
    /// Port, inside and outside.
    pub port: u16,
    /// Address that the host has for it on the overlay.
    pub address: Option<Ipv4Net>,
    /// Its twin.
    pub twin: Option<Ipv6Net>,
    /// Addresses outside, at most one of each family.
    pub targets: Vec<IpAddr>,
    /// Addresses inside that dns has for the name.
    pub named: Vec<IpAddr>,
}

impl Import {
    /// Says what to import; where it is is not known yet.
    #[must_use]
    pub const fn new(host: String, protocol: Protocol, port: u16) -> Self {
        Self { protocol, host, port, address: None, twin: None, targets: Vec::new(), named: Vec::new() }
    }

    /// Tells whether both lead to the same service.
    #[must_use]
    pub fn leads_as(&self, other: &Self) -> bool {
        (self.protocol, &self.host, self.port) == (other.protocol, &other.host, other.port)
    }

    /// Returns the addresses inside.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        [self.address.map(IpNet::V4), self.twin.map(IpNet::V6)].into_iter().flatten()
    }

    fn translations(&self) -> impl Iterator<Item = Translation> {
        self.addresses().map(|address| Translation {
            entrance: Entrance::Overlay(address.addr()),
            protocol: self.protocol.into(),
            port: self.port,
            targets: self
                .targets
                .iter()
                .filter(|target| target.is_ipv6() == address.addr().is_ipv6())
                .map(|target| SocketAddr::new(*target, self.port))
                .collect(),
        })
    }
}

/// All that is published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Ports of the host.
    #[serde(with = "pairs")]
    pub ports: BTreeMap<HostPort, Terms>,
    /// Interface addresses that the host has on the overlay to reach containers, with their twins.
    pub held: BTreeMap<Ipv4Net, Option<Ipv6Net>>,
    /// Services outside, by their names inside.
    #[serde(default)]
    pub imports: BTreeMap<String, Import>,
}

impl Published {
    /// Returns what the kernel has to be told. Connections that begin with a header are none of its business.
    #[must_use]
    pub fn desired(&self) -> DesiredServices {
        let translations =
            self.ports.iter().filter(|(_, terms)| !terms.proxy_protocol).map(|(port, terms)| Translation {
                entrance: Entrance::Host(port.address),
                protocol: port.protocol.into(),
                port: port.port,
                targets: self.targets(terms),
            });
        let held = self.held.iter().flat_map(|(v4, v6)| [Some(IpNet::V4(*v4)), v6.map(IpNet::V6)]);
        let imported = self.imports.values();
        DesiredServices {
            addresses: held.flatten().chain(imported.clone().flat_map(Import::addresses)).collect(),
            translations: translations.chain(imported.flat_map(Import::translations)).collect(),
        }
    }

    /// Tells whether the host has an address in a subnet.
    #[must_use]
    pub fn is_in(&self, subnet: Ipv4Net) -> bool {
        self.held.keys().any(|address| address.trunc() == subnet)
    }

    /// Returns the interface addresses of the containers that get connections: those in a subnet where the host has an address by
    /// which it reaches them, no more than [`MOST_BACKENDS`] of a family.
    #[must_use]
    pub fn backends(&self, terms: &Terms) -> BTreeSet<IpNet> {
        let reached = |address: &&IpNet| v4_subnet(address).is_some_and(|subnet| self.is_in(subnet));
        let family = |ipv6: bool| {
            let all = terms.backends.iter().filter(move |address| address.addr().is_ipv6() == ipv6);
            all.filter(reached).take(MOST_BACKENDS).copied()
        };
        family(false).chain(family(true)).collect()
    }

    /// Returns where connections go.
    #[must_use]
    pub fn targets(&self, terms: &Terms) -> BTreeSet<SocketAddr> {
        self.backends(terms).iter().map(|address| SocketAddr::new(address.addr(), terms.port)).collect()
    }

    /// Returns the subnets that the host has to have an address in.
    #[must_use]
    pub fn subnets(&self) -> BTreeSet<Ipv4Net> {
        self.ports.values().flat_map(|terms| &terms.subnets).copied().collect()
    }
}

/// Maps whose keys are more than text.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{HostPort, Terms};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<HostPort, Terms>, to: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<HostPort, Terms>, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("valid")).collect()
    }

    fn terms() -> Terms {
        Terms {
            target: Target::Name("web".into()),
            port: 80,
            proxy_protocol: false,
            backends: BTreeSet::new(),
            subnets: BTreeSet::new(),
        }
    }

    fn port(port: u16, address: Option<&str>) -> HostPort {
        HostPort { port, protocol: Protocol::Tcp, address: address.map(|text| text.parse().expect("valid")) }
    }

    #[test]
    fn the_subnets_of_the_last_container_are_kept() {
        let mut terms = terms();
        assert!(
            terms.set_backends(nets(&["10.32.0.1/12", "fd12::1/108"])) && !terms.set_backends(terms.backends.clone())
        );
        assert!(terms.set_backends([]));
        assert_eq!(terms.subnets, ["10.32.0.0/12".parse().expect("valid")].into());
        assert_eq!(terms.backends, BTreeSet::new());
    }

    /// What is published of a host that has an address in the default subnet, with a twin.
    fn holding() -> Published {
        let held = [("10.32.0.9/12".parse().expect("valid"), Some("fd12:0:0:c::a20:9/108".parse().expect("valid")))];
        Published { held: held.into(), ..Published::default() }
    }

    #[test]
    fn of_too_many_containers_some_get_connections() {
        let mut terms = terms();
        // Those that come first get none at all.
        let outside = (1..=200).map(|last| format!("10.9.0.{last}/24"));
        let many = outside.chain((1..=200).map(|last| format!("10.32.0.{last}/12")));
        terms.set_backends(many.map(|text| text.parse().expect("valid")));
        assert_eq!(holding().backends(&terms).len(), MOST_BACKENDS);
    }

    #[test]
    fn connections_go_where_the_host_has_an_address() {
        let mut terms = terms();
        let all = nets(&[
            "10.32.0.1/12",
            "10.40.0.1/24",
            "192.168.7.5/24",
            "fd12:0:0:c::a20:1/108",
            "fd12:0:0:18::a28:1/120",
        ]);
        terms.set_backends(all);
        let subnets = ["10.32.0.0/12", "10.40.0.0/24", "192.168.7.0/24"].map(|text| text.parse().expect("valid"));
        assert_eq!(terms.subnets, subnets.into());
        let published = holding();
        assert_eq!(published.backends(&terms), nets(&["10.32.0.1/12", "fd12:0:0:c::a20:1/108"]).into_iter().collect());
        assert_eq!(Published::default().targets(&terms), BTreeSet::new());
        terms.set_backends(nets(&["fd12:0:0:c::a20:1/108"]));
        assert_eq!(terms.subnets, ["10.32.0.0/12".parse().expect("valid")].into(), "of the address whose twin it is");
    }

    #[test]
    fn what_is_written_is_read() {
        let mut terms = terms();
        terms.set_backends(nets(&["10.32.0.1/12"]));
        let published = Published {
            ports: [(port(80, None), terms.clone()), (port(81, Some("::1")), terms)].into(),
            held: [("10.32.0.9/12".parse().expect("valid"), Some("fd12::9/108".parse().expect("valid")))].into(),
            imports: BTreeMap::new(),
        };
        let text = serde_json::to_string(&published).expect("encoded");
        assert_eq!(serde_json::from_str::<Published>(&text).expect("read"), published);
        assert_eq!(published.desired().addresses, nets(&["10.32.0.9/12", "fd12::9/108"]));
    }

    #[test]
    fn an_import_leads_from_each_address_to_that_of_its_family() {
        let mut import = Import::new("db.example.org".into(), Protocol::Tcp, 5432);
        import.address = Some("10.32.0.8/12".parse().expect("valid"));
        import.twin = Some("fd12::8/108".parse().expect("valid"));
        import.targets = vec!["192.0.2.1".parse().expect("valid")];
        let published = Published { imports: [("db".to_owned(), import)].into(), ..Published::default() };
        let desired = published.desired();
        assert_eq!(desired.addresses, nets(&["10.32.0.8/12", "fd12::8/108"]));
        let targets: Vec<usize> = desired.translations.iter().map(|one| one.targets.len()).collect();
        assert_eq!(targets, [1, 0]);
        // What a version without imports has written is read.
        let before: Published = serde_json::from_str(r#"{"ports":[],"held":{}}"#).expect("read");
        assert_eq!(before, Published::default());
    }

    #[test]
    fn a_port_of_all_addresses_is_each_ones() {
        let (all, one, other) = (port(80, None), port(80, Some("192.0.2.1")), port(80, Some("192.0.2.2")));
        assert!(all.overlaps(&one) && one.overlaps(&all) && one.overlaps(&one));
        assert!(!one.overlaps(&other) && !all.overlaps(&port(81, None)));
    }
}
