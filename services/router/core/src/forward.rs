//! Which peer a frame goes to, from what gossip says about attachments.

mod drop_reason;
mod fair_queue;
mod moves;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use weft_types::{AllowedAddresses, MacAddress, PeerName};

pub use self::{
    drop_reason::DropReason,
    fair_queue::{FairQueue, flow_of},
    moves::Moves,
};
use crate::{
    membership::{Group, Groups},
    neighbour::{Arp, Question},
};

// Protocol numbers and ICMPv6 types, as IANA assigns them.
const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Extension headers of an IPv6 packet at most; senders use two or three.
const MAX_EXTENSIONS: usize = 8;

/// Address of the resolver that every host has for itself.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 83, 53);

/// Where every remote container lives, as reachable peers publish it. Replaced whole when anything changes.
///
/// Local containers are not in `macs`; their addresses are in `local_addresses`, so that questions about them are left to
/// themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardingTable {
    /// Peer of each remote container's MAC.
    pub macs: BTreeMap<MacAddress, PeerName>,
    /// MAC of each remote container's address: who else sends with it is dropped, and questions for it are answered.
    pub addresses: BTreeMap<IpAddr, MacAddress>,
    /// What the container of each remote MAC may use beside its own addresses, if anything. Nobody knows who uses it now, so questions
    /// for it go to all.
    pub allowed: BTreeMap<MacAddress, AllowedAddresses>,
    /// Subnets that the container of each MAC is in, here and elsewhere. One that is in none exchanges no frames.
    pub subnets: BTreeMap<MacAddress, BTreeSet<IpNet>>,
    /// MACs of containers on this host.
    pub local_macs: BTreeSet<MacAddress>,
    /// Addresses of containers on this host.
    pub local_addresses: BTreeSet<IpAddr>,
    /// MACs of other hosts that route packets from outside of the overlay into it.
    pub routers: BTreeSet<MacAddress>,
}

impl ForwardingTable {
    /// Tells whether a remote container may use an address that is not its own. What is somebody's own is nobody else's.
    #[must_use]
    pub fn allows(&self, mac: MacAddress, address: &IpAddr) -> bool {
        self.allowed.get(&mac).is_some_and(|allowed| allowed.contains(address)) && !self.is_owned(address)
    }

    /// Tells whether an address was given to a container.
    fn is_owned(&self, address: &IpAddr) -> bool {
        self.addresses.contains_key(address) || self.local_addresses.contains(address)
    }

    /// Returns the subnets of each remote container that shares one with a container on this host.
    #[must_use]
    pub fn sharing(&self) -> BTreeMap<MacAddress, BTreeSet<IpNet>> {
        let here: BTreeSet<IpNet> =
            self.local_macs.iter().filter_map(|mac| self.subnets.get(mac)).flatten().copied().collect();
        let subnets = self.macs.keys().filter_map(|mac| Some((*mac, self.subnets.get(mac)?)));
        subnets.filter(|(_, subnets)| !here.is_disjoint(subnets)).map(|(mac, subnets)| (mac, subnets.clone())).collect()
    }
}

/// What becomes of a frame from a container on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to one peer.
    Unicast(PeerName),
    /// One copy goes to each peer that has containers in a subnet of the sender's ([`Switch::members`]).
    Flood(Group),
    /// It is a question, and the answer was written.
    Answer,
    /// It is of no interest to other hosts.
    Ignore,
    /// It must not go anywhere.
    Drop(DropReason),
}

/// Decides about frames, by a table in the form that answers fastest.
#[derive(Debug, Default)]
pub struct Switch {
    remote: HashMap<MacAddress, (PeerName, Group)>,
    local: HashMap<MacAddress, Group>,
    addresses: HashMap<IpAddr, MacAddress>,
    groups: Groups,
    /// Peers that have containers which share a subnet with a group of this host.
    members: HashMap<Group, Vec<PeerName>>,
    /// Groups that share a subnet with one of this host.
    heard: HashSet<Group>,
    table: Arc<ForwardingTable>,
}

