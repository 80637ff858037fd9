//! From what the kernel has to what it should have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use weft_types::MacAddress;

use super::{ALIAS, ChainRef, PortMarker, Rule, Table, accept_rule, firewall::Family};

/// What the host should have.
#[derive(Debug, Clone)]
pub struct DesiredHost {
    /// Name of the bridge.
    pub bridge: String,
    /// Its own address, the same after each restart.
    pub bridge_mac: MacAddress,
    /// Of the bridge and all its ports, in bytes.
    pub mtu: u32,
    /// Name of the TAP device, which the data plane makes.
    pub tap: String,
    /// Frames that may wait for the data plane.
    pub tap_queue_length: u32,
    /// Name of the port that the name server answers at.
    pub dns_port: String,
    /// Address of the name server's interface.
    pub dns_mac: MacAddress,
    /// Index of the name server's port that this run made; any other of that name is a leftover.
    pub dns_index: Option<u32>,
    /// The filter table of our own.
    pub table: Table,
    /// Whether the host has addresses of IPv6 on the bridge.
    pub exposed_by_ipv6: bool,
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedLink {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Kind, as in `bridge`, `veth`, `tun`; empty for hardware.
    pub kind: String,
    /// Text that marks what is ours.
    pub alias: Option<String>,
    /// Ethernet address, if it has one of six bytes.
    pub mac: Option<MacAddress>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Switched on.
    pub up: bool,
    /// Packets that may wait to be sent.
    pub tx_queue_length: u32,
    /// Index of the bridge (or other) that it is a port of.
    pub master: Option<u32>,
    /// Index of the other end of a veth pair, in that end's namespace.
    pub peer_index: Option<u32>,
    /// Our number for the namespace of the other end; absent when it is our own.
    pub peer_namespace: Option<i32>,
    /// Gives itself link-local IPv6 addresses; absent where IPv6 is off.
    pub makes_addresses: Option<bool>,
    /// Settings as a bridge.
    pub bridge: Option<ObservedBridge>,
    /// Settings as a port of a bridge.
    pub port: Option<ObservedPort>,
    /// Settings as a VXLAN device.
    pub vxlan: Option<ObservedVxlan>,
    /// Passes frames as a port of a bridge.
    pub forwards: bool,
}

/// Settings of a VXLAN device that matter to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedVxlan {
    /// Number that tells its datagrams from others, of 24 bits.
    pub vni: u32,
    /// Address that its datagrams come from; none where the kernel chooses.
    pub local: Option<IpAddr>,
    /// Address that all its datagrams go to, if there is one.
    pub remote: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Whether it learns where addresses are.
    pub learning: bool,
}

/// Settings of a bridge that matter to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedBridge {
    /// Spanning tree protocol runs.
    pub spanning_tree: bool,
    /// Multicast goes only where somebody listens.
    pub multicast_snooping: bool,
    /// The bridge asks who listens.
    pub multicast_querier: bool,
}

impl ObservedBridge {
    /// What ours should have: multicast reaches every port, and nobody sends frames of its own.
    pub const DESIRED: Self = Self { spanning_tree: false, multicast_snooping: false, multicast_querier: false };
}

/// Settings of a port that matter to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedPort {
    /// Source addresses enter the forwarding table.
    pub learning: bool,
    /// Gets frames to addresses that the forwarding table does not have.
    pub unicast_flood: bool,
    /// Gets multicast.
    pub multicast_flood: bool,
    /// Gets broadcast.
    pub broadcast_flood: bool,
    /// Cannot reach other isolated ports.
    pub isolated: bool,
    /// Frames may leave by the port that they came by.
    pub hairpin: bool,
}

/// What a port of our bridge leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortRole {
    /// The data plane: it gets every frame that is for no local port.
    Tap,
    /// One local interface with a known address: the forwarding table names it.
    Local(MacAddress),
}

impl PortRole {
    /// Returns the settings of a port in this role.
    #[must_use]
    pub const fn settings(self) -> ObservedPort {
        ObservedPort {
            learning: false,
            unicast_flood: matches!(self, Self::Tap),
            multicast_flood: true,
            broadcast_flood: true,
            // From what kernel VXLAN brings; a single isolated port is not.
            isolated: matches!(self, Self::Tap),
            hairpin: false,
        }
    }
}

/// Says that a MAC lives behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardingEntry {
    /// Index of the port.
    pub port: u32,
    /// Address behind it.
    pub mac: MacAddress,
}

/// A setting under `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// Below `/proc/sys`.
    pub path: String,
    /// As it is read back, without the line's end.
    pub value: String,
}

