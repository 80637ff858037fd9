//! How a container waits for its network: the waiting program before its entrypoint.
//!
//! The program is mounted read-only at a path below `/dev`, which is a file system of the container's own: the mount
//! point leaves no trace in the container's layer, so neither `docker diff` nor `docker commit` shows it.

/// Where the waiting program is inside a container, before the marks: `/dev/weft-wait.xyz`.
pub const CONTAINER_PATH: &str = "/dev/weft-wait";
