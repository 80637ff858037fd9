//! Which counters of a session were received before.

/// Counters behind the newest one that are still told apart.
pub const WINDOW: u64 = (WORDS as u64 - 1) * 64;

const WORDS: usize = 64;

/// A sliding window of received counters, as a ring of words that is never shifted (RFC 6479).
#[derive(Debug, Clone)]
pub struct ReplayWindow {
    next: u64,
    words: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Tells whether `counter` is new, without remembering it: a cheap test before the costly authentication.
    #[must_use]
    pub fn permits(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < u64::MAX;
        }
        self.next - 1 - counter < WINDOW && self.words[word(counter)] & bit(counter) == 0
    }

    /// Remembers the counter of an authentic datagram and tells whether it was new.
    pub fn accept(&mut self, counter: u64) -> bool {
        if !self.permits(counter) {
            return false;
        }
        if counter >= self.next {
            let newest_word = self.next.saturating_sub(1) / 64;
            let skipped = (counter / 64 - newest_word).min(WORDS as u64);
            for step in 1..=skipped {
                self.words[((counter / 64 - skipped + step) % WORDS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        }
        self.words[word(counter)] |= bit(counter);
        true
    }

    /// Tells whether no counter above `counter` was accepted.
    #[must_use]
    pub const fn is_newest(&self, counter: u64) -> bool {
        counter + 1 >= self.next
    }
}

const fn word(counter: u64) -> usize {
    (counter / 64 % WORDS as u64) as usize
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Remembers everything.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let newest = self.seen.last().copied().unwrap_or(0);
            counter + WINDOW > newest && counter < u64::MAX && self.seen.insert(counter)
        }
    }

    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let step = prop_oneof![4 => -3..4i64, 2 => -5000..5000i64, 1 => -200_000..200_000i64, 1 => 60..70i64];
        prop::collection::vec(step, 1..400)
    }

    proptest! {
        #[test]
        fn agrees_with_a_model_that_forgets_nothing(start in 0..10_000u64, steps in steps()) {
            let mut window = ReplayWindow::default();
            let mut model = Model::default();
            let mut counter = start;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                prop_assert_eq!(window.accept(counter), model.accept(counter), "counter {}", counter);
                prop_assert!(!window.permits(counter));
            }
        }
    }

    #[test]
    fn the_last_counter_of_all_is_refused() {
        assert!(!ReplayWindow::default().accept(u64::MAX));
        assert!(ReplayWindow::default().accept(u64::MAX - 1));
    }
}
