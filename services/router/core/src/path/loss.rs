//! How much a way loses: by probes that were not answered, and by the peer's count of what came.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Probes that the history remembers at most.
const REMEMBERED: u32 = u32::BITS;
/// The fewest probes that lost ones are compared with, so that two lost of three are no more than they are.
const FEWEST: u32 = 16;
/// How far back counts are compared.
const WINDOW: Duration = Duration::from_secs(4);
/// Counts that are kept at most.
const MARKS: usize = 32;
/// Fewer lost datagrams than this say nothing: they may be late or out of order.
const TOLERATED: u64 = 4;
/// From this many datagrams on, counts say more than probes.
const TELLING: u64 = 40;

/// Which of the last probes were lost.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The newest is the lowest bit; 1 is lost.
    bits: u32,
    count: u32,
}

impl History {
    pub(super) fn record(&mut self, lost: bool) {
        self.bits = self.bits << 1 | u32::from(lost);
        self.count = (self.count + 1).min(REMEMBERED);
    }

    /// Takes back that the newest lost one was lost: its answer was only late.
    pub(super) const fn forgive(&mut self) {
        self.bits &= self.bits.wrapping_sub(1);
    }

    /// Returns the share that was lost, in permille. One lost probe is chance.
    pub(super) fn permille(&self) -> u32 {
        self.bits.count_ones().saturating_sub(1) * 1000 / self.count.max(FEWEST)
    }
}

/// What was sent, and what of it came.
#[derive(Debug, Default)]
pub(super) struct Counts {
    marks: VecDeque<Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    sent: u64,
    received: u64,
}

impl Counts {
    /// Takes what the peer had received when a question came that was asked after `sent` datagrams.
    pub(super) fn record(&mut self, sent: u64, received: u64, now: Instant) {
        if let Some(last) = self.marks.back() {
            if sent < last.sent {
                return;
            }
            if received < last.received {
                self.marks.clear();
            }
        }
        self.marks.push_back(Mark { at: now, sent, received });
        while self.marks.len() > MARKS
            || self.marks.front().is_some_and(|mark| now.saturating_duration_since(mark.at) > WINDOW)
        {
            self.marks.pop_front();
        }
    }

    /// Returns the share that was lost, in permille, and whether there was so much that probes need not be asked.
    pub(super) fn permille(&self) -> (u32, bool) {
        let (Some(first), Some(last)) = (self.marks.front(), self.marks.back()) else { return (0, false) };
        let sent = last.sent - first.sent;
        let lost = sent.saturating_sub(last.received - first.received);
        let share = if lost < TOLERATED { 0 } else { u128::from(lost) * 1000 / u128::from(sent) };
        (share as u32, sent >= TELLING)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
    fn epoch() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_lost_probe_is_chance_and_a_late_answer_is_no_loss() {
        let mut history = History::default();
        (0..32).for_each(|number| history.record(number == 3));
        assert_eq!(history.permille(), 0);
        history.record(true);
        history.record(true);
        assert!((30..100).contains(&history.permille()), "{}", history.permille());
        history.forgive();
        history.forgive();
        assert_eq!(history.permille(), 0);
    }

    #[test]
    fn counts_tell_the_share_of_the_last_seconds() {
        let start = epoch();
        let mut counts = Counts::default();
        for half in 0..20 {
            let (sent, lost) = (half * 100, if half > 10 { (half - 10) * 12 } else { 0 });
            counts.record(sent, 7 + sent - lost, start + Duration::from_millis(500 * half));
            match half {
                ..=10 => assert_eq!(counts.permille().0, 0),
                13 => assert!(counts.permille().0 >= 40),
                19.. => assert_eq!(counts.permille(), (120, true)),
                _ => {}
            }
        }
    }

    #[test]
    fn a_peer_that_counts_anew_is_no_loss() {
        let start = epoch();
        let mut counts = Counts::default();
        counts.record(100, 100_000, start);
        counts.record(200, 5, start);
        assert_eq!(counts.permille(), (0, false));
        counts.record(150, 4, start);
        counts.record(300, 105, start);
        assert_eq!(counts.permille(), (0, true));
    }

    proptest! {
        #[test]
        fn counts_of_any_kind_are_taken(counts in prop::collection::vec(any::<(u64, u64)>(), 0..100)) {
            let start = epoch();
            let mut all = Counts::default();
            for (sent, received) in counts {
                all.record(sent, received, start);
                prop_assert!(all.permille().0 <= 1000 && all.marks.len() <= MARKS);
            }
        }
    }
}
