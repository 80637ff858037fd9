//! What is known about labs outside the processes that hold them: one folder per lab, in memory.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::cgroup;

/// Folder of all labs.
pub const FOLDER: &str = "/run/weft-lab";

/// Returns the folder of a lab.
#[must_use]
pub fn lab_folder(lab: &str) -> PathBuf {
    Path::new(FOLDER).join(lab)
}

/// Returns the folder of a host: its engine's log and its keeper's process.
#[must_use]
pub fn host_folder(lab: &str, host: &str) -> PathBuf {
    lab_folder(lab).join(host)
}

/// A lab that a process holds, as others find it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabState {
    /// Name of the lab.
    pub name: String,
    /// Who holds it; when that process ends, the lab does.
    pub holder: Process,
    /// First process of the underlay's namespaces.
    pub underlay: u32,
    /// The hosts, in order.
    pub hosts: Vec<HostState>,
}

/// A host of a lab, as others find it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HostState {
    /// Its name.
    pub name: String,
    /// Its first process.
    pub first_process: u32,
    /// Its address on the underlay.
    pub ipv4: Ipv4Addr,
    /// Its address on the underlay.
    pub ipv6: Ipv6Addr,
    /// Where its Docker comes from.
    pub engine: crate::EngineKit,
}

impl LabState {
    /// Reads the state of a lab.
    ///
    /// # Errors
    /// If there is no lab of that name.
    pub fn read(name: &str) -> anyhow::Result<Self> {
        let path = lab_folder(name).join("lab.json");
        let text =
            fs::read(&path).with_context(|| format!("there is no lab {name:?} ({} is missing)", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged; run `weft-lab clean`", path.display()))
    }

    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let path = lab_folder(&self.name).join("lab.json");
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("failed to write {}", path.display()))
    }
}

/// A process, told from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id.
    pub id: u32,
    /// When it started, in clock ticks since the machine did.
    pub started: u64,
}

impl Process {
    /// Describes the calling process.
    ///
    /// # Errors
    /// If `/proc` can't be read.
    pub fn current() -> anyhow::Result<Self> {
        let id = std::process::id();
        Ok(Self { id, started: started(id).context("failed to read /proc/self/stat")? })
    }

    /// Returns whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        started(self.id) == Some(self.started)
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, serde_json::to_vec(self)?).with_context(|| format!("failed to write {}", path.display()))
    }

    fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

/// The start time is field 22 of `stat`, the 20th after the name, which may itself contain blanks and brackets.
fn started(process: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Removes what labs left behind whose processes are gone, and returns their names.
///
/// # Errors
/// If something can't be removed.
pub fn clean() -> anyhow::Result<Vec<String>> {
    let mut cleaned = Vec::new();
    for lab in labs() {
        let path = lab_folder(&lab);
        let held = LabState::read(&lab).is_ok_and(|state| state.holder.is_alive());
        let hosts = folders(&path);
        let kept =
            hosts.iter().any(|host| Process::read(&path.join(host).join("keeper")).is_some_and(|p| p.is_alive()));
        if held || kept {
            continue;
        }
        for host in &hosts {
            cgroup::remove(&lab, host)
                .with_context(|| format!("failed to remove the control groups of {lab}/{host}"))?;
        }
        fs::remove_dir_all(&path).with_context(|| format!("failed to remove {}", path.display()))?;
        cleaned.push(lab);
    }
    drop(fs::remove_dir(FOLDER));
    Ok(cleaned)
}

/// Returns the names of all labs, also of those that were killed.
#[must_use]
pub fn labs() -> Vec<String> {
    folders(Path::new(FOLDER))
}

fn folders(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_is_alive_only_while_it_runs() {
        let current = Process::current().unwrap();
        assert!(current.is_alive());
        assert!(!Process { started: current.started + 1, ..current }.is_alive());
        assert!(!Process { id: u32::MAX, ..current }.is_alive());
    }
}
