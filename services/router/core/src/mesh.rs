//! The mesh: who is in it, how its peers are reached, and what they publish.
//!
//! [`Mesh`] is one state machine. Its shell dials and accepts connections, runs the handshake on them, and reports with
//! `handle_*` what happened; local services act through the verbs. After each call the shell drains
//! [`Mesh::poll_transmit`] and [`Mesh::poll_event`], and wakes the mesh at [`Mesh::poll_timeout`]. Wire format and rules:
//! `docs/wire-protocol.md`, section 2.

mod admission;
mod changes;
mod commands;
pub mod config;
mod connection;
pub mod error;
pub mod event;
mod exchange;
mod facts;
pub mod introduction;
pub mod message;
mod problems;
pub mod revocation;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use weft_types::PeerName;

use self::{
    admission::{Contender, Refusal},
    connection::Connection,
    facts::PeerFacts,
    revocation::Admission,
};
pub use self::{
    config::{MeshConfig, Timing},
    error::{ForgetError, PublishError, RevokeError, SendError},
    event::{ConnectionId, DialId, Event, Problem, Transmit},
    introduction::{Introduction, RingId},
    message::{ControlMessage, Goodbye, GoodbyeReason, ProtocolError, SessionMessage},
    revocation::{MAX_KNOWN_PEERS, REVOCATIONS_CHANNEL, Revocation, Told},
    view::{
        ConnectionView, DataLink, LinkView, OriginEntries, PeerIdentity, PeerState, PeerView, RefusalView, TargetState,
        TargetView,
    },
};
use crate::{
    gossip::Store,
    handshake::PasswordMark,
    target::{Target, dialler::Dialler},
    topology::Topology,
};

/// Channel with one [`PeerInfo`](weft_proto::mesh::v1::PeerInfo) for each origin.
pub const PEERS_CHANNEL: &str = "peers";
/// Channel with a [`Link`](weft_proto::mesh::v1::Link) for each connection of the origin.
pub const LINKS_CHANNEL: &str = "links";
/// Channel with an [`AttachmentInfo`](weft_proto::mesh::v1::AttachmentInfo) for each container of the origin.
pub const ATTACHMENTS_CHANNEL: &str = "attachments";

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
    /// Mark of the password that it has proved to know, which may be ours no more by now; nothing in a mesh without one.
    pub password: Option<PasswordMark>,
}

impl Introduced {
    /// Returns the number of the connection, equal at both ends. Of two between the same peers the lower one stays.
    const fn order(&self) -> u64 {
        self.local_random ^ self.introduction.connection
    }
}

/// The mesh as the local peer takes part in it.
#[derive(Debug)]
pub struct Mesh {
    config: MeshConfig,
    store: Store,
    topology: Topology,
    dialler: Dialler,
    random: SmallRng,
    connections: BTreeMap<ConnectionId, Connection>,
    by_peer: BTreeMap<PeerName, ConnectionId>,
    contenders: BTreeMap<PeerName, Contender>,
    refusals: VecDeque<Refusal>,
    admission: Admission,
    data_links: BTreeMap<PeerName, DataLink>,
    facts: BTreeMap<PeerName, PeerFacts>,
    /// Origins that no chain of links leads to, and since when.
    unreachable: BTreeMap<PeerName, Instant>,
    reachable: BTreeSet<PeerName>,
    own_endpoints: BTreeSet<SocketAddr>,
    data_endpoints: Vec<SocketAddr>,
    ring_id: Option<RingId>,
    known_channels: BTreeSet<String>,
    /// Channels on which services have published a snapshot since the start.
    published: BTreeSet<String>,
    /// Until when the own generation is not announced.
    hold_until: Option<Instant>,
    /// When the local generation was raised of late.
    raises: VecDeque<Instant>,
    links_due: Option<Instant>,
    digest_due: Instant,
    stopped: bool,
    events: VecDeque<Event>,
}

