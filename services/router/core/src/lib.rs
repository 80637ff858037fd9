//! Decides for the router: sessions, gossip, topology, forwarding, desired host network.
//!
//! Nothing here has a socket, a task, a file, a clock or a source of randomness: time and seeds come in, effects go out.

#![forbid(unsafe_code)]

pub mod datagram;
pub mod fit;
pub mod forward;
pub mod gossip;
pub mod handshake;
pub mod hostnet;
pub mod membership;
pub mod mesh;
pub mod neighbour;
pub mod path;
pub mod replay;
pub mod route;
pub mod segment;
pub mod session;
pub mod target;
pub mod topology;
pub mod trusted;
pub mod virtio;
