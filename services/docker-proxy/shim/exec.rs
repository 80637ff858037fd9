//! Finds and executes the container's own command, as `execvp` (POSIX.1-2017) would.

use core::ffi::{CStr, c_char};

use crate::syscall::{EACCES, ENAMETOOLONG, ENOENT, ENOTDIR, execve};

/// Where commands are looked for when the environment does not say: what the engine itself uses.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Longest path, with its ending zero (PATH_MAX).
const LONGEST_PATH: usize = 4096;

/// Becomes the command. Returns only if that fails: the reason, and the command's name.
///
/// `command` and `environment` are lists as the kernel passed them.
pub(crate) fn replace(command: *const *const c_char, environment: *const *const c_char) -> (i32, &'static CStr) {
    // SAFETY: the caller saw that the list has an entry, and the kernel ends each text with a zero; texts on the initial
    // stack live as long as the process.
    let name: &'static CStr = unsafe { CStr::from_ptr(*command) };
    let bytes = name.to_bytes();
    if bytes.is_empty() {
        return (ENOENT, name);
    }
    if bytes.iter().any(|byte| *byte == b'/') {
        // SAFETY: lists and texts as the kernel passed them.
        return (unsafe { execve(name.as_ptr(), command, environment) }, name);
    }
    let mut answer = ENOENT;
    for folder in search_path(environment).split(|byte| *byte == b':') {
        // An empty part means the working directory.
        let folder = if folder.is_empty() { b"." } else { folder };
        let Some(path) = Path::join(folder, bytes) else {
            answer = ENAMETOOLONG;
            continue;
        };
        // SAFETY: the path ends with a zero; lists as the kernel passed them.
        match unsafe { execve(path.0.as_ptr().cast(), command, environment) } {
            ENOENT | ENOTDIR => {}
            // Another folder may have one that may be executed.
            EACCES => answer = EACCES,
            error => return (error, name),
        }
    }
    (answer, name)
}

/// A path that ends with at least one zero.
struct Path([u8; LONGEST_PATH]);

impl Path {
    /// Joins a folder and a name, if both fit.
    fn join(folder: &[u8], name: &[u8]) -> Option<Self> {
        let mut path = Self([0; LONGEST_PATH]);
        let (_zero, room) = path.0.split_last_mut()?;
        let mut room = room.iter_mut();
        for byte in folder.iter().chain(b"/").chain(name) {
            *room.next()? = *byte;
        }
        Some(path)
    }
}

/// Returns the value of `PATH`.
fn search_path(environment: *const *const c_char) -> &'static [u8] {
    let mut at = environment;
    loop {
        // SAFETY: the list ends with a null pointer, where the loop ends; texts as above.
        let entry = unsafe {
            if (*at).is_null() {
                return DEFAULT_PATH;
            }
            let entry: &'static CStr = CStr::from_ptr(*at);
            at = at.add(1);
            entry
        };
        if let Some(value) = entry.to_bytes().strip_prefix(b"PATH=") {
            return value;
        }
    }
}
