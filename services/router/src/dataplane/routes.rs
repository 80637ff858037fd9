//! Over whom peers are reached, as the control side computes it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use weft_router_core::datagram::ShortName;
use weft_types::PeerName;

/// The ways to all peers.
pub type RouteTable = BTreeMap<PeerName, Route>;

/// The ways to one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Neighbours over whom it is reached, each with the number of links of the whole way, best first.
    pub relays: Vec<(PeerName, u8)>,
    /// To whom datagrams of others for it are handed on, best first: relays, or itself.
    pub next_hops: Vec<PeerName>,
}

/// The same, as the packet path needs it.
#[derive(Debug, Default)]
pub(super) struct Routes {
    table: Arc<RouteTable>,
    by_short: HashMap<ShortName, Option<PeerName>>,
}

impl Routes {
    pub(super) fn new(table: Arc<RouteTable>) -> Self {
        let mut by_short = HashMap::with_capacity(table.len());
        for name in table.keys() {
            // Nothing is relayed to peers that cannot be told apart.
            by_short.entry(ShortName::from(*name)).and_modify(|other| *other = None).or_insert(Some(*name));
        }
        Self { table, by_short }
    }

    /// Returns the ways to a peer over others.
    pub(super) fn relays(&self, peer: PeerName) -> &[(PeerName, u8)] {
        self.table.get(&peer).map(|route| route.relays.as_slice()).unwrap_or_default()
    }

    /// Returns to whom a datagram is handed on that came from a neighbour.
    pub(super) fn next_hop(&self, destination: ShortName, from: PeerName) -> Option<PeerName> {
        let route = self.table.get(self.by_short.get(&destination)?.as_ref()?)?;
        route.next_hops.iter().copied().find(|hop| *hop != from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_never_handed_back() {
        let [far, one, other] = [1, 2, 3].map(|key| PeerName::from_public_key([key; 32]));
        let route = Route { relays: vec![(one, 2)], next_hops: vec![one, other] };
        let routes = Routes::new(Arc::new([(far, route)].into()));
        assert_eq!(routes.next_hop(far.into(), other), Some(one));
        assert_eq!(routes.next_hop(far.into(), one), Some(other));
        assert_eq!(routes.next_hop(one.into(), other), None, "nobody knows a way");
        assert_eq!(routes.relays(far), [(one, 2)]);
        assert!(routes.relays(one).is_empty());
    }
}
