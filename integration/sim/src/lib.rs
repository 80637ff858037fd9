//! Many cores on one virtual clock and network, with a reference model.

pub mod gossip;
pub mod path;
pub mod ring;
mod seeds;

pub use seeds::{run_seeds, seeds};
