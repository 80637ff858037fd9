//! Who is connected with whom, and what follows from it: who is reachable, over whom, and who passes news on.
//!
//! A link counts when both of its ends publish it; the local peer's own links count by its connections. Everything is
//! found by a search in breadth, peers of one level in order of name, so that all peers with the same knowledge come to the
//! same tree.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::PeerName;

/// The graph of links as the local peer sees it.
#[derive(Debug)]
pub struct Topology {
    local: PeerName,
    neighbours: BTreeSet<PeerName>,
    claims: BTreeMap<PeerName, BTreeSet<PeerName>>,
    next_hops: BTreeMap<PeerName, PeerName>,
    children: BTreeMap<PeerName, Option<Vec<PeerName>>>,
}

impl Topology {
    /// Makes a graph with the local peer alone.
    #[must_use]
    pub const fn new(local: PeerName) -> Self {
        Self {
            local,
            neighbours: BTreeSet::new(),
            claims: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            children: BTreeMap::new(),
        }
    }

    /// Sets whom the local peer has connections with. Tells whether that is news.
    pub fn set_neighbours(&mut self, neighbours: BTreeSet<PeerName>) -> bool {
        if self.neighbours == neighbours {
            return false;
        }
        self.neighbours = neighbours;
        self.recalculate();
        true
    }

    /// Sets whom another peer says it has connections with. Tells whether that is news.
    pub fn set_links(&mut self, origin: PeerName, remotes: BTreeSet<PeerName>) -> bool {
        if origin == self.local || self.claims.get(&origin).is_some_and(|claims| *claims == remotes) {
            return false;
        }
        let news = if remotes.is_empty() {
            self.claims.remove(&origin).is_some()
        } else {
            self.claims.insert(origin, remotes);
            true
        };
        if news {
            self.recalculate();
        }
        news
    }

    /// Returns the peers that a chain of links leads to, without the local one.
    pub fn reachable(&self) -> impl Iterator<Item = PeerName> {
        self.next_hops.keys().copied()
    }

    /// Tells whether a chain of links leads to the peer, or it is the local one.
    #[must_use]
    pub fn is_reachable(&self, peer: PeerName) -> bool {
        peer == self.local || self.next_hops.contains_key(&peer)
    }

    /// Returns the neighbour over whom the peer is reached, by the fewest links.
    #[must_use]
    pub fn next_hop(&self, peer: PeerName) -> Option<PeerName> {
        self.next_hops.get(&peer).copied()
    }

    /// Returns the neighbours to whom the local peer passes news of an origin on: those that it is the parent of in the
    /// origin's tree. Nothing if no chain of links joins the origin and the local peer; then nobody can tell who has the
    /// news.
    pub fn children(&mut self, origin: PeerName) -> Option<&[PeerName]> {
        if !self.children.contains_key(&origin) {
            let parents = self.search(origin, |parent, _| parent);
            let children = (origin == self.local || parents.contains_key(&self.local)).then(|| {
                let ours = parents.iter().filter(|(_, parent)| **parent == self.local);
                ours.map(|(child, _)| *child).collect()
            });
            self.children.insert(origin, children);
        }
        self.children.get(&origin).and_then(|children| children.as_deref())
    }

    /// Tells whether a reachable peer says that it has a connection with the peer.
    #[must_use]
    pub fn is_claimed(&self, peer: PeerName) -> bool {
        self.claims.iter().any(|(origin, claims)| claims.contains(&peer) && self.is_reachable(*origin))
    }

    fn recalculate(&mut self) {
        self.children.clear();
        let local = self.local;
        let mut next_hops: BTreeMap<PeerName, PeerName> = BTreeMap::new();
        self.walk(local, |parent, child| {
            let hop = if parent == local { child } else { next_hops[&parent] };
            next_hops.insert(child, hop);
        });
        self.next_hops = next_hops;
    }

    fn search<T>(&self, from: PeerName, value: impl Fn(PeerName, PeerName) -> T) -> BTreeMap<PeerName, T> {
        let mut found = BTreeMap::new();
        self.walk(from, |parent, child| {
            found.insert(child, value(parent, child));
        });
        found
    }

    /// Visits each peer that `from` reaches, after the one it was found from.
    fn walk(&self, from: PeerName, mut visit: impl FnMut(PeerName, PeerName)) {
        let mut seen = BTreeSet::from([from]);
        let mut level = BTreeSet::from([from]);
        while !level.is_empty() {
            let mut next = BTreeSet::new();
            for parent in level {
                for child in self.links_of(parent) {
                    if seen.insert(child) {
                        visit(parent, child);
                        next.insert(child);
                    }
                }
            }
            level = next;
        }
    }

    fn links_of(&self, peer: PeerName) -> impl Iterator<Item = PeerName> {
        let claims = if peer == self.local { Some(&self.neighbours) } else { self.claims.get(&peer) };
        let local = (peer != self.local && self.neighbours.contains(&peer)).then_some(self.local);
        let others = claims.into_iter().flatten().copied().filter(move |remote| {
            if peer == self.local {
                true
            } else {
                *remote != self.local && self.claims.get(remote).is_some_and(|claims| claims.contains(&peer))
            }
        });
        local.into_iter().chain(others)
    }
}

#[cfg(test)]
mod tests;
