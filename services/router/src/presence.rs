//! One router in each network namespace, whose links, rules and settings are its own.
//!
//! It is known by the name of an abstract Unix socket (unix(7)): such names belong to the network namespace and not to the
//! file system, nobody can delete one, and it is free as soon as the process that holds it has ended.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use anyhow::Context;

const NAME: &str = "weft-router";

/// Keeps other routers from this network namespace until it is dropped. Nothing is ever sent to it.
#[derive(Debug)]
pub(crate) struct Presence {
    _socket: UnixDatagram,
}

impl Presence {
    /// Takes the network namespace of the calling thread; nothing if another router has it.
    ///
    /// # Errors
    /// If the kernel refuses for another reason.
    pub(crate) fn take() -> anyhow::Result<Option<Self>> {
        let bound = SocketAddr::from_abstract_name(NAME).and_then(|name| UnixDatagram::bind_addr(&name));
        match bound {
            Ok(socket) => Ok(Some(Self { _socket: socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(error) => Err(error).context("failed to find out whether another router runs here"),
        }
    }
}
