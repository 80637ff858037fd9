//! Datagrams inside connections, for peers between which UDP does not pass.

use std::{fmt, os::fd::AsFd};

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_types::PeerName;

use crate::socket;

/// Datagrams that may wait for a connection's socket. Full frames of them take 60 ms at 25 Mbit/s: what does not fit is
/// dropped, so that those who send slow down.
const OUTGOING: usize = 128;

/// Bytes that the kernel holds for a connection and has not sent yet. What comes later, as a heartbeat, waits for no more.
const UNSENT: libc::c_int = 64 * 1024;

/// Takes datagrams that came inside connections; must not wait.
pub trait TakeDatagrams: fmt::Debug + Send + Sync {
    /// Takes one from the peer that proved to be at the other end.
    fn take(&self, from: PeerName, datagram: Bytes);
}

/// Takes datagrams that are to be written to one connection.
#[derive(Debug, Clone)]
pub struct Stream {
    queue: mpsc::Sender<Vec<u8>>,
}

impl Stream {
    /// Makes the queue of a connection.
    pub(super) fn new() -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (queue, datagrams) = mpsc::channel(OUTGOING);
        (Self { queue }, datagrams)
    }

    /// Queues a datagram; `false` if the queue is full or the connection gone.
    #[must_use]
    pub fn send(&self, datagram: Vec<u8>) -> bool {
        self.queue.try_send(datagram).is_ok()
    }

    /// Tells whether the connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Tells whether both lead to one connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.queue.same_channel(&other.queue)
    }
}

/// Keeps what the kernel holds back for a connection short.
pub(super) fn limit_unsent(stream: &impl AsFd) -> std::io::Result<()> {
    socket::set_option(stream, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT)
}