/// What the kernel has, as far as it concerns us.
#[derive(Debug, Clone, Default)]
pub struct ObservedHost {
    /// All links of the namespace.
    pub links: Vec<ObservedLink>,
    /// Entries of the forwarding table that were set by hand, of all bridges; not the ports' own addresses.
    pub forwarding: BTreeSet<ForwardingEntry>,
    /// Those of [`DesiredHost::sysctls`] that exist.
    pub sysctls: BTreeMap<String, String>,
    /// The table of our name, if there is one.
    pub table: Option<Table>,
    /// Those of [`super::ACCEPTING_CHAINS`] that exist, with the rules in them that carry our mark and their handles.
    pub chains: BTreeMap<ChainRef, Vec<(u64, Rule)>>,
}

/// One step towards what should be. Applied in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Removes a link that an earlier run left.
    DeleteLink {
        /// Which.
        index: u32,
        /// For people.
        name: String,
    },
    /// Makes the bridge; its settings follow when it is observed.
    CreateBridge,
    /// Makes the name server's namespace and port.
    CreateDnsPort,
    /// Changes a link; absent values stay.
    SetLink {
        /// Which.
        index: u32,
        /// For people.
        name: String,
        /// New alias.
        alias: Option<String>,
        /// New Ethernet address.
        mac: Option<MacAddress>,
        /// New MTU.
        mtu: Option<u32>,
        /// New length of the send queue.
        tx_queue_length: Option<u32>,
        /// Bridge to join.
        master: Option<u32>,
        /// Make no IPv6 addresses.
        quiet: bool,
        /// Switch on.
        up: bool,
    },
    /// Gives a bridge its settings.
    SetBridge {
        /// Which.
        index: u32,
        /// All of them.
        settings: ObservedBridge,
    },
    /// Gives a port its settings.
    SetPort {
        /// Which.
        index: u32,
        /// For people.
        name: String,
        /// All of them.
        settings: ObservedPort,
    },
    /// Adds to the forwarding table.
    AddForwarding(ForwardingEntry),
    /// Takes from the forwarding table.
    RemoveForwarding(ForwardingEntry),
    /// Writes below `/proc/sys`.
    WriteSysctl(Sysctl),
    /// Replaces the table of our name, in one transaction.
    ReplaceTable(Table),
    /// Deletes marked rules from a chain of others and puts `insert` first, in one transaction.
    MarkChain {
        /// Which.
        chain: ChainRef,
        /// Handles of rules.
        delete: Vec<u64>,
        /// New first rule.
        insert: Rule,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteLink { name, .. } => write!(f, "delete the link {name}"),
            Self::CreateBridge => f.write_str("create the bridge"),
            Self::CreateDnsPort => f.write_str("create the name server's port"),
            Self::SetLink { name, .. } => write!(f, "set up the link {name}"),
            Self::SetBridge { .. } => f.write_str("set up the bridge"),
            Self::SetPort { name, .. } => write!(f, "set up the port {name}"),
            Self::AddForwarding(entry) => write!(f, "add the forwarding entry of {}", entry.mac),
            Self::RemoveForwarding(entry) => write!(f, "remove the forwarding entry of {}", entry.mac),
            Self::WriteSysctl(sysctl) => write!(f, "set {} to {}", sysctl.path, sysctl.value),
            Self::ReplaceTable(table) => write!(f, "replace the nftables table {}", table.name),
            Self::MarkChain { chain, .. } => {
                let tool = if chain.family == Family::Ipv6 { "ip6" } else { "ip" };
                write!(f, "accept overlay frames in the chain {} of {tool} filter", chain.chain)
            }
        }
    }
}

impl DesiredHost {
    /// Returns the settings under `/proc/sys` that the bridge needs. They vanish with it.
    ///
    /// The host is no station of the overlay unless it is exposed: no IPv6 there, and no answer to ARP for addresses it has
    /// elsewhere.
    #[must_use]
    pub fn sysctls(&self) -> Vec<Sysctl> {
        let sysctl = |path: String, value: &str| Sysctl { path, value: value.into() };
        vec![
            sysctl(format!("net/ipv4/conf/{}/arp_ignore", self.bridge), "1"),
            sysctl(format!("net/ipv6/conf/{}/accept_ra", self.bridge), "0"),
            sysctl(format!("net/ipv6/conf/{}/disable_ipv6", self.bridge), if self.exposed_by_ipv6 { "0" } else { "1" }),
        ]
    }

    /// Tells what a link is to our bridge, from its name and mark; nothing for links that are not ours.
    #[must_use]
    pub fn role(&self, link: &ObservedLink) -> Option<PortRole> {
        if link.name == self.tap && link.kind == "tun" {
            Some(PortRole::Tap)
        } else if Some(link.index) == self.dns_index {
            Some(PortRole::Local(self.dns_mac))
        } else if link.kind == "veth" {
            let marker: PortMarker = link.alias.as_deref()?.parse().ok()?;
            Some(PortRole::Local(marker.mac))
        } else {
            None
        }
    }

