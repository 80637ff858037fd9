//! Decides for ipam: the ring, free space, allocation, claims, ring creation.
//!
//! [`Allocator`] is the whole of it: the shell reports what happened (`handle_*`), passes on what containers want
//! (`allocate`, `claim`, `free`), and performs what the `poll_*` methods return. The core has no clock, no random source
//! and no socket; the same inputs give the same outputs.
//!
//! # Why no address is ever held twice
//!
//! For every single address the [`Ring`] keeps the newest [`Fact`] about who owns it. Only the owner makes the next
//! version of a fact, and saves it before anybody hears of it. So whoever owned an address once and does not any more knows
//! that: its own, saved fact is newer than the one it was owner by. Facts may be lost, repeated, reordered and arrive in
//! parts, and still at most one peer holds the newest one and is named by it. Inside one peer an address belongs to one
//! container, and that is saved before it is answered. The exception is a takeover of a peer that is declared dead
//! ([`Ring::take_over`]): it makes a new epoch, which wins over whatever the dead peer says when it comes back.

#![forbid(unsafe_code)]

mod allocator;
mod election;
mod free_report;
mod gossip;
mod holdings;
mod outcome;
mod records;
mod ring;
mod settings;
mod space;
mod wire;

pub use allocator::{
    Allocator, Commit, DualAddress, Entry, Event, PeerInfo, Problem, Reachability, RequestId, RingState, Share, Status,
    Transmit,
};
pub use election::{Number, Proposal, Votes};
pub use holdings::{Holding, Origin};
pub use outcome::{Refusal, Remedy};
pub use records::{InvalidRecord, Record, State};
pub use ring::{Conflict, Fact, Owner, Ring, RingId, RingInfo};
pub use settings::{Creation, InvalidCreation, InvalidRange, Settings};

/// Name of the gossip channel.
pub const CHANNEL: &str = "ring";
