//! The files that an engine binds into its containers, by which a process is known to be of one.

use std::{fs, path::Path};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Gives the calling thread a mount namespace in which `/etc/hosts` is the file of the container `id`.
pub(crate) fn bind(id: &str) {
    unshare(CloneFlags::CLONE_NEWNS).expect("these tests make mount namespaces: run them as root");
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).expect("mounts are made private");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("containers").join(id).join("hosts");
    fs::create_dir_all(file.parent().unwrap_or(Path::new("/"))).expect("made");
    fs::write(&file, "127.0.0.1\tlocalhost\n").expect("written");
    mount(Some(&file), "/etc/hosts", nothing, MsFlags::MS_BIND, nothing).expect("bound");
}
