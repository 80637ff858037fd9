//! How often a way was left lately, and how long it therefore has to wait.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long it counts that a way was left.
const MEMORY: Duration = Duration::from_secs(60);
/// What more than this many times adds changes nothing.
const REMEMBERED: usize = 8;

/// When a way was left.
#[derive(Debug, Default)]
pub(crate) struct Flaps {
    times: VecDeque<Instant>,
}

impl Flaps {
    /// Remembers that the way was lost, or left for another one.
    pub(crate) fn record(&mut self, now: Instant) {
        if self.times.len() == REMEMBERED {
            self.times.pop_front();
        }
        self.times.push_back(now);
    }

    /// Counts how often that was in the last minute, at most 8.
    pub(crate) fn count(&self, now: Instant) -> usize {
        self.times.iter().filter(|time| now.saturating_duration_since(**time) < MEMORY).count()
    }

    /// Returns how long the way has to work again before it is chosen over another one that works: 0, 1, 2, 4, then 6 s.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        Duration::from_secs([0, 1, 2, 4, 6][self.count(now).min(4)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
    fn the_wait_grows_with_the_flaps_of_the_last_minute() {
        let now = Instant::now();
        let mut flaps = Flaps::default();
        for seconds in [0, 1, 2, 4, 6, 6] {
            assert_eq!(flaps.wait(now), Duration::from_secs(seconds));
            flaps.record(now);
        }
        (0..100).for_each(|_| flaps.record(now));
        assert_eq!(flaps.count(now), REMEMBERED);
        assert_eq!(flaps.wait(now + MEMORY), Duration::ZERO);
    }
}
