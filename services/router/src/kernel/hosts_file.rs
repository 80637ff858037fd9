//! Writes a container's hosts file in place.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Component, Path},
};

use anyhow::{Context, bail, ensure};
use weft_router_core::hostnet::{HostsFile, rewrite_hosts};

/// A hosts file that is larger was not written by the engine.
const LARGEST: u64 = 1 << 20;

/// Makes the file say what it should. The inode stays: the engine binds that very file into the container.
pub(super) fn write(hosts: &HostsFile, addresses: &[IpAddr]) -> anyhow::Result<()> {
    let path = &hosts.path;
    let mut file = open(path)?;
    let mut existing = String::new();
    file.read_to_string(&mut existing).with_context(|| format!("failed to read {}", path.display()))?;
    let wanted = rewrite_hosts(&existing, hosts, addresses);
    if wanted == existing {
        return Ok(());
    }
    // Content first, length last: who reads meanwhile finds lines, never an empty file.
    replace(&mut file, wanted.as_bytes()).with_context(|| format!("failed to write {}", path.display()))
}

/// Content first, length last: who reads meanwhile finds lines, never an empty file.
fn replace(file: &mut File, content: &[u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)
}

/// Opens the file if it can be nothing but a container's hosts file: the path comes from outside.
fn open(path: &Path) -> anyhow::Result<File> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path.file_name().is_none_or(|name| name != "hosts") {
        bail!("{} is no container's hosts file: give the absolute path of a file named hosts", path.display());
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("failed to open {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("failed to look at {}", path.display()))?;
    ensure!(metadata.is_file(), "{} is not a regular file", path.display());
    ensure!(metadata.len() <= LARGEST, "{} is larger than a hosts file can be", path.display());
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::*;

    fn hosts(path: &Path) -> HostsFile {
        HostsFile { path: path.into(), hostname: "c1".into(), domainname: String::new(), extra_hosts: Vec::new() }
    }

    #[test]
    fn the_inode_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hosts");
        fs::write(&path, "127.0.0.1\tlocalhost\n172.17.0.200\tc1\n# a comment that is long enough to be cut off\n")
            .expect("written");
        let before = fs::metadata(&path).expect("there").ino();
        write(&hosts(&path), &["10.32.0.1".parse().expect("valid")]).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").ino(), before);
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.ends_with("10.32.0.1\tc1 # weft\n") && !text.contains("172.17"), "{text}");
    }

    #[test]
    fn other_files_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let other = folder.path().join("passwd");
        fs::write(&other, "root").expect("written");
        let link = folder.path().join("hosts");
        std::os::unix::fs::symlink(&other, &link).expect("linked");
        for path in [&other, &link, Path::new("hosts"), &folder.path().join("x/../hosts")] {
            assert!(write(&hosts(path), &[]).is_err(), "{}", path.display());
        }
        assert_eq!(fs::read_to_string(&other).expect("readable"), "root");
    }
}
