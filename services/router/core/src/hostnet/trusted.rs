//! Kernel VXLAN with trusted peers: a device for each of them, what may come in there, and which MACs are behind it.
//!
//! What is checked where: `docs/decisions/trusted-subnets.md`. The tables stand before a device exists, so nothing that they
//! would drop ever gets to the bridge.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use weft_types::MacAddress;

use super::{
    ALIAS, BaseChain, Comparison, Expression, Family, ForwardingEntry, Hook, KeyPart, MetaKey, ObservedLink,
    ObservedPort, ObservedVxlan, PayloadBase, Rule, Set, Table, TransportProtocol, Verdict,
    firewall::{interface_name, marked},
};

/// UDP port of VXLAN.
pub const VXLAN_PORT: u16 = 6784;
/// How names of our VXLAN devices begin; six digits of the number of the pair follow.
pub const VXLAN_PREFIX: &str = "weft-vx";
/// Name of the tables that hold what VXLAN needs.
pub const VXLAN_TABLE: &str = "weft-vxlan";
/// Bytes that the kernel has for the name of a link.
const LINK_NAME: usize = 16;

/// Returns the name of the device of a pair, by its number.
#[must_use]
pub fn vxlan_name(vni: u32) -> String {
    format!("{VXLAN_PREFIX}{vni:06x}")
}

/// MACs, each with its addresses.
pub type Sources = BTreeMap<MacAddress, BTreeSet<IpAddr>>;

/// VXLAN with one trusted peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedLink {
    /// Number of the pair, of 24 bits.
    pub vni: u32,
    /// Our address, as the peer sees it.
    pub local: IpAddr,
    /// The peer's, as we see it.
    pub remote: IpAddr,
    /// What lives at the peer.
    pub sources: Arc<Sources>,
    /// Whether frames to these MACs go there.
    pub used: bool,
}

impl TrustedLink {
    /// Returns the name of the device.
    #[must_use]
    pub fn name(&self) -> String {
        vxlan_name(self.vni)
    }

    fn settings(&self) -> ObservedVxlan {
        ObservedVxlan {
            vni: self.vni,
            local: Some(self.local),
            remote: Some(self.remote),
            port: VXLAN_PORT,
            learning: false,
        }
    }
}

/// What a host should have for its trusted peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredTrusted {
    /// Whether there are trusted subnets at all: the tables stand then, whether or not a peer is there.
    pub enabled: bool,
    /// Of the bridge's ports, in bytes.
    pub mtu: u32,
    /// In any order.
    pub links: Vec<TrustedLink>,
}

/// What it has.
#[derive(Debug, Clone, Default)]
pub struct ObservedTrusted {
    /// Index of our bridge.
    pub bridge: Option<u32>,
    /// Links of the namespace, those of VXLAN at least.
    pub links: Vec<ObservedLink>,
    /// Entries of the bridge's forwarding table that were set by hand.
    pub forwarding: BTreeSet<ForwardingEntry>,
    /// Those of [`trusted_tables`] that exist.
    pub tables: Vec<Table>,
    /// Keys in their sets.
    pub keys: BTreeMap<(Family, String), BTreeSet<Vec<u8>>>,
}

/// One step towards what should be. Applied in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedChange {
    /// Takes from the bridge's forwarding table.
    RemoveForwarding(ForwardingEntry),
    /// Removes a device.
    DeleteLink {
        /// Which.
        index: u32,
        /// For people.
        name: String,
    },
    /// Removes a table.
    RemoveTable(Family, String),
    /// Replaces a table and empties its sets, in one transaction.
    ReplaceTable(Table),
    /// Changes what is in a set.
    ChangeSet {
        /// Family of the table.
        family: Family,
        /// Name of the table.
        table: String,
        /// Name of the set.
        set: String,
        /// Keys to add.
        add: Vec<Vec<u8>>,
        /// Keys to remove.
        remove: Vec<Vec<u8>>,
    },
    /// Makes a device, switched off.
    CreateLink(TrustedLink),
    /// Makes a device a port, marks it and switches it on.
    SetLink {
        /// Which.
        index: u32,
        /// For people.
        name: String,
        /// The bridge.
        master: u32,
        /// New MTU.
        mtu: u32,
    },
    /// Gives the port its settings.
    SetPort {
        /// Which.
        index: u32,
        /// For people.
        name: String,
        /// All of them.
        settings: ObservedPort,
    },
    /// Adds to the bridge's forwarding table.
    AddForwarding(ForwardingEntry),
}

