//! How fast one host may guess passwords.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use weft_service::handshakes::source;

/// How long the connection of a wrong password takes up its place after it has been told so.
pub(super) const FAILURE_PAUSE: Duration = Duration::from_millis(500);
/// Wrong passwords that an address may send at once.
const BURST: u32 = 5;
/// The same while we have two passwords: all hosts of an address may begin with the wrong one of them, as many at a time as
/// there are places for handshakes.
const BURST_WHILE_CHANGING: u32 = 64;
/// How long it takes until an address may send one more.
const REFILL: Duration = Duration::from_secs(10);
/// Addresses remembered; of more, those whose last failure is the oldest are forgotten.
const ADDRESSES: usize = 1024;

/// Counts wrong passwords by address: a host for IPv4, a /64 for IPv6.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: Mutex<BTreeMap<IpAddr, Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// Returns how many still count.
    fn counting(self, now: Instant) -> u32 {
        let forgiven = now.saturating_duration_since(self.last).as_secs() / REFILL.as_secs();
        self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }
}

impl Throttle {
    /// Tells whether the address may try.
    pub(super) fn permits(&self, address: IpAddr, two_passwords: bool, now: Instant) -> bool {
        let burst = if two_passwords { BURST_WHILE_CHANGING } else { BURST };
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&source(address)).is_none_or(|failures| failures.counting(now) < burst)
    }

    /// Counts a wrong password.
    pub(super) fn punish(&self, address: IpAddr, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = failures.entry(source(address)).or_insert(Failures { count: 0, last: now });
        *entry = Failures { count: entry.counting(now).saturating_add(1), last: now };
        if failures.len() > ADDRESSES {
            let oldest = failures.iter().min_by_key(|(_, failures)| failures.last).map(|(address, _)| *address);
            failures.remove(&oldest.unwrap_or(address));
        }
    }

    /// Forgets the failures of an address that knows the password after all.
    pub(super) fn forgive(&self, address: IpAddr) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&source(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_slows_down_and_knowing_is_forgiven() {
        #[expect(clippy::disallowed_methods, reason = "the starting point of the test's clock")]
        let now = Instant::now();
        let throttle = Throttle::default();
        let [one, neighbour, other] = ["fd00::1", "fd00::2", "fd00:0:0:1::1"].map(|text| text.parse().expect("valid"));
        for _ in 0..BURST {
            assert!(throttle.permits(one, false, now));
            throttle.punish(one, now);
        }
        assert!(
            !throttle.permits(one, false, now)
                && !throttle.permits(neighbour, false, now)
                && throttle.permits(other, false, now)
        );
        let later = now + REFILL;
        assert!(throttle.permits(neighbour, false, later));
        throttle.punish(neighbour, later);
        assert!(!throttle.permits(one, false, later));
        throttle.forgive(one);
        assert!(throttle.permits(one, false, later));
        let changing = Throttle::default();
        for count in 0..=BURST_WHILE_CHANGING {
            assert_eq!(changing.permits(one, true, now), count < BURST_WHILE_CHANGING);
            changing.punish(one, now);
        }
        for index in 0..2000_u32 {
            throttle.punish(std::net::Ipv4Addr::from(index).into(), later);
        }
        assert!(throttle.failures.lock().expect("whole").len() <= ADDRESSES);
    }
}
