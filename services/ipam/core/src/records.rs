//! What a peer has to remember, as records that a store keeps without knowing what they mean.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use weft_types::ContainerId;

use crate::{
    election::Votes,
    holdings::{Holding, Holdings, Origin},
    ring::{Ring, RingInfo},
    wire::{Ballot, Item},
};

/// A change of one record: key, and value unless it is deleted.
pub type Record = (Vec<u8>, Option<Vec<u8>>);

const STORE_KEY: &[u8] = b"store";
const FREE_VERSION_KEY: &[u8] = b"free-version";
const HOLDING_PREFIX: &[u8] = b"holding/";

/// Everything a peer remembers across restarts.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Tells this store from others that the peer has had. Not 0.
    pub(crate) store: u64,
    pub(crate) ring: Option<(RingInfo, Ring)>,
    pub(crate) votes: Votes,
    pub(crate) free_version: u64,
    pub(crate) holdings: Holdings,
}

/// A record does not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the record {key:?} makes no sense")]
pub struct InvalidRecord {
    /// Its key, as text where it is text.
    pub key: String,
}

impl State {
    /// Makes the state of a new store. `store` should be random.
    #[must_use]
    pub fn new(store: u64) -> Self {
        Self { store: store.max(1), ..Self::default() }
    }

    /// Reads the state back from all records.
    ///
    /// # Errors
    /// [`InvalidRecord`] names the first record that makes no sense.
    pub fn from_records<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        records: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, InvalidRecord> {
        let mut state = Self::default();
        let mut info = None;
        let mut ring = Ring::default();
        let mut has_store = false;
        for (key, value) in records {
            let (key, value) = (key.as_ref(), value.as_ref());
            let invalid = || InvalidRecord { key: String::from_utf8_lossy(key).into_owned() };
            let number = || value.try_into().map(u64::from_be_bytes).map_err(|_| invalid());
            if key == STORE_KEY {
                state.store = number()?;
                has_store = true;
            } else if key == FREE_VERSION_KEY {
                state.free_version = number()?;
            } else if let Some(rest) = key.strip_prefix(HOLDING_PREFIX) {
                let (container, holding) = holding_from(rest, value).ok_or_else(invalid)?;
                if state.holdings.holder(holding.address.addr()).is_some() {
                    return Err(invalid());
                }
                state.holdings.insert(&container, holding);
            } else {
                match Item::decode(key, value) {
                    Ok(Some(Item::Info(known))) => info = Some(known),
                    Ok(Some(Item::Run(range, fact))) => {
                        ring.learn(range, fact);
                    }
                    Ok(Some(Item::Ballot(ballot))) => state.votes = ballot.votes,
                    Ok(Some(Item::Free(_) | Item::External(..)) | None) | Err(_) => return Err(invalid()),
                }
            }
        }
        if !has_store {
            return Err(InvalidRecord { key: "store".into() });
        }
        state.ring = info.map(|info| (info, ring));
        Ok(state)
    }

    /// Returns all records of the state, for a new store.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records =
            vec![store_record(self.store), free_version_record(self.free_version), votes_record(&self.votes)];
        if let Some((info, ring)) = &self.ring {
            records.push(info_record(info));
            records.extend(ring_records(&Ring::default(), ring));
        }
        for (container, holdings) in self.holdings.iter() {
            records.extend(
                holdings.iter().map(|holding| holding_record(container, holding.address.addr(), Some(*holding))),
            );
        }
        records
    }

    /// Returns the range that the stored ring is for, if there is one.
    #[must_use]
    pub fn range(&self) -> Option<Ipv4Net> {
        self.ring.as_ref().map(|(info, _)| info.range)
    }
}

pub(crate) fn store_record(store: u64) -> Record {
    (STORE_KEY.to_vec(), Some(store.to_be_bytes().to_vec()))
}

pub(crate) fn free_version_record(version: u64) -> Record {
    (FREE_VERSION_KEY.to_vec(), Some(version.to_be_bytes().to_vec()))
}

pub(crate) fn votes_record(votes: &Votes) -> Record {
    item_record(&Item::Ballot(Ballot { voters: 0, store: 0, votes: votes.clone(), founder: false }))
}

pub(crate) fn info_record(info: &RingInfo) -> Record {
    item_record(&Item::Info(*info))
}

/// Returns what has to be written where `before` was written before.
pub(crate) fn ring_records(before: &Ring, now: &Ring) -> Vec<Record> {
    let runs = |ring: &Ring| -> BTreeMap<Vec<u8>, Item> {
        let items = ring.runs().map(|(range, fact)| Item::Run(range, fact));
        items.map(|item| (item.key(), item)).collect()
    };
    let (before, now) = (runs(before), runs(now));
    let gone = before.keys().filter(|key| !now.contains_key(*key)).map(|key| (key.clone(), None));
    let changed = now.iter().filter(|(key, item)| before.get(*key) != Some(*item));
    gone.chain(changed.map(|(key, item)| (key.clone(), Some(item.encode())))).collect()
}

pub(crate) fn holding_record(container: &ContainerId, address: Ipv4Addr, holding: Option<Holding>) -> Record {
    let key = [HOLDING_PREFIX, container.as_str().as_bytes(), b"/", address.to_string().as_bytes()].concat();
    let value = holding.map(|holding| {
        let origin = match holding.origin {
            Origin::Allocated => 0,
            Origin::Claimed => 1,
        };
        vec![holding.address.prefix_len(), origin]
    });
    (key, value)
}

fn holding_from(key: &[u8], value: &[u8]) -> Option<(ContainerId, Holding)> {
    let (container, address) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
    let (length, origin) = match value {
        [length, 0] => (*length, Origin::Allocated),
        [length, 1] => (*length, Origin::Claimed),
        _ => return None,
    };
    let address = Ipv4Net::new(address.parse().ok()?, length).ok()?;
    Some((container.parse().ok()?, Holding { address, origin }))
}

fn item_record(item: &Item) -> Record {
    (item.key(), Some(item.encode()))
}
