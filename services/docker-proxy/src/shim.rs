//! The program that holds a container's process until its network works, as a file on the host.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The program: static, for this machine.
const PROGRAM: &[u8] = include_bytes!(env!("WEFT_WAIT"));

/// The program's name.
const NAME: &str = "weft-wait";

/// The program's permissions while weft is on the host. With the sticky bit beside them it waits no longer: weft was taken off.
const HERE: u32 = 0o755;

/// Puts the program into a folder of its version below `folder`, and returns its path.
///
/// Containers refer to that path for as long as they exist, so a version that is there and whole is left alone, and others
/// are not removed. Containers that have any of them wait for weft again.
///
/// # Errors
/// If the folder cannot be written.
pub fn install(folder: &Path) -> anyhow::Result<PathBuf> {
    for version in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = version.path().join(NAME);
        if path.exists() {
            set_mode(&path, HERE)?;
        }
    }
    weft_service::make_folder(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
    let folder = folder.join(weft_service::VERSION);
    let path = folder.join(NAME);
    if fs::read(&path).is_ok_and(|there| there == PROGRAM) {
        return Ok(path);
    }
    // A container that starts meanwhile finds the whole program or none.
    let partial = folder.join(".weft-wait.partial");
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&partial, PROGRAM))
        .and_then(|()| fs::set_permissions(&partial, fs::Permissions::from_mode(HERE)))
        .and_then(|()| fs::rename(&partial, &path))
        .with_context(|| format!("failed to put the waiting program at {}", path.display()))?;
    Ok(path)
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("failed to set the permissions of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_small_and_has_nothing_to_relocate() {
        assert!(PROGRAM.len() < 100_000, "{} bytes", PROGRAM.len());
        // ELF header, e_type (2 bytes at 16): ET_EXEC, a program that runs where it was linked for.
        assert_eq!(PROGRAM[16..18], 2_u16.to_ne_bytes());
    }

    #[test]
    fn installing_twice_changes_nothing_and_repairs_what_is_cut() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let path = install(folder.path()).expect("installed");
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).expect("it is there"));
        let before = inode();
        // As what takes weft off leaves it.
        let older = folder.path().join("0.0.1").join(NAME);
        fs::create_dir(folder.path().join("0.0.1")).and_then(|()| fs::write(&older, "older")).expect("made");
        for path in [&path, &older] {
            set_mode(path, HERE | 0o1000).expect("it is ours");
        }
        assert_eq!(install(folder.path()).expect("installed"), path);
        assert_eq!(inode(), before);
        for path in [&path, &older] {
            assert_eq!(fs::metadata(path).expect("it is there").permissions().mode() & 0o7777, HERE);
        }
        assert_eq!(fs::read(&older).expect("it is there"), b"older");
        fs::write(&path, &PROGRAM[..100]).expect("it can be cut");
        install(folder.path()).expect("repaired");
        assert!(fs::read(&path).expect("it is there") == PROGRAM);
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o755);
    }
}
