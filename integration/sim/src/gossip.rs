//! Mesh cores of several hosts on a virtual clock and network, and a model that knows what each host published.
//!
//! A [`Scenario`] and a seed decide everything: who can connect with whom, what is published and deleted, which links are
//! cut, and whose router dies, with or without its disk, by a fault of its own or for lack of power. Connections are ordered
//! pipes of messages with a delay; a cut stops them, and only time or the other end's answer tells that one is dead. [`run`]
//! returns the first thing that must not be.

mod model;
mod network;
mod world;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

pub use world::{Traffic, World};

pub use crate::ring::Violation;

/// Which hosts can connect with each other at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// All.
    Full,
    /// Each with the one before it and the one after it: everything between others is relayed.
    Chain,
    /// A chain, and some more pairs by chance.
    Sparse,
}

/// What a run consists of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How many hosts there are.
    pub hosts: usize,
    /// Who can connect with whom.
    pub shape: Shape,
    /// How long there is trouble, in seconds of the virtual clock.
    pub seconds: u64,
    /// Longest delay of a message, in milliseconds.
    pub delay_millis: u64,
    /// Mean time between changes of what all hosts publish, in milliseconds.
    pub publish_millis: u64,
    /// Mean time between cuts, crashes and healing, in milliseconds; none if 0.
    pub fault_millis: u64,
    /// Mean time between revocations, each by any host of any other, in milliseconds; none if 0.
    pub revoke_millis: u64,
}

impl Scenario {
    /// Draws a scenario.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x6055_1b00);
        Self {
            hosts: random.random_range(3..=9),
            shape: [Shape::Full, Shape::Chain, Shape::Sparse][random.random_range(0..3)],
            seconds: 20,
            delay_millis: [2, 20, 150][random.random_range(0..3)],
            publish_millis: random.random_range(50..=500),
            fault_millis: [0, 400, 1500, 4000][random.random_range(0..4)],
            revoke_millis: 0,
        }
    }

    /// Draws a scenario in which hosts revoke each other, among others by two at once of each other.
    #[must_use]
    pub fn with_revocations(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x7e50_ca7e);
        Self {
            hosts: random.random_range(4..=9),
            shape: Shape::Full,
            revoke_millis: random.random_range(3000..=12_000),
            ..Self::from_seed(seed)
        }
    }
}

/// What a run was like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Changes that were published.
    pub published: u64,
    /// Routers that died.
    pub crashes: u64,
    /// Pairs of hosts that were cut off from each other.
    pub cuts: u64,
    /// Parts of deltas that were sent.
    pub deltas: u64,
    /// Hosts that were let in no more at the end.
    pub revoked: u64,
}

/// Runs a scenario to its end: trouble, then calm in which everything has to come right.
///
/// # Errors
/// The first [`Violation`].
pub fn run(scenario: &Scenario, seed: u64) -> Result<Summary, Violation> {
    let mut world = World::new(scenario.clone(), seed);
    world.run_trouble()?;
    world.run_calm()?;
    Ok(world.summary())
}
