//! Links, addresses, routes and forwarding entries over route netlink, without blocking on anything but the kernel.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use anyhow::{Context, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, constants::NETLINK_ROUTE};
use rustix::{io::Errno, net::netdevice::name_to_index};

/// Room for one answer of the kernel: it never sends more in one datagram of a dump than 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// A socket to the kernel of one network namespace: the one that the thread was in when it opened it.
#[derive(Debug)]
pub(super) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}{explanation}", if explanation.is_empty() { "" } else { ": " })]
pub(super) struct Refused {
    error: io::Error,
    explanation: String,
}

impl Refused {
    /// Tells whether the kernel answered with this error number.
    pub(super) fn is(&self, errno: i32) -> bool {
        self.error.raw_os_error() == Some(errno)
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self { error, explanation: String::new() }
    }
}

/// One request of a batch: what to do, with which flags beside those that every request has, and for people.
pub(super) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
    what: String,
    tolerated: &'static [i32],
}

impl Request {
    pub(super) fn new(message: RouteNetlinkMessage, flags: u16, what: impl Into<String>) -> Self {
        Self { message, flags, what: what.into(), tolerated: &[] }
    }

    /// Treats these error numbers as success: the kernel has it so already.
    pub(super) fn tolerating(mut self, errnos: &'static [i32]) -> Self {
        self.tolerated = errnos;
        self
    }
}

impl Channel {
    pub(super) fn open() -> anyhow::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("failed to open a route netlink socket")?;
        socket.bind_auto().context("failed to bind a route netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("failed to connect to the kernel by netlink")?;
        // Explanations are a comfort: old kernels have none. The same for strict checks of what is dumped.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Opens one whose requests all fail: nobody in the kernel listens to this family.
    #[cfg(test)]
    pub(super) fn unanswered() -> Self {
        let mut socket = Socket::new(netlink_sys::constants::NETLINK_USERSOCK).expect("every kernel has the family");
        socket.bind_auto().expect("bound");
        socket.connect(&SocketAddr::new(0, 0)).expect("connected");
        Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) }
    }

    /// Returns the number of the link of this name. Takes no lock that who makes and removes links would hold.
    pub(super) fn index(&self, name: &str) -> anyhow::Result<Option<u32>> {
        match name_to_index(borrow(&self.socket), name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("failed to find the link {name}")),
        }
    }

    /// Sends all requests at once and waits for all answers. Later requests are performed though an earlier one failed.
    ///
    /// Fails with the first refusal.
    pub(super) fn perform(&mut self, requests: Vec<Request>) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        let first = self.sequence.wrapping_add(1);
        let mut expected = Vec::with_capacity(requests.len());
        for request in requests {
            self.append(&mut bytes, request.message, request.flags | NLM_F_ACK);
            expected.push((request.what, request.tolerated));
        }
        if expected.is_empty() {
            return Ok(());
        }
        self.socket.send(&bytes, 0).context("failed to send to the kernel by netlink")?;
        let mut outcome = Ok(());
        let mut answered = 0;
        while answered < expected.len() {
            for (sequence, answer) in self.receive()? {
                let position = sequence.wrapping_sub(first) as usize;
                let (Some((what, tolerated)), Answer::Done(result)) = (expected.get(position), answer) else {
                    continue;
                };
                answered += 1;
                if let Err(refused) = result
                    && !tolerated.iter().any(|errno| refused.is(*errno))
                    && outcome.is_ok()
                {
                    outcome = Err(anyhow::Error::new(refused).context(format!("failed to {what}")));
                }
            }
        }
        outcome
    }

    /// Asks for one object.
    pub(super) fn get(&mut self, message: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Refused> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, 0);
        self.socket.send(&bytes, 0)?;
        loop {
            for (sequence, answer) in self.receive()? {
                match answer {
                    _ if sequence != self.sequence => {}
                    Answer::Object(object) => return Ok(object),
                    Answer::Done(Err(refused)) => return Err(refused),
                    Answer::Done(Ok(())) | Answer::Unreadable => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer that cannot be read").into());
                    }
                }
            }
        }
    }

    /// Lists objects. What cannot be read is left out: it is none that we made.
    pub(super) fn dump(&mut self, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Refused> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, NLM_F_DUMP);
        self.socket.send(&bytes, 0)?;
        let mut objects = Vec::new();
        loop {
            for (sequence, answer) in self.receive()? {
                match answer {
                    _ if sequence != self.sequence => {}
                    Answer::Object(object) => objects.push(object),
                    Answer::Unreadable => tracing::debug!("left out an object that the kernel listed"),
                    Answer::Done(result) => return result.map(|()| objects),
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    /// Reads one datagram, which may hold many answers.
    fn receive(&mut self) -> io::Result<Vec<(u32, Answer)>> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut answers = Vec::new();
        let mut rest = self.buffer.as_slice();
        while let Some(length) = rest.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            // A header has 16 bytes; less, or more than there is, would be a bug of the kernel.
            let Some(message) = rest.get(..length).filter(|_| length >= 16) else { break };
            let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
            answers.push((sequence, Answer::read(message)));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(answers)
    }
}

enum Answer {
    Object(RouteNetlinkMessage),
    Done(Result<(), Refused>),
    Unreadable,
}

impl Answer {
    fn read(bytes: &[u8]) -> Self {
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map(|message| message.payload) {
            Ok(NetlinkPayload::InnerMessage(object)) => Self::Object(object),
            Ok(NetlinkPayload::Error(error)) => Self::Done(match error.code {
                None => Ok(()),
                Some(_) => Err(Refused { error: error.to_io(), explanation: explanation(bytes) }),
            }),
            Ok(NetlinkPayload::Done(done)) if done.code < 0 => {
                Self::Done(Err(io::Error::from_raw_os_error(-done.code).into()))
            }
            Ok(NetlinkPayload::Done(_)) => Self::Done(Ok(())),
            Ok(_) | Err(_) => Self::Unreadable,
        }
    }
}

/// The kernel's own words: attribute `NLMSGERR_ATTR_MSG` (1) behind the error and the header of the request.
fn explanation(bytes: &[u8]) -> String {
    const NLM_F_CAPPED: u16 = 0x100;
    const NLM_F_ACK_TLVS: u16 = 0x200;
    let text = || -> Option<String> {
        let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
        if flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let request = u32::from_ne_bytes(bytes.get(20..24)?.try_into().ok()?) as usize;
        let echoed = if flags & NLM_F_CAPPED == 0 { request } else { 16 };
        let mut attributes = bytes.get(20 + echoed.next_multiple_of(4)..)?;
        while let Some(header) = attributes.first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let value = attributes.get(4..length)?;
            if u16::from_ne_bytes([header[2], header[3]]) == 1 {
                return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
            }
            attributes = attributes.get(length.next_multiple_of(4)..)?;
        }
        None
    };
    text().unwrap_or_default()
}

