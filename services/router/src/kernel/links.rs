//! Messages of route netlink: what is asked, and what the answers mean.

#![expect(clippy::wildcard_enum_match_arm, reason = "of the many attributes that the kernel sends, a few matter")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use anyhow::Context;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    link::{
        AfSpecInet6, AfSpecUnspec, BridgePortState, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
        InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
        LinkInfo, LinkMessage, VxlanDf,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use weft_router_core::hostnet::{
    ForwardingEntry, ObservedBridge, ObservedLink, ObservedPort, ObservedVxlan, TrustedLink, VXLAN_PORT, VXLAN_PREFIX,
};
use weft_types::MacAddress;

use super::{
    LinkTraffic,
    rtnetlink::{Channel, Refused, Request},
};

/// Smallest MTU at which Linux runs IPv6 on a link (RFC 8200, section 5).
pub(super) const IPV6_MINIMUM_MTU: u32 = 1280;

/// The routing table that the kernel looks into first (`RT_TABLE_LOCAL`, linux/rtnetlink.h).
const LOCAL_TABLE: u8 = 255;

/// The number of no link: addresses of all are listed.
const ALL_LINKS: u32 = 0;

/// What a new veth pair is like.
pub(super) struct VethPair<'a> {
    pub(super) name: &'a str,
    pub(super) bridge: u32,
    pub(super) mtu: u32,
    pub(super) peer_name: &'a str,
    pub(super) peer_mac: MacAddress,
    pub(super) peer_namespace: BorrowedFd<'a>,
}

/// A route by an interface, without a gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct InterfaceRoute {
    pub(super) destination: IpNet,
    pub(super) interface: u32,
}

impl Channel {
    /// Lists all links.
    pub(super) fn links(&mut self) -> anyhow::Result<Vec<ObservedLink>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(link_question())).context("failed to list links")?;
        Ok(answers.iter().filter_map(read_link).collect())
    }

    /// Lists the links of VXLAN, which may be few among many.
    pub(super) fn vxlan_links(&mut self) -> anyhow::Result<Vec<ObservedLink>> {
        let mut message = link_question();
        message.attributes.push(of_vxlan());
        let answers = self.dump(RouteNetlinkMessage::GetLink(message)).context("failed to list links of VXLAN")?;
        Ok(answers.iter().filter_map(read_link).collect())
    }

    /// Finds a link by its name.
    pub(super) fn link(&mut self, name: &str) -> anyhow::Result<Option<ObservedLink>> {
        let mut message = link_question();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.get(RouteNetlinkMessage::GetLink(message)) {
            Ok(answer) => Ok(read_link(&answer)),
            Err(refused) if refused.is(libc::ENODEV) => Ok(None),
            Err(refused) => Err(refused).with_context(|| format!("failed to find the link {name}")),
        }
    }

    /// Counts what VXLAN devices of ours have sent and received, by name.
    pub(super) fn vxlan_traffic(&mut self) -> anyhow::Result<BTreeMap<String, LinkTraffic>> {
        let mut message = LinkMessage::default();
        message.attributes.push(of_vxlan());
        let answers = self.dump(RouteNetlinkMessage::GetLink(message)).context("failed to list links of VXLAN")?;
        Ok(answers.iter().filter_map(read_traffic).collect())
    }

    /// Lists what was put by hand into the forwarding table of a bridge, but for the ports' own addresses.
    pub(super) fn forwarding(&mut self, bridge: u32) -> anyhow::Result<BTreeSet<ForwardingEntry>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.attributes.push(NeighbourAttribute::Controller(bridge));
        let answers =
            self.dump(RouteNetlinkMessage::GetNeighbour(message)).context("failed to list forwarding entries")?;
        Ok(answers.iter().filter_map(|answer| read_forwarding(answer, bridge)).collect())
    }

    /// Lists the addresses of a link in another namespace, link-local ones left out. Needs Linux 4.20.
    pub(super) fn addresses_elsewhere(&mut self, namespace: i32, link: u32) -> anyhow::Result<Vec<IpNet>> {
        self.list_addresses(Some(namespace), link)
    }

    /// Lists the addresses of a link, link-local ones left out.
    pub(super) fn addresses(&mut self, link: u32) -> anyhow::Result<Vec<IpNet>> {
        self.list_addresses(None, link)
    }

    /// Lists the addresses of all links, link-local ones left out.
    pub(super) fn all_addresses(&mut self) -> anyhow::Result<Vec<IpNet>> {
        self.list_addresses(None, ALL_LINKS)
    }

    fn list_addresses(&mut self, namespace: Option<i32>, link: u32) -> anyhow::Result<Vec<IpNet>> {
        let mut message = AddressMessage::default();
        message.header.index = link;
        message.attributes.extend(namespace.map(AddressAttribute::TargetNetNsId));
        let answers = self.dump(RouteNetlinkMessage::GetAddress(message)).context("failed to list addresses")?;
        let mut addresses: Vec<IpNet> = answers.iter().filter_map(|answer| read_address(answer, link)).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// Returns our number for a namespace, if it has one.
    pub(super) fn namespace_number(&mut self, namespace: BorrowedFd<'_>) -> anyhow::Result<Option<i32>> {
        let fd = u32::try_from(namespace.as_raw_fd()).context("a descriptor is not negative")?;
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(fd));
        let answer =
            self.get(RouteNetlinkMessage::GetNsId(message)).context("failed to identify a network namespace")?;
        let RouteNetlinkMessage::NewNsId(answer) = answer else { return Ok(None) };
        Ok(answer.attributes.iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }))
    }

    /// Lists the routes of the main table: destination and link, 0 for none.
    pub(super) fn main_routes(&mut self) -> Result<Vec<(IpNet, u32)>, Refused> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            match self.dump(RouteNetlinkMessage::GetRoute(message)) {
                Ok(answers) => routes.extend(answers.iter().filter_map(read_route)),
                Err(refused) if family == AddressFamily::Inet6 && refused.is(libc::EOPNOTSUPP) => {}
                Err(refused) => return Err(refused),
            }
        }
        Ok(routes)
    }
}

