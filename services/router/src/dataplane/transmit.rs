//! Sealed datagrams on their way out: slots in one buffer, sent in as few system calls as the kernel permits.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, RawFd},
    rc::Rc,
};

use socket2::SockAddr;
use weft_router_core::{datagram::RELAYED, fit::Limits, forward::DropReason, path::Via};

use super::socket::{DataSocket, UDP_SEGMENT};
use crate::control::Stream;

/// Bytes that wait at most before they are sent; a frame of 64 KiB grows to less while it is cut.
const CAPACITY: usize = 160 << 10;
/// Messages that wait at most.
const MESSAGES: usize = 64;
/// Datagrams of one `UDP_SEGMENT` batch (`UDP_MAX_SEGMENTS` of older kernels).
const BATCH_DATAGRAMS: usize = 64;
/// Bytes of one `UDP_SEGMENT` batch: what one IPv4 packet carries.
const BATCH_BYTES: usize = 65_507;
/// Room for one control message with a `u16`.
const CONTROL: usize = 24;

/// Where datagrams go, and how.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Destination {
    pub(super) carrier: Carrier,
    /// Stands before each datagram that others hand on.
    pub(super) relayed: Option<[u8; RELAYED]>,
    /// The way, for reports.
    pub(super) via: Via,
    pub(super) limits: Limits,
    /// Whether a batch may be sent by one call.
    pub(super) batched: bool,
    /// Number of the peer, for reports.
    pub(super) peer: usize,
    /// Whether these are datagrams of ours to that peer, and not those that we hand on to it.
    pub(super) own: bool,
}

impl Destination {
    /// Returns what stands before each datagram.
    pub(super) fn prefix(&self) -> &[u8] {
        self.relayed.as_ref().map_or(&[], |header| header)
    }
}

/// What takes datagrams to the next host.
#[derive(Debug, Clone)]
pub(super) enum Carrier {
    /// The UDP socket.
    Udp(SockAddr),
    /// A control connection.
    Stream(Stream),
}

impl PartialEq for Carrier {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Udp(one), Self::Udp(other)) => one == other,
            (Self::Stream(one), Self::Stream(other)) => one.is_same(other),
            (Self::Udp(_), Self::Stream(_)) | (Self::Stream(_), Self::Udp(_)) => false,
        }
    }
}

#[derive(Debug)]
struct Message {
    destination: Rc<Destination>,
    start: usize,
    end: usize,
    segment: usize,
    count: usize,
    /// Whether further datagrams may be appended.
    open: bool,
}

/// What happened while sending.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) dropped: Vec<(DropReason, u64)>,
    /// Where how many datagrams of ours were sent.
    pub(super) sent: Vec<(Rc<Destination>, u64)>,
    /// Where a whole batch was refused.
    pub(super) refused: Vec<Rc<Destination>>,
    /// Where a sealed datagram of so many bytes was too large.
    pub(super) too_large: Vec<(Rc<Destination>, usize)>,
}

/// Datagrams that wait to be sent.
#[derive(Debug)]
pub(super) struct Transmit {
    buffer: Box<[u8]>,
    used: usize,
    messages: Vec<Message>,
}

