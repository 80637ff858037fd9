//! The table that guards the ports of containers.

use super::{
    super::{
        ALIAS, BaseChain, Comparison, Expression, Family, Hook, KeyPart, MetaKey, PORT_PREFIX, PayloadBase, Rule, Set,
        Table, TransportProtocol, VXLAN_PREFIX, Verdict, firewall::interface_name,
    },
    OverlayBridge, PortSet,
};
use crate::forward::DropReason;
use Comparison::{Equal, NotEqual};
use Expression::{Compare, Counter, Into, Lookup, Mask, Meta, Payload};
use PayloadBase::{Link, Network, Transport};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// Before br_netfilter (`NF_BR_PRI_BRNF`, 0) has anything look at the packet.
const PRIORITY: i32 = -300;

const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// 802.1Q and 802.1ad: behind such a tag addresses would hide.
const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
/// ARP for Ethernet and IPv4 (RFC 826): kinds and lengths of addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
// Types of ICMPv6, as IANA assigns them.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Returns the table of our own in the family of bridges, without what is in its sets.
///
/// - `prerouting`: what comes from a container is dropped unless MAC, IPv4, IPv6, ARP and neighbour advertisements name its own
///   addresses; and what a container has no business to send: router advertisements, redirects, DHCP offers, VLAN tags.
/// - `forward`: a frame goes from one port to another only if both are in a subnet together, whatever kind it is of; a copy of
///   what is for all, too. For other hosts' containers, by their MACs. What is for one container and came by the TAP device, or
///   goes there, was or will be looked at by the router ([`crate::forward::Switch`]).
///
/// - `input` and `output`, where the host itself is in the subnets `host`: it exchanges frames with members of those alone, also
///   where it routes, whatever addresses say.
///
/// A port or a MAC that is in no set exchanges nothing.
#[must_use]
pub fn ports_table(bridge: &OverlayBridge, subnets: &BTreeSet<IpNet>, host: &BTreeSet<IpNet>) -> Table {
    use KeyPart::{Interface, Ipv4, Ipv6, Mac};
    let set = |set: PortSet, key: &[KeyPart]| Set { name: set.name(), key: key.to_vec() };
    let chain = |name: &str, hook, rules| BaseChain { name: name.into(), hook, priority: PRIORITY, rules };
    let of_subnet = |subnet: &IpNet| [set(PortSet::Ports(*subnet), &[Interface]), set(PortSet::Macs(*subnet), &[Mac])];
    let mut sets = vec![
        set(PortSet::Sources, &[Interface, Mac]),
        set(PortSet::Sources4, &[Interface, Mac, Ipv4]),
        set(PortSet::Sources6, &[Interface, Mac, Ipv6]),
    ];
    sets.extend(subnets.iter().flat_map(of_subnet));
    sets.sort_by(|one, other| one.name.cmp(&other.name));
    let mut chains = vec![chain("forward", Hook::Forward, forward_rules(bridge, subnets))];
    if !host.is_empty() {
        chains.push(chain("input", Hook::Input, to_host(bridge, host)));
        chains.push(chain("output", Hook::Output, from_host(bridge, host)));
    }
    chains.push(chain("prerouting", Hook::Prerouting, source_rules()));
    Table { family: Family::Bridge, name: ALIAS.into(), sets, chains }
}

/// What comes for the host, which is all that a bridge does not pass on. The router has looked at what came by the TAP device, but not
/// at copies of what is for all.
fn to_host(bridge: &OverlayBridge, host: &BTreeSet<IpNet>) -> Vec<Rule> {
    /// Not for the host, who sees it because somebody captures at the bridge (`PACKET_OTHERHOST`, linux/if_packet.h).
    const FOR_OTHERS: u8 = 3;
    let mut rules = vec![
        elsewhere(MetaKey::InterfaceIn, bridge),
        rule([vec![Meta(MetaKey::PacketType), Compare(Equal, vec![FOR_OTHERS])], accept()]),
        // A port's own address is the host's as well, and nobody's to use.
        dropping(
            DropReason::ForeignSubnet,
            [multicast(0), vec![load(Link, 0, 6), Compare(NotEqual, bridge.mac.octets().to_vec())]],
        ),
    ];
    for subnet in host {
        rules.extend([
            rule([vec![Meta(MetaKey::InterfaceIn)], found(PortSet::Ports(*subnet)), accept()]),
            rule([vec![load(Link, 6, 6)], found(PortSet::Macs(*subnet)), accept()]),
        ]);
    }
    rules.extend(rest());
    rules
}

