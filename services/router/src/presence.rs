//! One router in each network namespace, whose links, rules and settings are its own.
//!
//! It is known by the name of an abstract Unix socket (unix(7)): such names belong to the network namespace and not to the
//! file system, nobody can delete one, and it is free as soon as the process that holds it has ended.

use std::{
    fmt::{self, Display, Formatter},
    fs, io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

const NAME: &str = "weft-router";

/// Keeps other routers from this network namespace until it is dropped. Nothing is ever sent to it.
#[derive(Debug)]
pub(crate) struct Presence {
    _socket: UnixDatagram,
}

/// Why the network namespace could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// The name is taken, which anybody can do who is in the namespace.
    #[error(
        "a router may run in this network already, where only one can: the name @{NAME} is taken there by {0}, stop it first"
    )]
    Taken(Holder),
    /// The kernel refuses for another reason.
    #[error("failed to find out whether another router runs here")]
    Failed(#[source] io::Error),
}

/// The process that has the name, if it can be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder(Option<Process>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    id: u32,
    /// As it calls itself.
    command: String,
}

impl Presence {
    /// Takes the network namespace of the calling thread.
    ///
    /// # Errors
    /// If another process has it, or the kernel refuses.
    pub(crate) fn take() -> Result<Self, TakeError> {
        let bound = SocketAddr::from_abstract_name(NAME).and_then(|name| UnixDatagram::bind_addr(&name));
        match bound {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(TakeError::Taken(Holder::find())),
            Err(error) => Err(TakeError::Failed(error)),
        }
    }
}

impl Holder {
    fn find() -> Self {
        let sockets = fs::read("/proc/thread-self/net/unix").unwrap_or_default();
        Self(inode(&String::from_utf8_lossy(&sockets)).and_then(owner))
    }
}

impl Display for Holder {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            // It may call itself anything.
            Some(Process { id, command }) => write!(f, "the process {id} ({})", command.escape_debug()),
            None => f.write_str("a process that cannot be seen from here"),
        }
    }
}

/// Returns the number of the socket with our name, by the kernel's list (proc_net_unix(5)).
fn inode(sockets: &str) -> Option<u64> {
    const DATAGRAM: &str = "0002";
    sockets.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, _, _, _, kind, _, inode, path] = fields[..] else { return None };
        (kind == DATAGRAM && path.strip_prefix('@') == Some(NAME)).then(|| inode.parse().ok())?
    })
}

/// Finds a process that has a socket open.
fn owner(inode: u64) -> Option<Process> {
    let wanted = format!("socket:[{inode}]");
    let has_it = |id: &u32| {
        // Of a process that just ended, or that we may not look at, nothing is known.
        let open = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        open.map(|entry| entry.path())
            .any(|path| fs::read_link(path).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let id = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(has_it)?;
    let command = fs::read(format!("/proc/{id}/comm")).unwrap_or_default();
    Some(Process { id, command: String::from_utf8_lossy(&command).trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn the_kernels_list_is_read() {
        let list = "Num       RefCount Protocol Flags    Type St Inode Path\n\
                    0000000000000000: 00000002 00000000 00000000 0002 01 2001\n\
                    0000000000000000: 00000002 00000000 00010000 0001 01 2002 @weft-router\n\
                    0000000000000000: 00000002 00000000 00000000 0002 01 2003 @weft-router2\n\
                    0000000000000000: 00000002 00000000 00000000 0002 01 2004 @weft-router\n";
        assert_eq!(inode(list), Some(2004));
        assert_eq!(inode("\n@weft-router\n"), None);
    }

    #[test]
    fn who_has_the_name_is_named_and_it_is_free_afterwards() {
        // A network of its own: others may test here too.
        let test = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test makes a network namespace: run it as root");
            let first = Presence::take().expect("free");
            let said = Presence::take().expect_err("taken").to_string();
            assert!(said.contains(&format!("by the process {} (", std::process::id())), "{said}");
            drop(first);
            Presence::take().expect("free again");
        };
        std::thread::spawn(test).join().expect("as it should be");
    }

    #[test]
    fn a_holder_cannot_write_into_the_sentence() {
        let holder = Holder(Some(Process { id: 7, command: "a\nb".into() }));
        assert_eq!(holder.to_string(), "the process 7 (a\\nb)");
        assert_eq!(Holder(None).to_string(), "a process that cannot be seen from here");
    }
}
