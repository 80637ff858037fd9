//! What may pass the ports of containers: what each may send, and who may exchange frames.
//!
//! A container with NET_RAW sends whatever it likes, so nothing of this depends on what it says. The rules are the same with one
//! container and with a thousand: what they compare with is in sets, of which an attaching changes a handful of elements in
//! one transaction. What each port may send is remembered by the kernel alone: a router that starts reads it there again.

mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use weft_types::{AllowedAddresses, MacAddress};

pub use self::rules::ports_table;
use super::Table;
use crate::{forward::DropReason, membership::subnets};

/// Bytes that the kernel has for the name of a link.
const LINK_NAME: usize = 16;
/// Comment of addresses that are permitted and not the container's own.
const ALLOWED: &str = "allowed";
/// Comment of a port and its MAC if what goes with them is what the container shows, because nobody knew what it was given.
const UNCONFIRMED: &str = "unconfirmed";

/// What the bridge has beside the ports of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayBridge {
    /// Name of the data plane's device.
    pub tap: String,
    /// Name of the name server's port.
    pub dns_port: String,
    /// Address of the bridge itself, which is the host's on the overlay.
    pub mac: MacAddress,
}

/// Which set of [`ports_table`] an element is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortSet {
    /// Port and MAC of each container.
    Sources,
    /// The same with each of its IPv4 addresses.
    Sources4,
    /// The same with each of its IPv6 addresses.
    Sources6,
    /// Ports of containers here that are in a subnet.
    Ports(IpNet),
    /// MACs of containers elsewhere that are in it.
    Macs(IpNet),
}

impl PortSet {
    /// Returns its name in the table. Listings take no colon there.
    #[must_use]
    pub fn name(&self) -> String {
        let of = |kind: &str, subnet: &IpNet| format!("{kind}-{subnet}").replace(':', "_");
        match self {
            Self::Sources => "sources".into(),
            Self::Sources4 => "sources4".into(),
            Self::Sources6 => "sources6".into(),
            Self::Ports(subnet) => of("ports", subnet),
            Self::Macs(subnet) => of("macs", subnet),
        }
    }

    /// Returns the set of a name, if it is one of ours.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let subnet = |text: &str| text.replace('_', ":").parse().ok();
        match name {
            "sources" => Some(Self::Sources),
            "sources4" => Some(Self::Sources4),
            "sources6" => Some(Self::Sources6),
            _ => match name.split_once('-')? {
                ("ports", text) => subnet(text).map(Self::Ports),
                ("macs", text) => subnet(text).map(Self::Macs),
                _ => None,
            },
        }
    }
}

/// What the kernel keeps in a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortElement {
    /// Where.
    pub set: PortSet,
    /// In the order of registers.
    pub key: Vec<u8>,
    /// What listings show, and what is read again after a restart: the length of an address' prefix, or that it is only allowed.
    pub comment: Option<String>,
}

/// What one container may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSources {
    /// Address of its interface.
    pub mac: MacAddress,
    /// Its interface addresses.
    pub addresses: BTreeSet<IpNet>,
    /// What it may give itself. It makes it no member of a subnet.
    pub allowed: AllowedAddresses,
    /// Whether somebody gave it those, rather than that it shows them.
    pub confirmed: bool,
}

/// Elements to remove, and then to add, in one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PortChanges {
    /// To remove.
    pub remove: Vec<PortElement>,
    /// To add.
    pub add: Vec<PortElement>,
}

impl PortChanges {
    /// Returns what makes `wanted` of `present`.
    #[must_use]
    pub fn between(present: &BTreeSet<PortElement>, wanted: &BTreeSet<PortElement>) -> Self {
        Self {
            remove: present.difference(wanted).cloned().collect(),
            add: wanted.difference(present).cloned().collect(),
        }
    }

    /// Tells whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// What may pass the ports of a host.
#[derive(Debug, Default)]
pub struct Ports {
    ports: BTreeMap<String, PortSources>,
    remote: BTreeMap<MacAddress, BTreeSet<IpNet>>,
    /// Subnets that the host itself has addresses in.
    host: BTreeSet<IpNet>,
    /// Subnets that the table has sets for: those of the ports and the host, since all were compared last.
    subnets: BTreeSet<IpNet>,
}

impl Ports {
    /// Returns what a port may send, if it is known.
    #[must_use]
    pub fn get(&self, port: &str) -> Option<&PortSources> {
        self.ports.get(port)
    }

    /// Lists the ports that are known.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.ports.keys().map(String::as_str)
    }

    /// Says what a port may send, nothing if it is gone, and returns what has to change; nothing if that takes a table with
    /// other sets, for subnets that no port was in before.
    pub fn set(&mut self, port: &str, sources: Option<PortSources>) -> Option<PortChanges> {
        if self.ports.get(port) == sources.as_ref() {
            return Some(PortChanges::default());
        }
        let present = self.of_port(port);
        match sources {
            Some(sources) => drop(self.ports.insert(port.to_owned(), sources)),
            None => drop(self.ports.remove(port)),
        }
        let known = self.ports.get(port).is_none_or(|sources| subnets(&sources.addresses).is_subset(&self.subnets));
        known.then(|| PortChanges::between(&present, &self.of_port(port)))
    }

