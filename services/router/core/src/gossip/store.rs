//! All that the mesh published, as far as it is known here.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use weft_types::PeerName;

use super::{
    Delta, DeltaEntry, Entry, GossipError, OriginVersion, Position, check_channel, check_entry, limits, origin::Origin,
    surplus::Surplus,
};

/// Lowest bits of a generation, which tell two starts with one counter apart.
const INSTANCE_BITS: u32 = 16;

/// Entries of one channel that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelChange {
    /// The channel.
    pub channel: String,
    /// What changed; without a value: deleted.
    pub entries: Vec<Entry>,
}

/// What a delta did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It brought news, applied whole. The values need not have changed.
    Applied(Vec<ChannelChange>),
    /// It had no news.
    Known,
    /// Something between what is known and the delta is missing. Nothing was applied.
    Lacking,
    /// It was about the local peer, from an earlier life: the local generation was raised above it.
    Raised,
    /// The origin is barred.
    Barred,
    /// There is no room for it. What was known before stays, and everything else goes on.
    LeftOut,
}

/// All origins and their entries.
#[derive(Debug)]
pub struct Store {
    local: PeerName,
    instance: u64,
    origins: BTreeMap<PeerName, Origin>,
    surplus: Surplus,
    /// Origins of which nothing is taken and nothing told.
    barred: BTreeSet<PeerName>,
    length: usize,
    digest: Option<[u8; 32]>,
}

impl Store {
    /// Makes a store that knows nothing but that the local peer has published nothing in this generation.
    ///
    /// `instance` is random at each start: should the counter of generations ever be set back, two lives of the peer still
    /// do not take each other's entries for their own.
    #[must_use]
    pub fn new(local: PeerName, generation: u64, instance: u64) -> Self {
        let mut store = Self {
            local,
            instance,
            origins: BTreeMap::new(),
            surplus: Surplus::default(),
            barred: BTreeSet::new(),
            length: 0,
            digest: None,
        };
        store.own().at.generation = store.generation(generation);
        store
    }

    fn generation(&self, counter: u64) -> u64 {
        let counter = counter.min((limits::NUMBER >> INSTANCE_BITS) - 1);
        (counter << INSTANCE_BITS) | (self.instance & ((1 << INSTANCE_BITS) - 1))
    }

    fn own(&mut self) -> &mut Origin {
        self.origins.entry(self.local).or_default()
    }

    /// Returns the counter part of the local peer's generation.
    #[must_use]
    pub fn own_generation(&self) -> u64 {
        self.position(self.local).map_or(0, |at| at.generation >> INSTANCE_BITS)
    }

    /// Returns how far an origin is known.
    #[must_use]
    pub fn position(&self, origin: PeerName) -> Option<Position> {
        self.origins.get(&origin).map(|origin| origin.at)
    }

    /// Returns all origins that are not forgotten, the local one included.
    pub fn origins(&self) -> impl Iterator<Item = PeerName> {
        self.origins.iter().filter(|(_, origin)| !origin.forgotten).map(|(name, _)| *name)
    }

    /// Tells whether the origin was forgotten and has not returned.
    #[must_use]
    pub fn is_forgotten(&self, origin: PeerName) -> bool {
        self.origins.get(&origin).is_some_and(|origin| origin.forgotten)
    }

    /// Returns the origins that were forgotten and have not returned.
    pub fn forgotten(&self) -> impl Iterator<Item = PeerName> {
        self.origins.iter().filter(|(_, origin)| origin.forgotten).map(|(name, _)| *name)
    }

    /// Returns an origin's entries of a channel, in order of key.
    pub fn entries<'a>(
        &'a self,
        origin: PeerName,
        channel: &'a str,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> + use<'a> {
        self.origins.get(&origin).into_iter().flat_map(move |origin| origin.channel(channel))
    }

    /// Returns one value.
    #[must_use]
    pub fn value(&self, origin: PeerName, channel: &str, key: &[u8]) -> Option<&Bytes> {
        self.origins.get(&origin)?.value(channel, key)
    }

    /// Returns how far every origin is known, in order of name. Forgotten ones and those that there is no room for are
    /// included: they are not missed; barred ones are not, because nobody is to be told of them.
    #[must_use]
    pub fn vector(&self) -> Vec<OriginVersion> {
        let mut vector: BTreeMap<PeerName, Position> = self.told().map(|(origin, known)| (*origin, known.at)).collect();
        for (origin, at) in self.surplus.iter() {
            let known = vector.entry(origin).or_insert(at);
            *known = at.max(*known);
        }
        vector.into_iter().map(|(origin, at)| OriginVersion { origin, at }).collect()
    }