/// Hears that links, addresses or forwarding entries of the namespace changed.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: Socket,
}

impl Notifications {
    pub(super) fn open() -> anyhow::Result<Self> {
        // RTNLGRP_LINK, RTNLGRP_NEIGH (forwarding entries), RTNLGRP_IPV4_IFADDR (linux/rtnetlink.h).
        open_notifications(NETLINK_ROUTE, &[1, 3, 5]).map(|socket| Self { socket })
    }

    /// Reads all that waits and tells whether any of it is a concern.
    pub(super) fn drain(&self, concerns: impl FnMut(&[u8]) -> bool) -> bool {
        drain(&self.socket, concerns)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}

pub(super) fn open_notifications(protocol: isize, groups: &[u32]) -> anyhow::Result<Socket> {
    let mut socket = Socket::new(protocol).context("failed to open a netlink socket")?;
    socket.bind_auto().context("failed to bind a netlink socket")?;
    socket.set_non_blocking(true).context("failed to set up a netlink socket")?;
    for group in groups {
        if let Err(error) = socket.add_membership(*group) {
            bail!("failed to join netlink group {group}: {error}");
        }
    }
    Ok(socket)
}

/// Reads all that waits, and tells whether any of it is a concern. What was lost on the way is.
pub(super) fn drain(socket: &Socket, mut concerns: impl FnMut(&[u8]) -> bool) -> bool {
    let mut any = false;
    let mut buffer = Vec::with_capacity(DATAGRAM);
    loop {
        buffer.clear();
        match socket.recv(&mut buffer, 0) {
            Ok(_) => any = any || concerns(&buffer),
            // Too much for the socket's buffer.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return any,
        }
    }
}

#[expect(unsafe_code, reason = "netlink-sys lends its descriptor only as a number")]
pub(super) fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the socket owns the descriptor and outlives the borrow, which carries its lifetime.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}