impl fmt::Display for TrustedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RemoveForwarding(entry) => write!(f, "remove the forwarding entry of {}", entry.mac),
            Self::DeleteLink { name, .. } => write!(f, "delete the link {name}"),
            Self::RemoveTable(_, name) => write!(f, "remove the nftables table {name}"),
            Self::ReplaceTable(table) => write!(f, "replace the nftables table {}", table.name),
            Self::ChangeSet { set, add, remove, .. } => {
                write!(f, "add {} and remove {} of the nftables set {set}", add.len(), remove.len())
            }
            Self::CreateLink(link) => write!(f, "create the link {} to {}", link.name(), link.remote),
            Self::SetLink { name, .. } => write!(f, "set up the link {name}"),
            Self::SetPort { name, .. } => write!(f, "set up the port {name}"),
            Self::AddForwarding(entry) => write!(f, "add the forwarding entry of {}", entry.mac),
        }
    }
}

/// Settings of a port that leads to a trusted peer: nothing is flooded there and nothing learnt, and nothing that comes there
/// goes to the TAP device or to another peer.
const PORT: ObservedPort = ObservedPort {
    learning: false,
    unicast_flood: false,
    multicast_flood: false,
    broadcast_flood: false,
    isolated: true,
    hairpin: false,
};

impl ObservedTrusted {
    /// Returns the links that lead to trusted peers.
    fn devices(&self) -> impl Iterator<Item = &ObservedLink> {
        self.links.iter().filter(|link| link.kind == "vxlan" && link.name.starts_with(VXLAN_PREFIX))
    }

    /// Tells whether the device of a pair is there, as it should be.
    #[must_use]
    pub fn is_made(&self, desired: &DesiredTrusted, link: &TrustedLink) -> bool {
        let made = self.devices().find(|made| made.name == link.name());
        made.is_some_and(|made| made.vxlan == Some(link.settings()) && is_set_up(desired, self.bridge, made))
    }
}

/// Returns what has to change, in order; nothing when all is as it should be. To be asked again until nothing is left, as
/// [`super::difference`]. `bridge` is the name of ours.
#[must_use]
pub fn trusted_difference(bridge: &str, desired: &DesiredTrusted, observed: &ObservedTrusted) -> Vec<TrustedChange> {
    let mut changes = Vec::new();
    let mut kept = Vec::new();
    for link in observed.devices() {
        let wanted = desired.links.iter().find(|wanted| wanted.name() == link.name);
        match wanted.filter(|wanted| desired.enabled && link.vxlan == Some(wanted.settings())) {
            Some(wanted) => kept.push((link, wanted)),
            None => changes.push(TrustedChange::DeleteLink { index: link.index, name: link.name.clone() }),
        }
    }
    for (link, wanted) in &kept {
        let goes = |entry: &&ForwardingEntry| !(wanted.used && wanted.sources.contains_key(&entry.mac));
        let entries = observed.forwarding.iter().filter(|entry| entry.port == link.index);
        changes.extend(entries.filter(goes).copied().map(TrustedChange::RemoveForwarding));
    }
    let guarded = table_changes(bridge, desired, observed, &mut changes);
    let Some(bridge) = observed.bridge.filter(|_| guarded) else { return changes };
    for wanted in &desired.links {
        match kept.iter().find(|(link, _)| link.name == wanted.name()) {
            Some((link, _)) => link_changes(desired, bridge, link, wanted, &observed.forwarding, &mut changes),
            None => changes.push(TrustedChange::CreateLink(wanted.clone())),
        }
    }
    changes
}

