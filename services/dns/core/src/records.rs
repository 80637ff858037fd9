//! All records of the mesh, found by name and by address.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    net::IpAddr,
    ops::Bound,
};

use crdts::CmRDT;
use hickory_proto::rr::LowerName;
use weft_types::{ContainerId, PeerName};

/// What one container has: names, and the addresses that each of them means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameRecord {
    names: Vec<LowerName>,
    addresses: Vec<IpAddr>,
    healthy: bool,
}

impl NameRecord {
    /// Makes a record; what is given twice counts once, and the order is kept. The first name is the one that an address
    /// is resolved to.
    #[must_use]
    pub fn new(names: Vec<LowerName>, addresses: impl IntoIterator<Item = IpAddr>, healthy: bool) -> Self {
        Self { names: distinct(names), addresses: distinct(addresses), healthy }
    }

    /// Returns the names, absolute and lower case.
    #[must_use]
    pub fn names(&self) -> &[LowerName] {
        &self.names
    }

    /// Returns the addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Tells whether the container's health check, if it has one, is content.
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// Returns the record with further names.
    pub(crate) fn with(&self, names: &[LowerName]) -> Self {
        Self { names: distinct(self.names.iter().chain(names).cloned()), ..self.clone() }
    }

    /// Returns the record as of a container that is well, or is not.
    pub(crate) fn with_health(&self, healthy: bool) -> Self {
        Self { healthy, ..self.clone() }
    }

    /// Returns the record without the given names.
    #[must_use]
    pub fn without(&self, names: &[LowerName]) -> Self {
        let left = self.names.iter().filter(|name| !names.contains(name)).cloned().collect();
        Self { names: left, addresses: self.addresses.clone(), healthy: self.healthy }
    }
}

fn distinct<T: Ord + Clone>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    values.into_iter().filter(|value| seen.insert(value.clone())).collect()
}

/// Who published a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// This host, whose name dns may not know yet.
    Local,
    /// Another peer.
    Peer(PeerName),
}

/// Names a record in the indexes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RecordKey {
    origin: Origin,
    container: ContainerId,
}

/// What one origin changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Who changed it.
    pub origin: Origin,
    /// Set: these are all records of the origin; others are gone.
    pub complete: bool,
    /// Records by container; `None` deletes.
    pub entries: Vec<(ContainerId, Option<NameRecord>)>,
}

/// All records.
///
/// A replicated data type of the operation-based kind: each origin writes its own records only, so changes of different
/// origins commute, and gossip keeps those of one origin in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Never holds an origin without records.
    records: BTreeMap<Origin, BTreeMap<ContainerId, NameRecord>>,
    by_name: BTreeMap<LowerName, BTreeSet<RecordKey>>,
    by_address: BTreeMap<IpAddr, BTreeSet<RecordKey>>,
}

impl CmRDT for Records {
    type Op = Change;
    type Validation = Infallible;

    fn validate_op(&self, _op: &Self::Op) -> Result<(), Self::Validation> {
        Ok(())
    }

    fn apply(&mut self, change: Self::Op) {
        let origin = change.origin;
        if change.complete {
            let kept = change.entries.iter().filter(|(_, record)| record.is_some()).map(|(container, _)| container);
            let kept: BTreeSet<_> = kept.collect();
            let gone = self.of(origin).map(|(container, _)| container).filter(|container| !kept.contains(container));
            for container in gone.cloned().collect::<Vec<_>>() {
                self.remove(&RecordKey { origin, container });
            }
        }
        for (container, record) in change.entries {
            let key = RecordKey { origin, container };
            match record {
                Some(record) => self.insert(key, record),
                None => self.remove(&key),
            }
        }
    }
}

impl Records {
    /// Returns all records in order of origin and container.
    pub fn iter(&self) -> impl Iterator<Item = (Origin, &ContainerId, &NameRecord)> {
        self.records
            .iter()
            .flat_map(|(origin, records)| records.iter().map(|(container, record)| (*origin, container, record)))
    }

    /// Returns the records of one origin in order of container.
    pub fn of(&self, origin: Origin) -> impl Iterator<Item = (&ContainerId, &NameRecord)> {
        self.records.get(&origin).into_iter().flatten()
    }

    /// Returns one record.
    #[must_use]
    pub fn get(&self, origin: Origin, container: &ContainerId) -> Option<&NameRecord> {
        self.records.get(&origin)?.get(container)
    }

