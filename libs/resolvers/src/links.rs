//! Symbolic links of a file system whose root is a folder here.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Most links on the way, as in the kernel.
const MOST_LINKS: usize = 40;

/// Returns where `path` leads to, relative to `root`, with links taken as they mean with that root. What is not there ends
/// the search, and is returned as it would be.
///
/// # Errors
/// If there are too many links.
pub(crate) fn follow(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut left: VecDeque<OsString> = names(path);
    let mut found = PathBuf::new();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            found.pop();
            continue;
        }
        found.push(&name);
        let Ok(target) = fs::read_link(root.join(&found)) else { continue };
        links += 1;
        if links > MOST_LINKS {
            return Err(io::Error::other("too many links lead from one to another"));
        }
        found.pop();
        if target.is_absolute() {
            found.clear();
        }
        let mut ahead = names(&target);
        ahead.append(&mut left);
        left = ahead;
    }
    Ok(found)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    });
    names.collect()
}
