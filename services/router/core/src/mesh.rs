//! The mesh: who is in it, how its peers are reached, and what they publish.
//!
//! [`Mesh`] is one state machine. Its shell dials and accepts connections, runs the handshake on them, and reports with
//! `handle_*` what happened; local services act through the verbs. After each call the shell drains
//! [`Mesh::poll_transmit`] and [`Mesh::poll_event`], and wakes the mesh at [`Mesh::poll_timeout`]. Wire format and rules:
//! `docs/wire-protocol.md`, section 2.

pub mod event;
pub mod introduction;
pub mod message;
pub mod view;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ipnet::Ipv4Net;
use weft_types::PeerName;

pub use self::{
    event::{ConnectionId, DialId, Event, Problem, Transmit},
    introduction::{Introduction, RingId},
    message::{ControlMessage, Goodbye, GoodbyeReason, ProtocolError, SessionMessage},
    view::{ConnectionView, LinkView, PeerIdentity, PeerState, PeerView, RefusalView, TargetState, TargetView},
};
use crate::{
    gossip::{Entry, GossipError},
    target::Target,
};

/// Channel with one [`PeerInfo`](weft_proto::mesh::v1::PeerInfo) for each origin.
pub const PEERS_CHANNEL: &str = "peers";
/// Channel with a [`Link`](weft_proto::mesh::v1::Link) for each connection of the origin.
pub const LINKS_CHANNEL: &str = "links";
/// Channel with an [`AttachmentInfo`](weft_proto::mesh::v1::AttachmentInfo) for each container of the origin.
pub const ATTACHMENTS_CHANNEL: &str = "attachments";

/// What the mesh has to know from its start.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// The local peer.
    pub local: PeerName,
    /// Printed form of its name.
    pub name: String,
    /// The host's name.
    pub nickname: String,
    /// Version of weft, for others to see.
    pub version: String,
    /// Random at each start.
    pub instance: u64,
    /// One more than at the start before; 1 at the first. [`Event::GenerationRaised`] may raise it further.
    pub generation: u64,
    /// TCP and UDP port of the mesh; also where targets without a port are dialled.
    pub listen_port: u16,
    /// Range that addresses come from; equal in the whole mesh.
    pub address_range: Ipv4Net,
    /// Whether peers that only gossip names are dialled.
    pub discovery: bool,
    /// How many connections there may be. Discovery stops there, and further peers are refused.
    pub connection_limit: usize,
    /// Channels that this host published on before its restart, from [`Event::KnownChannelsChanged`]. Nothing is
    /// announced before each was published on again, for [`Timing::hold_back`] at most.
    pub known_channels: BTreeSet<String>,
    /// Seed of all chance: jitter only, nothing secret.
    pub seed: u64,
    /// Intervals and time-outs.
    pub timing: Timing,
}

/// Intervals and time-outs of the mesh.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Between heartbeats on a connection.
    pub heartbeat: Duration,
    /// A connection that was silent for so long is dead. Also how long another instance of a connected peer waits for the
    /// old connection's proof of life.
    pub silence: Duration,
    /// Between digests, give or take a fifth.
    pub digest: Duration,
    /// How long changes of own links wait for others.
    pub coalesce: Duration,
    /// How long a restarted peer waits for its services before it announces its new generation.
    pub hold_back: Duration,
    /// First pause between tries; each is half as long again as the one before, give or take a half.
    pub retry_min: Duration,
    /// Longest pause between tries, and every pause after a final refusal.
    pub retry_max: Duration,
    /// A connection that lasted so long is dialled again at once when it breaks.
    pub long_lived: Duration,
    /// An unreachable peer is forgotten after so long.
    pub forget: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            digest: Duration::from_secs(5),
            coalesce: Duration::from_millis(50),
            hold_back: Duration::from_secs(3),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            long_lived: Duration::from_secs(60),
            forget: Duration::from_secs(24 * 3600),
        }
    }
}

/// A connection that passed its handshake.
#[derive(Debug, Clone)]
pub struct Introduced {
    /// Who proved to be at the other end.
    pub peer: PeerName,
    /// What it said about itself.
    pub introduction: Introduction,
    /// The random number that we sent, as [`Introduction::connection`].
    pub local_random: u64,
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Which dial led here, if we dialled.
    pub dial: Option<DialId>,
}

/// Why something cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The channel belongs to the router.
    #[error("the channel {channel:?} belongs to the router")]
    Reserved {
        /// The channel.
        channel: String,
    },
    /// A limit is exceeded, or a name is not allowed.
    #[error(transparent)]
    Gossip(#[from] GossipError),
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No chain of links leads to the peer.
    #[error("no chain of links leads to the peer {destination}")]
    Unreachable {
        /// The peer.
        destination: PeerName,
    },
    /// The connection towards the peer takes no more for the moment.
    #[error("the connection towards the peer {destination} is congested")]
    Congested {
        /// The peer.
        destination: PeerName,
    },
    /// The channel has a name that none may have.
    #[error(transparent)]
    Channel(#[from] GossipError),
    /// The payload is too long.
    #[error("the payload has {length} bytes, more than {}", message::MAX_PAYLOAD_LENGTH)]
    TooLong {
        /// Its length, in bytes.
        length: usize,
    },
}

/// The peer cannot be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// Nothing is known of it.
    #[error("no peer {peer} is known")]
    Unknown {
        /// The peer.
        peer: PeerName,
    },
    /// It takes part in the mesh.
    #[error("the peer {peer} is reachable; stop it first")]
    Reachable {
        /// The peer.
        peer: PeerName,
    },
}