/// What the host sends or routes into the overlay. The router looks at what goes by the TAP device.
fn from_host(bridge: &OverlayBridge, host: &BTreeSet<IpNet>) -> Vec<Rule> {
    let by_tap = vec![Meta(MetaKey::InterfaceOut), Compare(Equal, interface_name(&bridge.tap))];
    let mut rules = vec![elsewhere(MetaKey::InterfaceOut, bridge), rule([by_tap, accept()])];
    for subnet in host {
        rules.extend([
            rule([vec![Meta(MetaKey::InterfaceOut)], found(PortSet::Ports(*subnet)), accept()]),
            rule([vec![load(Link, 0, 6)], found(PortSet::Macs(*subnet)), accept()]),
        ]);
    }
    rules.extend(rest());
    rules
}

/// Accepts what is not by a port of a container, nor by one to other hosts: other bridges' ports, and the name server's.
fn elsewhere(key: MetaKey, bridge: &OverlayBridge) -> Rule {
    let other = |name: Vec<u8>| vec![Meta(key), Compare(NotEqual, name)];
    rule([other(PORT_PREFIX.into()), other(interface_name(&bridge.tap)), other(VXLAN_PREFIX.into()), accept()])
}

/// Drops the rest. A copy of what is for all, on its way to who is not concerned, is not counted: nobody did wrong.
fn rest() -> [Rule; 2] {
    [rule([multicast(1), vec![Expression::Verdict(Verdict::Drop)]]), dropping(DropReason::ForeignSubnet, [Vec::new()])]
}

/// Passes what is for all, or what is for one.
fn multicast(bit: u8) -> Vec<Expression> {
    vec![load(Link, 0, 1), Mask(vec![1]), Compare(Equal, vec![bit])]
}

