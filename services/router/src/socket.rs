//! Options and addresses of sockets that no library knows.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use anyhow::Context;
use socket2::SockAddr;

/// Largest segment of control connections, in bytes: it fits an underlay of 1,124 bytes with the headers of IPv6 and TCP. The kernel
/// takes the host's link for the measure, and where another one on the way carries less and nobody tells, all of its segments
/// would be lost.
const SEGMENT: libc::c_int = 1024;

/// Keeps the segments of a TCP socket small, both ways, from its connection on.
pub(crate) fn limit_segments(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_MAXSEG, SEGMENT)
}

/// Sets an option whose value is an int.
pub(crate) fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one int through the pointer, which lives on our stack, and its length is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns the address of an interface for packet sockets (packet(7)), whose frames carry their own header; to listen there, for
/// frames of one kind.
pub(crate) fn packet_address(interface: u32, kind: u16) -> anyhow::Result<SockAddr> {
    let index = i32::try_from(interface).context("an interface has a positive index")?;
    // SAFETY: the storage is zeroed and larger than `sockaddr_ll`, whose fields are plain numbers; the length is its size.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as libc::sa_family_t;
            (*link).sll_protocol = kind.to_be();
            (*link).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }
    .context("failed to make a packet address")?;
    Ok(address)
}
