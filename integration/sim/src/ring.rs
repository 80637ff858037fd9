//! Ipam cores of several hosts on a virtual clock, disk and network, and a reference model that knows who holds what.
//!
//! A [`Scenario`] and a seed decide everything: who founds the ring, what containers come and go, which messages are lost,
//! doubled or late, who is cut off, and when a process or a router dies, also between saving and sending. The model is told
//! only what a container's engine would see: the answers. [`run`] returns the first thing that must not be.

mod model;
mod router;
mod world;

use std::fmt;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

pub use world::World;

/// How the hosts of a run come to their ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Founding {
    /// The first is given no peers, the others the first.
    Star,
    /// Each is given all others.
    Everybody,
    /// Each is given all others, and the number of voters.
    Voters,
    /// All are given the first two as seeds.
    Seeds,
    /// The last is an observer, the others as with `Everybody`.
    Observer,
    /// The first two are given no peers: two rings, which must stay apart.
    TwoFounders,
}

/// What a run consists of.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// How many hosts there are.
    pub hosts: usize,
    /// Prefix length of the range 10.32.0.0.
    pub prefix_length: u8,
    /// How the ring comes to be.
    pub founding: Founding,
    /// How long there is trouble, in seconds of the virtual clock.
    pub seconds: u64,
    /// Mean time between the requests of all hosts, in milliseconds.
    pub request_millis: u64,
    /// Share of messages that are lost, in percent; as many are doubled.
    pub loss_percent: u32,
    /// Mean time between cuts, crashes and restarts of routers, in milliseconds; none if 0.
    pub fault_millis: u64,
    /// Mean time between hosts that leave, and takeovers of what they owned, in milliseconds; none if 0. Who leaves is replaced.
    pub leave_millis: u64,
}

impl Scenario {
    /// Draws a scenario.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x5ce9_a210);
        let foundings = [Founding::Star, Founding::Everybody, Founding::Voters, Founding::Seeds, Founding::Observer];
        Self {
            hosts: random.random_range(3..=7),
            prefix_length: random.random_range(24..=29),
            founding: foundings[random.random_range(0..foundings.len())],
            seconds: 20,
            request_millis: random.random_range(30..=200),
            loss_percent: random.random_range(0..=30),
            fault_millis: [0, 500, 1500, 4000][random.random_range(0..4)],
            leave_millis: 0,
        }
    }

    /// Draws a scenario whose hosts come and go. Voters and seeds stay, so that all who come find the ring.
    #[must_use]
    pub fn leaving_from_seed(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x1ea7_e000);
        let foundings = [Founding::Star, Founding::Everybody];
        Self {
            hosts: random.random_range(4..=6),
            prefix_length: random.random_range(24..=27),
            founding: foundings[random.random_range(0..foundings.len())],
            seconds: 120,
            request_millis: random.random_range(100..=500),
            loss_percent: random.random_range(0..=30),
            fault_millis: [0, 5000, 20_000, 40_000][random.random_range(0..4)],
            leave_millis: random.random_range(1500..=6000),
        }
    }
}

/// What must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a run was like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Addresses given.
    pub granted: u64,
    /// Requests refused.
    pub refused: u64,
    /// Processes that died.
    pub crashes: u64,
    /// Grants of ranges from one host to another, as seen by different owners at the end.
    pub publications: u64,
    /// Hosts that were reset.
    pub resets: u64,
    /// Those of them whose addresses others said that they have.
    pub handed_over: u64,
    /// Those of them that went without that.
    pub unconfirmed: u64,
    /// Hosts that were gone without a word.
    pub died: u64,
    /// Hosts whose addresses others took over.
    pub taken_over: u64,
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
