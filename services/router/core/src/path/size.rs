//! The largest datagram that a way carries: searched, watched, and searched again.

use std::time::{Duration, Instant};

use super::BASE_SIZE;

/// Probes of one size that have to get lost before it counts as too large.
const TRIES: u8 = 3;
/// Between them.
const TRY_INTERVAL: Duration = Duration::from_millis(50);
/// Sizes are tried in steps of so many bytes.
const STEP: usize = 8;
/// A way that carries less than wanted is searched again after this.
const SEARCH_AGAIN: Duration = Duration::from_secs(60);
/// Between probes of the proven size under traffic.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a way's sizes, in bytes of the sealed datagram.
#[derive(Debug)]
pub(super) struct Sizes {
    proven: usize,
    /// The smallest that does not pass; none is known if above all wanted.
    limit: usize,
    /// Whether a search has come to its end since the last time that the way became narrower.
    known: bool,
    test: Option<Test>,
    search_again: Option<Instant>,
    last_watch: Option<Instant>,
    watching: bool,
    watch_lost: u8,
}

#[derive(Debug)]
struct Test {
    size: usize,
    sent: u8,
    lost: u8,
    last: Instant,
    /// When its first probe was sent, and whether a small one that was sent since was answered: else nothing is learnt.
    began: Option<Instant>,
    alive: bool,
}

impl Sizes {
    pub(super) const fn new() -> Self {
        Self {
            proven: BASE_SIZE,
            limit: usize::MAX,
            known: false,
            test: None,
            search_again: None,
            last_watch: None,
            watching: false,
            watch_lost: 0,
        }
    }

    /// Returns the largest size that has passed.
    pub(super) const fn proven(&self) -> usize {
        self.proven
    }

    /// Tells whether the search is over.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// Tells whether the proven size is in doubt.
    pub(super) const fn is_in_doubt(&self) -> bool {
        self.watch_lost > 0
    }

    /// Starts the search over, as for a way that just came up.
    pub(super) fn restart(&mut self, wanted: usize, now: Instant) {
        *self = Self::new();
        self.search(wanted, now);
    }

    fn search(&mut self, wanted: usize, now: Instant) {
        self.limit = wanted.max(self.proven) + 1;
        self.search_again = None;
        self.try_size(wanted, now);
    }

    /// Takes what full frames need now.
    pub(super) fn set_wanted(&mut self, wanted: usize, now: Instant) {
        if wanted > self.proven {
            self.known = false;
            self.search(wanted, now);
        }
    }

    fn try_size(&mut self, size: usize, now: Instant) {
        if size <= self.proven {
            self.known = true;
            self.test = None;
            self.search_again = Some(now + SEARCH_AGAIN);
        } else {
            self.test = Some(Test { size, sent: 0, lost: 0, last: now, began: None, alive: false });
        }
    }

    fn try_next(&mut self, now: Instant) {
        let steps = self.proven / STEP + (self.limit - self.proven).div_ceil(2 * STEP);
        self.try_size(if steps * STEP < self.limit { steps * STEP } else { self.proven }, now);
    }

    /// Returns when a probe is due; `watched` if there is traffic, `searched` if it may be searched again.
    pub(super) fn due(&self, watched: bool, searched: bool, wanted: usize, now: Instant) -> Option<Instant> {
        let test = self.test.as_ref().filter(|test| test.sent < TRIES);
        let test = test.map(|test| if test.sent == 0 { test.last } else { test.last + TRY_INTERVAL });
        let again = self.search_again.filter(|_| searched && self.proven < wanted);
        let watched = (watched || self.watch_lost > 0) && !self.watching && self.proven > BASE_SIZE;
        let watch = watched.then(|| match self.last_watch {
            Some(last) if self.watch_lost == 0 => last + WATCH_INTERVAL,
            Some(_) | None => now,
        });
        test.into_iter().chain(again).chain(watch).min()
    }

    /// Returns the size of a probe that is due, and whether a small one should go with it.
    pub(super) fn poll(&mut self, watched: bool, searched: bool, wanted: usize, now: Instant) -> Option<(usize, bool)> {
        if searched && self.proven < wanted && self.search_again.is_some_and(|again| again <= now) {
            self.search(wanted, now);
        }
        if self.due(watched, false, wanted, now).is_none_or(|due| due > now) {
            return None;
        }
        if let Some(test) = &mut self.test
            && test.sent < TRIES
            && (test.sent == 0 || test.last + TRY_INTERVAL <= now)
        {
            let first = test.sent == 0;
            test.began.get_or_insert(now);
            test.sent += 1;
            test.last = now;
            return Some((test.size, first));
        }
        self.watching = true;
        self.last_watch = Some(now);
        Some((self.proven, self.watch_lost > 0))
    }

    /// Has the proven size looked at now, busy or not: data gets lost.
    pub(super) fn suspect(&mut self) {
        if self.proven > BASE_SIZE {
            self.last_watch = None;
            self.watch_lost = self.watch_lost.max(1);
        }
    }

