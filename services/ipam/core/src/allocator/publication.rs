//! What this host publishes.
//!
//! Everybody publishes the runs that it owns. A run whose owner does not (it is away for good, or was granted a moment ago)
//! is published by one of those who know of it: whoever notices first, and of several the one with the lowest name.

use std::collections::BTreeMap;

use weft_types::{AddressRange, PeerName};

use super::{Allocator, Entry, Transmit};
use crate::{
    ring::{Fact, Ring, RingInfo},
    wire::{Ballot, Item},
};

impl Allocator {
    /// Publishes what has changed, or everything.
    pub(super) fn publish(&mut self, snapshot: bool) {
        if self.mesh.is_none() {
            return;
        }
        let desired: BTreeMap<Vec<u8>, Vec<u8>> =
            self.items().into_iter().map(|item| (item.key(), item.encode())).collect();
        let entry = |(key, value): (&Vec<u8>, Option<&Vec<u8>>)| Entry { key: key.clone(), value: value.cloned() };
        let entries: Vec<Entry> = if snapshot {
            desired.iter().map(|(key, value)| entry((key, Some(value)))).collect()
        } else {
            let gone = self.published.keys().filter(|key| !desired.contains_key(*key)).map(|key| (key, None));
            let changed = desired.iter().filter(|(key, value)| self.published.get(*key) != Some(*value));
            gone.chain(changed.map(|(key, value)| (key, Some(value)))).map(entry).collect()
        };
        self.published = desired;
        if snapshot || !entries.is_empty() {
            self.transmit(Transmit::Publish { snapshot, entries });
        }
    }

    fn items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        match &self.ring {
            Some((info, ring)) => {
                items.push(Item::Info(*info));
                let own = ring.runs().filter(|(_, fact)| fact.owner == self.me);
                items.extend(own.map(|(range, fact)| Item::Run(range, fact)));
                items.extend(self.orphans(info, ring));
                if self.leaving.is_none() {
                    items.push(Item::Free(self.report.clone()));
                }
            }
            None => items.push(Item::Ballot(Ballot {
                voters: self.voters().unwrap_or_default(),
                store: self.me.store,
                votes: self.votes.clone(),
                founder: self.is_founder(),
            })),
        }
        for (container, held) in self.holdings.iter() {
            let outside =
                held.iter().map(|held| held.address.addr()).filter(|held| !self.settings.range.contains(held));
            items.extend(outside.map(|address| Item::External(address, container.clone())));
        }
        items
    }

    /// Returns the runs of others that this host has to publish.
    fn orphans(&self, info: &RingInfo, ring: &Ring) -> Vec<Item> {
        let views: BTreeMap<PeerName, Ring> = self
            .views
            .iter()
            .filter(|(_, view)| view.info.is_some_and(|theirs| theirs.id == info.id))
            .map(|(peer, view)| (*peer, view.runs.values().copied().collect()))
            .collect();
        let covered = |range: AddressRange, fact: Fact, by: &dyn Fn(PeerName) -> bool| {
            views.iter().any(|(peer, published)| by(*peer) && published.covers(range, fact))
        };
        let others = ring.runs().filter(|(_, fact)| fact.owner != self.me);
        others
            .map(|(range, fact)| (range, fact, Item::Run(range, fact)))
            .filter(|(range, fact, item)| {
                let begun = self.published.get(&item.key()).is_some_and(|value| *value == item.encode());
                let prior = |peer: PeerName| !begun || peer == fact.owner.peer || peer < self.me.peer;
                !covered(*range, *fact, &prior)
            })
            .map(|(_, _, item)| item)
            .collect()
    }
}
