//! The first process of a host: process 1 of its namespace.

use std::io::Write;

use anyhow::Context;
use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
};

use super::{HostSpec, filesystem};

/// Makes the host's other namespaces and its file system, says `ready` on stdout, and then reaps orphans until it is told
/// to end by SIGTERM. With it every process of the host ends.
///
/// # Errors
/// If the host can't be prepared.
pub fn first_process(spec: &HostSpec) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("failed to tie the host to its keeper")?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("failed to block signals")?;

    let namespaces =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(namespaces).context("failed to make the host's namespaces")?;
    rustix::system::sethostname(spec.name.as_bytes()).context("failed to set the host name")?;
    filesystem::prepare(spec)?;

    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready").and_then(|()| stdout.flush()).context("failed to report")?;
    while signals.wait().context("failed to wait for signals")? != Signal::SIGTERM {
        reap();
    }
    Ok(())
}

fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
