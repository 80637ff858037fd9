//! What the mesh tells its shell.

use std::{collections::BTreeSet, net::SocketAddr};

use bytes::Bytes;
use weft_types::PeerName;

use super::message::{ControlMessage, Goodbye, SessionMessage};
use crate::{gossip::Entry, target::DialAddress};

/// Names a connection between the shell and the mesh. The shell chooses it and never uses one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names one try to connect. The mesh chooses it and never uses one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// Why something does not work, for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable word, as in "wrong_password".
    pub reason: &'static str,
    /// One sentence that names the thing, the reason and the remedy.
    pub message: String,
    /// Whether trying again is useless until somebody changes something. Such a target counts as refused and is tried
    /// again slowly.
    pub is_final: bool,
}

/// One message to hand to a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The connection.
    pub connection: ConnectionId,
    /// The message.
    pub message: ControlMessage,
}

/// Something for the shell to do or to pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Resolve if need be, connect, run the handshake, then report with [`Mesh::handle_connected`] or
    /// [`Mesh::handle_dial_failed`].
    ///
    /// [`Mesh::handle_connected`]: super::Mesh::handle_connected
    /// [`Mesh::handle_dial_failed`]: super::Mesh::handle_dial_failed
    Dial {
        /// Names this try in the report.
        dial: DialId,
        /// Where to.
        address: DialAddress,
        /// Whom gossip says to be there; nothing for targets. Another peer that answers is welcome too.
        expected: Option<PeerName>,
    },
    /// Write the goodbye if there is one, then close the connection. The mesh has forgotten it already.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// Last message, for the other side.
        goodbye: Option<Goodbye>,
        /// Why, for the log; nothing where all is well, as for duplicates.
        problem: Option<Problem>,
    },
    /// A peer has a control connection to us, or has a new one after it restarted. Time for a data session.
    PeerConnected {
        /// The peer.
        peer: PeerName,
        /// Where the connection leads.
        remote: SocketAddr,
        /// Where the peer probably takes datagrams: the address of `remote` and the port that it named.
        data_endpoint: SocketAddr,
    },
    /// The last control connection to a peer is gone, or the peer restarted.
    PeerDisconnected {
        /// The peer.
        peer: PeerName,
    },
    /// A peer's key was revoked: drop all keys shared with it, and carry nothing from or to it any more.
    PeerRevoked {
        /// The peer.
        peer: PeerName,
    },
    /// Persist [`Mesh::revocations`](super::Mesh::revocations) and [`Mesh::told`](super::Mesh::told).
    RevocationsChanged,
    /// Nobody needs the old password any more: take it from nobody.
    OldPasswordDropped,
    /// Persist [`Mesh::known_peers`](super::Mesh::known_peers).
    KnownPeersChanged,
    /// The set of reachable peers, what is known of them, or the number of targets changed.
    ReachabilityChanged,
    /// An origin, which may be the local peer, changed entries of a channel. All of one change is in one event.
    ChannelChanged {
        /// The channel, one of the router's own or one of a service.
        channel: String,
        /// Whose entries they are.
        origin: PeerName,
        /// What changed; entries without a value were deleted.
        entries: Vec<Entry>,
    },
    /// A peer sent a message to whoever subscribes to the channel.
    IncomingMessage {
        /// The channel.
        channel: String,
        /// Who sent it, as relays say.
        source: PeerName,
        /// Opaque here.
        payload: Bytes,
    },
    /// A peer sent a message of the data key agreement.
    IncomingSession {
        /// Who sent it, as relays say; the message itself proves it.
        source: PeerName,
        /// The message.
        message: SessionMessage,
    },
    /// Persist these for [`MeshConfig::known_channels`](super::MeshConfig::known_channels) of the next start.
    KnownChannelsChanged {
        /// Channels that this host publishes on.
        channels: BTreeSet<String>,
    },
    /// Persist this generation, so that the next start uses a higher one.
    GenerationRaised {
        /// As in [`MeshConfig::generation`](super::MeshConfig::generation).
        generation: u64,
    },
}
