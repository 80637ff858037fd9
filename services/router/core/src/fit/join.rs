//! Joins parts again, in bounded memory.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::part::{LEAST_PART, PartHeader};
use crate::session::SessionIndex;

/// How long parts wait for the others.
const PATIENCE: Duration = Duration::from_secs(1);
/// Incomplete contents of one session; its oldest makes room.
const SESSION_CONTENTS: usize = 64;
/// Bytes of the incomplete contents of one session, counted whole; the oldest make room.
const SESSION_BYTES: usize = 256 << 10;
/// Incomplete contents of all sessions; the oldest makes room.
const CONTENTS: usize = 1024;
/// Bytes of the incomplete contents of all sessions; the oldest make room.
const BYTES: usize = 4 << 20;

/// Why a part was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It is empty, reaches beyond its content's end, or is smaller than [`LEAST_PART`] and not the end.
    #[error("the part does not fit its content")]
    Misfit,
    /// An earlier part gave the content another length.
    #[error("the part contradicts an earlier one")]
    Contradiction,
    /// It came before, as a whole or some of its bytes.
    #[error("the part overlaps an earlier one")]
    Overlap,
}

/// Contents in the making, of all sessions.
///
/// A content comes out exactly as it was cut, or not at all. Numbers of contents belong to a session, so parts of two starts of a
/// peer never meet.
#[derive(Debug, Default)]
pub struct Joiner {
    contents: BTreeMap<Key, Incomplete>,
    /// Keys by age: who began earlier has the lower number.
    ages: BTreeMap<u64, Key>,
    next_age: u64,
    bytes: usize,
    given_up: u64,
}

type Key = (SessionIndex, u32);

#[derive(Debug)]
struct Incomplete {
    content: Vec<u8>,
    /// Start and end of what has come, neighbours merged.
    received: BTreeMap<usize, usize>,
    missing: usize,
    age: u64,
    expires: Instant,
}

impl Joiner {
    /// Takes in a part that came in a session, and returns its content if that is complete now.
    ///
    /// # Errors
    /// [`JoinError`] if the part is dropped. What came before stays.
    pub fn handle_part(
        &mut self,
        session: SessionIndex,
        header: PartHeader,
        part: &[u8],
        now: Instant,
    ) -> Result<Option<Vec<u8>>, JoinError> {
        self.handle_timeout(now);
        let length = usize::from(header.length);
        let start = usize::from(header.offset);
        let end = start + part.len();
        if part.is_empty() || end > length || (end < length && part.len() < LEAST_PART) {
            return Err(JoinError::Misfit);
        }
        let key = (session, header.number);
        if !self.contents.contains_key(&key) {
            self.begin(key, length, now);
        }
        let Some(incomplete) = self.contents.get_mut(&key) else { return Ok(None) };
        if incomplete.content.len() != length {
            return Err(JoinError::Contradiction);
        }
        incomplete.receive(start, part)?;
        Ok(if incomplete.missing == 0 { self.remove(&key) } else { None })
    }

    /// Forgets what has waited too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, key)) = self.ages.first_key_value()
            && self.contents.get(key).is_none_or(|oldest| oldest.expires <= now)
        {
            self.give_up(*key);
        }
    }

    /// Returns when [`Joiner::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (_, oldest) = self.ages.first_key_value()?;
        self.contents.get(oldest).map(|oldest| oldest.expires)
    }

    /// Returns, once, how many contents were given up incomplete since the last call.
    #[must_use]
    pub fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }

    fn begin(&mut self, key: Key, length: usize, now: Instant) {
        let session = (key.0, 0)..=(key.0, u32::MAX);
        loop {
            let (count, bytes, oldest) =
                self.contents.range(session.clone()).fold((0, 0, None), |(count, bytes, oldest), (key, incomplete)| {
                    let candidate = Some((incomplete.age, *key));
                    (count + 1, bytes + incomplete.content.len(), candidate.min(oldest.or(candidate)))
                });
            let own = count >= SESSION_CONTENTS || bytes + length > SESSION_BYTES;
            let all = self.contents.len() >= CONTENTS || self.bytes + length > BYTES;
            let oldest = match oldest {
                Some((_, key)) if own => key,
                _ if all => match self.ages.first_key_value() {
                    Some((_, key)) => *key,
                    None => break,
                },
                _ => break,
            };
            self.give_up(oldest);
        }
        let age = self.next_age;
        self.next_age += 1;
        self.bytes += length;
        self.ages.insert(age, key);
        let incomplete = Incomplete {
            content: vec![0; length],
            received: BTreeMap::new(),
            missing: length,
            age,
            expires: now + PATIENCE,
        };
        self.contents.insert(key, incomplete);
    }

    fn give_up(&mut self, key: Key) {
        self.given_up += u64::from(self.remove(&key).is_some());
    }

    fn remove(&mut self, key: &Key) -> Option<Vec<u8>> {
        let incomplete = self.contents.remove(key)?;
        self.ages.remove(&incomplete.age);
        self.bytes -= incomplete.content.len();
        Some(incomplete.content)
    }
}

impl Incomplete {
    fn receive(&mut self, start: usize, part: &[u8]) -> Result<(), JoinError> {
        let end = start + part.len();
        let before = self.received.range(..=start).next_back().map(|(start, end)| (*start, *end));
        let after = self.received.range(start..).next().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, before)| before > start) || after.is_some_and(|(after, _)| after < end) {
            return Err(JoinError::Overlap);
        }
        self.content[start..end].copy_from_slice(part);
        self.missing -= part.len();
        let from = match before {
            Some((from, before)) if before == start => from,
            Some(_) | None => start,
        };
        let to = match after {
            Some((after, to)) if after == end => {
                self.received.remove(&after);
                to
            }
            Some(_) | None => end,
        };
        self.received.insert(from, to);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
