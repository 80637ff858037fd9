//! What one origin published, as far as it is known here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use weft_types::PeerName;

use super::{ChannelChange, Delta, DeltaEntry, Entry, Position, limits};

/// Names an entry of an origin. In order of channel, then key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) channel: String,
    pub(super) key: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    version: u64,
    value: Option<Bytes>,
}

/// One origin's entries, with deletions of late.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    pub(super) at: Position,
    /// Whether its entries were dropped for good. Its position is kept, so that nobody brings them back.
    pub(super) forgotten: bool,
    /// Deletions up to this version may be missing: who knows less gets all entries instead.
    floor: u64,
    entries: BTreeMap<Arc<Key>, Slot>,
    by_version: BTreeSet<(u64, Arc<Key>)>,
    tombstones: BTreeMap<(u64, Arc<Key>), Instant>,
    length: usize,
}

impl Origin {
    /// Returns what the entries count towards limits, in bytes.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    pub(super) fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Returns the live entries of a channel.
    pub(super) fn channel<'a>(&'a self, channel: &'a str) -> impl Iterator<Item = (&'a Bytes, &'a Bytes)> {
        self.slots(channel).filter_map(|(key, slot)| slot.value.as_ref().map(|value| (&key.key, value)))
    }

    pub(super) fn value(&self, channel: &str, key: &[u8]) -> Option<&Bytes> {
        let key = Key { channel: channel.to_owned(), key: Bytes::copy_from_slice(key) };
        self.entries.get(&key)?.value.as_ref()
    }

    fn slots<'a>(&'a self, channel: &'a str) -> impl Iterator<Item = (&'a Arc<Key>, &'a Slot)> {
        let first = Arc::new(Key { channel: channel.to_owned(), key: Bytes::new() });
        self.entries.range(first..).take_while(move |(key, _)| key.channel == channel)
    }

    /// Returns how many entries and bytes there would be with these entries set.
    pub(super) fn size_with<'a>(&self, entries: impl Iterator<Item = &'a DeltaEntry>) -> (usize, usize) {
        let (mut count, mut length) = (self.entries.len(), self.length);
        for entry in entries {
            let key = Key { channel: entry.channel.clone(), key: entry.key.clone() };
            match self.entries.get(&key) {
                Some(slot) => length -= slot_length(&key, slot),
                None => count += 1,
            }
            length += entry.length();
        }
        (count, length)
    }

    /// Sets or deletes one entry, and tells whether its value changed.
    pub(super) fn set(&mut self, entry: DeltaEntry, now: Instant) -> bool {
        let key = Arc::new(Key { channel: entry.channel, key: entry.key });
        let before = self.remove(&key);
        let slot = Slot { version: entry.version, value: entry.value };
        let changed = before.and_then(|slot| slot.value) != slot.value;
        if slot.value.is_none() {
            self.tombstones.insert((slot.version, Arc::clone(&key)), now);
        }
        self.length += slot_length(&key, &slot);
        self.by_version.insert((slot.version, Arc::clone(&key)));
        self.entries.insert(key, slot);
        changed
    }

    fn remove(&mut self, key: &Arc<Key>) -> Option<Slot> {
        let slot = self.entries.remove(key)?;
        self.length -= slot_length(key, &slot);
        let versioned = (slot.version, Arc::clone(key));
        self.by_version.remove(&versioned);
        self.tombstones.remove(&versioned);
        Some(slot)
    }

    /// Takes over changes that follow what is known. Returns which values changed.
    pub(super) fn extend(&mut self, delta: Delta, now: Instant) -> Vec<ChannelChange> {
        let known = self.at.version;
        let mut changes = Changes::default();
        for entry in delta.entries {
            if entry.version <= known {
                continue;
            }
            let (channel, change) =
                (entry.channel.clone(), Entry { key: entry.key.clone(), value: entry.value.clone() });
            if self.set(entry, now) {
                changes.push(channel, change);
            }
        }
        self.at = delta.at;
        changes.into_vec()
    }

    /// Takes over all that the origin has. Returns which values changed.
    pub(super) fn replace(&mut self, delta: Delta, now: Instant) -> Vec<ChannelChange> {
        let mut fresh = Self { at: delta.at, floor: delta.at.version, ..Self::default() };
        for entry in delta.entries {
            fresh.set(entry, now);
        }
        let changes = self.difference(&fresh);
        *self = fresh;
        changes
    }

    /// Drops all entries for good. Returns what vanished.
    pub(super) fn forget(&mut self) -> Vec<ChannelChange> {
        let empty = Self { at: self.at, forgotten: true, floor: self.at.version, ..Self::default() };
        let changes = self.difference(&empty);
        *self = empty;
        changes
    }

    /// Returns which values are others in `after`.
    fn difference(&self, after: &Self) -> Vec<ChannelChange> {
        let mut changes = Changes::default();
        for (key, slot) in &self.entries {
            if slot.value.is_some() && after.entries.get(key).is_none_or(|slot| slot.value.is_none()) {
                changes.push(key.channel.clone(), Entry { key: key.key.clone(), value: None });
            }
        }
        for (key, slot) in &after.entries {
            let before = self.entries.get(key).and_then(|slot| slot.value.as_ref());
            if slot.value.is_some() && before != slot.value.as_ref() {
                changes.push(key.channel.clone(), Entry { key: key.key.clone(), value: slot.value.clone() });
            }
        }
        changes.into_vec()
    }

    /// Returns what somebody lacks who knows the origin up to `known`.
    pub(super) fn delta_since(&self, origin: PeerName, known: Option<Position>) -> Option<Delta> {
        // What was corrected is told when the origin has told it.
        if self.forgotten || self.at == Position::default() || known.is_some_and(|known| known >= self.at) {
            return None;
        }
        let base = known
            .filter(|known| known.generation == self.at.generation && known.version >= self.floor)
            .map(|known| known.version);
        let entry = |key: &Key, slot: &Slot| DeltaEntry {
            channel: key.channel.clone(),
            key: key.key.clone(),
            version: slot.version,
            value: slot.value.clone(),
        };
        let entries = match base {
            None => self.entries.iter().filter(|(_, slot)| slot.value.is_some()).map(|(k, s)| entry(k, s)).collect(),
            Some(base) => {
                let first = Arc::new(Key { channel: String::new(), key: Bytes::new() });
                let newer = self.by_version.range((base + 1, first)..);
                newer.filter_map(|(_, key)| self.entries.get(key).map(|slot| entry(key, slot))).collect()
            }
        };
        let (base_version, complete) = (base.unwrap_or(0), base.is_none());
        Some(Delta { origin, at: self.at, base_version, complete, entries, part: 0, parts: 1 })
    }

    /// Drops deletions that are too old or too many.
    pub(super) fn prune(&mut self, now: Instant) {
        while let Some((oldest, since)) = self.tombstones.first_key_value() {
            let keep = self.tombstones.len() <= limits::TOMBSTONES && now < *since + limits::TOMBSTONE_AGE;
            if keep {
                break;
            }
            let (version, key) = oldest.clone();
            self.floor = self.floor.max(version);
            self.remove(&key);
        }
    }
}

/// Collects changes by channel.
#[derive(Default)]
struct Changes(BTreeMap<String, Vec<Entry>>);

impl Changes {
    fn push(&mut self, channel: String, entry: Entry) {
        self.0.entry(channel).or_default().push(entry);
    }

    fn into_vec(self) -> Vec<ChannelChange> {
        self.0.into_iter().map(|(channel, entries)| ChannelChange { channel, entries }).collect()
    }
}

fn slot_length(key: &Key, slot: &Slot) -> usize {
    entry_length(&key.channel, &key.key, slot.value.as_deref())
}

/// Returns what an entry counts towards limits, in bytes.
pub(super) fn entry_length(channel: &str, key: &[u8], value: Option<&[u8]>) -> usize {
    channel.len() + key.len() + value.map_or(0, <[u8]>::len) + limits::ENTRY_OVERHEAD
}
