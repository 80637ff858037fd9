//! Access control lists of files, as the kernel keeps them (`include/uapi/linux/posix_acl_xattr.h`; what they mean:
//! acl(5)).

use std::{io, os::unix::fs::MetadataExt as _, path::Path};

use rustix::{
    fs::{XattrFlags, getxattr, setxattr},
    io::Errno,
};

/// Permission to pass through a folder.
pub(super) const SEARCH: u16 = 1;
/// Permission to read and write, which connecting to a socket needs.
pub(super) const READ_WRITE: u16 = 6;

const ALL: u16 = 7;

/// The version that every list begins with.
const VERSION: u32 = 2;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// What stands for the id where a kind of entry has none.
const NO_ID: u32 = u32::MAX;

/// Longest list that is looked at, in bytes.
const LONGEST: usize = 4096;

/// Which of a file's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The file's own.
    Access,
    /// The one that what is made in the folder begins with.
    Default,
}

impl Kind {
    const fn attribute(self) -> &'static str {
        match self {
            Self::Access => "system.posix_acl_access",
            Self::Default => "system.posix_acl_default",
        }
    }
}

/// An entry: its kind, its permissions, whom it is about. In the order of a list, which the kernel checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// Adds a user to a list, with these permissions; everybody else keeps theirs.
pub(super) fn allow(path: &Path, kind: Kind, user: u32, permissions: u16) -> io::Result<()> {
    let mut entries = match read(path, kind)? {
        Some(entries) => entries,
        None => minimal(path, kind)?,
    };
    entries.retain(|entry| (entry.tag, entry.id) != (USER, user) && entry.tag != MASK);
    entries.push(Entry { tag: USER, permissions, id: user });
    let limited = entries.iter().filter(|entry| matches!(entry.tag, USER | OWNING_GROUP | GROUP));
    let mask = limited.fold(0, |mask, entry| mask | entry.permissions);
    entries.push(Entry { tag: MASK, permissions: mask, id: NO_ID });
    entries.sort_by_key(|entry| (entry.tag, entry.id));
    let entries = entries.iter().flat_map(|entry| {
        [&entry.tag.to_le_bytes()[..], &entry.permissions.to_le_bytes(), &entry.id.to_le_bytes()].concat()
    });
    let list: Vec<u8> = VERSION.to_le_bytes().into_iter().chain(entries).collect();
    setxattr(path, kind.attribute(), &list, XattrFlags::empty()).map_err(|errno| match errno {
        Errno::OPNOTSUPP => io::Error::other("its file system has no access control lists: start without --user"),
        other => other.into(),
    })
}

/// Returns the users that a file's own list names, with what they may do.
#[cfg(test)]
pub(super) fn users(path: &Path) -> io::Result<Vec<(u32, u16)>> {
    let entries = read(path, Kind::Access)?.unwrap_or_default().into_iter();
    Ok(entries.filter(|entry| entry.tag == USER).map(|entry| (entry.id, entry.permissions)).collect())
}

fn read(path: &Path, kind: Kind) -> io::Result<Option<Vec<Entry>>> {
    let mut buffer = [0; LONGEST];
    let length = match getxattr(path, kind.attribute(), &mut buffer[..]) {
        Ok(length) => length,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let (_version, entries) = buffer.get(..length).and_then(|list| list.split_at_checked(4)).unwrap_or_default();
    let entry = |bytes: &[u8; 8]| {
        let [t0, t1, p0, p1, id @ ..] = *bytes;
        Entry {
            tag: u16::from_le_bytes([t0, t1]),
            permissions: u16::from_le_bytes([p0, p1]),
            id: u32::from_le_bytes(id),
        }
    };
    Ok(Some(entries.as_chunks::<8>().0.iter().map(entry).collect()))
}

/// Returns the list that a file without one has in effect; for a folder's default, one that leaves the modes of what is
/// made in it to who makes it, but nothing to others.
fn minimal(path: &Path, kind: Kind) -> io::Result<Vec<Entry>> {
    let (owner, group, other) = match kind {
        Kind::Access => {
            let mode = std::fs::symlink_metadata(path)?.mode();
            let part = |shift: u32| (mode >> shift) as u16 & ALL;
            (part(6), part(3), part(0))
        }
        Kind::Default => (ALL, ALL, 0),
    };
    let entry = |tag, permissions| Entry { tag, permissions, id: NO_ID };
    Ok(vec![entry(OWNER, owner), entry(OWNING_GROUP, group), entry(OTHER, other)])
}
