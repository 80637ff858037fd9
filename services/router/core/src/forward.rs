//! Which peer a frame goes to, from what gossip says about attachments.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use weft_types::{MacAddress, PeerName};

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