/// Brings tables and sets in line. Tells whether they are as they should be already, so that devices may follow.
fn table_changes(
    bridge: &str,
    desired: &DesiredTrusted,
    observed: &ObservedTrusted,
    changes: &mut Vec<TrustedChange>,
) -> bool {
    if !desired.enabled {
        // They outlive the last device, which would not be filtered without them.
        let tables = observed.tables.iter().filter(|_| observed.devices().next().is_none());
        changes.extend(tables.map(|table| TrustedChange::RemoveTable(table.family, table.name.clone())));
        return false;
    }
    let keys = keys(&desired.links);
    let mut guarded = true;
    for table in trusted_tables(bridge) {
        if !observed.tables.contains(&table) {
            changes.push(TrustedChange::ReplaceTable(table));
            guarded = false;
            continue;
        }
        for set in &table.sets {
            let name = (table.family, set.name.clone());
            let (none, empty) = (BTreeSet::new(), BTreeSet::new());
            let wanted = keys.get(&name).unwrap_or(&none);
            let present = observed.keys.get(&name).unwrap_or(&empty);
            if wanted != present {
                changes.push(TrustedChange::ChangeSet {
                    family: table.family,
                    table: table.name.clone(),
                    set: set.name.clone(),
                    add: wanted.difference(present).cloned().collect(),
                    remove: present.difference(wanted).cloned().collect(),
                });
            }
        }
    }
    guarded
}

fn link_changes(
    desired: &DesiredTrusted,
    bridge: u32,
    link: &ObservedLink,
    wanted: &TrustedLink,
    forwarding: &BTreeSet<ForwardingEntry>,
    changes: &mut Vec<TrustedChange>,
) {
    let (index, name) = (link.index, link.name.clone());
    if !is_set_up(desired, Some(bridge), link) {
        // Its settings as a port follow when it is observed as one.
        changes.push(TrustedChange::SetLink { index, name, master: bridge, mtu: desired.mtu });
        return;
    }
    if link.port != Some(PORT) {
        changes.push(TrustedChange::SetPort { index, name, settings: PORT });
        return;
    }
    let macs = wanted.sources.keys().filter(|_| wanted.used);
    let entries = macs.map(|mac| ForwardingEntry { port: index, mac: *mac });
    changes.extend(entries.filter(|entry| !forwarding.contains(entry)).map(TrustedChange::AddForwarding));
}

fn is_set_up(desired: &DesiredTrusted, bridge: Option<u32>, link: &ObservedLink) -> bool {
    let marked = link.alias.as_deref() == Some(ALIAS) && link.makes_addresses != Some(true);
    marked && bridge.is_some() && link.master == bridge && link.mtu == desired.mtu && link.up
}

/// Returns the keys that let in what lives at peers, by name of their set in the table of the family of bridges.
#[must_use]
pub fn source_keys(links: &[TrustedLink]) -> BTreeMap<String, Vec<Vec<u8>>> {
    let of_bridges = keys(links).into_iter().filter(|((family, _), _)| *family == Family::Bridge);
    of_bridges.map(|((_, set), keys)| (set, keys.into_iter().collect())).collect()
}

/// Returns what is to be in the sets.
fn keys(links: &[TrustedLink]) -> BTreeMap<(Family, String), BTreeSet<Vec<u8>>> {
    let mut keys: BTreeMap<(Family, String), BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut add = |family, set: &str, key: Vec<u8>| {
        keys.entry((family, set.to_owned())).or_default().insert(key);
    };
    for link in links {
        let mut vni = link.vni.to_be_bytes()[1..].to_vec();
        vni.push(0);
        match link.remote {
            IpAddr::V4(remote) => add(Family::Inet, "peers4", [&remote.octets()[..], &vni].concat()),
            IpAddr::V6(remote) => add(Family::Inet, "peers6", [&remote.octets()[..], &vni].concat()),
        }
        let mut name = link.name().into_bytes();
        name.resize(LINK_NAME, 0);
        for (mac, addresses) in link.sources.as_ref() {
            let source = [&name[..], &mac.octets(), &[0, 0]].concat();
            for address in addresses {
                match address {
                    IpAddr::V4(address) => add(Family::Bridge, "sources4", [&source[..], &address.octets()].concat()),
                    IpAddr::V6(address) => add(Family::Bridge, "sources6", [&source[..], &address.octets()].concat()),
                }
            }
            add(Family::Bridge, "sources", source);
        }
    }
    keys
}

