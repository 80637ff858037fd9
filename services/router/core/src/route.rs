//! Over which neighbours a peer is reached, by the cost of links.
//!
//! A link carries datagrams between two neighbours, without a relay. It counts when both of its ends publish it, with the
//! higher of both costs; the local peer's own links count as soon as they work. The way with the lowest sum of costs is the
//! best; of equal ones the one with fewer links, then with the lower names. Whoever sees the same links comes to the same
//! ways, so following next hops leads to the destination.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use weft_types::PeerName;

use crate::path::cost::RELAY;

/// The hop limit that a relayed datagram may start with at most.
pub const HOP_LIMIT: u8 = 16;
/// First hops to a destination that are remembered: two besides the destination itself, or besides whom a datagram came from.
const FIRST_HOPS: usize = 3;
/// First hops that [`Routes::next_hops`] returns at most.
const OFFERED: usize = 2;

/// The neighbours that a way may begin with, best first, each with the number of links to the destination.
type FirstHops = Vec<(PeerName, u8)>;

/// The graph of links that carry datagrams, as the local peer sees it.
#[derive(Debug)]
pub struct Routes {
    local: PeerName,
    neighbours: BTreeMap<PeerName, u32>,
    links: BTreeMap<PeerName, BTreeMap<PeerName, u32>>,
    /// The local peer's first hops to destinations that were asked for, and those of them that are worth a try.
    found: BTreeMap<PeerName, FirstHops>,
    offered: BTreeMap<PeerName, FirstHops>,
}

impl Routes {
    /// Makes a graph with the local peer alone.
    #[must_use]
    pub const fn new(local: PeerName) -> Self {
        Self {
            local,
            neighbours: BTreeMap::new(),
            links: BTreeMap::new(),
            found: BTreeMap::new(),
            offered: BTreeMap::new(),
        }
    }

    /// Sets which links another peer publishes that carry datagrams, with their costs. Tells whether that is news.
    pub fn set_links(&mut self, origin: PeerName, links: BTreeMap<PeerName, u32>) -> bool {
        if origin == self.local {
            return false;
        }
        let before = self.links.remove(&origin).unwrap_or_default();
        let news = before != links;
        if !links.is_empty() {
            self.links.insert(origin, links);
        }
        if news {
            self.forget();
        }
        news
    }

    /// Sets over which own links datagrams pass, with the costs that are published. Tells whether that is news.
    pub fn set_neighbours(&mut self, neighbours: BTreeMap<PeerName, u32>) -> bool {
        let news = self.neighbours != neighbours;
        if news {
            self.neighbours = neighbours;
            self.forget();
        }
        news
    }

    fn forget(&mut self) {
        self.found.clear();
        self.offered.clear();
    }

    /// Returns the neighbours over whom a peer is reached with relays, best first, at most two, each with the number of links
    /// of the whole way. Only ways count that end at the destination as relays choose them, without coming back here.
    pub fn next_hops(&mut self, destination: PeerName) -> Vec<(PeerName, u8)> {
        if !self.offered.contains_key(&destination) {
            let first = self.first_hops(destination).to_vec().into_iter().filter(|(hop, _)| *hop != destination);
            let offered = first.filter_map(|(hop, _)| Some((hop, self.follow(hop, destination)?)));
            let offered = offered.take(OFFERED).collect();
            self.offered.insert(destination, offered);
        }
        self.offered[&destination].clone()
    }

    /// Returns whom to give a relayed datagram to: the destination itself, or the next relay. Never whom it came from.
    pub fn next_hop_for_relay(&mut self, destination: PeerName, from: PeerName) -> Option<PeerName> {
        self.first_hops(destination).iter().map(|(hop, _)| *hop).find(|hop| *hop != from)
    }

    fn first_hops(&mut self, destination: PeerName) -> &[(PeerName, u8)] {
        if !self.found.contains_key(&destination) {
            let hops = self.search(self.local, destination);
            self.found.insert(destination, hops);
        }
        &self.found[&destination]
    }

    /// Follows the way that a relayed datagram takes from here over a first hop, and returns how many links it has; nothing if
    /// it does not arrive.
    fn follow(&self, first: PeerName, destination: PeerName) -> Option<u8> {
        let (mut before, mut at) = (self.local, first);
        for links in 1..=HOP_LIMIT {
            if at == destination {
                return Some(links);
            } else if at == self.local {
                return None;
            }
            let next = self.search(at, destination).into_iter().map(|(hop, _)| hop).find(|hop| *hop != before)?;
            (before, at) = (at, next);
        }
        None
    }

    /// Searches from the destination for the first hops of a peer, until the best are certain (Dijkstra). The ways do not come
    /// back through that peer.
    fn search(&self, of: PeerName, destination: PeerName) -> FirstHops {
        let own: BTreeMap<PeerName, u32> =
            if of == self.local { self.own_links() } else { self.links_of(of).collect() };
        let cheapest = own.values().min().copied().unwrap_or(0);
        let mut best: BTreeSet<(u64, u8, PeerName)> = BTreeSet::new();
        let mut settled = BTreeSet::new();
        let mut queue = BinaryHeap::from([Reverse((0_u64, 0_u8, destination))]);
        while let Some(Reverse((cost, hops, peer))) = queue.pop() {
            let certain = best.iter().nth(FIRST_HOPS - 1);
            if certain.is_some_and(|(worst, ..)| *worst <= cost + weight(cheapest)) {
                break;
            }
            if hops >= HOP_LIMIT || peer == of || !settled.insert(peer) {
                continue;
            }
            if let Some(link) = own.get(&peer) {
                best.insert((cost + weight(*link), hops + 1, peer));
            }
            for (next, link) in self.links_of(peer) {
                if !settled.contains(&next) {
                    queue.push(Reverse((cost + weight(link), hops + 1, next)));
                }
            }
        }
        best.into_iter().take(FIRST_HOPS).map(|(_, hops, peer)| (peer, hops)).collect()
    }

    /// Lists the links of a peer that count.
    fn links_of(&self, peer: PeerName) -> impl Iterator<Item = (PeerName, u32)> {
        let claims = self.claims(peer).into_iter().flatten();
        claims.filter_map(move |(next, cost)| {
            let back = self.claims(*next)?.get(&peer)?;
            Some((*next, *cost.max(back)))
        })
    }

    /// Lists the local peer's links: they work, whatever the other ends say.
    fn own_links(&self) -> BTreeMap<PeerName, u32> {
        let back = |next| self.claims(next).and_then(|links| links.get(&self.local)).copied();
        self.neighbours.iter().map(|(next, cost)| (*next, back(*next).unwrap_or(0).max(*cost))).collect()
    }

    fn claims(&self, peer: PeerName) -> Option<&BTreeMap<PeerName, u32>> {
        if peer == self.local { Some(&self.neighbours) } else { self.links.get(&peer) }
    }
}

fn weight(cost: u32) -> u64 {
    u64::from(cost.max(1)) + u64::from(RELAY)
}

#[cfg(test)]
mod tests;