/// One origin's entries of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginEntries {
    /// Whose they are.
    pub origin: PeerName,
    /// Key and value of each.
    pub entries: Vec<(Bytes, Bytes)>,
}

/// The mesh as the local peer takes part in it.
#[derive(Debug)]
pub struct Mesh {
    config: MeshConfig,
    targets: Vec<Target>,
}

/// Reports from the shell.
impl Mesh {
    /// Starts to take part. The first events dial the targets.
    #[must_use]
    pub fn new(config: MeshConfig, targets: Vec<Target>, now: Instant) -> Self {
        let _ = now;
        Self { config, targets }
    }

    /// Reports that a dial did not lead to a connection that passed its handshake.
    pub fn handle_dial_failed(&mut self, dial: DialId, problem: Problem, now: Instant) {
        let _ = (dial, problem, now);
    }

    /// Reports a connection that passed its handshake, dialled or accepted. Where it cannot stay, [`Event::Close`] for it
    /// follows.
    pub fn handle_connected(&mut self, connection: ConnectionId, introduced: Introduced, now: Instant) {
        let _ = (connection, introduced, now);
    }

    /// Reports a message. Those of connections that the mesh does not know (any more) are ignored.
    ///
    /// # Errors
    /// [`ProtocolError`] if the peer breaks the protocol. The mesh has then closed the connection: [`Event::Close`]
    /// follows, nothing else is to be done.
    pub fn handle_message(
        &mut self,
        connection: ConnectionId,
        message: ControlMessage,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let _ = (connection, message, now);
        Ok(())
    }

    /// Reports bytes of a message that could not be decoded. Closes the connection.
    pub fn handle_protocol_error(&mut self, connection: ConnectionId, error: &ProtocolError, now: Instant) {
        let _ = (connection, error, now);
    }

    /// Reports that a connection is gone. Not needed, and harmless, after [`Event::Close`].
    pub fn handle_disconnected(&mut self, connection: ConnectionId, problem: Option<Problem>, now: Instant) {
        let _ = (connection, problem, now);
    }

    /// Reports that the oldest message from [`Mesh::poll_transmit`] for the connection, of those not yet reported, was
    /// written to its socket. The mesh hands out [`MAX_IN_FLIGHT`] bytes, plus one message, before it waits for this: so
    /// the shell's queue is bounded, and what a slow connection has not taken yet is merged instead of queued.
    pub fn handle_transmitted(&mut self, connection: ConnectionId, now: Instant) {
        let _ = (connection, now);
    }

    /// Reports that datagrams to a peer pass both ways, and where to and how fast, or that they no longer do.
    pub fn handle_path(&mut self, peer: PeerName, path: Option<(SocketAddr, Option<Duration>)>, now: Instant) {
        let _ = (peer, path, now);
    }

    /// Acts on the time. Harmless when nothing is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }
}

/// Commands.
impl Mesh {
    /// Changes what this host publishes on a service's channel, all or nothing. With `snapshot`, `entries` are all there
    /// are.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is changed then.
    pub fn publish(
        &mut self,
        channel: &str,
        snapshot: bool,
        entries: Vec<Entry>,
        now: Instant,
    ) -> Result<(), PublishError> {
        let _ = (channel, snapshot, entries, now);
        Ok(())
    }

    /// Sets all attachments of this host, as key (container id) and value (encoded `AttachmentInfo`).
    ///
    /// # Errors
    /// [`PublishError::Gossip`] if a limit is exceeded; nothing is changed then.
    pub fn publish_attachments(&mut self, entries: Vec<(Bytes, Bytes)>, now: Instant) -> Result<(), PublishError> {
        let _ = (entries, now);
        Ok(())
    }

    /// Adds targets, and dials them now, also those that were there already and wait. With `replace`, others are removed;
    /// their connections stay.
    pub fn add_targets(&mut self, targets: Vec<Target>, replace: bool, now: Instant) {
        let _ = (targets, replace, now);
    }

    /// Removes targets by their text, and returns those texts that were none. Connections stay.
    pub fn remove_targets(&mut self, texts: &[String], now: Instant) -> Vec<String> {
        let _ = (texts, now);
        Vec::new()
    }

    /// Sends a message to the subscribers of a channel at a peer, which may be the local one. It may get lost.
    ///
    /// # Errors
    /// [`SendError`] if it cannot even leave.
    pub fn send(
        &mut self,
        channel: &str,
        destination: PeerName,
        payload: Bytes,
        now: Instant,
    ) -> Result<(), SendError> {
        let _ = (channel, destination, payload, now);
        Ok(())
    }