/// Asks for links without their counters, which nobody reads.
fn link_question() -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}

/// Has the kernel list links of VXLAN alone. One that does not know VXLAN yet lists all.
fn of_vxlan() -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan)])
}

/// Makes a bridge, switched off and without marks.
pub(super) fn create_bridge(name: &str, mac: MacAddress, mtu: u32) -> Request {
    let mut data = bridge_settings(ObservedBridge::DESIRED);
    data.push(InfoBridge::ForwardDelay(0));
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::Address(mac.octets().to_vec()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))]),
    ];
    let what = format!("create the bridge {name}");
    Request::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, what)
}

pub(super) fn set_bridge(index: u32, settings: ObservedBridge) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(bridge_settings(settings))),
    ]));
    Request::new(RouteNetlinkMessage::NewLink(message), 0, "set up the bridge")
}

fn bridge_settings(settings: ObservedBridge) -> Vec<InfoBridge> {
    let spanning_tree = if settings.spanning_tree { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    vec![
        InfoBridge::StpState(spanning_tree),
        InfoBridge::MulticastSnooping(settings.multicast_snooping),
        InfoBridge::MulticastQuerier(settings.multicast_querier),
    ]
}

/// Makes a veth pair whose far end is born in another namespace: it never shows up in ours.
pub(super) fn create_veth(pair: &VethPair<'_>) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(pair.peer_name.into()),
        LinkAttribute::Address(pair.peer_mac.octets().to_vec()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::NetNsFd(pair.peer_namespace.as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(pair.name.into()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::Controller(pair.bridge),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let what = format!("create the veth pair {} and {}", pair.name, pair.peer_name);
    Request::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, what)
}

/// Makes a VXLAN device that leads to one peer, switched off. Datagrams that the underlay would have to cut are not sent.
pub(super) fn create_vxlan(link: &TrustedLink, mtu: u32) -> Request {
    let mut data = vec![
        InfoVxlan::Id(link.vni),
        InfoVxlan::Port(VXLAN_PORT),
        InfoVxlan::Learning(false),
        InfoVxlan::Df(VxlanDf::Set),
    ];
    data.push(match link.local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    });
    data.push(match link.remote {
        IpAddr::V4(remote) => InfoVxlan::Group(remote),
        IpAddr::V6(remote) => InfoVxlan::Group6(remote),
    });
    let name = link.name();
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.clone()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
    ];
    let what = format!("create the VXLAN device {name}");
    Request::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, what)
}

