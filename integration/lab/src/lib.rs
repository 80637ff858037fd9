//! Docker hosts as network namespaces, for tests, demo and benchmarks.
//!
//! A [`Lab`] is a number of hosts on one machine and a network between them. Each host has its own network, mount, host
//! name, IPC and process namespaces, a small init of its own, its own `/run`, `/etc`, `/usr/local`, `/var/lib` and machine
//! id, and a real Docker Engine. The underlay, a bridge with a link to each host, lives in a namespace too: nothing is
//! added to the machine's own network.
//!
//! All of it lives by processes that hold on to the [`Lab`]: when the process that made it ends, however it ends, hosts,
//! engines, containers, mounts and links are gone, and what the kernel does not take down by itself is removed.
//!
//! The lab needs root, and the `weft-lab` program beside the running one, because the first process of a host is it.

mod authority;
mod capture;
mod cgroup;
mod engine;
mod host;
pub mod image;
mod lab;
pub mod namespace;
mod project;
pub mod state;
mod underlay;
mod wait;
mod weft;

pub use authority::Authority;
pub use capture::{Capture, contains};
pub use engine::{EngineKit, cache_folder};
pub use host::{Host, HostCommand, Output};
pub use lab::{Lab, LabBuilder};
pub use project::Project;
pub use underlay::{Link, Underlay};
pub use wait::eventually;
pub use weft::{Launch, Weft};
