//! Owns who has which overlay address.

fn main() {}