/// Which link a request is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    Index(u32),
    Name(&'a str),
}

impl Which<'_> {
    fn message(self) -> LinkMessage {
        let mut message = LinkMessage::default();
        match self {
            Self::Index(index) => message.header.index = index,
            Self::Name(name) => message.attributes.push(LinkAttribute::IfName(name.into())),
        }
        message
    }
}

/// What to change of a link; absent values stay.
#[derive(Debug, Clone, Default)]
pub(super) struct LinkChange {
    pub(super) alias: Option<String>,
    pub(super) mac: Option<MacAddress>,
    pub(super) mtu: Option<u32>,
    pub(super) tx_queue_length: Option<u32>,
    pub(super) master: Option<u32>,
    pub(super) quiet: bool,
    pub(super) up: bool,
}

pub(super) fn set_link(which: Which<'_>, name: &str, change: LinkChange) -> Request {
    let mut message = which.message();
    let attributes = &mut message.attributes;
    attributes.extend(change.alias.map(LinkAttribute::IfAlias));
    attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    attributes.extend(change.tx_queue_length.map(LinkAttribute::TxQueueLen));
    attributes.extend(change.master.map(LinkAttribute::Controller));
    if change.quiet {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        attributes.push(LinkAttribute::AfSpecUnspec(vec![mode]));
    }
    if change.up {
        message.header.flags |= LinkFlags::Up;
        message.header.change_mask |= LinkFlags::Up;
    }
    Request::new(RouteNetlinkMessage::SetLink(message), 0, format!("set up the link {name}"))
}

pub(super) fn set_port(which: Which<'_>, name: &str, settings: ObservedPort) -> Request {
    let mut message = which.message();
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![
            InfoBridgePort::Learning(settings.learning),
            InfoBridgePort::UnicastFlood(settings.unicast_flood),
            InfoBridgePort::MulticastFlood(settings.multicast_flood),
            InfoBridgePort::BroadcastFlood(settings.broadcast_flood),
            InfoBridgePort::Isolated(settings.isolated),
            InfoBridgePort::HairpinMode(settings.hairpin),
        ])),
    ]));
    Request::new(RouteNetlinkMessage::NewLink(message), 0, format!("set up the bridge port {name}"))
}

pub(super) fn delete_link(index: u32, name: &str) -> Request {
    let message = Which::Index(index).message();
    Request::new(RouteNetlinkMessage::DelLink(message), 0, format!("delete the link {name}"))
        .tolerating(&[libc::ENODEV])
}

pub(super) fn add_forwarding(entry: ForwardingEntry) -> Request {
    let what = format!("add the forwarding entry of {}", entry.mac);
    // A port that is gone, as that of a container which just ended, takes its entries along.
    Request::new(RouteNetlinkMessage::NewNeighbour(forwarding_message(entry)), NLM_F_CREATE | NLM_F_REPLACE, what)
        .tolerating(&[libc::ENODEV])
}

pub(super) fn remove_forwarding(entry: ForwardingEntry) -> Request {
    let what = format!("remove the forwarding entry of {}", entry.mac);
    Request::new(RouteNetlinkMessage::DelNeighbour(forwarding_message(entry)), 0, what).tolerating(&[libc::ENOENT])
}

