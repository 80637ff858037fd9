//! What the other peers publish, origin by origin.

use std::{collections::BTreeMap, net::Ipv4Addr};

use weft_types::{AddressRange, ContainerId};

use crate::{
    free_report::FreeReport,
    ring::{Fact, RingInfo},
    wire::{self, Ballot, Item, Malformed},
};

/// An origin may publish this many runs and outside addresses; what comes beyond is ignored.
const MOST_ITEMS: usize = 1 << 16;

/// What one origin publishes.
#[derive(Debug, Clone, Default)]
pub(crate) struct OriginView {
    pub(crate) info: Option<RingInfo>,
    pub(crate) runs: BTreeMap<u32, (AddressRange, Fact)>,
    pub(crate) free: Option<FreeReport>,
    pub(crate) ballot: Option<Ballot>,
    pub(crate) externals: BTreeMap<Ipv4Addr, ContainerId>,
}

impl OriginView {
    /// Takes in one entry; no value removes it. What makes no sense counts as not there.
    pub(crate) fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Malformed> {
        let item = match value.map(|value| Item::decode(key, value)).transpose() {
            Ok(Some(Some(item))) => item,
            Ok(Some(None) | None) => {
                self.remove(key);
                return Ok(());
            }
            Err(malformed) => {
                self.remove(key);
                return Err(malformed);
            }
        };
        match item {
            Item::Info(info) => self.info = Some(info),
            Item::Run(range, fact) if self.runs.len() < MOST_ITEMS => {
                self.runs.insert(range.start(), (range, fact));
            }
            Item::Free(report) => self.free = Some(report),
            Item::Ballot(ballot) => self.ballot = Some(ballot),
            Item::External(address, container) if self.externals.len() < MOST_ITEMS => {
                self.externals.insert(address, container);
            }
            Item::Run(..) | Item::External(..) => {}
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) {
        match key {
            wire::INFO_KEY => self.info = None,
            wire::FREE_KEY => self.free = None,
            wire::BALLOT_KEY => self.ballot = None,
            _ => {
                let text = std::str::from_utf8(key).unwrap_or_default();
                if let Some(start) = text.strip_prefix("run/").and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
                    self.runs.remove(&start);
                }
                if let Some(address) = text.strip_prefix("external/").and_then(|text| text.parse().ok()) {
                    self.externals.remove(&address);
                }
            }
        }
    }
}
