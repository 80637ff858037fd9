//! Throughput, latency and attach time beside rivals.

fn main() {}