    /// Returns the origins of which something is not known because there is no room for it.
    pub fn surplus(&self) -> impl Iterator<Item = PeerName> {
        self.surplus.iter().map(|(origin, _)| origin)
    }

    /// Returns SHA-256 over all (origin, generation, version), numbers in big-endian order, in order of origin.
    pub fn digest(&mut self) -> [u8; 32] {
        let (origins, barred) = (&self.origins, &self.barred);
        *self.digest.get_or_insert_with(|| {
            let mut hash = Sha256::new();
            for (name, origin) in origins.iter().filter(|(name, _)| !barred.contains(*name)) {
                hash.update(name.as_bytes());
                hash.update(origin.at.generation.to_be_bytes());
                hash.update(origin.at.version.to_be_bytes());
            }
            hash.finalize().into()
        })
    }

    fn told(&self) -> impl Iterator<Item = (&PeerName, &Origin)> {
        self.origins.iter().filter(|(origin, _)| !self.barred.contains(*origin))
    }

    /// Bars an origin for good: what it published stays as it is, nothing is taken of it from anybody, and nobody is told of it.
    pub fn bar(&mut self, origin: PeerName) {
        if origin != self.local && self.barred.insert(origin) {
            self.surplus.remove(origin);
            self.digest = None;
        }
    }

    /// Returns what somebody lacks who knows the origin up to `known`, if anything.
    #[must_use]
    pub fn delta_since(&self, origin: PeerName, known: Option<Position>) -> Option<Delta> {
        let state = self.origins.get(&origin).filter(|_| !self.barred.contains(&origin))?;
        state.delta_since(origin, known)
    }

    /// Changes what the local peer publishes on a channel, all or nothing. With `snapshot`, `entries` are all there are.
    /// Returns which values changed; if none did, the version stays.
    ///
    /// # Errors
    /// [`GossipError`] names the limit that would be exceeded.
    pub fn publish(
        &mut self,
        channel: &str,
        snapshot: bool,
        entries: Vec<Entry>,
        now: Instant,
    ) -> Result<Vec<Entry>, GossipError> {
        check_channel(channel)?;
        let local = self.local;
        let mut wanted = BTreeMap::new();
        for entry in entries {
            check_entry(&entry.key, entry.value.as_deref())?;
            wanted.insert(entry.key, entry.value);
        }
        let own = self.own();
        if snapshot {
            for (key, _) in own.channel(channel) {
                wanted.entry(key.clone()).or_insert(None);
            }
        }
        wanted.retain(|key, value| own.value(channel, key) != value.as_ref());
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let version = own.at.version + 1;
        let changed: Vec<DeltaEntry> = wanted
            .into_iter()
            .map(|(key, value)| DeltaEntry { channel: channel.to_owned(), key, version, value })
            .collect();
        let before = own.length();
        let (count, length) = own.size_with(changed.iter());
        check_size(local, count, length)?;
        let published = changed.iter().map(|e| Entry { key: e.key.clone(), value: e.value.clone() }).collect();
        let own = self.own();
        for entry in changed {
            own.set(entry, now);
        }
        own.at.version = version;
        own.prune(now);
        self.length = self.length - before + self.own().length();
        self.digest = None;
        Ok(published)
    }

    /// Takes a whole delta from a neighbour.
    ///
    /// # Errors
    /// [`GossipError`] names the rule that is broken or the limit of one origin that would be exceeded; nothing is applied
    /// then.
    pub fn apply(&mut self, delta: Delta, now: Instant) -> Result<Outcome, GossipError> {
        delta.check()?;
        let name = delta.origin;
        if name == self.local {
            return Ok(if self.raise_above(delta.at) { Outcome::Raised } else { Outcome::Known });
        }
        if self.barred.contains(&name) {
            return Ok(Outcome::Barred);
        }
        let mut seen = BTreeSet::new();
        if !delta.entries.iter().all(|entry| seen.insert((&entry.channel, &entry.key))) {
            return Err(GossipError::Contradiction { origin: name, problem: "an entry occurs twice" });
        }
        let known = self.origins.get(&name);
        if known.is_some_and(|known| known.at >= delta.at) {
            return Ok(Outcome::Known);
        }
        let follows = known.is_some_and(|known| {
            !known.forgotten && known.at.generation == delta.at.generation && known.at.version >= delta.base_version
        });
        if !delta.complete && !follows {
            if self.surplus.contains(name) {
                let growth = delta.entries.iter().map(DeltaEntry::length).sum();
                self.surplus.insert(name, delta.at, growth, now);
                return Ok(Outcome::LeftOut);
            }
            if self.is_forgotten(name) {
                self.remember(name);
            }
            return Ok(Outcome::Lacking);
        }
        let before = known.map_or(0, Origin::length);
        let (count, length) = match known {
            Some(known) if !delta.complete => {
                known.size_with(delta.entries.iter().filter(|entry| entry.version > known.at.version))
            }
            Some(_) | None => (delta.entries.len(), delta.entries.iter().map(DeltaEntry::length).sum()),
        };
        check_size(name, count, length)?;
        let growth = length.saturating_sub(before);
        if growth > self.room() || (known.is_none() && !self.make_room()) {
            self.surplus.insert(name, delta.at, growth, now);
            return Ok(Outcome::LeftOut);
        }
        self.surplus.remove(name);
        let origin = self.origins.entry(name).or_default();
        let changes = if delta.complete { origin.replace(delta, now) } else { origin.extend(delta, now) };
        origin.prune(now);
        self.length = self.length - before + origin.length();
        self.digest = None;
        Ok(Outcome::Applied(changes))
    }