fn forwarding_message(entry: ForwardingEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = entry.port;
    // How a static entry is written (bridge(8), `static`): it does not age, and is no address of the bridge itself.
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(entry.mac.octets().to_vec()));
    message
}

/// Adds an address, at once usable: the ring knows that nobody else has it, so none of IPv6's second of doubt.
pub(super) fn add_address(index: u32, address: IpNet) -> Request {
    let mut message = address_message(index, address);
    match address {
        IpNet::V4(net) if net.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(net.broadcast()))
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    let what = format!("add the address {address}");
    Request::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, what).tolerating(&[libc::EEXIST])
}

pub(super) fn remove_address(index: u32, address: IpNet) -> Request {
    let what = format!("remove the address {address}");
    Request::new(RouteNetlinkMessage::DelAddress(address_message(index, address)), 0, what)
        .tolerating(&[libc::EADDRNOTAVAIL])
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

pub(super) fn add_route(route: InterfaceRoute) -> Request {
    let what = format!("add the route {}", route.destination);
    Request::new(RouteNetlinkMessage::NewRoute(route_message(route)), NLM_F_CREATE | NLM_F_REPLACE, what)
}

pub(super) fn remove_route(route: InterfaceRoute) -> Request {
    let what = format!("remove the route {}", route.destination);
    Request::new(RouteNetlinkMessage::DelRoute(route_message(route)), 0, what).tolerating(&[libc::ESRCH])
}

fn route_message(route: InterfaceRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.addr());
    message.header.destination_prefix_length = route.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    let destination = match route.destination.network() {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => {
            message.header.scope = RouteScope::Universe;
            if address.is_multicast() {
                // The kernel keeps one such route per interface in this table, metric 256, and looks here first.
                message.header.table = LOCAL_TABLE;
                message.header.kind = RouteType::Multicast;
                message.attributes.push(RouteAttribute::Priority(1));
            }
            RouteAddress::Inet6(address)
        }
    };
    message.attributes.push(RouteAttribute::Destination(destination));
    message.attributes.push(RouteAttribute::Oif(route.interface));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn read_link(message: &RouteNetlinkMessage) -> Option<ObservedLink> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = ObservedLink {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        alias: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        tx_queue_length: 0,
        master: None,
        peer_index: None,
        peer_namespace: None,
        makes_addresses: None,
        bridge: None,
        port: None,
        vxlan: None,
        forwards: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.trim_end_matches('\0').to_owned()),
            LinkAttribute::Address(octets) => link.mac = MacAddress::try_from(octets.as_slice()).ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::TxQueueLen(length) => link.tx_queue_length = *length,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) => link.peer_index = Some(*index),
            LinkAttribute::LinkNetNsId(id) => link.peer_namespace = Some(*id),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| read_info(info, &mut link)),
            LinkAttribute::AfSpecUnspec(specs) => link.makes_addresses = specs.iter().find_map(makes_addresses),
            _ => {}
        }
    }
    Some(link)
}

fn read_traffic(message: &RouteNetlinkMessage) -> Option<(String, LinkTraffic)> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) if name.starts_with(VXLAN_PREFIX) => Some(name.clone()),
        _ => None,
    })?;
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some((
            name.clone(),
            LinkTraffic {
                sent_frames: stats.tx_packets,
                sent_bytes: stats.tx_bytes,
                received_frames: stats.rx_packets,
                received_bytes: stats.rx_bytes,
            },
        )),
        _ => None,
    })
}

fn makes_addresses(spec: &AfSpecUnspec) -> Option<bool> {
    let AfSpecUnspec::Inet6(facts) = spec else { return None };
    facts.iter().find_map(|fact| match fact {
        AfSpecInet6::AddrGenMode(mode) => Some(*mode != In6AddrGenMode::None),
        _ => None,
    })
}

