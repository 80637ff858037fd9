//! What there is no room for.

use std::{collections::BTreeMap, time::Instant};

use weft_types::PeerName;

use super::{Position, limits};

/// Origins whose news was left out, and how far they were offered, so that neighbours do not offer the same again and again.
#[derive(Debug, Default)]
pub(super) struct Surplus(BTreeMap<PeerName, LeftOut>);

/// What was left out of one origin.
#[derive(Debug)]
struct LeftOut {
    at: Position,
    /// Bytes that it lacked room for.
    needed: usize,
    since: Instant,
}

impl Surplus {
    /// Leaves out news of an origin. Beyond the limit not even that is remembered.
    pub(super) fn insert(&mut self, origin: PeerName, at: Position, needed: usize, now: Instant) {
        if let Some(known) = self.0.get_mut(&origin) {
            known.at = known.at.max(at);
            known.needed = needed;
        } else if self.0.len() < limits::SURPLUS {
            self.0.insert(origin, LeftOut { at, needed, since: now });
        }
    }

    /// Forgets that something was left out of an origin.
    pub(super) fn remove(&mut self, origin: PeerName) {
        self.0.remove(&origin);
    }

    pub(super) fn contains(&self, origin: PeerName) -> bool {
        self.0.contains_key(&origin)
    }

    /// Returns the origins and how far they were offered, in order of name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerName, Position)> {
        self.0.iter().map(|(origin, left_out)| (*origin, left_out.at))
    }

    /// Forgets what is old, and that for which there is room by now: `room` bytes, and places for those origins that `fits`
    /// tells.
    pub(super) fn retry(&mut self, room: usize, fits: impl Fn(PeerName) -> bool, now: Instant) {
        self.0.retain(|origin, left_out| {
            let possible = left_out.needed <= room && fits(*origin);
            !possible && now < left_out.since + limits::SURPLUS_AGE
        });
    }
}