    /// Says in which subnets the containers of other hosts are, by their MACs, and returns what has to change.
    pub fn set_remote(&mut self, remote: BTreeMap<MacAddress, BTreeSet<IpNet>>) -> PortChanges {
        let present = std::mem::replace(&mut self.remote, remote);
        let of = |macs: &BTreeMap<_, _>, others: &BTreeMap<_, _>| -> Vec<PortElement> {
            let changed = macs.iter().filter(|(mac, subnets)| others.get(*mac) != Some(*subnets));
            changed.flat_map(|(mac, subnets)| self.of_mac(*mac, subnets)).collect()
        };
        PortChanges { remove: of(&present, &self.remote), add: of(&self.remote, &present) }
    }

    /// Says in which subnets the host itself is, and tells whether that takes another table.
    pub fn set_host(&mut self, subnets: BTreeSet<IpNet>) -> bool {
        std::mem::replace(&mut self.host, subnets) != self.host
    }

    /// Returns the table that there has to be.
    pub fn table(&mut self, bridge: &OverlayBridge) -> Table {
        let of_ports = self.ports.values().flat_map(|port| subnets(&port.addresses));
        self.subnets = of_ports.chain(self.host.iter().copied()).collect();
        ports_table(bridge, &self.subnets, &self.host)
    }

    /// Returns all elements that there have to be in the table that was returned last.
    #[must_use]
    pub fn elements(&self) -> BTreeSet<PortElement> {
        let of_macs = self.remote.iter().flat_map(|(mac, subnets)| self.of_mac(*mac, subnets));
        self.ports.keys().flat_map(|port| self.of_port(port)).chain(of_macs).collect()
    }

    fn of_port(&self, port: &str) -> BTreeSet<PortElement> {
        let Some(PortSources { mac, addresses, allowed, confirmed }) = self.ports.get(port) else {
            return BTreeSet::new();
        };
        let mut name = port.as_bytes().to_vec();
        name.resize(LINK_NAME, 0);
        let source = [&name[..], &mac.octets(), &[0, 0]].concat();
        let of = |address: IpAddr, comment| {
            let (set, octets) = match address {
                IpAddr::V4(address) => (PortSet::Sources4, address.octets().to_vec()),
                IpAddr::V6(address) => (PortSet::Sources6, address.octets().to_vec()),
            };
            PortElement { set, key: [&source[..], &octets].concat(), comment }
        };
        let mut elements: BTreeSet<PortElement> =
            addresses.iter().map(|address| of(address.addr(), Some(format!("/{}", address.prefix_len())))).collect();
        let own = |address: &IpAddr| addresses.iter().any(|own| own.addr() == *address) || *address == mac.link_local();
        elements
            .extend(allowed.iter().filter(|address| !own(address)).map(|address| of(address, Some(ALLOWED.into()))));
        elements.insert(of(mac.link_local().into(), None));
        let comment = (!confirmed).then(|| UNCONFIRMED.into());
        elements.insert(PortElement { set: PortSet::Sources, key: source.clone(), comment });
        let member = |subnet| PortElement { set: PortSet::Ports(subnet), key: name.clone(), comment: None };
        elements.extend(subnets(addresses).intersection(&self.subnets).copied().map(member));
        elements
    }

    fn of_mac(&self, mac: MacAddress, subnets: &BTreeSet<IpNet>) -> Vec<PortElement> {
        let element =
            |subnet: &IpNet| PortElement { set: PortSet::Macs(*subnet), key: mac.octets().to_vec(), comment: None };
        subnets.intersection(&self.subnets).map(element).collect()
    }
}

/// Returns what the kernel remembers of ports, which nobody but the host's root can have changed. What was never confirmed is
/// not among it.
#[must_use]
pub fn remembered(elements: &BTreeSet<PortElement>) -> BTreeMap<String, PortSources> {
    let mut ports: BTreeMap<String, PortSources> = BTreeMap::new();
    let mut allowed: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut unconfirmed: BTreeSet<String> = BTreeSet::new();
    for PortElement { set, key, comment, .. } in elements {
        let (Some((name, rest)), PortSet::Sources | PortSet::Sources4 | PortSet::Sources6) =
            (key.split_first_chunk::<LINK_NAME>(), set)
        else {
            continue;
        };
        let Some((&[a, b, c, d, e, f, _, _], address)) = rest.split_first_chunk() else { continue };
        let mac = MacAddress::new([a, b, c, d, e, f]);
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let name = name.trim_end_matches('\0').to_owned();
        let new =
            || PortSources { mac, addresses: BTreeSet::new(), allowed: AllowedAddresses::default(), confirmed: true };
        let port = ports.entry(name.clone()).or_insert_with(new);
        let address = match address.len() {
            4 => address.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
            _ => address.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        };
        let length = comment.as_deref().and_then(|comment| comment.strip_prefix('/')?.parse().ok());
        match (address, length) {
            (Some(address), Some(length)) => port.addresses.extend(IpNet::new(address, length).ok()),
            (Some(address), None) if comment.as_deref() == Some(ALLOWED) => {
                allowed.entry(name).or_default().push(address);
            }
            (None, _) if comment.as_deref() == Some(UNCONFIRMED) => drop(unconfirmed.insert(name)),
            _ => {}
        }
    }
    for (name, allowed) in allowed {
        ports.entry(name).and_modify(|port| port.allowed = AllowedAddresses::possible(allowed));
    }
    ports.retain(|name, _| !unconfirmed.contains(name));
    ports
}

/// Reads the reason for which a rule of [`ports_table`] drops frames from its comment.
#[must_use]
pub fn drop_reason(comment: &str) -> Option<DropReason> {
    let name = comment.strip_prefix(super::ALIAS)?.strip_prefix(' ')?;
    DropReason::ALL.into_iter().find(|reason| reason.name() == name)
}

#[cfg(test)]
mod tests;
