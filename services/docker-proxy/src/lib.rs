//! Attaches containers by relaying the Docker API.

pub mod shim;