/// Reports from the shell.
impl Mesh {
    /// Starts to take part. The first events dial the targets.
    #[must_use]
    pub fn new(config: MeshConfig, targets: Vec<Target>, now: Instant) -> Self {
        let mut dialler = Dialler::new(config.local, config.listen_port, config.timing.clone(), config.seed);
        for target in targets {
            dialler.add(target, now);
        }
        let hold = !config.known_channels.is_empty();
        let mut mesh = Self {
            store: Store::new(config.local, config.generation, config.instance),
            topology: Topology::new(config.local),
            dialler,
            random: SmallRng::seed_from_u64(config.seed),
            connections: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            contenders: BTreeMap::new(),
            refusals: VecDeque::new(),
            admission: Admission::new(&config),
            data_links: BTreeMap::new(),
            facts: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            reachable: BTreeSet::new(),
            own_endpoints: BTreeSet::new(),
            data_endpoints: Vec::new(),
            ring_id: None,
            known_channels: config.known_channels.clone(),
            published: BTreeSet::new(),
            hold_until: hold.then(|| now + config.timing.hold_back),
            raises: VecDeque::new(),
            links_due: None,
            digest_due: now + config.timing.digest,
            stopped: false,
            events: VecDeque::new(),
            config,
        };
        let revoked: Vec<PeerName> = mesh.admission.revoked().collect();
        for peer in revoked {
            mesh.store.bar(peer);
        }
        mesh.publish_own_facts(now);
        mesh.publish_own_revocations(now);
        mesh.dial(now);
        mesh
    }

    /// Reports that a dial did not lead to a connection that passed its handshake.
    pub fn handle_dial_failed(&mut self, dial: DialId, problem: Problem, now: Instant) {
        self.dialler.failed(dial, problem, now);
        self.dial(now);
    }

    /// Reports a connection that passed its handshake, dialled or accepted. Where it cannot stay, [`Event::Close`] for it
    /// follows.
    pub fn handle_connected(&mut self, connection: ConnectionId, introduced: Introduced, now: Instant) {
        self.admit(connection, introduced, now);
        self.dial(now);
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
        let taken = self.receive(connection, message, now);
        if let Err(error) = &taken {
            self.handle_protocol_error(connection, error, now);
        }
        self.dial(now);
        taken
    }

    /// Reports bytes of a message that could not be decoded. Closes the connection.
    pub fn handle_protocol_error(&mut self, connection: ConnectionId, error: &ProtocolError, now: Instant) {
        let contender = self.contenders.values().find(|contender| contender.connection == connection);
        let remote = match (self.connections.get(&connection), contender) {
            (Some(state), _) => state.remote,
            (None, Some(contender)) => contender.introduced.remote,
            (None, None) => return,
        };
        self.contenders.retain(|_, contender| contender.connection != connection);
        let message = format!("{remote} broke the protocol: {error}");
        let reason = GoodbyeReason::ProtocolError;
        let problem = Problem { reason: reason.word(), message: message.clone(), is_final: false };
        self.close(connection, reason, message, Some(problem.clone()));
        self.drop_connection(connection, Some(problem), now);
    }

    /// Reports that a connection is gone. Not needed, and harmless, after [`Event::Close`].
    pub fn handle_disconnected(&mut self, connection: ConnectionId, problem: Option<Problem>, now: Instant) {
        self.contenders.retain(|_, contender| contender.connection != connection);
        self.drop_connection(connection, problem, now);
        self.dial(now);
    }

    /// Reports that the oldest message from [`Mesh::poll_transmit`] for the connection, of those not yet reported, was
    /// written to its socket. The mesh hands out [`MAX_IN_FLIGHT`] bytes, plus one message, before it waits for this: so
    /// the shell's queue is bounded, and what a slow connection has not taken yet is merged instead of queued.
    pub fn handle_transmitted(&mut self, connection: ConnectionId, _now: Instant) {
        if let Some(state) = self.connections.get_mut(&connection) {
            state.handle_transmitted();
        }
    }

