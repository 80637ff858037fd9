//! Whether a way carries what one send cuts into many datagrams.

use std::time::{Duration, Instant};

/// Datagrams of one batch that is sent as a probe.
pub(super) const BATCH: u8 = 4;
/// A batch of which so many are answered has passed; what random loss takes is no fault of batches.
const PASSED: u32 = 3;
/// Batches that have to fail one after the other.
const TRIES: u8 = 3;
/// A way that breaks batches is tried again after this.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Between batches under traffic.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a way's batches.
#[derive(Debug)]
pub(super) struct Batches {
    works: bool,
    waiting: bool,
    failed: u8,
    /// When the next is due, traffic or not.
    next: Option<Instant>,
    last: Option<Instant>,
}

impl Batches {
    pub(super) const fn new() -> Self {
        Self { works: false, waiting: false, failed: 0, next: None, last: None }
    }

    /// Starts over, as for a way that just came up.
    pub(super) fn restart(&mut self, now: Instant) {
        *self = Self { next: Some(now), ..Self::new() };
    }

    /// Has batches proven once more before they are used, unless they were lately, as for a way that comes into use.
    pub(super) fn doubt(&mut self, now: Instant) {
        let lately = self.last.is_some_and(|last| now.saturating_duration_since(last) < 2 * WATCH_INTERVAL);
        if self.works && !lately {
            self.restart(now);
        }
    }

    /// Has batches proven once more before they are used: data gets lost.
    pub(super) fn suspect(&mut self, now: Instant) {
        if self.works {
            self.restart(now);
        }
    }

    /// Tells whether the last one passed.
    pub(super) const fn work(&self) -> bool {
        self.works
    }

    /// Tells whether the last one failed.
    pub(super) const fn is_in_doubt(&self) -> bool {
        self.failed > 0
    }

    /// Returns when one is due; `watched` if there is traffic.
    pub(super) fn due(&self, watched: bool, now: Instant) -> Option<Instant> {
        if self.waiting {
            return None;
        }
        let watch = (watched && self.works).then(|| self.last.map_or(now, |last| last + WATCH_INTERVAL));
        self.next.into_iter().chain(watch).min()
    }

    /// Tells whether one is due, which the caller then sends.
    pub(super) fn poll(&mut self, watched: bool, now: Instant) -> bool {
        let due = self.due(watched, now).is_some_and(|due| due <= now);
        if due {
            self.waiting = true;
            self.next = None;
            self.last = Some(now);
        }
        due
    }

    /// Takes what became of one: which of its datagrams were answered, and whether single ones of their size pass.
    pub(super) fn handle_result(&mut self, answered: u32, single_pass: bool, now: Instant) {
        self.waiting = false;
        if answered >= PASSED {
            self.works = true;
            self.failed = 0;
            return;
        }
        self.failed += u8::from(single_pass);
        self.next = Some(if self.failed >= TRIES {
            self.works = false;
            self.failed = 0;
            now + TRY_AGAIN
        } else {
            now + WATCH_INTERVAL / 5
        });
    }

    /// Takes note that this host's kernel refuses batches on this way.
    pub(super) fn handle_refused(&mut self, now: Instant) {
        *self = Self { next: Some(now + TRY_AGAIN), ..Self::new() };
    }
}
