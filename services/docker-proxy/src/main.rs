//! Attaches containers by relaying the Docker API.

fn main() {}
