//! Writes images as one archive for `docker load`.
//!
//! An image of weft is one static binary, or a few, on nothing: an archive of files and a description of how to start
//! them. No engine is needed to write that, and the same binaries give the same archive, byte for byte.

#![forbid(unsafe_code)]

pub mod archive;
mod own;

pub use own::{OWN, OwnImage};
