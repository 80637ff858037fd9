//! A router, as far as ipam sees it: entries of each origin, newest generation and version first.

use std::collections::{BTreeMap, BTreeSet};

use weft_ipam_core::Entry;

pub(super) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// All entries of one origin at one version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) age: (u64, u64),
    pub(super) entries: Entries,
}

#[derive(Debug, Default)]
pub(super) struct Router {
    pub(super) generation: u64,
    /// What this host publishes; others are told once something was published in this generation.
    pub(super) own: Published,
    pub(super) announced: bool,
    pub(super) others: BTreeMap<usize, Published>,
    /// What the subscriber was told.
    pub(super) told: BTreeMap<usize, Entries>,
    /// Targets that were reached since the start.
    pub(super) reached: BTreeSet<usize>,
}

impl Router {
    /// Loses everything but the count of its lives.
    pub(super) fn restart(&mut self) {
        let generation = self.generation + 1;
        *self = Self { generation, ..Self::default() };
    }

    pub(super) fn publish(&mut self, snapshot: bool, entries: Vec<Entry>) {
        if snapshot {
            self.own.entries.clear();
        }
        for entry in entries {
            match entry.value {
                Some(value) => self.own.entries.insert(entry.key, value),
                None => self.own.entries.remove(&entry.key),
            };
        }
        self.own.age = (self.generation, self.own.age.1 + 1);
        self.announced = true;
    }

    /// Returns everything that this router tells another.
    pub(super) fn digest(&self, me: usize) -> BTreeMap<usize, Published> {
        let mut all = self.others.clone();
        if self.announced {
            all.insert(me, self.own.clone());
        }
        all
    }

    /// Takes in what another told, and returns the origins of which something is new.
    pub(super) fn merge(&mut self, me: usize, digest: BTreeMap<usize, Published>) -> Vec<usize> {
        let mut news = Vec::new();
        for (origin, published) in digest {
            if origin != me && self.others.get(&origin).is_none_or(|known| known.age < published.age) {
                self.others.insert(origin, published);
                news.push(origin);
            }
        }
        news
    }

    /// Returns what the subscriber has to be told about an origin, as a difference.
    pub(super) fn difference(&mut self, origin: usize) -> Vec<Entry> {
        let now = self.others.get(&origin).map(|published| published.entries.clone()).unwrap_or_default();
        let told = self.told.insert(origin, now.clone()).unwrap_or_default();
        let gone = told.keys().filter(|key| !now.contains_key(*key)).map(|key| Entry { key: key.clone(), value: None });
        let changed = now
            .iter()
            .filter(|(key, value)| told.get(*key) != Some(*value))
            .map(|(key, value)| Entry { key: key.clone(), value: Some(value.clone()) });
        gone.chain(changed).collect()
    }
}

pub(super) fn entries(entries: &Entries) -> Vec<Entry> {
    entries.iter().map(|(key, value)| Entry { key: key.clone(), value: Some(value.clone()) }).collect()
}