    /// Returns how many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.values().map(BTreeMap::len).sum()
    }

    /// Returns how many records one origin has.
    #[must_use]
    pub fn len_of(&self, origin: Origin) -> usize {
        self.records.get(&origin).map_or(0, BTreeMap::len)
    }

    /// Tells whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the records that have `name`.
    pub fn named(&self, name: &LowerName) -> impl Iterator<Item = (Origin, &NameRecord)> {
        self.by_name.get(name).into_iter().flatten().filter_map(|key| self.at(key))
    }

    /// Returns the records that have a name below `name`.
    pub fn below(&self, name: &LowerName) -> impl Iterator<Item = (Origin, &NameRecord)> {
        // Names are ordered label by label from the root (RFC 4034, section 6.1), so descendants follow at once.
        let zone = name.clone();
        let after = self.by_name.range((Bound::Excluded(name.clone()), Bound::Unbounded));
        after.take_while(move |(name, _)| zone.zone_of(name)).flat_map(|(_, keys)| keys).filter_map(|key| self.at(key))
    }

    /// Returns the records that have `address`.
    pub fn addressed(&self, address: IpAddr) -> impl Iterator<Item = (Origin, &NameRecord)> {
        self.by_address.get(&address).into_iter().flatten().filter_map(|key| self.at(key))
    }

    /// Tells whether any record has an address from `first` to `last`, both inclusive.
    #[must_use]
    pub fn any_address_within(&self, first: IpAddr, last: IpAddr) -> bool {
        self.by_address.range(first..=last).next().is_some()
    }

    /// Returns the origins that have records.
    pub fn origins(&self) -> impl Iterator<Item = Origin> {
        self.records.keys().copied()
    }

    fn at(&self, key: &RecordKey) -> Option<(Origin, &NameRecord)> {
        Some((key.origin, self.get(key.origin, &key.container)?))
    }

    fn insert(&mut self, key: RecordKey, record: NameRecord) {
        self.remove(&key);
        for name in &record.names {
            self.by_name.entry(name.clone()).or_default().insert(key.clone());
        }
        for address in &record.addresses {
            self.by_address.entry(*address).or_default().insert(key.clone());
        }
        self.records.entry(key.origin).or_default().insert(key.container, record);
    }

    fn remove(&mut self, key: &RecordKey) {
        let Some(records) = self.records.get_mut(&key.origin) else { return };
        let Some(record) = records.remove(&key.container) else { return };
        if records.is_empty() {
            self.records.remove(&key.origin);
        }
        for name in &record.names {
            remove_from(&mut self.by_name, name, key);
        }
        for address in &record.addresses {
            remove_from(&mut self.by_address, address, key);
        }
    }
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeSet<RecordKey>>, at: &K, key: &RecordKey) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(names: &[u8]) -> NameRecord {
        let names = names
            .iter()
            .map(|n| LowerName::from(hickory_proto::rr::Name::from_ascii(format!("n{n}.z.")).expect("valid")));
        NameRecord::new(names.collect(), [IpAddr::from([10, 0, 0, 1])], true)
    }

    fn change() -> impl Strategy<Value = Change> {
        let entry = (0u8..4, proptest::option::of(proptest::collection::vec(0u8..4, 0..3)));
        (0u8..3, any::<bool>(), proptest::collection::vec(entry, 0..4)).prop_map(|(origin, complete, entries)| Change {
            origin: Origin::Peer(PeerName::from_public_key([origin; 32])),
            complete,
            entries: entries
                .into_iter()
                .map(|(container, names)| {
                    (format!("c{container}").parse().expect("valid"), names.map(|names| record(&names)))
                })
                .collect(),
        })
    }

    proptest! {
        /// Any interleaving that keeps each origin's order leads to the same records.
        #[test]
        fn changes_of_different_origins_commute(changes in proptest::collection::vec(change(), 0..12)) {
            let mut as_made = Records::default();
            let mut by_origin = Records::default();
            let mut sorted = changes.clone();
            sorted.sort_by_key(|change| change.origin);
            changes.into_iter().for_each(|change| as_made.apply(change));
            sorted.into_iter().for_each(|change| by_origin.apply(change));
            prop_assert_eq!(as_made, by_origin);
        }

        /// The indexes hold exactly what the records say.
        #[test]
        fn indexes_follow_the_records(changes in proptest::collection::vec(change(), 0..12)) {
            let mut records = Records::default();
            changes.into_iter().for_each(|change| records.apply(change));
            let mut anew = Records::default();
            for (origin, container, record) in records.iter() {
                anew.insert(RecordKey { origin, container: container.clone() }, record.clone());
            }
            prop_assert_eq!(anew, records);
        }
    }
}
