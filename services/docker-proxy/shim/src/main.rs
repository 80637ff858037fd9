//! Holds.

fn main() {}
