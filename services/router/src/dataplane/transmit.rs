//! Sealed datagrams on their way out: slots in one buffer, sent in as few system calls as the kernel permits.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::{Duration, Instant},
};

use socket2::SockAddr;
use weft_router_core::forward::DropReason;

use super::{
    facility::Facility,
    socket::{DataSocket, UDP_SEGMENT},
};

/// Bytes that wait at most before they are sent; a frame of 64 KiB grows to less while it is cut.
const CAPACITY: usize = 160 << 10;
/// Messages that wait at most.
const MESSAGES: usize = 64;
/// Datagrams of one `UDP_SEGMENT` batch (`UDP_MAX_SEGMENTS` of older kernels).
const BATCH_DATAGRAMS: usize = 64;
/// Bytes of one `UDP_SEGMENT` batch: what one IPv4 packet carries.
const BATCH_BYTES: usize = 65_507;
/// For how long an endpoint that refused a batch gets single datagrams.
const REFUSAL: Duration = Duration::from_secs(60);

/// Room for one control message with a `u16`.
const CONTROL: usize = 24;

/// Where datagrams go, and how.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub(super) address: SockAddr,
    /// Whether a batch may be sent by one call.
    pub(super) batched: bool,
    /// Number of the peer, for reports.
    pub(super) peer: usize,
}

#[derive(Debug)]
struct Message {
    destination: Destination,
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
    /// Peers whose path refused a batch, and until when it gets single datagrams.
    pub(super) refused: Vec<(usize, Instant)>,
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
    pub(super) fn slot(&mut self, destination: &Destination, length: usize) -> &mut [u8] {
        let start = self.used;
        self.used += length;
        match self.messages.last_mut() {
            Some(last)
                if last.open
                    && last.destination.peer == destination.peer
                    && length <= last.segment
                    && last.count < BATCH_DATAGRAMS
                    && self.used - last.start <= BATCH_BYTES
                    && last.destination.address == destination.address =>
            {
                last.end = self.used;
                last.count += 1;
                last.open = length == last.segment;
            }
            Some(_) | None => self.messages.push(Message {
                destination: destination.clone(),
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
    pub(super) fn flush(&mut self, socket: &DataSocket, now: Instant, report: &mut Report) {
        let descriptor = socket.as_fd().as_raw_fd();
        let mut next = 0;
        while next < self.messages.len() {
            match self.send_from(next, descriptor) {
                Ok(sent) => next += sent.max(1),
                Err(error) => {
                    let message = &self.messages[next];
                    match error.raw_os_error() {
                        Some(libc::EINTR) => continue,
                        Some(libc::EAGAIN | libc::ENOBUFS) => {
                            report.dropped.push((DropReason::SocketFull, message.count as u64));
                        }
                        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE) if message.count > 1 => {
                            report.refused.push((message.destination.peer, now + REFUSAL));
                            self.send_singly(next, descriptor, report);
                        }
                        Some(libc::EMSGSIZE) => report.dropped.push((DropReason::Oversized, 1)),
                        _ => report.dropped.push((DropReason::SendFailed, message.count as u64)),
                    }
                    next += 1;
                }
            }
        }
        self.messages.clear();
        self.used = 0;
    }

    fn send_from(&mut self, first: usize, descriptor: RawFd) -> io::Result<usize> {
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MESSAGES];
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MESSAGES];
        let mut controls = [const { MaybeUninit::<Control>::uninit() }; MESSAGES];
        let messages = &self.messages[first..];
        let buffer = self.buffer.as_mut_ptr();
        for (index, message) in messages.iter().enumerate() {
            let vector = vectors[index].write(libc::iovec {
                // SAFETY: `start` lies inside the buffer.
                iov_base: unsafe { buffer.add(message.start) }.cast(),
                iov_len: message.end - message.start,
            });
            // SAFETY: a message header of zeroes is valid: null pointers and lengths of zero.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_name = message.destination.address.as_ptr().cast_mut().cast();
            header.msg_namelen = message.destination.address.len();
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            if message.count > 1 {
                let control = controls[index].write(Control::segment(message.segment as u16));
                header.msg_control = (&raw mut *control).cast();
                header.msg_controllen = CONTROL;
            }
            headers[index].write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        }
        // SAFETY: the first `messages.len()` headers are initialised; they point to addresses, vectors, control messages
        // and bytes that outlive the call and that nobody else uses.
        let sent = unsafe {
            libc::sendmmsg(descriptor, headers.as_mut_ptr().cast(), messages.len() as libc::c_uint, libc::MSG_DONTWAIT)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
    }

    fn send_singly(&self, index: usize, descriptor: RawFd, report: &mut Report) {
        let message = &self.messages[index];
        let address = &message.destination.address;
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
            if sent < 0 {
                let reason = match io::Error::last_os_error().raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::SocketFull,
                    Some(libc::EMSGSIZE) => DropReason::Oversized,
                    _ => DropReason::SendFailed,
                };
                report.dropped.push((reason, 1));
            }
        }
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

/// Tells whether the kernel may be given batches for this destination at `now`.
pub(super) fn may_batch(socket: &DataSocket, refused_until: Option<Instant>, now: Instant) -> bool {
    socket.uses(Facility::BatchedSend) && refused_until.is_none_or(|until| until <= now)
}