/// Returns the tables of our own that VXLAN needs.
///
/// - VXLAN to the host is dropped unless it comes from a trusted peer's address, by the link that this address is reached by,
///   with the number of the pair.
/// - So is what the host would forward to that port: it would leave with the host's own address where addresses are translated.
///   Only within the overlay, whose frames are seen there where bridges have packets filtered, is the port anybody's.
/// - What comes out of VXLAN is for the bridge, never for the host, to whom bridges hand frames for `01:80:c2:00:00:0X`.
/// - Frames that come from a trusted peer are dropped unless their source lives there, and so is all that is for more than one,
///   which comes sealed: `docs/decisions/trusted-subnets.md`.
#[must_use]
pub fn trusted_tables(bridge: &str) -> [Table; 2] {
    [datagram_table(bridge), frame_table()]
}

fn datagram_table(bridge: &str) -> Table {
    use Comparison::{Equal, NotEqual};
    use Expression::{Compare, Counter, Into, Lookup, Meta, Payload, ReversePath};
    const NFPROTO_IPV4: u8 = 2;
    const NFPROTO_IPV6: u8 = 10;
    /// The number in the header of VXLAN, which follows the eight bytes of UDP's (RFC 7348, section 5).
    const NUMBER: Expression = Payload { base: PayloadBase::Transport, offset: 12, length: 3 };

    let known = |family: u8, offset: u32, length: u32, units: u8, set: &str| {
        vec![
            Meta(MetaKey::NetworkProtocol),
            Compare(Equal, vec![family]),
            Payload { base: PayloadBase::Network, offset, length },
            Into(units, Box::new(NUMBER)),
            Lookup { set: set.into(), inverted: false },
            Counter,
            accept(),
        ]
    };
    let others = || {
        [
            vec![Meta(MetaKey::TransportProtocol), Compare(NotEqual, vec![TransportProtocol::Udp as u8]), accept()],
            vec![
                Payload { base: PayloadBase::Transport, offset: 2, length: 2 },
                Compare(NotEqual, VXLAN_PORT.to_be_bytes().to_vec()),
                accept(),
            ],
        ]
    };
    let drop = || vec![Counter, Expression::Verdict(Verdict::Drop)];
    let by_bridge = |key| vec![Meta(key), Compare(Equal, interface_name(bridge))];
    let within = [by_bridge(MetaKey::InterfaceIn), by_bridge(MetaKey::InterfaceOut), vec![accept()]].concat();
    let from_vxlan = [vec![Meta(MetaKey::InterfaceIn), Compare(Equal, VXLAN_PREFIX.into())], drop()].concat();
    let input = std::iter::once(from_vxlan).chain(others()).chain([
        [vec![ReversePath, Compare(Equal, vec![0; 4])], drop()].concat(),
        // Source addresses of IPv4 (RFC 791) and IPv6 (RFC 8200).
        known(NFPROTO_IPV4, 12, 4, 1, "peers4"),
        known(NFPROTO_IPV6, 8, 16, 4, "peers6"),
        drop(),
    ]);
    let forward = others().into_iter().chain([within, drop()]);
    let set = |name: &str, address| Set { name: name.into(), key: vec![address, KeyPart::Number] };
    Table {
        family: Family::Inet,
        name: VXLAN_TABLE.into(),
        sets: vec![set("peers4", KeyPart::Ipv4), set("peers6", KeyPart::Ipv6)],
        chains: vec![
            BaseChain {
                name: "forward".into(),
                hook: Hook::Forward,
                priority: -10,
                rules: forward.map(marked).collect(),
            },
            BaseChain { name: "input".into(), hook: Hook::Input, priority: -10, rules: input.map(marked).collect() },
        ],
    }
}

fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

fn frame_table() -> Table {
    use KeyPart::{Interface, Ipv4, Ipv6, Mac};
    let set = |name: &str, key: &[KeyPart]| Set { name: name.into(), key: key.to_vec() };
    Table {
        family: Family::Bridge,
        name: VXLAN_TABLE.into(),
        sets: vec![
            set("sources", &[Interface, Mac]),
            set("sources4", &[Interface, Mac, Ipv4]),
            set("sources6", &[Interface, Mac, Ipv6]),
        ],
        // Before br_netfilter (NF_BR_PRI_BRNF, 0) has anything look at the packet.
        chains: vec![BaseChain {
            name: "prerouting".into(),
            hook: Hook::Prerouting,
            priority: -300,
            rules: frame_rules(),
        }],
    }
}

