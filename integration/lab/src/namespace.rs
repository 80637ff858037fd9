//! The processes that a host consists of: its first process, and commands that enter it.
//!
//! A *keeper* outside holds the host: it starts the first process in new namespaces, ends it when the lab goes away, and
//! removes what the kernel leaves. These functions are the `weft-lab` program's; the library calls that program.

mod enter;
mod filesystem;
mod first;
mod keeper;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
};

use anyhow::{Context, bail};
pub use enter::enter;
pub use first::first_process;
pub use keeper::keep;
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

/// What makes a host that host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostSpec {
    /// Lab it belongs to.
    pub lab: String,
    /// Host name.
    pub name: String,
    /// Files with their whole contents, by absolute path below one of the host's own folders.
    pub files: BTreeMap<PathBuf, String>,
    /// Symbolic links, by absolute path below one of the host's own folders, and what they point to.
    pub links: BTreeMap<PathBuf, PathBuf>,
}

/// Opens the network namespace of a process.
///
/// # Errors
/// If there is no such process.
pub(crate) fn network_of(process: u32) -> io::Result<File> {
    File::open(format!("/proc/{process}/ns/net"))
}

/// Tells whether this process sees another root folder than its mount namespace has, which entering a namespace leads to.
pub(crate) fn in_chroot() -> anyhow::Result<bool> {
    let root = || fs::metadata("/").map(|folder| (folder.dev(), folder.ino()));
    let seen = root().context("failed to look at /")?;
    let entered = std::thread::spawn(move || -> anyhow::Result<_> {
        // Threads share their root folder until one asks for its own.
        unshare(CloneFlags::CLONE_FS).context("failed to leave the process's root folder")?;
        let namespace = File::open("/proc/thread-self/ns/mnt").context("failed to open the mount namespace")?;
        setns(namespace, CloneFlags::CLONE_NEWNS).context("failed to enter the mount namespace")?;
        root().context("failed to look at / of the mount namespace")
    });
    Ok(seen != entered.join().unwrap_or_else(|_| bail!("entering the mount namespace panicked"))?)
}

/// Calls `open` on a thread inside a network namespace. Sockets that it opens stay there when the thread has ended.
pub(crate) fn inside<T: Send + 'static>(
    network: OwnedFd,
    open: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let opened = std::thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).context("failed to enter a network namespace")?;
        open()
    });
    opened.join().unwrap_or_else(|_| bail!("opening a socket panicked"))
}
