//! What a neighbour knows, and what it should be told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use weft_types::PeerName;

use super::{Delta, OriginVersion, Position, Store};

/// The gossip state of one connection.
///
/// Holds no deltas but the one being sent: what is to be sent is kept as a set of origins, and a delta is made of whatever
/// the neighbour lacks by the time it can be sent. So a slow connection costs no memory and gets joined changes.
#[derive(Debug, Default)]
pub struct Neighbour {
    /// Whether the neighbour has said what it knows. Before, nothing is sent: it may know almost all.
    introduced: bool,
    known: BTreeMap<PeerName, Position>,
    pending: BTreeSet<PeerName>,
    parts: VecDeque<Delta>,
}

impl Neighbour {
    /// Takes the neighbour's vector, and marks all origins that the store knows further than that.
    pub fn handle_vector(&mut self, origins: &[OriginVersion], store: &Store) {
        self.introduced = true;
        self.known = origins.iter().map(|known| (known.origin, known.at)).collect();
        self.pending.clear();
        for here in store.vector() {
            self.offer(here.origin, here.at);
        }
    }

    /// Takes the neighbour's digest being equal to the store's.
    pub fn handle_equal_digest(&mut self, store: &Store) {
        self.introduced = true;
        self.known = store.vector().into_iter().map(|known| (known.origin, known.at)).collect();
        self.pending.clear();
    }

    /// Learns that the neighbour knows an origin so far, because the news came from it.
    pub fn handle_known(&mut self, origin: PeerName, at: Position) {
        let known = self.known.entry(origin).or_insert(at);
        *known = at.max(*known);
    }

    /// Marks an origin to be sent, unless the neighbour knows it so far already.
    pub fn offer(&mut self, origin: PeerName, at: Position) {
        if self.known.get(&origin).is_none_or(|known| *known < at) {
            self.pending.insert(origin);
        }
    }

    /// Returns the next delta, or part of one, to send. `first` goes before other origins; `held` is not sent yet.
    pub fn poll(&mut self, store: &Store, first: PeerName, held: Option<PeerName>) -> Option<Delta> {
        if !self.introduced {
            return None;
        }
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Some(part);
            }
            let sendable = |origin: &PeerName| Some(*origin) != held;
            let origin = if self.pending.contains(&first) && sendable(&first) {
                first
            } else {
                self.pending.iter().copied().find(sendable)?
            };
            self.pending.remove(&origin);
            if let Some(delta) = store.delta_since(origin, self.known.get(&origin).copied()) {
                self.known.insert(origin, delta.at);
                self.parts = delta.into_parts().into();
            }
        }
    }
}