fn frame_rules() -> Vec<Rule> {
    use Comparison::{Equal, NotEqual};
    use Expression::{Compare, Counter, Into, Lookup, Mask, Meta, Payload};
    use PayloadBase::{Link, Network, Transport};
    const IPV4: [u8; 2] = [0x08, 0x00];
    const IPV6: [u8; 2] = [0x86, 0xdd];
    const ARP: [u8; 2] = [0x08, 0x06];
    /// 802.1Q and 802.1ad: behind such a tag addresses would hide.
    const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
    const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

    let load = |base, offset, length| Payload { base, offset, length };
    let drop = || vec![Counter, Expression::Verdict(Verdict::Drop)];
    let kind = |kind: [u8; 2]| vec![load(Link, 12, 2), Compare(Equal, kind.to_vec())];
    // The device, the source of the frame, and an address of so many units at a place of the packet.
    let source = || vec![Meta(MetaKey::InterfaceIn), Into(4, Box::new(load(Link, 6, 6)))];
    let address = |base, offset, length| vec![Into(6, Box::new(load(base, offset, length)))];
    let lookup = |set: &str, inverted| vec![Lookup { set: set.into(), inverted }];
    let transport = |protocol: TransportProtocol, offset, value: &[u8]| {
        vec![
            Meta(MetaKey::TransportProtocol),
            Compare(Equal, vec![protocol as u8]),
            load(Transport, offset, value.len() as u32),
            Compare(Equal, value.to_vec()),
        ]
    };
    // fe80::/10, which nobody publishes.
    let link_local = |base, offset, comparison| {
        vec![load(base, offset, 2), Mask(vec![0xff, 0xc0]), Compare(comparison, vec![0xfe, 0x80])]
    };
    let ports = |source: u16, destination: u16| [source.to_be_bytes(), destination.to_be_bytes()].concat();

    let mut rules: Vec<Vec<Expression>> = vec![
        vec![Meta(MetaKey::InterfaceIn), Compare(NotEqual, VXLAN_PREFIX.into()), accept()],
        // Multicast, which is what the lowest bit of the first byte says.
        [vec![load(Link, 0, 1), Mask(vec![1]), Compare(Equal, vec![1])], drop()].concat(),
    ];
    // DHCP offers, router advertisements, redirects: as `forward::Switch` refuses them.
    for forbidden in [
        [kind(IPV4), transport(TransportProtocol::Udp, 0, &ports(67, 68))],
        [kind(IPV6), transport(TransportProtocol::Udp, 0, &ports(547, 546))],
        [kind(IPV6), transport(TransportProtocol::Icmpv6, 0, &[134])],
        [kind(IPV6), transport(TransportProtocol::Icmpv6, 0, &[137])],
    ] {
        rules.push([forbidden.concat(), drop()].concat());
    }
    let advertised = [
        kind(IPV6),
        transport(TransportProtocol::Icmpv6, 0, &[NEIGHBOUR_ADVERTISEMENT]),
        link_local(Transport, 8, NotEqual),
        source(),
        address(Transport, 8, 16),
        lookup("sources6", true),
        drop(),
    ];
    rules.push(advertised.concat());
    let sources = [
        [kind(IPV4), source(), address(Network, 12, 4), lookup("sources4", false)],
        // The sender's address in ARP for Ethernet and IPv4 (RFC 826).
        [kind(ARP), source(), address(Network, 14, 4), lookup("sources4", false)],
        [kind(IPV6), source(), address(Network, 8, 16), lookup("sources6", false)],
        [kind(IPV6), link_local(Network, 8, Equal), source(), lookup("sources", false)],
    ];
    rules.extend(sources.into_iter().map(|source| [source.concat(), vec![accept()]].concat()));
    rules.extend([IPV4, ARP, IPV6].into_iter().chain(TAGS).map(|known| [kind(known), drop()].concat()));
    rules.push([source(), lookup("sources", false), vec![accept()]].concat());
    rules.push(drop());
    rules.into_iter().map(marked).collect()
}

#[cfg(test)]
mod tests;
