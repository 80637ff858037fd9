//! Datagrams on their way in: many in one system call, coalesced by the kernel where it can.

use std::{
    io,
    mem::MaybeUninit,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

use super::socket::{DataSocket, UDP_GRO};

/// Messages of one system call.
const MESSAGES: usize = 32;
/// The same while messages are large: what is opened and written soon after stays in the CPU's cache.
const LARGE_MESSAGES: usize = 4;
/// Average length of large messages, in bytes.
const LARGE: usize = 16 << 10;
/// Room for one message: the most that the kernel coalesces.
const ROOM: usize = 1 << 16;
const CONTROL: usize = 64;

/// What one message holds: datagrams of `segment` bytes each, the last perhaps shorter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) segment: usize,
    pub(super) source: SocketAddr,
}

/// Buffers for what arrives. Pages that were never needed take no memory.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) buffer: Box<[u8]>,
    pub(super) received: Vec<Received>,
    capacity: usize,
}

#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl Receive {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; MESSAGES * ROOM].into(), received: Vec::with_capacity(MESSAGES), capacity: MESSAGES }
    }

    /// Returns how many messages one call returns at most.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Fits the next call to what the last one returned.
    pub(super) fn adapt(&mut self, received: &[Received]) {
        let bytes: usize = received.iter().map(|message| message.end - message.start).sum();
        self.capacity = if bytes > LARGE * received.len() { LARGE_MESSAGES } else { MESSAGES };
    }

    /// Receives what is there into the start of the buffer, and lists it in `received`.
    pub(super) fn receive(&mut self, socket: &DataSocket) -> io::Result<()> {
        self.received.clear();
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MESSAGES];
        let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::uninit() }; MESSAGES];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; MESSAGES];
        for (index, room) in self.buffer.chunks_exact_mut(ROOM).take(self.capacity).enumerate() {
            let vector = vectors[index].write(libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() });
            // SAFETY: a message header of zeroes is valid: null pointers and lengths of zero.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_name = names[index].as_mut_ptr().cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            header.msg_control = controls[index].as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            headers[index].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
        // SAFETY: the first `capacity` headers are initialised and point to buffers, names and control buffers with their lengths, which
        // outlive the call and overlap nowhere.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr().cast(),
                self.capacity as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        for index in 0..count as usize {
            // SAFETY: all headers were initialised above.
            let header = unsafe { headers[index].assume_init_ref() };
            // SAFETY: the kernel wrote a name of this family before it returned the message.
            let Some(source) = (unsafe { address(names[index].as_ptr()) }) else { continue };
            let start = index * ROOM;
            let end = start + (header.msg_len as usize).min(ROOM);
            // SAFETY: the header describes the control buffer as the kernel filled it.
            let segment = unsafe { segment(&header.msg_hdr) }.filter(|segment| *segment > 0).unwrap_or(ROOM);
            self.received.push(Received { start, end, segment, source });
        }
        Ok(())
    }
}

/// Reads a socket address, an IPv4 one from its mapped form too.
///
/// # Safety
/// `name` points to an initialised address of the family that it says, in aligned storage.
unsafe fn address(name: *const libc::sockaddr_storage) -> Option<SocketAddr> {
    // SAFETY: every family starts with this field, and the caller vouches for it.
    match i32::from(unsafe { (*name).ss_family }) {
        libc::AF_INET => {
            // SAFETY: the storage is aligned for every family, and the caller vouches for the content.
            let name = unsafe { &*name.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some((ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let name = unsafe { &*name.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => (ip, port).into(),
                None => std::net::SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

/// Returns the size of the datagrams in a coalesced message.
///
/// # Safety
/// The header's control buffer holds the control messages that the kernel wrote.
unsafe fn segment(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the caller vouches for the control buffer; the macros stay inside it.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: the macros return only pointers to whole control message headers.
        let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
        if level == libc::SOL_UDP && kind == UDP_GRO {
            // SAFETY: this control message holds one int, which need not be aligned.
            let size = unsafe { libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned() };
            return usize::try_from(size).ok();
        }
        // SAFETY: as for the first.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}
