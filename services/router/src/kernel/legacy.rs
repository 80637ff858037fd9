//! Filters of hosts with legacy xtables, which only the host's own `iptables` can read and write.
//!
//! The tool runs in the host's root folder with the router's privileges, in the router's network namespace, which is the host's.

use std::{
    io,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};
use weft_router_core::hostnet::{Family, ForwardRule, legacy_accept, legacy_forward, legacy_removals};

use super::namespace::on_thread;

/// Seconds that the tool waits for another one's lock.
const LOCK_PATIENCE: &str = "2";

/// Makes the chains accept the overlay's bridged frames, and returns how many changes that took.
///
/// # Errors
/// If there is no such tool on the host, or it refuses.
pub(super) fn keep(root: &Path, family: Family, bridge: &str) -> anyhow::Result<usize> {
    in_root(root, || {
        let tool = Tool::find(family)?;
        tool.change(&legacy_accept(&tool.run(&["-S".into()])?, bridge))
    })
}

/// Makes the chain `FORWARD` have exactly these rules of those with this comment, and returns how many changes that took.
///
/// # Errors
/// If there is no such tool on the host, or it refuses.
pub(super) fn keep_forward(
    root: &Path,
    family: Family,
    comment: &str,
    wanted: &[ForwardRule],
) -> anyhow::Result<usize> {
    in_root(root, || {
        let tool = Tool::find(family)?;
        tool.change(&legacy_forward(&tool.run(&["-S".into()])?, comment, wanted))
    })
}

/// Removes all rules of ours.
///
/// # Errors
/// If there is no such tool on the host, or it refuses.
pub(super) fn remove(root: &Path, family: Family) -> anyhow::Result<()> {
    in_root(root, || {
        let tool = Tool::find(family)?;
        legacy_removals(&tool.run(&["-S".into()])?).iter().try_for_each(|rule| tool.run(rule).map(|_| ()))
    })
}

/// Runs `action` on a thread of its own with another root folder.
fn in_root<T: Send>(root: &Path, action: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    on_thread(|| {
        if root != Path::new("/") {
            unshare(CloneFlags::CLONE_FS).context("failed to leave the process's root folder")?;
            rustix::process::chroot(root)
                .with_context(|| format!("failed to make {} the root folder (it takes SYS_CHROOT)", root.display()))?;
            rustix::process::chdir("/").context("failed to enter the root folder")?;
        }
        action()
    })
}

/// The host's tool for the legacy tables of one family.
struct Tool {
    path: &'static str,
}

impl Tool {
    fn find(family: Family) -> anyhow::Result<Self> {
        let paths: &[&str] = match family {
            Family::Ipv4 => {
                &["/usr/sbin/iptables-legacy", "/sbin/iptables-legacy", "/usr/sbin/iptables", "/sbin/iptables"]
            }
            Family::Ipv6 => {
                &["/usr/sbin/ip6tables-legacy", "/sbin/ip6tables-legacy", "/usr/sbin/ip6tables", "/sbin/ip6tables"]
            }
            Family::Inet | Family::Bridge => bail!("legacy xtables have no table for several families"),
        };
        for path in paths {
            let output = match command(path).arg("--version").output() {
                Ok(output) => output,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("failed to run the host's {path}")),
            };
            // Versions before 1.8 know no other tables and do not say so.
            let version = text(path, &output)?;
            if !version.contains("nf_tables") {
                return Ok(Self { path });
            }
        }
        bail!("the host has no iptables for legacy xtables")
    }

    fn change(&self, changes: &[Vec<String>]) -> anyhow::Result<usize> {
        for change in changes {
            tracing::info!(
                tool = self.path,
                ?change,
                "weft's rules in the host's filter differ from what they should be"
            );
            self.run(change)?;
        }
        Ok(changes.len())
    }

    fn run(&self, arguments: &[String]) -> anyhow::Result<String> {
        let output = command(self.path).args(["-w", LOCK_PATIENCE]).args(arguments).output();
        text(self.path, &output.with_context(|| format!("failed to run the host's {}", self.path))?)
    }
}

fn command(path: &str) -> Command {
    let mut command = Command::new(path);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(std::process::Stdio::null());
    command
}

fn text(path: &str, output: &Output) -> anyhow::Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the host's {path} failed ({}): {}", output.status, said.lines().next().unwrap_or_default());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