    /// Reports how datagrams pass to a peer with nobody between, or that they no longer do. Published where there is a
    /// connection with the peer.
    pub fn handle_data_link(&mut self, peer: PeerName, link: Option<DataLink>, now: Instant) {
        let before = match link {
            Some(link) => self.data_links.insert(peer, link),
            None => self.data_links.remove(&peer),
        };
        if before != link {
            self.links_changed(now);
        }
    }

    /// Reports where other peers see our datagrams come from, best first. Published but for what they know anyway.
    pub fn handle_data_endpoints(&mut self, mut endpoints: Vec<SocketAddr>, now: Instant) {
        endpoints.retain(|endpoint| !self.own_endpoints.contains(endpoint));
        if self.data_endpoints != endpoints {
            self.data_endpoints = endpoints;
            self.publish_own_facts(now);
            self.events.push_back(Event::ReachabilityChanged);
        }
    }

    /// Acts on the time. Harmless when nothing is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let timing = self.config.timing.clone();
        let silent: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, state)| now >= state.heard + timing.silence)
            .map(|(connection, _)| *connection)
            .collect();
        for connection in silent {
            self.drop_silent(connection, now);
        }
        let settled: Vec<PeerName> = self
            .contenders
            .iter()
            .filter(|(_, contender)| now >= contender.since + timing.silence)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in settled {
            self.settle(peer, false, now);
        }
        for state in self.connections.values_mut().filter(|state| now >= state.heartbeat_due) {
            state.beat(timing.heartbeat, now);
        }
        if self.hold_until.is_some_and(|until| now >= until) {
            self.hold_until = None;
            self.forget_silent_channels();
        }
        if self.links_due.is_some_and(|due| now >= due) {
            self.publish_own_links(now);
        }
        if now >= self.digest_due {
            self.digest_due = now + timing.digest.mul_f64(self.random.random_range(0.8..1.2));
            self.store.prune(now);
            self.say_digest();
            self.forget_lost(now);
            self.expire_raises(now);
            self.drop_unused_password(now);
        }
        self.dial(now);
    }
}

/// Bytes that the mesh hands out for a connection before it waits for [`Mesh::handle_transmitted`].
pub const MAX_IN_FLIGHT: usize = 1024 * 1024;

/// What to do next.
impl Mesh {
    /// Returns the next message to write to a connection.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        for contender in self.contenders.values_mut() {
            if let Some(token) = contender.echo.take() {
                let message = ControlMessage::Heartbeat { token, echo: true };
                return Some(Transmit { connection: contender.connection, message });
            }
        }
        let local = self.config.local;
        let held = self.hold_until.map(|_| local);
        for (connection, state) in &mut self.connections {
            if !state.has_room() {
                continue;
            }
            let delta = |state: &mut Connection| state.neighbour.poll(&self.store, local, held);
            let next = state.next_waiting().or_else(|| delta(state).map(ControlMessage::Delta));
            if let Some(message) = next {
                state.handed_out(&message);
                return Some(Transmit { connection: *connection, message });
            }
        }
        None
    }

    /// Returns what to do or to pass on next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns when to call [`Mesh::handle_timeout`], and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.stopped {
            return None;
        }
        let silence = self.config.timing.silence;
        let connections = self.connections.values();
        let heartbeat = connections.clone().map(|state| (state.heartbeat_due, "heartbeat"));
        let silent = connections.map(|state| (state.heard + silence, "silence"));
        let contenders = self.contenders.values().map(|contender| (contender.since + silence, "contender"));
        let once = [
            Some((self.digest_due, "digest")),
            self.links_due.map(|due| (due, "links")),
            self.hold_until.map(|until| (until, "hold back")),
            self.dialler.next_due().map(|due| (due, "dial")),
        ];
        heartbeat.chain(silent).chain(contenders).chain(once.into_iter().flatten()).min()
    }
}

#[cfg(test)]
mod tests;
