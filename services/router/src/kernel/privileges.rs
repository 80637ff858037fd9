//! Whether this process may do what the owner of kernel network state has to.

use std::{fs, fs::OpenOptions};

use anyhow::{Context, bail};

use super::KernelConfig;

/// Capabilities that are needed, with their numbers (linux/capability.h) and what for.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "NET_ADMIN", "to make links, addresses, routes and filter rules"),
    (13, "NET_RAW", "to announce addresses in containers' networks"),
    (19, "SYS_PTRACE", "to find containers' network namespaces"),
    (21, "SYS_ADMIN", "to enter containers' network namespaces"),
];

/// Fails with one sentence for the first thing that is missing.
pub(super) fn check(config: &KernelConfig) -> anyhow::Result<()> {
    let status = fs::read_to_string("/proc/self/status").context("failed to read /proc/self/status")?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .context("failed to find CapEff in /proc/self/status")?;
    for (number, name, purpose) in CAPABILITIES {
        if effective & (1 << number) == 0 {
            bail!("the capability {name} is missing, {purpose}: start the router as compose.yaml does, or as root");
        }
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        bail!("/dev/net/tun cannot be opened ({error}): give the router that device, as compose.yaml does");
    }
    let sysctls = config.proc_sys.join("net/ipv4/conf");
    if !sysctls.is_dir() {
        bail!("{} is not the host's /proc/sys: mount it there, as compose.yaml does", config.proc_sys.display());
    }
    Ok(())
}