impl Switch {
    /// Prepares a table.
    #[must_use]
    pub fn new(table: Arc<ForwardingTable>) -> Self {
        let mut groups = Groups::default();
        let none = BTreeSet::new();
        let mut group = |mac| groups.of(table.subnets.get(mac).unwrap_or(&none));
        let remote: HashMap<_, _> = table.macs.iter().map(|(mac, peer)| (*mac, (*peer, group(mac)))).collect();
        let local: HashMap<_, _> = table.local_macs.iter().map(|mac| (*mac, group(mac))).collect();
        let mut here: HashMap<u32, Vec<Group>> = HashMap::new();
        for group in local.values().copied().collect::<BTreeSet<_>>() {
            groups.subnets(group).iter().for_each(|subnet| here.entry(*subnet).or_default().push(group));
        }
        let (mut members, mut heard) = (BTreeMap::<Group, BTreeSet<PeerName>>::new(), HashSet::new());
        for (peer, other) in remote.values().copied().collect::<BTreeSet<_>>() {
            for group in groups.subnets(other).iter().filter_map(|subnet| here.get(subnet)).flatten() {
                members.entry(*group).or_default().insert(peer);
                heard.insert(other);
            }
        }
        Self {
            members: members.into_iter().map(|(group, peers)| (group, peers.into_iter().collect())).collect(),
            heard,
            addresses: table
                .addresses
                .iter()
                .filter(|(address, _)| is_habitable(address))
                .map(|(address, mac)| (*address, *mac))
                .collect(),
            remote,
            local,
            groups,
            table,
        }
    }

    /// Returns the peers that get broadcast and multicast of a group of this host.
    #[must_use]
    pub fn members(&self, group: Group) -> &[PeerName] {
        self.members.get(&group).map(Vec::as_slice).unwrap_or_default()
    }

    /// Decides about a frame from the bridge; `answer` gets the frame to return if the verdict is [`Verdict::Answer`].
    pub fn outbound(&self, frame: &[u8], answer: &mut Vec<u8>) -> Verdict {
        let Some((destination, source)) = ends(frame) else { return Verdict::Drop(DropReason::MalformedFrame) };
        if let Err(reason) = permitted(frame) {
            return Verdict::Drop(reason);
        }
        let Some(group) = self.local.get(&source).copied() else { return Verdict::Drop(DropReason::SpoofedSource) };
        if let Some(question) = Question::decode(frame)
            && !question.is_announcement()
        {
            if self.table.local_addresses.contains(&question.target) {
                return Verdict::Ignore;
            }
            if let Some(mac) = self.addresses.get(&question.target) {
                if !self.remote.get(mac).is_some_and(|(_, other)| self.groups.share(group, *other)) {
                    return Verdict::Drop(DropReason::ForeignSubnet);
                }
                question.answer(*mac, answer);
                return Verdict::Answer;
            }
        }
        if destination.is_multicast() {
            return Verdict::Flood(group);
        }
        match self.remote.get(&destination) {
            Some((peer, other)) if self.groups.share(group, *other) => Verdict::Unicast(*peer),
            Some(_) => Verdict::Drop(DropReason::ForeignSubnet),
            None if self.local.contains_key(&destination) => Verdict::Ignore,
            None => Verdict::Drop(DropReason::UnknownDestination),
        }
    }

