//! Cuts an input into the things that a target needs. What is missing at the end is zero.

use std::time::{Duration, Instant};

use weft_types::PeerName;

pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// Takes a piece that says its length in two bytes.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = self.word().into();
        self.take(length)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Writes a piece as [`Input::piece`] reads it.
pub(crate) fn piece(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("seeds are short");
    [&length.to_be_bytes(), bytes].concat()
}

/// Returns one of a few peers.
pub(crate) fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}

/// Returns a time to begin at, and to add to: cores see differences only.
pub(crate) fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a time to begin at")]
    Instant::now()
}

/// Returns up to a minute.
pub(crate) fn pause(byte: u8) -> Duration {
    Duration::from_millis(u64::from(byte) * 250)
}
