//! What a way costs: delay, loss, hops and width as one number, in units of 0.1 ms.

use std::time::{Duration, Instant};

/// What each relay adds: datagrams take processor time and bandwidth of one more host. More than what a busy host adds to a round trip
/// by chance, or a way would not be left for the direct one when that is there again.
pub const RELAY: u32 = 100;
/// What going inside a TCP connection adds: whatever is lost or large there delays what comes after. More than a relay or two.
pub const STREAM: u32 = 300;
/// Loss up to this, in permille, is what streams cause themselves where they find out how fast a way is.
const FREE_LOSS: u32 = 20;
/// What each further permille adds.
const PERMILLE: u32 = 20;
/// Missing bytes of full frames that cost one unit.
const NARROWER: usize = 16;
/// Another way has to be better by this part of the present one's cost …
const MARGIN_PART: u32 = 4;
/// … and at least by this.
const MARGIN_LEAST: u32 = 10;
/// How long a link's cost has to be off before what is published changes.
const STEADY: Duration = Duration::from_secs(5);

/// What a way is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quality {
    /// From question to answer.
    pub round_trip: Duration,
    /// Lost datagrams, in permille.
    pub loss: u32,
    /// Hosts on the way.
    pub relays: u8,
    /// Whether it is inside the control connection.
    pub stream: bool,
    /// By how much it is narrower than full frames need, in bytes.
    pub missing: usize,
}

impl Quality {
    /// Returns what the way costs; the lower, the better.
    #[must_use]
    pub fn cost(self) -> u32 {
        let delay = u32::try_from(self.round_trip.as_micros() / 100).unwrap_or(u32::MAX / 2).clamp(1, u32::MAX / 2);
        let loss = self.loss.saturating_sub(FREE_LOSS) * PERMILLE;
        let narrow = (self.missing / NARROWER) as u32;
        delay
            .saturating_add(loss)
            .saturating_add(narrow)
            .saturating_add(u32::from(self.relays) * RELAY)
            .saturating_add(if self.stream { STREAM } else { 0 })
    }
}

/// Returns by how much another way has to cost less than the present one, which costs `present`, to be worth a change.
#[must_use]
pub fn margin(present: u32) -> u32 {
    (present / MARGIN_PART).max(MARGIN_LEAST)
}

/// What is published of a link's cost: in steps of half as much again, and only when it is off for a while, so that an idle
/// mesh publishes nothing.
#[derive(Debug, Default)]
pub struct LinkCost {
    published: Option<u32>,
    off_since: Option<Instant>,
}

impl LinkCost {
    /// Takes what the link costs now, and returns what to publish.
    pub fn update(&mut self, cost: u32, now: Instant) -> u32 {
        let step = step(cost);
        let published = self.published.unwrap_or(step);
        let off = cost > above(above(published)) || above(above(cost)) < published;
        let since = off.then(|| *self.off_since.get_or_insert(now));
        self.off_since = since;
        let changed = since.is_some_and(|since| now.saturating_duration_since(since) >= STEADY);
        if changed {
            self.off_since = None;
        }
        *self.published.insert(if changed { step } else { published })
    }

    /// Forgets what was published: the link is gone.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

fn above(cost: u32) -> u32 {
    cost.saturating_add(cost.div_ceil(2))
}

/// Returns the smallest step that is not below the cost.
fn step(cost: u32) -> u32 {
    let mut step = 1;
    while step < cost {
        step = above(step);
    }
    step
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: Quality =
        Quality { round_trip: Duration::from_millis(2), loss: 0, relays: 0, stream: false, missing: 0 };

    #[test]
    fn everything_bad_costs() {
        let worse = [
            Quality { round_trip: Duration::from_millis(3), ..GOOD },
            Quality { loss: 50, ..GOOD },
            Quality { relays: 1, ..GOOD },
            Quality { stream: true, ..GOOD },
            Quality { missing: 395, ..GOOD },
        ];
        assert_eq!(GOOD.cost(), 20);
        assert_eq!(worse.map(Quality::cost), [30, 620, 120, 320, 44]);
    }

    #[test]
    fn a_direct_way_is_worth_a_change_though_chance_makes_it_look_slower() {
        let relay = Quality { round_trip: Duration::from_micros(400), relays: 1, ..GOOD };
        let direct = Quality { round_trip: Duration::from_millis(5), ..GOOD };
        assert!(direct.cost() + margin(relay.cost()) <= relay.cost());
        let stream = Quality { stream: true, ..GOOD };
        assert!(relay.cost() + margin(stream.cost()) <= stream.cost());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
    fn what_is_published_changes_when_it_is_off_for_long() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut link = LinkCost::default();
        let first = link.update(20, now);
        assert!((20..=30).contains(&first));
        for seconds in 0..100 {
            assert_eq!(link.update(if seconds % 4 == 0 { 900 } else { 25 }, after(seconds)), first);
        }
        assert_eq!(link.update(900, after(100)), first);
        assert_eq!(link.update(900, after(104)), first);
        assert!(link.update(900, after(105)) >= 900);
        link.reset();
        assert_eq!(link.update(20, after(106)), first);
    }

    proptest! {
        #[test]
        fn steps_are_close(cost in 1..u32::MAX / 4) {
            prop_assert!(step(cost) >= cost && step(cost) <= above(cost) + 1);
        }

        #[test]
        fn nothing_overflows(micros: u64, loss in 0..=1000u32, relays: u8, stream: bool, missing in 0..70_000usize) {
            let round_trip = Duration::from_micros(micros);
            let quality = Quality { round_trip, loss, relays, stream, missing };
            prop_assert!(quality.cost() >= 1);
        }
    }
}
