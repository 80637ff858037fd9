//! Folders of services on the host.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, chown},
    path::Path,
};

/// Makes a folder unless it is there, and takes it over from the user to whom an engine that remaps users (`userns-remap`) gave it
/// when it made it for a container.
///
/// Where that takes a capability that this service lacks, it stays: another service has it, and writing says what is wrong.
///
/// # Errors
/// If it cannot be made.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    if rustix::process::geteuid().is_root() && fs::metadata(folder)?.uid() != 0 {
        match chown(folder, Some(0), Some(0)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            outcome => return outcome,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_another_user_was_given_becomes_root_s() {
        let parent = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = parent.path().join("a/b");
        make_folder(&folder).expect("made");
        let owner = || fs::metadata(&folder).expect("it is there").uid();
        let before = owner();
        // Only root can give a folder away, and has to take it back.
        if chown(&folder, Some(165_536), Some(165_536)).is_ok() {
            make_folder(&folder).expect("taken over");
        }
        assert_eq!(owner(), before);
    }
}