    /// Takes note that a small probe that was sent then was answered.
    pub(super) fn handle_small(&mut self, sent: Instant) {
        if let Some(test) = &mut self.test {
            test.alive |= test.began.is_some_and(|began| sent >= began);
        }
    }

    /// Takes note that a probe of this size was answered.
    pub(super) fn handle_answer(&mut self, size: usize, now: Instant) {
        if size >= self.proven {
            self.watching = false;
            self.watch_lost = 0;
        }
        if size > self.proven {
            self.proven = size;
            self.limit = self.limit.max(size + 1);
            if self.test.as_ref().is_some_and(|test| test.size <= size) {
                self.try_next(now);
            }
        }
    }

    /// Takes note that a probe of this size was lost, on a way that answered small ones lately or did not.
    pub(super) fn handle_lost(&mut self, size: usize, alive: bool, now: Instant) {
        if let Some(test) = &mut self.test
            && test.size == size
        {
            test.lost += 1;
            if test.lost >= TRIES {
                if test.alive {
                    self.limit = size;
                    self.try_next(now);
                } else {
                    self.try_size(size, now);
                }
            }
        } else if size == self.proven && self.watching {
            self.watching = false;
            self.watch_lost += u8::from(alive);
            if self.watch_lost >= TRIES {
                self.shrink(size, now);
            }
        }
    }

    fn shrink(&mut self, limit: usize, now: Instant) {
        self.known = false;
        self.watch_lost = 0;
        self.watching = false;
        self.limit = limit.max(BASE_SIZE + 1);
        self.proven = BASE_SIZE;
        self.try_next(now);
    }

    /// Takes note that this host's kernel refuses datagrams of so many bytes.
    pub(super) fn handle_refused(&mut self, bytes: usize, now: Instant) {
        if bytes <= self.proven && self.proven > BASE_SIZE {
            self.shrink(bytes, now);
        } else if self.test.as_ref().is_some_and(|test| bytes <= test.size) && bytes > self.proven {
            self.limit = self.limit.min(bytes);
            self.try_next(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
    fn epoch() -> Instant {
        Instant::now()
    }

    /// Sends what is due for so long on a way that carries `largest`, and counts probes.
    fn run(sizes: &mut Sizes, largest: usize, wanted: usize, busy: bool, now: &mut Instant, time: Duration) -> usize {
        let end = *now + time;
        let mut probes = 0;
        while *now < end {
            while let Some((size, small)) = sizes.poll(busy, true, wanted, *now) {
                probes += 1;
                if small {
                    sizes.handle_small(*now);
                }
                if size <= largest {
                    sizes.handle_answer(size, *now);
                } else {
                    sizes.handle_lost(size, true, *now);
                }
            }
            *now += Duration::from_millis(10);
        }
        probes
    }

    proptest! {
        #[test]
        fn the_largest_is_found_within_a_step(largest in BASE_SIZE..9000usize, wanted in 0..9000usize) {
            let mut now = epoch();
            let mut sizes = Sizes::new();
            sizes.restart(wanted, now);
            let probes = run(&mut sizes, largest, wanted, false, &mut now, 5 * SECOND);
            prop_assert!(sizes.is_known() && sizes.proven() <= largest.max(BASE_SIZE));
            prop_assert!(sizes.proven() + STEP > largest.min(wanted), "{} of {}", sizes.proven(), largest);
            prop_assert!(probes <= 3 * 12, "{} probes", probes);
        }

        #[test]
        fn a_way_that_changes_is_followed(before in BASE_SIZE..1500usize, after in BASE_SIZE..1500usize) {
            let mut now = epoch();
            let mut sizes = Sizes::new();
            sizes.restart(1451, now);
            run(&mut sizes, before, 1451, true, &mut now, 5 * SECOND);
            run(&mut sizes, after, 1451, true, &mut now, 5 * SECOND);
            prop_assert!(sizes.proven() <= after, "{} after {}", sizes.proven(), after);
            run(&mut sizes, after, 1451, true, &mut now, SEARCH_AGAIN);
            prop_assert!(sizes.is_known() && sizes.proven() + STEP > after.min(1451));
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_not_tried_again() {
        let mut now = epoch();
        let mut sizes = Sizes::new();
        sizes.restart(1451, now);
        assert_eq!(sizes.poll(false, true, 1451, now), Some((1451, true)));
        sizes.handle_refused(1433, now);
        run(&mut sizes, 1432, 1451, false, &mut now, SECOND);
        assert_eq!((sizes.proven(), sizes.is_known()), (1432, true));
        sizes.handle_refused(1300, now);
        assert_eq!((sizes.proven(), sizes.is_known()), (BASE_SIZE, false));
    }

    #[test]
    fn a_way_that_answers_nothing_teaches_nothing() {
        let mut now = epoch();
        let mut sizes = Sizes::new();
        sizes.restart(1451, now);
        for _ in 0..30 {
            while let Some((size, _)) = sizes.poll(false, true, 1451, now) {
                assert_eq!(size, 1451);
                sizes.handle_lost(size, false, now);
            }
            now += TRY_INTERVAL;
        }
        assert!(!sizes.is_known());
    }
}
