//! What a peer says about its free space: coarse, so that allocating does not keep the mesh talking.

use crdts::LWWReg;
use weft_types::AddressRange;

use crate::{
    holdings::Holdings,
    ring::{Owner, Ring},
    space,
};

/// How many addresses are free where, as an owner says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FreeReport {
    /// Grows with each report; nothing to do with the versions of ownership.
    pub(crate) version: u64,
    pub(crate) store: u64,
    pub(crate) spans: Vec<FreeSpan>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeSpan {
    pub(crate) range: AddressRange,
    pub(crate) free: u64,
}

/// A report has at most this many spans (33 KB); beyond, neighbours are reported as one.
const MOST_SPANS: usize = 1500;

impl FreeReport {
    /// Says what is free now, with the version of the report before.
    pub(crate) fn now(ring: &Ring, holdings: &Holdings, owner: Owner, whole: AddressRange, version: u64) -> Self {
        let spans: Vec<FreeSpan> = ring
            .owned_in(owner, whole)
            .into_iter()
            .map(|range| {
                let held = holdings.held_in(range).count() as u64;
                FreeSpan { range, free: range.size() - held }
            })
            .collect();
        let together = spans.len().div_ceil(MOST_SPANS).max(1);
        let spans = spans.chunks(together).filter_map(|spans| {
            let (first, last) = (spans.first()?, spans.last()?);
            let range = AddressRange::new(first.range.start(), last.range.end()).ok()?;
            Some(FreeSpan { range, free: spans.iter().map(|span| span.free).sum() })
        });
        Self { version, store: owner.store, spans: spans.collect() }
    }

    /// Tells whether others should hear of `self` after they heard `before`: ranges changed, or somewhere the count went
    /// from or to nothing, doubled, or halved.
    pub(crate) fn is_news_after(&self, before: &Self) -> bool {
        self.store != before.store
            || self.spans.len() != before.spans.len()
            || self.spans.iter().zip(&before.spans).any(|(now, before)| {
                let (less, more) = (now.free.min(before.free), now.free.max(before.free));
                now.range != before.range || (less == 0) != (more == 0) || less * 2 < more
            })
    }

    /// Returns about how many addresses of `range` are free.
    pub(crate) fn free_in(&self, range: AddressRange) -> u64 {
        let overlap = |span: &FreeSpan| span.range.intersection(range).map_or(0, AddressRange::size);
        self.spans.iter().map(|span| span.free.min(overlap(span))).sum()
    }

    /// Returns how many addresses are free altogether.
    pub(crate) fn total(&self) -> u64 {
        self.spans.iter().map(|span| span.free).sum()
    }

    /// Returns the report as a register that the newest report wins.
    pub(crate) fn register(self) -> LWWReg<Self, (u64, u64)> {
        let marker = (self.store, self.version);
        LWWReg { val: self, marker }
    }
}

/// Returns how many addresses `owner` really has free in `range`.
pub(crate) fn free_now(ring: &Ring, holdings: &Holdings, owner: Owner, range: AddressRange) -> u64 {
    space::gaps(ring, holdings, owner, range).into_iter().map(AddressRange::size).sum()
}
