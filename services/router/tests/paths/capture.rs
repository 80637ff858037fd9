//! Sees what crosses a host.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use crate::lab::Namespace;

/// What the datagrams of [`crate::lab::reaches`] hold.
const PLAIN: &[u8] = b"weft";
/// Port of control and data.
const PORT: u16 = 6783;

/// All UDP datagrams to and from the port that cross a host.
pub(crate) struct Capture {
    done: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Vec<u8>>>,
}

impl Capture {
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let socket = namespace.run(open).expect("a packet socket");
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !stop.load(Relaxed) {
                seen.extend(receive(&socket).and_then(|frame| Some(payload(&frame)?.to_vec())));
            }
            seen
        });
        Self { done, thread }
    }

    /// Ends the capture and checks that there was traffic, relayed and sealed, and nothing else.
    pub(crate) fn assert_sealed(self) {
        self.done.store(true, Relaxed);
        let seen = self.thread.join().expect("captured");
        let relayed = seen.iter().filter(|datagram| datagram[0] == 0x12).count();
        assert!(relayed > 100, "{relayed} relayed datagrams were seen");
        for datagram in seen {
            assert!([0x11, 0x12].contains(&datagram[0]), "a datagram of type {:#x}", datagram[0]);
            assert!(!datagram.ends_with(PLAIN), "plain text");
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let every = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: plain integers go in and a descriptor comes out.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let wait = libc::timeval { tv_sec: 0, tv_usec: 100_000 };
    // SAFETY: the kernel reads one timeval through the pointer, which lives on our stack.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const wait).cast(),
            size_of_val(&wait) as u32,
        )
    };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut frame = vec![0; 1 << 16];
    // SAFETY: the buffer is live and its length given.
    let length = unsafe { libc::recv(socket.as_raw_fd(), frame.as_mut_ptr().cast(), frame.len(), 0) };
    frame.truncate(usize::try_from(length).ok()?);
    Some(frame)
}

/// Returns what a UDP datagram over IPv4 to or from the port holds, if the frame is one.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    let (ethernet, packet) = frame.split_at_checked(14)?;
    let udp = packet.get(usize::from(packet.first()? & 0x0f) * 4..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let ours = ethernet[12..] == [8, 0] && packet.get(9) == Some(&17) && (port(0)? == PORT || port(2)? == PORT);
    udp.get(8..).filter(|datagram| ours && !datagram.is_empty())
}
