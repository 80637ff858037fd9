//! Control groups of a lab's engines: containers of lab hosts are kept below one folder per host, which has to be removed.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

const MOUNT: &str = "/sys/fs/cgroup";

/// Returns the parent group that a host's engine gives its containers.
pub(crate) fn parent(lab: &str, host: &str) -> String {
    format!("/weft-lab/{lab}/{host}")
}

/// Removes a host's groups from all hierarchies. They must have no processes any more.
///
/// # Errors
/// The first group that could not be removed; the others are removed nevertheless.
pub(crate) fn remove(lab: &str, host: &str) -> std::io::Result<()> {
    let mut outcome = Ok(());
    for hierarchy in hierarchies() {
        let lab_group = hierarchy.join("weft-lab").join(lab);
        outcome = outcome.and(remove_tree(&lab_group.join(host)));
        // Other hosts or labs may still have groups beside it.
        for parent in [lab_group, hierarchy.join("weft-lab")] {
            drop(fs::remove_dir(parent));
        }
    }
    outcome
}

/// Version 2 has one hierarchy, at the mount itself; version 1 has one in each of its folders.
fn hierarchies() -> Vec<PathBuf> {
    let folders = fs::read_dir(MOUNT).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(PathBuf::from(MOUNT)).chain(folders).filter(|path| path.join("weft-lab").is_dir()).collect()
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
