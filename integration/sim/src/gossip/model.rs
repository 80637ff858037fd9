//! What services published, and what subscribers may see of it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use weft_router_core::gossip::Entry;
use weft_types::PeerName;

use super::Violation;

/// What the service of each host has published, all values with a number of their own.
#[derive(Debug, Default)]
pub(super) struct Model {
    published: BTreeMap<PeerName, BTreeMap<Bytes, Bytes>>,
    /// Numbers of values that their service deleted or replaced.
    gone: BTreeSet<u64>,
    next: u64,
    /// Origins that lost their disk. Who hears first of the later life may then hear of the earlier one, until the origin does.
    forgetful: BTreeSet<PeerName>,
}

impl Model {
    /// Sets a key to a new value, or deletes it. Returns the entry to publish.
    pub(super) fn change(&mut self, origin: PeerName, key: Bytes, delete: bool) -> Entry {
        let own = self.published.entry(origin).or_default();
        let before = own.remove(&key);
        self.gone.extend(before.as_ref().map(number));
        let value = (!delete).then(|| {
            self.next += 1;
            Bytes::copy_from_slice(&self.next.to_be_bytes())
        });
        own.extend(value.clone().map(|value| (key.clone(), value)));
        Entry { key, value }
    }

    /// Takes that an origin lost its disk.
    pub(super) fn disk_lost(&mut self, origin: PeerName) {
        self.forgetful.insert(origin);
    }

    /// Returns all that a service has published.
    pub(super) fn all(&self, origin: PeerName) -> Vec<(Bytes, Bytes)> {
        let own = self.published.get(&origin).into_iter().flatten();
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

fn number(value: &Bytes) -> u64 {
    value.as_ref().try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// What a subscriber saw since its router's start.
#[derive(Debug, Default)]
pub(super) struct View {
    seen: BTreeMap<(PeerName, Bytes), Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    value: Option<Bytes>,
    newest: u64,
    /// The newest value was deleted by its service, and this was seen.
    deleted: bool,
}

impl View {
    /// Takes a change.
    pub(super) fn take(&mut self, origin: PeerName, entries: &[Entry], model: &Model) -> Result<(), Violation> {
        for Entry { key, value } in entries {
            let seen = self.seen.entry((origin, key.clone())).or_default();
            if seen.value == *value {
                return Err(Violation(format!("{origin} {key:?}: a change to what there was already")));
            }
            match value {
                None => {
                    seen.deleted = model.gone.contains(&seen.newest);
                    if !seen.deleted && !model.forgetful.contains(&origin) {
                        return Err(Violation(format!("{origin} {key:?}: value {} vanished undeleted", seen.newest)));
                    }
                }
                Some(value) => {
                    let number = number(value);
                    let backwards = number < seen.newest || (number == seen.newest && seen.deleted);
                    if backwards && !model.forgetful.contains(&origin) {
                        return Err(Violation(format!("{origin} {key:?}: value {number} came back")));
                    }
                    seen.newest = number;
                    seen.deleted = false;
                }
            }
            seen.value.clone_from(value);
        }
        Ok(())
    }

    /// Returns what there is of an origin.
    pub(super) fn all(&self, origin: PeerName) -> Vec<(Bytes, Bytes)> {
        let own = self.seen.iter().filter(|((of, _), _)| *of == origin);
        own.filter_map(|((_, key), seen)| Some((key.clone(), seen.value.clone()?))).collect()
    }
}
