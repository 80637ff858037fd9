//! Conversions between messages and the types of `weft-types`.

mod common;

pub use common::InvalidMessage;