fn read_info(info: &LinkInfo, link: &mut ObservedLink) {
    match info {
        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
        LinkInfo::Data(InfoData::Bridge(facts)) => {
            let mut bridge =
                ObservedBridge { spanning_tree: false, multicast_snooping: false, multicast_querier: false };
            for fact in facts {
                match fact {
                    InfoBridge::StpState(state) => bridge.spanning_tree = *state != BridgeStpState::Disabled,
                    InfoBridge::MulticastSnooping(on) => bridge.multicast_snooping = *on,
                    InfoBridge::MulticastQuerier(on) => bridge.multicast_querier = *on,
                    _ => {}
                }
            }
            link.bridge = Some(bridge);
        }
        LinkInfo::Data(InfoData::Vxlan(facts)) => link.vxlan = Some(read_vxlan(facts)),
        LinkInfo::PortData(InfoPortData::BridgePort(facts)) => {
            let mut port = ObservedPort {
                learning: false,
                unicast_flood: false,
                multicast_flood: false,
                broadcast_flood: false,
                isolated: false,
                hairpin: false,
            };
            for fact in facts {
                match fact {
                    InfoBridgePort::State(state) => link.forwards = *state == BridgePortState::Forwarding,
                    InfoBridgePort::Learning(on) => port.learning = *on,
                    InfoBridgePort::UnicastFlood(on) => port.unicast_flood = *on,
                    InfoBridgePort::MulticastFlood(on) => port.multicast_flood = *on,
                    InfoBridgePort::BroadcastFlood(on) => port.broadcast_flood = *on,
                    InfoBridgePort::Isolated(on) => port.isolated = *on,
                    InfoBridgePort::HairpinMode(on) => port.hairpin = *on,
                    _ => {}
                }
            }
            link.port = Some(port);
        }
        _ => {}
    }
}

fn read_vxlan(facts: &[InfoVxlan]) -> ObservedVxlan {
    let mut vxlan = ObservedVxlan { vni: 0, local: None, remote: None, port: 0, learning: false };
    for fact in facts {
        match fact {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Local(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Local6(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Group(remote) => vxlan.remote = Some((*remote).into()),
            InfoVxlan::Group6(remote) => vxlan.remote = Some((*remote).into()),
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Learning(on) => vxlan.learning = *on,
            _ => {}
        }
    }
    vxlan
}

fn read_forwarding(message: &RouteNetlinkMessage, bridge: u32) -> Option<ForwardingEntry> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let of_bridge = message.attributes.iter().any(|a| matches!(a, NeighbourAttribute::Controller(i) if *i == bridge));
    if message.header.state != NeighbourState::Noarp || !of_bridge {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(octets) => MacAddress::try_from(octets.as_slice()).ok(),
        _ => None,
    })?;
    Some(ForwardingEntry { port: message.header.ifindex, mac })
}

fn read_address(message: &RouteNetlinkMessage, link: u32) -> Option<IpNet> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    if link != ALL_LINKS && message.header.index != link {
        return None;
    }
    // IFA_LOCAL where there is one: IFA_ADDRESS is the far end on links of two stations.
    let local =
        message.attributes.iter().find_map(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let any =
        message.attributes.iter().find_map(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    let address = local.or(any)?;
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    if link_local { None } else { IpNet::new(address, message.header.prefix_len).ok() }
}

fn read_route(message: &RouteNetlinkMessage) -> Option<(IpNet, u32)> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let table = message
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Table(table) = attribute { Some(*table) } else { None })
        .unwrap_or(u32::from(message.header.table));
    let kinds = [RouteType::Unicast, RouteType::BlackHole, RouteType::Unreachable, RouteType::Prohibit];
    if table != u32::from(RouteHeader::RT_TABLE_MAIN) || !kinds.contains(&message.header.kind) {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    });
    let destination = destination.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let interface = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| hop.interface_index),
        _ => None,
    });
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some((destination, interface.unwrap_or(0)))
}
