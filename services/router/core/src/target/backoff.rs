//! Growing pauses between tries.

use std::time::Duration;

use rand::{Rng as _, rngs::SmallRng};

/// Pauses between tries: each half as long again as the one before, up to a longest, give or take a half.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    pub(crate) const fn reset(&mut self) {
        self.next = self.min;
    }

    /// Returns the next pause.
    pub(crate) fn pause(&mut self, random: &mut SmallRng) -> Duration {
        let pause = self.next.mul_f64(random.random_range(0.5..1.5));
        self.next = self.next.mul_f64(1.5).min(self.max);
        pause
    }

    /// Returns a pause like the first, after which the next one grows no more than before.
    pub(crate) fn shortest(&self, random: &mut SmallRng) -> Duration {
        self.min.mul_f64(random.random_range(0.5..1.5))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_start_again_after_a_reset() {
        let mut random = SmallRng::seed_from_u64(7);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut expected = 1.0_f64;
        for _ in 0..20 {
            let pause = backoff.pause(&mut random).as_secs_f64();
            assert!((0.5 * expected..1.5 * expected).contains(&pause), "{pause} around {expected}");
            expected = (expected * 1.5).min(60.0);
        }
        backoff.reset();
        assert!(backoff.pause(&mut random) < Duration::from_millis(1500));
    }
}
