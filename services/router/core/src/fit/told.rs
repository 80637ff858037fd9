//! Who was told to send smaller packets, how often, so that nobody is told too much.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Pairs of sender and destination that are remembered; the one that was told longest ago makes room.
const PAIRS: usize = 1024;
/// How long a sender remembers: Linux forgets what a path carries after ten minutes (`net.ipv4.route.mtu_expires`,
/// `net.ipv6.route.mtu_expires`).
const REMEMBERED: Duration = Duration::from_secs(600);
/// Refusals after which a sender counts as deaf. Enough for one that searches by halves between 1,200 and 9,000 bytes in steps of
/// 20 and asks three times for the sizes that fail, and few enough that one that blocks ICMP works after a blink.
const REFUSALS: u32 = 32;
/// Between refusals of one who is deaf.
const DEAF_INTERVAL: Duration = Duration::from_secs(60);
/// Between hints to one sender about one destination.
const HINT_INTERVAL: Duration = Duration::from_secs(1);
/// Answers to all senders in one [`WINDOW`] (RFC 4443, section 2.4 f).
const ANSWERS: u32 = 100;
/// See [`ANSWERS`].
const WINDOW: Duration = Duration::from_millis(100);

/// What telling does to the packet that is too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is sent all the same.
    Hint,
    /// It is dropped.
    Refusal,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    mtu: u16,
    last: Instant,
    refusals: u32,
}

#[derive(Debug, Default)]
pub(super) struct Told {
    pairs: BTreeMap<(IpAddr, IpAddr), Entry>,
    window: Option<(Instant, u32)>,
}

impl Told {
    /// Tells whether `source` may be told now that packets to `destination` have at most `mtu` bytes, and counts it.
    pub(super) fn permits(
        &mut self,
        claim: Claim,
        source: IpAddr,
        destination: IpAddr,
        mtu: u16,
        now: Instant,
    ) -> bool {
        let (start, answers) = match self.window {
            Some((start, answers)) if now.saturating_duration_since(start) < WINDOW => (start, answers),
            Some(_) | None => (now, 0),
        };
        if answers >= ANSWERS {
            return false;
        }
        let pair = (source, destination);
        let news = Entry { mtu, last: now, refusals: 0 };
        let mut entry = match self.pairs.get(&pair) {
            // Something smaller is news, as is anything to who has forgotten.
            Some(entry) if mtu >= entry.mtu && now.saturating_duration_since(entry.last) < REMEMBERED => {
                let passed = now.saturating_duration_since(entry.last);
                let wait = match claim {
                    Claim::Hint => HINT_INTERVAL,
                    Claim::Refusal if entry.refusals < REFUSALS => Duration::ZERO,
                    Claim::Refusal => DEAF_INTERVAL,
                };
                if passed < wait {
                    return false;
                }
                Entry { last: now, ..*entry }
            }
            Some(_) | None => news,
        };
        entry.refusals += u32::from(claim == Claim::Refusal);
        self.make_room(&pair);
        self.pairs.insert(pair, entry);
        self.window = Some((start, answers + 1));
        true
    }

    fn make_room(&mut self, pair: &(IpAddr, IpAddr)) {
        if self.pairs.len() < PAIRS || self.pairs.contains_key(pair) {
            return;
        }
        if let Some(oldest) = self.pairs.iter().min_by_key(|(_, entry)| entry.last).map(|(pair, _)| *pair) {
            self.pairs.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn pair(number: u32) -> (IpAddr, IpAddr) {
        (Ipv4Addr::new(10, 32, 0, 1).into(), Ipv4Addr::from(0x0a20_0000 + number).into())
    }

    #[expect(clippy::disallowed_methods, reason = "a start to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn refusals_end_with_who_is_deaf_and_begin_anew_once_it_forgot() {
        let (mut told, start, (source, destination)) = (Told::default(), start(), pair(2));
        let mut at = |milliseconds: u64, mtu| {
            told.permits(Claim::Refusal, source, destination, mtu, start + Duration::from_millis(milliseconds))
        };
        assert_eq!((0..100).filter(|step| at(step * 100, 1005)).count() as u32, REFUSALS);
        assert!(!at(60_000, 1005), "a minute has not passed since the last");
        assert!(at(64_000, 1005), "now and then it is told again");
        assert!(!at(65_000, 1200), "more than it was told is no news");
        assert!(at(65_000, 900), "less is");
        assert!(at(700_000, 1005));
        assert!(at(700_000, 1005), "who forgot has all its refusals again");
    }

    #[test]
    fn hints_come_once_a_second() {
        let (mut told, start, (source, destination)) = (Told::default(), start(), pair(2));
        let hints = (0..50u32).filter(|step| {
            told.permits(Claim::Hint, source, destination, 1005, start + Duration::from_millis(100) * *step)
        });
        assert_eq!(hints.count(), 5);
    }

    #[test]
    fn memory_and_rate_are_bounded() {
        let (mut told, start) = (Told::default(), start());
        let mut count = 0;
        for number in 0..100_000u32 {
            let (source, destination) = pair(number);
            let now = start + Duration::from_micros(20) * number;
            count += u32::from(told.permits(Claim::Refusal, source, destination, 1005, now));
        }
        assert_eq!(told.pairs.len(), PAIRS);
        assert_eq!(count, 20 * ANSWERS, "in two seconds");
    }
}