    fn is_leftover(&self, link: &ObservedLink) -> bool {
        let stale_dns_port = link.name == self.dns_port && Some(link.index) != self.dns_index;
        let marked = link.alias.as_deref().is_some_and(|alias| alias.parse::<PortMarker>().is_ok());
        link.kind == "veth" && (stale_dns_port || marked && link.peer_namespace.is_none())
    }
}

/// Returns what has to change, in order; nothing when all is as it should be.
///
/// What needs the index of a link that is yet to be made comes when that link is observed: apply, observe, and ask again
/// until nothing is left.
#[must_use]
pub fn difference(desired: &DesiredHost, observed: &ObservedHost) -> Vec<Change> {
    let (leftovers, links): (Vec<_>, Vec<_>) = observed.links.iter().partition(|link| desired.is_leftover(link));
    let mut changes: Vec<Change> =
        leftovers.into_iter().map(|link| Change::DeleteLink { index: link.index, name: link.name.clone() }).collect();

    match links.iter().find(|link| link.name == desired.bridge) {
        None => changes.push(Change::CreateBridge),
        // A name that somebody else took: a problem, not ours to change.
        Some(link) if link.kind != "bridge" => {}
        Some(bridge) => {
            for sysctl in desired.sysctls() {
                if observed.sysctls.get(&sysctl.path).is_some_and(|value| *value != sysctl.value) {
                    changes.push(Change::WriteSysctl(sysctl));
                }
            }
            bridge_changes(desired, bridge, &mut changes);
            for link in &links {
                if let Some(role) = desired.role(link) {
                    port_changes(desired, bridge.index, link, role, &observed.forwarding, &mut changes);
                }
            }
            if !links.iter().any(|link| Some(link.index) == desired.dns_index && link.name == desired.dns_port) {
                changes.push(Change::CreateDnsPort);
            }
        }
    }
    firewall_changes(desired, observed, &mut changes);
    changes
}

fn bridge_changes(desired: &DesiredHost, link: &ObservedLink, changes: &mut Vec<Change>) {
    if link.bridge != Some(ObservedBridge::DESIRED) {
        changes.push(Change::SetBridge { index: link.index, settings: ObservedBridge::DESIRED });
    }
    let alias = (link.alias.as_deref() != Some(ALIAS)).then(|| ALIAS.to_owned());
    let mac = (link.mac != Some(desired.bridge_mac)).then_some(desired.bridge_mac);
    let mtu = (link.mtu != desired.mtu).then_some(desired.mtu);
    if alias.is_some() || mac.is_some() || mtu.is_some() || !link.up {
        changes.push(Change::SetLink {
            index: link.index,
            name: link.name.clone(),
            alias,
            mac,
            mtu,
            tx_queue_length: None,
            master: None,
            quiet: false,
            up: true,
        });
    }
}

fn port_changes(
    desired: &DesiredHost,
    bridge: u32,
    link: &ObservedLink,
    role: PortRole,
    forwarding: &BTreeSet<ForwardingEntry>,
    changes: &mut Vec<Change>,
) {
    let is_tap = role == PortRole::Tap;
    let alias = (link.alias.is_none() && is_tap).then(|| ALIAS.to_owned());
    let mtu = (link.mtu != desired.mtu).then_some(desired.mtu);
    let queue = (is_tap && link.tx_queue_length != desired.tap_queue_length).then_some(desired.tap_queue_length);
    let master = (link.master != Some(bridge)).then_some(bridge);
    let quiet = link.makes_addresses == Some(true);
    if alias.is_some() || mtu.is_some() || queue.is_some() || master.is_some() || quiet || !link.up {
        changes.push(Change::SetLink {
            index: link.index,
            name: link.name.clone(),
            alias,
            mac: None,
            mtu,
            tx_queue_length: queue,
            master,
            quiet,
            up: true,
        });
    }
    if link.port != Some(role.settings()) {
        changes.push(Change::SetPort { index: link.index, name: link.name.clone(), settings: role.settings() });
    }
    let wanted = match role {
        PortRole::Local(mac) => Some(ForwardingEntry { port: link.index, mac }),
        PortRole::Tap => None,
    };
    let present = forwarding.iter().filter(|entry| entry.port == link.index);
    changes.extend(present.filter(|entry| Some(**entry) != wanted).copied().map(Change::RemoveForwarding));
    changes.extend(wanted.filter(|entry| !forwarding.contains(entry)).map(Change::AddForwarding));
}

fn firewall_changes(desired: &DesiredHost, observed: &ObservedHost, changes: &mut Vec<Change>) {
    if observed.table.as_ref() != Some(&desired.table) {
        changes.push(Change::ReplaceTable(desired.table.clone()));
    }
    let rule = accept_rule(&desired.bridge);
    for (chain, marked) in &observed.chains {
        if !matches!(marked.as_slice(), [(_, present)] if *present == rule) {
            changes.push(Change::MarkChain {
                chain: chain.clone(),
                delete: marked.iter().map(|(handle, _)| *handle).collect(),
                insert: rule.clone(),
            });
        }
    }
}
