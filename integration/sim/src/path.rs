//! Path and route cores of several hosts on a virtual clock and network, and a reference that knows the true topology.
//!
//! A [`Scenario`] and a seed decide everything: which pairs reach each other by UDP and by TCP, in which direction, with which
//! delay, loss and size, who is behind a NAT, and what changes when. Control connections, their heartbeats and the gossip of
//! links are played by the simulation, with their delays; sessions are taken for agreed. [`run`] returns the first thing that
//! must not be.

mod network;
mod world;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

pub use crate::ring::Violation;
pub use world::World;

/// What a run consists of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of 100 pairs of hosts can reach each other at all.
    pub density: u32,
    /// How many of 100 hosts are behind a NAT.
    pub nat: u32,
    /// How many of 100 pairs cannot exchange UDP in one direction or both.
    pub blocked: u32,
    /// How many of 100 pairs lose much.
    pub lossy: u32,
    /// Longest delay of one direction, in milliseconds.
    pub delay_millis: u64,
    /// How many times something changes.
    pub rounds: u32,
}

impl Scenario {
    /// Draws a scenario.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x7061_7468);
        Self {
            hosts: random.random_range(2..=12),
            density: random.random_range(25..=100),
            nat: [0, 0, 20, 50][random.random_range(0..4)],
            blocked: [0, 10, 40][random.random_range(0..3)],
            lossy: [0, 0, 15][random.random_range(0..3)],
            delay_millis: [2, 20, 120][random.random_range(0..3)],
            rounds: 6,
        }
    }
}

/// What a run was like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Questions and their answers.
    pub probes: u64,
    /// Datagrams with data that arrived.
    pub delivered: u64,
    /// Hops over relays.
    pub relayed: u64,
    /// Changes of the network.
    pub changes: u64,
    /// Links published.
    pub published: u64,
    /// Pairs that were on UDP, on a relay, and on a stream when all was calm.
    pub calm: [u64; 3],
}

/// Runs a scenario to its end: changes, each followed by traffic between all that can reach each other, at times by a calm in
/// which all come to their best ways.
///
/// # Errors
/// The first [`Violation`].
pub fn run(scenario: &Scenario, seed: u64) -> Result<Summary, Violation> {
    let mut world = World::new(scenario, seed);
    world.settle()?;
    for round in 0..scenario.rounds {
        world.change();
        world.check_traffic()?;
        if round % 2 == 1 {
            world.settle()?;
        }
    }
    Ok(world.summary())
}
