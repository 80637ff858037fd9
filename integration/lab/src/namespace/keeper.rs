//! The keeper of one host.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use super::HostSpec;
use crate::{cgroup, state};

/// How often removing groups is tried while the kernel still takes down what lived in them.
const CGROUP_ATTEMPTS: u32 = 100;

/// Starts a host's first process, writes its process id to stdout, and keeps the host until stdin ends.
///
/// # Errors
/// If the host can't be made, or something of it is left behind.
pub fn keep(spec: &HostSpec) -> anyhow::Result<()> {
    let folder = state::host_folder(&spec.lab, &spec.name);
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    state::Process::current()?.write(&folder.join("keeper"))?;
    // Children are in the new namespace; this process stays where it is.
    unshare(CloneFlags::CLONE_NEWPID).context("failed to make a process namespace (root is needed)")?;
    let mut first = Command::new("/proc/self/exe")
        .arg0("weft-lab-init")
        .arg("first-process")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start the host's first process")?;
    let pid = first.id();
    serde_json::to_writer(first.stdin.take().context("the first process has no stdin")?, spec)
        .context("failed to tell the first process what to prepare")?;
    let mut ready = String::new();
    BufReader::new(first.stdout.take().context("the first process has no stdout")?).read_line(&mut ready)?;
    if ready.trim() != "ready" {
        let status = first.wait()?;
        tear_down(spec)?;
        bail!("the first process of {} could not prepare the host: {status}", spec.name);
    }
    let first_fd =
        pidfd_open(Pid::from_child(&first), PidfdFlags::empty()).context("failed to hold the first process")?;
    println_flushed(&pid.to_string())?;

    wait_for_end(&first_fd)?;
    // Ends every process of the host's namespace.
    let _ = pidfd_send_signal(&first_fd, Signal::KILL);
    let _status: ExitStatus = first.wait()?;
    tear_down(spec)
}

/// Returns when stdin ends, which means that the lab is gone, or when the host's first process ends.
fn wait_for_end(first: impl AsFd) -> anyhow::Result<()> {
    let stdin = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    loop {
        let mut wanted = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(&first, PollFlags::IN)];
        match poll(&mut wanted, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error).context("failed to wait"),
        }
        let (lab, host) = (wanted[0].revents(), wanted[1].revents());
        if !host.is_empty() {
            return Ok(());
        }
        if !lab.is_empty() && (&stdin).read(&mut [0; 64])? == 0 {
            return Ok(());
        }
    }
}

fn tear_down(spec: &HostSpec) -> anyhow::Result<()> {
    let mut groups = cgroup::remove(&spec.lab, &spec.name);
    for _ in 0..CGROUP_ATTEMPTS {
        if groups.is_ok() {
            break;
        }
        pause(Duration::from_millis(20));
        groups = cgroup::remove(&spec.lab, &spec.name);
    }
    let folder = state::host_folder(&spec.lab, &spec.name);
    let folder_removed = fs::remove_dir_all(&folder);
    // The last host's keeper removes the lab's folder, the last lab's the folder of all.
    drop(fs::remove_dir(state::lab_folder(&spec.lab)));
    drop(fs::remove_dir(state::FOLDER));
    groups.with_context(|| format!("failed to remove the control groups of {}", spec.name))?;
    folder_removed.with_context(|| format!("failed to remove {}", folder.display()))
}

#[expect(clippy::disallowed_methods, reason = "the kernel reports no event when a group becomes removable")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn println_flushed(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