fn source_rules() -> Vec<Rule> {
    let ports = |source: u16, destination: u16| [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let mut rules = vec![
        rule([vec![Meta(MetaKey::InterfaceIn), Compare(NotEqual, PORT_PREFIX.into())], accept()]),
        // What most frames are, first.
        rule([
            kind(IPV4),
            vec![Meta(MetaKey::TransportProtocol), Compare(Equal, vec![TransportProtocol::Tcp as u8])],
            source(),
            address(Network, 12, 4),
            found(PortSet::Sources4),
            accept(),
        ]),
        dropping(DropReason::SpoofedSource, [source(), missing(PortSet::Sources)]),
    ];
    rules.extend(TAGS.map(|tag| dropping(DropReason::VlanTagged, [kind(tag)])));
    for service in [
        [kind(IPV4), transport(TransportProtocol::Udp, 0, &ports(67, 68))],
        [kind(IPV6), transport(TransportProtocol::Udp, 0, &ports(547, 546))],
        [kind(IPV6), transport(TransportProtocol::Icmpv6, 0, &[ROUTER_ADVERTISEMENT])],
        [kind(IPV6), transport(TransportProtocol::Icmpv6, 0, &[REDIRECT])],
    ] {
        rules.push(dropping(DropReason::ForbiddenService, service));
    }
    let arp = || [kind(ARP), vec![load(Network, 0, 6), Compare(Equal, ARP_HEAD.to_vec())]].concat();
    let sender = || vec![Meta(MetaKey::InterfaceIn), Into(4, Box::new(load(Network, 8, 6)))];
    let zero = |base, offset, length: u32| vec![load(base, offset, length), Compare(Equal, vec![0; length as usize])];
    rules.extend([
        // The MAC that ARP itself names, and its address.
        rule([arp(), sender(), address(Network, 14, 4), found(PortSet::Sources4), accept()]),
        // Who makes sure that an address is free asks without having one (RFC 5227, section 2.1.1).
        rule([
            arp(),
            vec![load(Network, 6, 2), Compare(Equal, vec![0, 1])],
            zero(Network, 14, 4),
            sender(),
            found(PortSet::Sources),
            accept(),
        ]),
        rule([kind(IPV4), source(), address(Network, 12, 4), found(PortSet::Sources4), accept()]),
        rule([kind(IPV4), zero(Network, 12, 4), accept()]),
        dropping(
            DropReason::SpoofedAddress,
            [
                kind(IPV6),
                transport(TransportProtocol::Icmpv6, 0, &[NEIGHBOUR_ADVERTISEMENT]),
                source(),
                address(Transport, 8, 16),
                missing(PortSet::Sources6),
            ],
        ),
        rule([kind(IPV6), source(), address(Network, 8, 16), found(PortSet::Sources6), accept()]),
        rule([kind(IPV6), zero(Network, 8, 16), accept()]),
    ]);
    rules.extend([ARP, IPV4, IPV6].map(|known| dropping(DropReason::SpoofedAddress, [kind(known)])));
    rules
}

fn forward_rules(bridge: &OverlayBridge, subnets: &BTreeSet<IpNet>) -> Vec<Rule> {
    let OverlayBridge { tap, dns_port, .. } = bridge;
    let is = |key, name: &str| vec![Meta(key), Compare(Equal, interface_name(name))];
    let other = |name: Vec<u8>| vec![Meta(MetaKey::InterfaceIn), Compare(NotEqual, name)];
    let within = |load: Expression, set: PortSet| [vec![load], found(set)].concat();
    let mut rules = vec![
        rule([is(MetaKey::InterfaceIn, tap), multicast(0), accept()]),
        rule([is(MetaKey::InterfaceOut, tap), accept()]),
        // Ports of other bridges.
        rule([
            other(PORT_PREFIX.into()),
            other(interface_name(tap)),
            other(interface_name(dns_port)),
            other(VXLAN_PREFIX.into()),
            accept(),
        ]),
        rule([is(MetaKey::InterfaceIn, dns_port), accept()]),
        rule([is(MetaKey::InterfaceOut, dns_port), accept()]),
    ];
    for subnet in subnets {
        let (from, to) = (Meta(MetaKey::InterfaceIn), Meta(MetaKey::InterfaceOut));
        let (sender, receiver) = (load(Link, 6, 6), load(Link, 0, 6));
        let (ports, macs) = (|| PortSet::Ports(*subnet), || PortSet::Macs(*subnet));
        rules.extend([
            rule([within(from.clone(), ports()), within(to.clone(), ports()), accept()]),
            rule([within(to, ports()), within(sender, macs()), accept()]),
            rule([within(from, ports()), within(receiver, macs()), accept()]),
        ]);
    }
    rules.extend(rest());
    rules
}

fn load(base: PayloadBase, offset: u32, length: u32) -> Expression {
    Payload { base, offset, length }
}

fn kind(kind: [u8; 2]) -> Vec<Expression> {
    vec![load(Link, 12, 2), Compare(Equal, kind.to_vec())]
}

/// The port and the source of the frame.
fn source() -> Vec<Expression> {
    vec![Meta(MetaKey::InterfaceIn), Into(4, Box::new(load(Link, 6, 6)))]
}

/// Behind those, an address of the packet.
fn address(base: PayloadBase, offset: u32, length: u32) -> Vec<Expression> {
    vec![Into(6, Box::new(load(base, offset, length)))]
}

fn transport(protocol: TransportProtocol, offset: u32, value: &[u8]) -> Vec<Expression> {
    vec![
        Meta(MetaKey::TransportProtocol),
        Compare(Equal, vec![protocol as u8]),
        load(Transport, offset, value.len() as u32),
        Compare(Equal, value.to_vec()),
    ]
}

fn found(set: PortSet) -> Vec<Expression> {
    vec![Lookup { set: set.name(), inverted: false }]
}

fn missing(set: PortSet) -> Vec<Expression> {
    vec![Lookup { set: set.name(), inverted: true }]
}

fn accept() -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::Accept)]
}

fn rule<const N: usize>(parts: [Vec<Expression>; N]) -> Rule {
    Rule { expressions: parts.concat(), comment: Some(ALIAS.into()) }
}

/// A rule that counts what it drops; its comment names the reason.
fn dropping<const N: usize>(reason: DropReason, parts: [Vec<Expression>; N]) -> Rule {
    let expressions = [parts.concat(), vec![Counter, Expression::Verdict(Verdict::Drop)]].concat();
    Rule { expressions, comment: Some(format!("{ALIAS} {}", reason.name())) }
}
