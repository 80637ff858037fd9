//! Network namespaces of others: finding, comparing and entering them.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use anyhow::Context;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::fstat;

/// An open network namespace. Keeps it alive: close it soon, or a dead container's links stay.
#[derive(Debug)]
pub(super) struct Namespace {
    fd: OwnedFd,
}

impl Namespace {
    /// Opens the namespace of the calling thread.
    pub(super) fn current() -> io::Result<Self> {
        File::open("/proc/thread-self/ns/net").map(|file| Self { fd: file.into() })
    }

    /// Tells whether both are the same namespace.
    pub(super) fn is(&self, other: &Self) -> io::Result<bool> {
        let (a, b) = (fstat(&self.fd)?, fstat(&other.fd)?);
        Ok(a.st_ino == b.st_ino && a.st_dev == b.st_dev)
    }

    /// Moves the calling thread into the namespace.
    pub(super) fn enter(&self) -> anyhow::Result<()> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET).context("failed to enter the network namespace")
    }

    /// Runs `action` on a thread of its own inside the namespace. Sockets opened there stay there.
    pub(super) fn run<T: Send>(&self, action: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        on_thread(|| {
            self.enter()?;
            action()
        })
    }

    /// Runs `action` on a thread of its own inside a new namespace, which lives as long as a socket, link or descriptor
    /// in it.
    pub(super) fn run_in_new<T: Send>(action: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("failed to make a network namespace")?;
            action()
        })
    }
}

impl From<OwnedFd> for Namespace {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `action` on a thread of its own and waits for it.
pub(super) fn on_thread<T: Send>(action: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("weft-namespace".into())
            .spawn_scoped(scope, action)
            .context("failed to start a thread")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
