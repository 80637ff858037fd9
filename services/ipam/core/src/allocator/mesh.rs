//! What the router reports: who is there and what they publish.

use std::{collections::BTreeMap, fmt, time::Instant};

use crdts::CvRDT as _;
use weft_types::{AddressRange, PeerName};

use super::Allocator;
use crate::{
    free_report::FreeReport,
    gossip::OriginView,
    records,
    ring::{Ring, RingInfo},
};

/// A published entry, or its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// None: the entry is gone.
    pub value: Option<Vec<u8>>,
}

/// How people call a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// The peer.
    pub peer: PeerName,
    /// Its printed form.
    pub name: String,
    /// Its host's name.
    pub nickname: String,
}

impl fmt::Display for PeerInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nickname.as_str() {
            "" => f.write_str(&self.name),
            nickname => write!(f, "{}({nickname})", self.name),
        }
    }
}

/// Who can be reached, and whom the operator named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reachability {
    /// Those whom a chain of links leads to, the local peer included.
    pub peers: Vec<PeerInfo>,
    /// How many targets there are beside the host itself.
    pub target_count: u32,
    /// Whether there are targets.
    pub targets_given: bool,
    /// Whom targets have led to.
    pub target_peers: Vec<PeerName>,
}

impl Reachability {
    pub(super) fn reaches(&self, peer: PeerName) -> bool {
        self.peers.iter().any(|info| info.peer == peer)
    }
}

impl Allocator {
    /// Reports that the router can be reached: what everybody publishes, and who is there.
    ///
    /// What this host itself published before is among it. Everything is published again.
    pub fn handle_connected(&mut self, origins: Vec<(PeerName, Vec<Entry>)>, reachability: Reachability, now: Instant) {
        self.transmits.clear();
        self.views.clear();
        self.published.clear();
        self.asks.clear();
        for (origin, entries) in origins {
            if origin == self.me.peer {
                self.remember(&entries);
            }
            let view = self.views.entry(origin).or_default();
            for entry in &entries {
                // What makes no sense counts as not published.
                let _ = view.apply(&entry.key, entry.value.as_deref());
            }
        }
        let own = self.views.remove(&self.me.peer);
        self.store_lost |= self.ring.is_none() && own.as_ref().is_some_and(|own| own.info.is_some());
        self.mesh = None;
        self.handle_reachability(reachability, now);
        self.adopt_ring(own.as_ref());
        self.learn_from(own.as_ref());
        let origins: Vec<PeerName> = self.views.keys().copied().collect();
        for origin in origins {
            let view = self.views.remove(&origin);
            self.learn_from(view.as_ref());
            self.views.extend(view.map(|view| (origin, view)));
        }
        self.publish(true);
    }

    /// Takes how people call peers, as an earlier run had heard.
    pub fn know(&mut self, peers: Vec<PeerInfo>) {
        for info in peers {
            self.names.entry(info.peer).or_insert(info);
        }
    }

    /// Reports that the router is away. What this host owns can still be given to containers.
    pub fn handle_disconnected(&mut self) {
        self.mesh = None;
        self.transmits.clear();
        self.asks.clear();
        self.propose_at = None;
    }

    /// Reports that an origin changed what it publishes; `complete` if these are all its entries.
    pub fn handle_update(&mut self, origin: PeerName, complete: bool, entries: &[Entry]) {
        if origin == self.me.peer {
            return;
        }
        let mut view = self.views.remove(&origin).unwrap_or_default();
        let free = view.free.take();
        if complete {
            view = OriginView::default();
        } else {
            view.free.clone_from(&free);
        }
        for entry in entries {
            let _ = view.apply(&entry.key, entry.value.as_deref());
        }
        view.free = newer(free, view.free);
        let no_ring = self.ring.is_none();
        self.views.insert(origin, view);
        if no_ring {
            self.adopt_ring(None);
        }
        let view = self.views.remove(&origin);
        self.learn_from(view.as_ref());
        self.views.extend(view.map(|view| (origin, view)));
        self.publication_due = true;
        self.retry_due |= !self.pending.is_empty();
    }

    /// Reports who can be reached now.
    pub fn handle_reachability(&mut self, reachability: Reachability, now: Instant) {
        match &self.mesh {
            Some(before) => {
                let lost = before.peers.iter().filter(|info| !reachability.reaches(info.peer));
                self.lost_at.extend(lost.map(|info| (info.peer, now)));
                if reachability.peers.iter().any(|info| !before.reaches(info.peer)) {
                    self.joined_at = Some(now);
                }
            }
            None => {
                self.reached_at = Some(now);
                self.joined_at = Some(now);
                self.lost_at.clear();
            }
        }
        self.names.extend(reachability.peers.iter().map(|info| (info.peer, info.clone())));
        self.mesh = Some(reachability);
        self.publication_due = true;
        self.retry_due |= !self.pending.is_empty();
    }

    /// Returns since when a peer that cannot be reached could not be, as far as this router's word goes back.
    pub(super) fn away_since(&self, peer: PeerName) -> Option<Instant> {
        self.mesh.as_ref()?;
        self.lost_at.get(&peer).copied().or(self.reached_at)
    }

    /// Takes over from the router what an earlier process of this host had published and this one may not know.
    fn remember(&mut self, entries: &[Entry]) {
        let mut own = OriginView::default();
        for entry in entries {
            let _ = own.apply(&entry.key, entry.value.as_deref());
            if let Some(value) = &entry.value {
                self.published.insert(entry.key.clone(), value.clone());
            }
        }
        if let Some(ballot) = own.ballot {
            let before = self.votes.clone();
            self.votes.merge(ballot.votes);
            if self.votes != before {
                self.unsaved.push(records::votes_record(&self.votes));
            }
        }
    }

    /// Takes the ring of others where this host has none.
    fn adopt_ring(&mut self, own: Option<&OriginView>) {
        if self.ring.is_some() {
            return;
        }
        let mut supporters: BTreeMap<_, (usize, RingInfo)> = BTreeMap::new();
        for (peer, view) in
            self.views.iter().map(|(peer, view)| (*peer, view)).chain(own.map(|own| (self.me.peer, own)))
        {
            let Some(info) = view.info.filter(|info| info.range == self.settings.range) else { continue };
            let (count, _) = supporters.entry(info.id).or_insert((0, info));
            *count += if self.is_reachable(peer) { 1000 } else { 1 };
        }
        let chosen = supporters.into_values().rev().max_by_key(|(count, _)| *count).map(|(_, info)| info);
        if let Some(info) = chosen.filter(|info| self.accepts(info)) {
            self.begin_ring(info, Ring::default());
        }
    }

    /// Merges what an origin of the same ring publishes.
    fn learn_from(&mut self, view: Option<&OriginView>) {
        let (Some(view), Some((info, ring))) = (view, &mut self.ring) else { return };
        if view.info.is_none_or(|theirs| theirs.id != info.id) {
            return;
        }
        let range = AddressRange::from(info.range);
        let mut news = false;
        for (run, fact) in view.runs.values().filter(|(run, _)| range.contains_range(*run)) {
            news |= ring.learn(*run, *fact);
        }
        self.ring_changed |= news;
    }
}

/// Returns the report that holds of what was known and what came; a withdrawn report holds no more.
fn newer(before: Option<FreeReport>, now: Option<FreeReport>) -> Option<FreeReport> {
    match (before, now) {
        (Some(before), Some(now)) if before.store == now.store => {
            let mut register = before.register();
            register.merge(now.register());
            Some(register.val)
        }
        (_, now) => now,
    }
}
