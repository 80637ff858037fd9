//! What a host sees as its file system: the machine's, with folders of its own where hosts differ.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::Path,
};

use anyhow::Context;
use rustix::{
    fs::CWD,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, mount_change, move_mount,
        open_tree,
    },
};

use super::HostSpec;
use crate::state;

/// Folders in which a host sees the machine's contents and keeps its changes to itself.
const OVERLAID: [&str; 3] = ["/etc", "/usr/local", "/var/lib"];

/// Gives this mount namespace the host's own view. Everything a host writes is kept in memory and goes with the host.
pub(super) fn prepare(spec: &HostSpec) -> anyhow::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("failed to detach mounts from the machine's")?;
    let store = state::host_folder(&spec.lab, &spec.name).join("store");
    fs::create_dir_all(&store).with_context(|| format!("failed to make {}", store.display()))?;
    let folder = |name: &str| -> anyhow::Result<std::path::PathBuf> {
        let path = store.join(name);
        fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(path)
    };
    memory(&store, "mode=0755")?;

    let groups = control_groups();
    mount("proc", "/proc", "proc", flags(), None).context("failed to mount /proc")?;
    // A fresh one shows this network namespace's links.
    mount("sysfs", "/sys", "sysfs", flags(), None).context("failed to mount /sys")?;
    if let Some(groups) = groups {
        move_mount(groups, "", CWD, "/sys/fs/cgroup", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .context("failed to mount /sys/fs/cgroup")?;
    }

    for (number, target) in OVERLAID.iter().enumerate() {
        let (upper, work) = (folder(&format!("upper{number}"))?, folder(&format!("work{number}"))?);
        let options = format!("lowerdir={target},upperdir={},workdir={}", upper.display(), work.display());
        let options = std::ffi::CString::new(options).context("a path with a zero byte")?;
        mount("overlay", *target, "overlay", MountFlags::empty(), Some(options.as_c_str()))
            .with_context(|| format!("failed to mount an overlay on {target}"))?;
    }
    // The engine's own overlays can't lie on an overlay.
    fs::create_dir_all("/var/lib/docker").context("failed to make /var/lib/docker")?;
    mount_bind(folder("docker")?, "/var/lib/docker").context("failed to mount /var/lib/docker")?;
    memory(Path::new("/dev/shm"), "mode=1777")?;
    memory(Path::new("/run"), "mode=0755")?;
    fs::create_dir_all("/run/lock").context("failed to make /run/lock")?;

    for (path, contents) in &spec.files {
        make_parent(path)?;
        // The machine's may be a link to elsewhere.
        drop(fs::remove_file(path));
        fs::write(path, contents).with_context(|| format!("failed to write {}", path.display()))?;
    }
    for (path, target) in &spec.links {
        make_parent(path)?;
        drop(fs::remove_file(path));
        symlink(target, path).with_context(|| format!("failed to link {}", path.display()))?;
    }
    Ok(())
}

/// Takes along the machine's control groups, which a fresh `/sys` hides.
fn control_groups() -> Option<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, "/sys/fs/cgroup", flags).ok()
}

fn memory(path: &Path, options: &str) -> anyhow::Result<()> {
    let options = std::ffi::CString::new(options).context("a path with a zero byte")?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID, Some(options.as_c_str()))
        .with_context(|| format!("failed to mount {}", path.display()))
}

fn flags() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))
}
