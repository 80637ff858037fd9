//! Joins hosts into a mesh and carries the containers' frames over it, sealed.
//!
//! The shell around `weft-router-core`: sockets, the TAP device, kernel network state, gRPC.

pub mod dataplane;
pub mod dns_port;
pub mod kernel;
