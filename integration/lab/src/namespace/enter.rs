//! Commands inside a host.

use std::{
    env,
    ffi::OsString,
    fs::File,
    os::{
        fd::AsFd,
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command},
};

use anyhow::Context;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

/// The process namespace comes first, because `/proc` is the machine's only until the mount namespace is entered.
const NAMESPACES: [(&str, CloneFlags); 5] = [
    ("pid", CloneFlags::CLONE_NEWPID),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("net", CloneFlags::CLONE_NEWNET),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Runs a command as a process of the host whose first process is `process`, and returns what it exited with: its own
/// code, or 128 and the signal that ended it. SIGTERM and SIGHUP are passed on; the command does not outlive this process.
///
/// # Errors
/// If the host is gone or the command can't be started.
pub fn enter(process: u32, program: &OsString, arguments: &[OsString]) -> anyhow::Result<u8> {
    let files = NAMESPACES
        .iter()
        .map(|(name, kind)| Ok((File::open(format!("/proc/{process}/ns/{name}"))?, *kind)))
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("failed to open the namespaces of process {process}"))?;
    let folder = env::current_dir().context("failed to find the working folder")?;
    for (file, kind) in &files {
        setns(file.as_fd(), *kind).with_context(|| format!("failed to enter {kind:?} of process {process}"))?;
    }
    // Entering a mount namespace leads to its root; a folder that the host does not have is left out.
    drop(env::set_current_dir(folder));

    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        signals.add(signal);
    }
    signals.thread_block().context("failed to block signals")?;
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: both are single system calls on values of this frame, so they may run between fork and exec.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            signals.thread_unblock().map_err(Into::into)
        });
    }
    let mut child = command.spawn().with_context(|| format!("failed to start {}", program.display()))?;
    wait(&mut child, &signals)
}

fn wait(child: &mut Child, signals: &SigSet) -> anyhow::Result<u8> {
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id beyond 2^31")?);
    loop {
        let signal = signals.wait().context("failed to wait for signals")?;
        if signal == Signal::SIGCHLD {
            if let Some(status) = child.try_wait().context("failed to wait for the command")? {
                let code = status.code().or(status.signal().map(|signal| 128 + signal));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX));
            }
        } else if signal != Signal::SIGINT {
            // The terminal sends SIGINT to the whole foreground group, so the command has it already.
            let _ = kill(pid, signal);
        }
    }
}
