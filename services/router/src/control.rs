//! Control connections: listening, dialling, handshakes, and messages to and from the driver.
//!
//! Tasks here move bytes and decide nothing: what to dial, what to say and what to close comes from the mesh by way of the
//! driver, what happened goes there as [`ControlEvent`]s.

mod connection;
mod dial;
mod listen;
pub(crate) mod resolve;
mod stream;
mod throttle;
mod traffic;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use weft_router_core::{
    handshake::{PasswordMark, Passwords, StaticKey},
    mesh::{ConnectionId, ControlMessage, DialId, Goodbye, Introduction, Problem, ProtocolError},
    target::DialAddress,
};
use weft_types::PeerName;

use crate::direction::Direction;

pub use listen::bind;
pub use stream::{Stream, TakeDatagrams};
pub use traffic::{Kind, Traffic};

/// Events that may wait for the driver; connections that produce more are read more slowly.
const EVENTS: usize = 256;
/// Messages that may wait for a connection's socket. The mesh bounds their bytes.
const OUTGOING: usize = 8192;

/// What happened on a connection, or on the way to one.
#[derive(Debug)]
pub enum ControlEvent {
    /// A handshake needs to know what we say about ourselves.
    Introduce {
        /// Names the connection.
        random: u64,
        /// Address of the other side.
        remote: SocketAddr,
        /// For the answer.
        reply: oneshot::Sender<Introduction>,
    },
    /// A connection passed its handshake.
    Connected(Box<Connected>),
    /// A dial did not lead to a connection.
    DialFailed {
        /// Which.
        dial: DialId,
        /// Why.
        problem: Problem,
    },
    /// Somebody connected and did not pass the handshake.
    Refused {
        /// Who.
        remote: IpAddr,
        /// Why.
        problem: Problem,
    },
    /// A message arrived.
    Message {
        /// On which connection.
        connection: ConnectionId,
        /// The message, or why it is none.
        message: Result<ControlMessage, ProtocolError>,
    },
    /// Messages were written to the socket.
    Transmitted {
        /// Of which connection.
        connection: ConnectionId,
        /// How many.
        count: usize,
    },
    /// A connection is gone.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why, if something failed.
        problem: Option<Problem>,
    },
}

/// A connection that passed its handshake.
#[derive(Debug)]
pub struct Connected {
    /// Its name.
    pub connection: ConnectionId,
    /// Who proved to be there.
    pub peer: PeerName,
    /// What it said about itself.
    pub introduction: Introduction,
    /// The random number that we sent.
    pub local_random: u64,
    /// Address of the other side.
    pub remote: SocketAddr,
    /// Which dial led here, if we dialled.
    pub dial: Option<DialId>,
    /// Mark of the password that it has proved to know; nothing in a mesh without one.
    pub password: Option<PasswordMark>,
    /// Takes what is to be written.
    pub outgoing: Outgoing,
    /// Takes datagrams that are to be written behind it.
    pub stream: Stream,
}

/// The sending side of a connection.
#[derive(Debug)]
pub struct Outgoing {
    queue: mpsc::Sender<Item>,
}

#[derive(Debug)]
enum Item {
    Message(Box<ControlMessage>),
    Close(Option<Goodbye>),
}

impl Outgoing {
    /// Queues a message; `false` if the queue is full or the connection gone.
    #[must_use]
    pub fn send(&self, message: ControlMessage) -> bool {
        self.queue.try_send(Item::Message(Box::new(message))).is_ok()
    }

    /// Has the goodbye written behind all that waits, and closes the connection.
    pub fn close(self, goodbye: Option<Goodbye>) {
        // If the queue is full, dropping the sender closes the connection behind what waits.
        let _ = self.queue.try_send(Item::Close(goodbye));
    }
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    key: StaticKey,
    passwords: RwLock<Option<Passwords>>,
    /// Where the host's root folder is seen.
    host_root: PathBuf,
    events: mpsc::Sender<ControlEvent>,
    datagrams: Box<dyn TakeDatagrams>,
    next_connection: AtomicU64,
    traffic: traffic::Counters,
}

impl Shared {
    /// Returns the passwords that are in force.
    fn passwords(&self) -> Option<Passwords> {
        self.passwords.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn next_connection(&self) -> ConnectionId {
        ConnectionId(self.next_connection.fetch_add(1, Ordering::Relaxed))
    }
}

/// Starts connections.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Makes the state that connections share, and the queue of what they report. Names of peers are resolved as the host
    /// does whose root folder is seen at `host_root`. Datagrams that come inside connections go to `datagrams`.
    #[must_use]
    pub fn new(
        key: StaticKey,
        passwords: Option<Passwords>,
        host_root: PathBuf,
        datagrams: Box<dyn TakeDatagrams>,
    ) -> (Self, mpsc::Receiver<ControlEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let shared = Shared {
            key,
            passwords: RwLock::new(passwords),
            host_root,
            events,
            datagrams,
            next_connection: AtomicU64::new(1),
            traffic: traffic::Counters::default(),
        };
        (Self { shared: Arc::new(shared) }, receiver)
    }

    /// Returns what has been exchanged with all peers together.
    #[must_use]
    pub fn traffic(&self, direction: Direction, kind: Kind) -> Traffic {
        self.shared.traffic.read(direction, kind)
    }

    /// Returns the passwords that are in force; nothing in a mesh without.
    #[must_use]
    pub fn passwords(&self) -> Option<Passwords> {
        self.shared.passwords()
    }

    /// Has all handshakes that begin from now on go by these passwords. Connections stay.
    pub fn set_passwords(&self, passwords: Passwords) {
        *self.shared.passwords.write().unwrap_or_else(PoisonError::into_inner) = Some(passwords);
    }

    /// Takes connections from `listener` until the process ends.
    pub fn listen(&self, listener: TcpListener) {
        tokio::spawn(listen::run(Arc::clone(&self.shared), listener));
    }

    /// Tries once to connect; the outcome is reported as an event.
    pub fn dial(&self, dial: DialId, address: DialAddress) {
        tokio::spawn(dial::run(Arc::clone(&self.shared), dial, address));
    }
}

#[cfg(test)]
mod tests;