    /// Hears how far somebody knows the local peer. If that is further than it has come, an earlier life is known there,
    /// and the local generation is raised above it. Tells whether it was. A generation beyond [`limits::PLAUSIBLE`] is none that
    /// the local peer ever had.
    pub fn raise_above(&mut self, heard: Position) -> bool {
        if heard <= self.own().at || heard.generation >= limits::PLAUSIBLE {
            return false;
        }
        let generation = self.generation((heard.generation >> INSTANCE_BITS) + 1);
        self.own().at.generation = generation;
        self.digest = None;
        true
    }

    /// Hears from an origin itself how far it has come. If somebody said that it was further than anybody comes, that is
    /// forgotten, so that what the origin says is news again.
    pub fn correct(&mut self, origin: PeerName, said: Position) {
        let Some(known) = self.origins.get_mut(&origin).filter(|known| known.at > said) else { return };
        if origin != self.local && known.at.generation >= limits::PLAUSIBLE {
            known.at = Position::default();
            self.digest = None;
        }
    }

    /// Drops what an origin published. How far it was known is kept, so that no neighbour brings it back. Returns what
    /// vanished.
    pub fn forget(&mut self, origin: PeerName) -> Vec<ChannelChange> {
        if origin == self.local {
            return Vec::new();
        }
        let Some(known) = self.origins.get_mut(&origin) else { return Vec::new() };
        self.length -= known.length();
        known.forget()
    }

    /// Undoes [`Store::forget`]: the origin is unknown now, and neighbours may tell all about it.
    pub fn remember(&mut self, origin: PeerName) {
        if self.is_forgotten(origin) {
            self.origins.remove(&origin);
            self.digest = None;
        }
    }

    /// Drops deletions that are too old, and lets neighbours say again what there is room for by now.
    pub fn prune(&mut self, now: Instant) {
        for origin in self.origins.values_mut() {
            let before = origin.length();
            origin.prune(now);
            self.length = self.length - before + origin.length();
        }
        let places = self.origins.len() < limits::ORIGINS || self.origins.values().any(|origin| origin.forgotten);
        let (room, origins) = (self.room(), &self.origins);
        self.surplus.retry(room, |origin| places || origins.contains_key(&origin), now);
    }

    /// Returns how many entries an origin has, deletions included.
    #[must_use]
    pub fn entry_count(&self, origin: PeerName) -> usize {
        self.origins.get(&origin).map_or(0, Origin::entry_count)
    }

    /// Returns how many bytes others may still publish.
    fn room(&self) -> usize {
        let own = self.origins.get(&self.local).map_or(0, Origin::length);
        limits::TOTAL_LENGTH.saturating_sub(self.length - own)
    }

    /// Makes a place for another origin, and tells whether there is one.
    fn make_room(&mut self) -> bool {
        if self.origins.len() < limits::ORIGINS {
            return true;
        }
        let forgotten = self.origins.iter().find(|(_, origin)| origin.forgotten).map(|(name, _)| *name);
        forgotten.is_some_and(|forgotten| self.origins.remove(&forgotten).is_some())
    }
}

fn check_size(origin: PeerName, count: usize, length: usize) -> Result<(), GossipError> {
    if count > limits::ENTRIES || length > limits::ORIGIN_LENGTH {
        return Err(GossipError::OriginTooLarge { origin });
    }
    Ok(())
}