impl Transmit {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; CAPACITY].into(), used: 0, messages: Vec::with_capacity(MESSAGES) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Tells whether `length` more bytes for one peer fit, in the worst case as messages of their own.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.used + length <= CAPACITY && self.messages.len() < MESSAGES
    }

    /// Tells whether a whole batch waits, so that sending now loses nothing.
    pub(super) fn is_worth_sending(&self) -> bool {
        self.used >= BATCH_BYTES
    }

    /// Reserves the slot of one datagram; [`Transmit::has_room`] must have agreed.
    pub(super) fn slot(&mut self, destination: &Rc<Destination>, length: usize) -> &mut [u8] {
        let start = self.used;
        self.used += length;
        match self.messages.last_mut() {
            Some(last)
                if last.open
                    && Rc::ptr_eq(&last.destination, destination)
                    && length <= last.segment
                    && last.count < BATCH_DATAGRAMS
                    && self.used - last.start <= BATCH_BYTES =>
            {
                last.end = self.used;
                last.count += 1;
                last.open = length == last.segment;
            }
            Some(_) | None => self.messages.push(Message {
                destination: Rc::clone(destination),
                start,
                end: self.used,
                segment: length,
                count: 1,
                open: destination.batched,
            }),
        }
        &mut self.buffer[start..self.used]
    }

    /// Takes back the slot that was reserved last.
    pub(super) fn take_back(&mut self, length: usize) {
        self.used -= length;
        if let Some(last) = self.messages.last_mut() {
            last.end = self.used;
            last.count -= 1;
            last.open = false;
            if last.count == 0 {
                self.messages.pop();
            }
        }
    }

    /// Sends all that waits. Nothing is kept: what the kernel does not take is dropped and reported.
    pub(super) fn flush(&mut self, socket: &DataSocket, report: &mut Report) {
        let descriptor = socket.as_fd().as_raw_fd();
        let mut next = 0;
        while next < self.messages.len() {
            if let Carrier::Stream(stream) = &self.messages[next].destination.carrier {
                self.send_inside(next, stream, report);
                next += 1;
                continue;
            }
            match self.send_from(next, descriptor) {
                Ok(sent) => {
                    let sent = sent.max(1);
                    for message in &self.messages[next..next + sent] {
                        report.note_sent(&message.destination, message.count as u64);
                    }
                    next += sent;
                }
                Err(error) => {
                    let message = &self.messages[next];
                    match error.raw_os_error() {
                        Some(libc::EINTR) => continue,
                        Some(libc::EAGAIN | libc::ENOBUFS) => {
                            report.dropped.push((DropReason::SocketFull, message.count as u64));
                        }
                        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if message.count > 1 => {
                            self.send_singly(next, descriptor, report);
                        }
                        Some(libc::EMSGSIZE) => report.note_too_large(message),
                        _ => report.dropped.push((DropReason::SendFailed, message.count as u64)),
                    }
                    next += 1;
                }
            }
        }
        self.messages.clear();
        self.used = 0;
    }

    /// Hands the datagrams of a message to a control connection.
    fn send_inside(&self, index: usize, stream: &Stream, report: &mut Report) {
        let message = &self.messages[index];
        let datagrams = self.buffer[message.start..message.end].chunks(message.segment);
        let taken = datagrams.filter(|datagram| stream.send(datagram.to_vec())).count();
        if taken > 0 {
            report.note_sent(&message.destination, taken as u64);
        }
        if taken < message.count {
            report.dropped.push((DropReason::StreamFull, (message.count - taken) as u64));
        }
    }

    fn send_from(&mut self, first: usize, descriptor: RawFd) -> io::Result<usize> {
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MESSAGES];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; MESSAGES];
        let messages = &self.messages[first..];
        let buffer = self.buffer.as_mut_ptr();
        let mut count = 0;
        for (index, message) in messages.iter().enumerate() {
            let Carrier::Udp(address) = &message.destination.carrier else { break };
            count += 1;
            let vector = vectors[index].write(libc::iovec {
                // SAFETY: `start` lies inside the buffer.
                iov_base: unsafe { buffer.add(message.start) }.cast(),
                iov_len: message.end - message.start,
            });
            // SAFETY: a message header of zeroes is valid: null pointers and lengths of zero.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_namelen = address.len();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            if message.count > 1 {
                let control = controls[index].write(Control::segment(message.segment as u16));
                header.msg_control = (&raw mut *control).cast();
                header.msg_controllen = CONTROL;
            }
            headers[index].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
        // SAFETY: the first `count` headers are initialised; they point to addresses, vectors, control messages
        // and bytes that outlive the call and that nobody else uses.
        let sent = unsafe { libc::sendmmsg(descriptor, headers.as_mut_ptr().cast(), count, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    /// Sends the datagrams of a batch that was refused one by one.
    fn send_singly(&self, index: usize, descriptor: RawFd, report: &mut Report) {
        let message = &self.messages[index];
        let Carrier::Udp(address) = &message.destination.carrier else { return };
        let mut taken = 0;
        for datagram in self.buffer[message.start..message.end].chunks(message.segment) {
            // SAFETY: datagram and address are live slices, given with their lengths; the kernel only reads them.
            let sent = unsafe {
                libc::sendto(
                    descriptor,
                    datagram.as_ptr().cast(),
                    datagram.len(),
                    libc::MSG_DONTWAIT,
                    address.as_ptr().cast(),
                    address.len(),
                )
            };
            if sent >= 0 {
                taken += 1;
                continue;
            }
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS) => report.dropped.push((DropReason::SocketFull, 1)),
                Some(libc::EMSGSIZE) => {
                    // The others are as large.
                    report.dropped.push((DropReason::TooBig, (message.count - taken) as u64 - 1));
                    report.note_too_large(message);
                    break;
                }
                _ => report.dropped.push((DropReason::SendFailed, 1)),
            }
        }
        if taken > 0 {
            report.note_sent(&message.destination, taken as u64);
            report.refused.push(Rc::clone(&message.destination));
        }
    }
}

impl Report {
    fn note_sent(&mut self, destination: &Rc<Destination>, datagrams: u64) {
        if destination.own {
            self.sent.push((Rc::clone(destination), datagrams));
        }
    }

    fn note_too_large(&mut self, message: &Message) {
        self.dropped.push((DropReason::TooBig, 1));
        let length = message.segment - message.destination.prefix().len();
        self.too_large.push((Rc::clone(&message.destination), length));
    }
}

/// A control message that says the size of a batch's datagrams.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    size: u16,
    padding: [u8; 6],
}

const _: () = assert!(size_of::<Control>() == CONTROL);

impl Control {
    const fn segment(size: u16) -> Self {
        // CMSG_LEN(sizeof(u16))
        let header = libc::cmsghdr {
            cmsg_len: size_of::<libc::cmsghdr>() + size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: UDP_SEGMENT,
        };
        Self { header, size, padding: [0; 6] }
    }
}
