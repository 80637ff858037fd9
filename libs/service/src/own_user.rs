//! A user of its own for a service that needs no right of root once it has begun.
//!
//! Only root may write the folder of sockets and what an earlier version left, and the engine makes folders that are
//! mounted as root's; so such a service starts as root and gives that up for good when this is prepared. It needs
//! CAP_SETUID and CAP_SETGID for that, CAP_CHOWN if it has state, and has no capability afterwards.
//!
//! Sockets belong to the group of the engine's socket, which a service's user is not in. Access control lists let it open
//! them: on the folder, on the sockets that are there, and as default for those that are made later, in whatever order
//! the services start.

mod acl;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, lchown},
    path::Path,
};

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use weft_proto::client::Service;

use crate::Result;

/// Option of services that can have a user of their own; flatten into a service's own.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct UserOptions {
    /// Become this user, a number, when what only root may do is done. Without it, stay who started the service.
    #[arg(long, value_name = "UID", value_parser = clap::value_parser!(u32).range(1..))]
    pub user: Option<u32>,
}

impl UserOptions {
    /// Becomes the user, with the user's number as group and with no capability, in all threads and for good. Before, makes
    /// sure that the user may write `state`, folders and what lies in them, and may open the sockets in `sockets`.
    ///
    /// To be called when the service has bound its own socket.
    ///
    /// # Errors
    /// If something may not be done; the service must end then.
    pub fn apply(&self, service: Service, sockets: &Path, state: &[&Path]) -> Result {
        let Some(user) = self.user else { return Ok(()) };
        let present = geteuid().as_raw();
        if present == user {
            return Ok(());
        }
        if present != 0 {
            bail!("this user ({present}) cannot become user {user}: start the service as root, or without --user");
        }
        for folder in state {
            give(folder, user)
                .with_context(|| format!("failed to give the state folder {} to user {user}", folder.display()))?;
        }
        share(sockets, user)
            .and_then(|()| File::create(service.last_words(sockets)).map(drop))
            .with_context(|| format!("failed to let user {user} open the sockets in {}", sockets.display()))?;
        become_user(user).with_context(|| {
            format!("failed to become user {user}: CAP_SETUID and CAP_SETGID are needed to start, or no --user")
        })?;
        tracing::info!(user, "continuing as a user without privileges");
        Ok(())
    }
}

fn become_user(user: u32) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    // The kernel takes the capabilities away when no user id is root's any more.
    setresuid(uid, uid, uid)
}

/// Gives a folder and what lies in it to a user, the folder last, so that a break in between is made good the next time.
fn give(folder: &Path, user: u32) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let entries = match fs::read_dir(folder) {
        // Closed to others by the operator: without CAP_DAC_OVERRIDE that means root too, and it was given before.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && fs::metadata(folder)?.uid() == user => {
            return Ok(());
        }
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), user)?;
        } else {
            lchown(entry.path(), Some(user), Some(user))?;
        }
    }
    lchown(folder, Some(user), Some(user))
}

/// Lets a user pass through the folder of sockets, and open those that are there and those to come.
fn share(folder: &Path, user: u32) -> io::Result<()> {
    acl::allow(folder, acl::Kind::Access, user, acl::SEARCH)?;
    acl::allow(folder, acl::Kind::Default, user, acl::READ_WRITE)?;
    // What is made from here on has the default.
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type() {
            Ok(kind) if kind.is_socket() => {}
            _ => continue,
        }
        match acl::allow(&entry.path(), acl::Kind::Access, user, acl::READ_WRITE) {
            // Replaced in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            allowed => allowed?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn state_is_given_with_all_that_lies_in_it() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let state = folder.path().join("a/state");
        fs::create_dir_all(state.join("sub")).expect("writable");
        fs::write(state.join("sub/store"), "addresses").expect("writable");
        std::os::unix::fs::symlink(folder.path(), state.join("link")).expect("writable");
        for _ in 0..2 {
            give(&state, 67_999).expect("root may");
        }
        for path in ["", "sub", "sub/store"] {
            let owner = fs::metadata(state.join(path)).expect("there");
            assert_eq!((owner.uid(), owner.gid()), (67_999, 67_999), "{path}");
        }
        assert_eq!(fs::metadata(folder.path()).expect("there").uid(), 0, "links are not followed");
    }

    #[test]
    fn sockets_before_and_after_are_shared_and_keep_their_mode() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o750)).expect("ours");
        let bind = |name: &str| {
            let path = folder.path().join(name);
            let listener = std::os::unix::net::UnixListener::bind(&path).expect("binds");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).expect("ours");
            (path, listener)
        };
        let (before, _before) = bind("before.sock");
        for user in [67_998, 67_999, 67_999] {
            share(folder.path(), user).expect("root may");
        }
        let (after, _after) = bind("after.sock");
        // As docker-proxy does later.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o2750)).expect("ours");
        for path in [&before, &after] {
            let mode = fs::metadata(path).expect("there").mode();
            assert_eq!(mode & 0o7777, 0o660, "{}", path.display());
            let users = acl::users(path).expect("readable");
            assert_eq!(users, [(67_998, acl::READ_WRITE), (67_999, acl::READ_WRITE)], "{}", path.display());
        }
        assert_eq!(acl::users(folder.path()).expect("readable"), [(67_998, acl::SEARCH), (67_999, acl::SEARCH)]);
        assert_eq!(fs::metadata(folder.path()).expect("there").mode() & 0o7777, 0o2750);
    }
}