    /// Decides about a frame that `peer` sealed; of a batch, its first segment speaks for all.
    ///
    /// # Errors
    /// The reason why the frame must not reach the bridge.
    pub fn inbound(&self, peer: &PeerName, frame: &[u8]) -> Result<(), DropReason> {
        let (destination, source) = ends(frame).ok_or(DropReason::MalformedFrame)?;
        let group = match self.remote.get(&source) {
            Some((owner, group)) if owner == peer => *group,
            _ => return Err(DropReason::SpoofedSource),
        };
        permitted(frame)?;
        self.shares(group, destination)?;
        match frame.get(12..14) {
            Some([0x08, 0x06]) => {
                let arp = Arp::decode(frame).ok_or(DropReason::MalformedFrame)?;
                // Who makes sure that an address is free has none yet (RFC 5227, section 2.1.1).
                if arp.request && arp.sender.is_unspecified() { Ok(()) } else { self.lives(arp.sender.into(), source) }
            }
            Some([0x08, 0x00]) => {
                let address: &[u8; 4] = field(frame, 26).ok_or(DropReason::MalformedFrame)?;
                let address = Ipv4Addr::from(*address);
                if address.is_unspecified() || self.routes(address.into(), source) {
                    Ok(())
                } else {
                    self.lives(address.into(), source)
                }
            }
            Some([0x86, 0xdd]) => {
                let address: &[u8; 16] = field(frame, 22).ok_or(DropReason::MalformedFrame)?;
                let address = Ipv6Addr::from(*address);
                if !address.is_unspecified() && !self.routes(address.into(), source) {
                    self.lives6(address, source)?;
                }
                match upper_layer(frame) {
                    Some((ICMPV6, at)) if frame.get(at) == Some(&NEIGHBOUR_ADVERTISEMENT) => {
                        let target: &[u8; 16] = field(frame, at + 8).ok_or(DropReason::MalformedFrame)?;
                        self.lives6(Ipv6Addr::from(*target), source)
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Refuses a destination on this host that has no subnet in common with the sender. The ports of groups are told apart by the
    /// kernel.
    fn shares(&self, sender: Group, destination: MacAddress) -> Result<(), DropReason> {
        let shares = match self.local.get(&destination) {
            _ if destination.is_multicast() => self.heard.contains(&sender),
            Some(group) => self.groups.share(sender, *group),
            None => return Err(DropReason::UnknownDestination),
        };
        if shares { Ok(()) } else { Err(DropReason::ForeignSubnet) }
    }

    /// Refuses an address that does not belong to a MAC which lives at the peer.
    fn lives(&self, address: IpAddr, source: MacAddress) -> Result<(), DropReason> {
        let lives = self.addresses.get(&address) == Some(&source) || self.table.allows(source, &address);
        if lives { Ok(()) } else { Err(DropReason::SpoofedAddress) }
    }

    /// The same, where each interface has an address that nobody publishes, because it follows from its MAC.
    fn lives6(&self, address: Ipv6Addr, source: MacAddress) -> Result<(), DropReason> {
        if address == source.link_local() { Ok(()) } else { self.lives(address.into(), source) }
    }

    /// Tells whether a packet is from outside of the overlay, by a host that lets such in.
    fn routes(&self, address: IpAddr, source: MacAddress) -> bool {
        self.table.routers.contains(&source) && !self.table.is_owned(&address) && is_habitable(&address)
    }
}

/// Tells whether a container can have an address, whatever a peer publishes.
fn is_habitable(address: &IpAddr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || *address == IpAddr::V4(RESOLVER))
}

/// Returns destination and source of a frame.
fn ends(frame: &[u8]) -> Option<(MacAddress, MacAddress)> {
    let mac = |at: usize| frame.get(at..at + 6)?.first_chunk().copied().map(MacAddress::new);
    (frame.len() >= 14).then_some((mac(0)?, mac(6)?))
}

/// Refuses what no container may say to another host.
fn permitted(frame: &[u8]) -> Result<(), DropReason> {
    // Bridge protocols (IEEE 802.1Q-2018, table 8-1).
    if frame.get(..5) == Some(&[0x01, 0x80, 0xc2, 0, 0]) && frame.get(5).is_some_and(|last| *last < 0x10) {
        return Err(DropReason::LinkLocal);
    }
    let at = |offset: usize| frame.get(offset).copied().unwrap_or(0);
    let port = |offset: usize| u16::from_be_bytes([at(offset), at(offset + 1)]);
    match frame.get(12..14) {
        Some([0x08, 0x06]) => match Arp::decode(frame) {
            None => Err(DropReason::MalformedFrame),
            Some(arp) if arp.sender == RESOLVER || arp.target == RESOLVER => Err(DropReason::LinkLocal),
            Some(_) => Ok(()),
        },
        Some([0x08, 0x00]) if at(23) == 17 => {
            let transport = 14 + usize::from(at(14) & 0x0f) * 4;
            let first_fragment = port(20) & 0x1fff == 0;
            let offer = first_fragment && (port(transport), port(transport + 2)) == (67, 68);
            if offer { Err(DropReason::ForbiddenService) } else { Ok(()) }
        }
        Some([0x86, 0xdd]) => {
            let forbidden = match upper_layer(frame) {
                Some((ICMPV6, at)) => matches!(frame.get(at), Some(&(ROUTER_ADVERTISEMENT | REDIRECT))),
                Some((UDP, at)) => (port(at), port(at + 2)) == (547, 546),
                _ => false,
            };
            if forbidden { Err(DropReason::ForbiddenService) } else { Ok(()) }
        }
        // 802.1Q and 802.1ad.
        Some([0x81, 0x00] | [0x88, 0xa8]) => Err(DropReason::VlanTagged),
        _ => Ok(()),
    }
}

/// Returns the protocol above IPv6 with its extension headers (RFC 8200, section 4), and where its header is. A fragment
/// other than the first has none.
fn upper_layer(frame: &[u8]) -> Option<(u8, usize)> {
    let (mut protocol, mut at) = (*frame.get(20)?, 54);
    for _ in 0..MAX_EXTENSIONS {
        let length = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 + usize::from(*frame.get(at + 1)?) * 8,
            FRAGMENT if u16::from_be_bytes(*field(frame, at + 2)?) & 0xfff8 == 0 => 8,
            FRAGMENT => return None,
            _ => return Some((protocol, at)),
        };
        protocol = *frame.get(at)?;
        at += length;
    }
    None
}

fn field<const N: usize>(frame: &[u8], at: usize) -> Option<&[u8; N]> {
    frame.get(at..)?.first_chunk()
}

#[cfg(test)]
mod tests;
