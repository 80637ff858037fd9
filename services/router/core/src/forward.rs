//! Which peer a frame goes to, from what gossip says about attachments.

mod drop_reason;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use weft_types::{MacAddress, PeerName};

pub use self::drop_reason::DropReason;
use crate::neighbour::{Arp, Question};

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
    /// MAC of each remote container's address, for answering ARP and neighbour solicitations.
    pub addresses: BTreeMap<IpAddr, MacAddress>,
    /// Peers that have at least one container: they get broadcast and multicast.
    pub members: BTreeSet<PeerName>,
    /// MACs of containers on this host.
    pub local_macs: BTreeSet<MacAddress>,
    /// Addresses of containers on this host.
    pub local_addresses: BTreeSet<IpAddr>,
}

/// What becomes of a frame from a container on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to one peer.
    Unicast(PeerName),
    /// One copy goes to each member.
    Flood,
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
    macs: HashMap<MacAddress, PeerName>,
    addresses: HashMap<IpAddr, MacAddress>,
    local_macs: HashSet<MacAddress>,
    table: Arc<ForwardingTable>,
}

impl Switch {
    /// Prepares a table.
    #[must_use]
    pub fn new(table: Arc<ForwardingTable>) -> Self {
        Self {
            macs: table.macs.iter().map(|(mac, peer)| (*mac, *peer)).collect(),
            addresses: table.addresses.iter().map(|(address, mac)| (*address, *mac)).collect(),
            local_macs: table.local_macs.clone().into_iter().collect(),
            table,
        }
    }

    /// Returns the peers that get broadcast and multicast.
    #[must_use]
    pub fn members(&self) -> &BTreeSet<PeerName> {
        &self.table.members
    }

    /// Decides about a frame from the bridge; `answer` gets the frame to return if the verdict is [`Verdict::Answer`].
    pub fn outbound(&self, frame: &[u8], answer: &mut Vec<u8>) -> Verdict {
        let Some((destination, _)) = ends(frame) else { return Verdict::Drop(DropReason::MalformedFrame) };
        if let Err(reason) = permitted(frame) {
            return Verdict::Drop(reason);
        }
        if let Some(question) = Question::decode(frame)
            && !question.is_announcement()
        {
            if self.table.local_addresses.contains(&question.target) {
                return Verdict::Ignore;
            }
            if let Some(mac) = self.addresses.get(&question.target) {
                question.answer(*mac, answer);
                return Verdict::Answer;
            }
        }
        if destination.is_multicast() {
            return Verdict::Flood;
        }
        match self.macs.get(&destination) {
            Some(peer) => Verdict::Unicast(*peer),
            None if self.local_macs.contains(&destination) => Verdict::Ignore,
            None => Verdict::Drop(DropReason::UnknownDestination),
        }
    }

    /// Decides about a frame that `peer` sealed; of a batch, its first segment speaks for all.
    ///
    /// # Errors
    /// The reason why the frame must not reach the bridge.
    pub fn inbound(&self, peer: &PeerName, frame: &[u8]) -> Result<(), DropReason> {
        let (_, source) = ends(frame).ok_or(DropReason::MalformedFrame)?;
        if self.macs.get(&source) != Some(peer) {
            return Err(DropReason::SpoofedSource);
        }
        permitted(frame)?;
        let Some(address) = source_address(frame) else { return Ok(()) };
        let owner = self.addresses.get(&address);
        let foreign = owner.is_some_and(|owner| *owner != source) || self.table.local_addresses.contains(&address);
        if foreign { Err(DropReason::SpoofedAddress) } else { Ok(()) }
    }
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
            let advertisement = at(20) == 58 && matches!(at(54), 134 | 137);
            let offer = at(20) == 17 && (port(54), port(56)) == (547, 546);
            if advertisement || offer { Err(DropReason::ForbiddenService) } else { Ok(()) }
        }
        _ => Ok(()),
    }
}

/// Returns the address that a frame claims to come from, if it claims any.
fn source_address(frame: &[u8]) -> Option<IpAddr> {
    let claimed: IpAddr = match frame.get(12..14)? {
        [0x08, 0x06] => Arp::decode(frame)?.sender.into(),
        [0x08, 0x00] => Ipv4Addr::from(*frame.get(26..30)?.first_chunk::<4>()?).into(),
        [0x86, 0xdd] => Ipv6Addr::from(*frame.get(22..38)?.first_chunk::<16>()?).into(),
        _ => return None,
    };
    (!claimed.is_unspecified()).then_some(claimed)
}

#[cfg(test)]
mod tests;
