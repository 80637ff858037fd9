//! Every parser of bytes from outside, each as a function of bytes: a fuzzer looks for inputs that break it, and a test runs
//! those that are kept.
//!
//! An input breaks a target by a panic, by an endless loop, by memory or work beyond the target's [`Bounds`], or by breaking
//! what the target promises, such as that decoding undoes encoding.

mod datagram;
mod dns;
mod docker;
mod frame;
mod gossip;
mod handshake;
mod input;
mod measure;
mod mesh;
mod ring;
mod session;
mod trusted;

use std::fmt;

use measure::Usage;

/// Longest input that is tried, in bytes: what every parser reads at once, or several messages of a protocol.
pub const LONGEST_INPUT: usize = 4096;

/// What one input may cost.
///
/// Both are counted, not timed, so that they hold on any machine. Work is counted by allocations, as every parser here keeps
/// what it reads.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most bytes that are allocated at a time.
    pub memory_bytes: usize,
    /// Most allocations.
    pub allocations: usize,
}

/// One parser, or several that read the same bytes one after the other.
pub struct Target {
    /// Name, also of its folder of inputs.
    pub name: &'static str,
    /// What one input may cost.
    pub bounds: Bounds,
    /// Reads an input. Panics if a promise is broken.
    run: fn(&[u8]),
    /// Inputs to begin with: what well-behaved senders send.
    seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target, in order of name.
pub const TARGETS: [&Target; 14] = [
    &datagram::CONTENTS,
    &mesh::CONTROL,
    &dns::QUERY,
    &dns::RECORDS,
    &docker::BODIES,
    &docker::REQUESTS,
    &docker::RESPONSES,
    &frame::FRAMES,
    &gossip::DELTAS,
    &handshake::HANDSHAKE,
    &datagram::PARTS,
    &ring::RING,
    &session::SESSION,
    &trusted::PROBES,
];

impl Target {
    /// Returns the target with that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Reads an input.
    ///
    /// # Panics
    /// If it breaks the target.
    pub fn run(&self, input: &[u8]) {
        let Usage { peak, allocations } = measure::usage(|| (self.run)(input));
        let Bounds { memory_bytes: most_bytes, allocations: most } = self.bounds;
        assert!(peak <= most_bytes, "{}: {peak} bytes at a time, more than {most_bytes}", self.name);
        assert!(allocations <= most, "{}: {allocations} allocations, more than {most}", self.name);
    }

    /// Returns inputs to begin with: what well-behaved senders send.
    #[must_use]
    pub fn seeds(&self) -> Vec<Vec<u8>> {
        (self.seeds)()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.name).finish()
    }
}