    /// Sends a message of the data key agreement. It may get lost.
    ///
    /// # Errors
    /// [`SendError`] if it cannot even leave.
    pub fn send_session_message(
        &mut self,
        destination: PeerName,
        message: SessionMessage,
        now: Instant,
    ) -> Result<(), SendError> {
        let _ = (destination, message, now);
        Ok(())
    }

    /// Says which ring the host's addresses come from. Peers of other rings are refused from now on.
    pub fn set_ring_id(&mut self, ring_id: Option<RingId>) {
        let _ = ring_id;
    }

    /// Forgets what an unreachable peer published, as if its time had come. It is known again once it returns.
    ///
    /// # Errors
    /// [`ForgetError`] if it is reachable or unknown.
    pub fn forget_peer(&mut self, peer: PeerName, now: Instant) -> Result<(), ForgetError> {
        let _ = (peer, now);
        Ok(())
    }

    /// Closes all connections with a goodbye and dials no more.
    pub fn stop(&mut self, now: Instant) {
        let _ = now;
    }
}

/// Bytes that the mesh hands out for a connection before it waits for [`Mesh::handle_transmitted`].
pub const MAX_IN_FLIGHT: usize = 1024 * 1024;

/// What to do next.
impl Mesh {
    /// Returns the next message to write to a connection.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }

    /// Returns what to do or to pass on next.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Returns when to call [`Mesh::handle_timeout`], and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        None
    }
}

/// What there is.
impl Mesh {
    /// Returns what to say in the handshake of a new connection. `random` names the connection.
    #[must_use]
    pub fn introduction(&self, random: u64, remote: SocketAddr) -> Introduction {
        let (protocol_min, protocol_max) = crate::handshake::PROTOCOL_VERSIONS;
        Introduction {
            protocol_min: protocol_min.into(),
            protocol_max: protocol_max.into(),
            name: self.config.name.clone(),
            nickname: self.config.nickname.clone(),
            instance: self.config.instance,
            connection: random,
            address_range: self.config.address_range,
            ring_id: None,
            data_port: 0,
            listen_port: self.config.listen_port,
            observed: Some(remote),
        }
    }

    /// Returns the local peer.
    #[must_use]
    pub fn local(&self) -> PeerIdentity {
        let config = &self.config;
        PeerIdentity { peer: config.local, name: config.name.clone(), nickname: config.nickname.clone() }
    }

    /// Returns all targets, in the order they were given in.
    #[must_use]
    pub fn targets(&self, now: Instant) -> Vec<TargetView> {
        let _ = now;
        Vec::new()
    }

    /// Returns the texts of all targets, to persist.
    #[must_use]
    pub fn target_texts(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.text().to_owned()).collect()
    }

    /// Returns how many targets there are, without those that are ourselves.
    #[must_use]
    pub fn target_count(&self) -> usize {
        self.targets.len()
    }

    /// Returns whom the targets have led to since the start.
    #[must_use]
    pub fn target_peers(&self) -> BTreeSet<PeerName> {
        BTreeSet::new()
    }

    /// Returns all connections, in order of peer.
    #[must_use]
    pub fn connections(&self, now: Instant) -> Vec<ConnectionView> {
        let _ = now;
        Vec::new()
    }

    /// Returns connections that were refused lately.
    #[must_use]
    pub fn refusals(&self, now: Instant) -> Vec<RefusalView> {
        let _ = now;
        Vec::new()
    }

    /// Returns all peers known, the local one included, in order of name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        Vec::new()
    }

    /// Returns what keeps the mesh from working as it should and is no single connection's matter.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    /// Tells whether a chain of links leads to the peer.
    #[must_use]
    pub fn is_reachable(&self, peer: PeerName) -> bool {
        peer == self.config.local
    }

    /// Returns the peers that a chain of links leads to, the local one included.
    #[must_use]
    pub fn reachable(&self) -> Vec<PeerIdentity> {
        vec![self.local()]
    }

    /// Returns what people call a peer, as far as it is known.
    #[must_use]
    pub fn identity(&self, peer: PeerName) -> PeerIdentity {
        PeerIdentity { peer, name: peer.to_string(), nickname: String::new() }
    }

    /// Returns the neighbour to whom messages for a peer go first.
    #[must_use]
    pub fn next_hop(&self, peer: PeerName) -> Option<PeerName> {
        let _ = peer;
        None
    }

    /// Returns all entries of a channel, of all origins, the local one included.
    #[must_use]
    pub fn channel(&self, channel: &str) -> Vec<OriginEntries> {
        let _ = channel;
        Vec::new()
    }

    /// Returns what this host publishes on a channel.
    #[must_use]
    pub fn local_entries(&self, channel: &str) -> Vec<(Bytes, Bytes)> {
        let _ = channel;
        Vec::new()
    }
}
