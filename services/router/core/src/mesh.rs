//! The mesh: who is in it, how its peers are reached, and what they publish.
//!
//! [`Mesh`] is one state machine. Its shell dials and accepts connections, runs the handshake on them, and reports with
//! `handle_*` what happened; local services act through the verbs. After each call the shell drains
//! [`Mesh::poll_transmit`] and [`Mesh::poll_event`], and wakes the mesh at [`Mesh::poll_timeout`]. Wire format and rules:
//! `docs/wire-protocol.md`, section 2.

mod admission;
mod connection;
pub mod event;
mod exchange;
pub mod introduction;
pub mod message;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ipnet::Ipv4Net;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use weft_types::PeerName;

use self::{
    admission::{Contender, Refusal},
    connection::Connection,
    exchange::PeerFacts,
    message::{Routed, RoutedBody},
};
pub use self::{
    event::{ConnectionId, DialId, Event, Problem, Transmit},
    introduction::{Introduction, RingId},
    message::{ControlMessage, Goodbye, GoodbyeReason, ProtocolError, SessionMessage},
    view::{ConnectionView, LinkView, PeerIdentity, PeerState, PeerView, RefusalView, TargetState, TargetView},
};
use crate::{
    gossip::{Entry, GossipError, Store, check_channel},
    target::{Target, dialler::Dialler},
    topology::Topology,
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
    /// announced before each has a snapshot again, for [`Timing::hold_back`] at most.
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
    /// How soon after a change of the graph the next digest follows: while peers see different graphs, news may pass
    /// one by.
    pub repair: Duration,
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
            repair: Duration::from_millis(300),
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

impl Introduced {
    /// Returns the number of the connection, equal at both ends. Of two between the same peers the lower one stays.
    const fn order(&self) -> u64 {
        self.local_random ^ self.introduction.connection
    }
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
    store: Store,
    topology: Topology,
    dialler: Dialler,
    random: SmallRng,
    connections: BTreeMap<ConnectionId, Connection>,
    by_peer: BTreeMap<PeerName, ConnectionId>,
    contenders: BTreeMap<PeerName, Contender>,
    refusals: VecDeque<Refusal>,
    paths: BTreeMap<PeerName, (SocketAddr, Option<Duration>)>,
    facts: BTreeMap<PeerName, PeerFacts>,
    /// Origins that no chain of links leads to, and since when.
    unreachable: BTreeMap<PeerName, Instant>,
    reachable: BTreeSet<PeerName>,
    own_endpoints: BTreeSet<SocketAddr>,
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
            paths: BTreeMap::new(),
            facts: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            reachable: BTreeSet::new(),
            own_endpoints: BTreeSet::new(),
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
        mesh.publish_own_facts(now);
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

    /// Reports that datagrams to a peer pass both ways, and where to and how fast, or that they no longer do.
    pub fn handle_path(&mut self, peer: PeerName, path: Option<(SocketAddr, Option<Duration>)>, now: Instant) {
        let before = match path {
            Some(path) => self.paths.insert(peer, path),
            None => self.paths.remove(&peer),
        };
        if before.is_some() != path.is_some() {
            self.links_changed(now);
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
        }
        self.dial(now);
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
        if [PEERS_CHANNEL, LINKS_CHANNEL, ATTACHMENTS_CHANNEL].contains(&channel) {
            return Err(PublishError::Reserved { channel: channel.to_owned() });
        }
        self.publish_on(channel, snapshot, entries, now)?;
        self.note_published(channel, snapshot);
        Ok(())
    }

    /// Sets all attachments of this host, as key (container id) and value (encoded `AttachmentInfo`).
    ///
    /// # Errors
    /// [`PublishError::Gossip`] if a limit is exceeded; nothing is changed then.
    pub fn publish_attachments(&mut self, entries: Vec<(Bytes, Bytes)>, now: Instant) -> Result<(), PublishError> {
        let entries = entries.into_iter().map(|(key, value)| Entry { key, value: Some(value) }).collect();
        Ok(self.publish_on(ATTACHMENTS_CHANNEL, true, entries, now)?)
    }

    /// Adds targets, and dials them now, also those that were there already and wait. With `replace`, others are removed;
    /// their connections stay.
    pub fn add_targets(&mut self, targets: Vec<Target>, replace: bool, now: Instant) {
        if replace {
            let others: Vec<String> = self.target_texts();
            for text in others.iter().filter(|text| targets.iter().all(|target| target.text() != *text)) {
                self.dialler.remove(text);
            }
        }
        for target in targets {
            self.dialler.add(target, now);
        }
        self.targets_changed(now);
    }

    /// Removes targets by their text, and returns those texts that were none. Connections stay.
    pub fn remove_targets(&mut self, texts: &[String], now: Instant) -> Vec<String> {
        let unknown = texts.iter().filter(|text| !self.dialler.remove(text)).cloned().collect();
        self.targets_changed(now);
        unknown
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
        _now: Instant,
    ) -> Result<(), SendError> {
        check_channel(channel)?;
        if payload.len() > message::MAX_PAYLOAD_LENGTH {
            return Err(SendError::TooLong { length: payload.len() });
        }
        self.send_body(destination, RoutedBody::Channel { channel: channel.to_owned(), payload })
    }

    /// Sends a message of the data key agreement. It may get lost.
    ///
    /// # Errors
    /// [`SendError`] if it cannot even leave.
    pub fn send_session_message(
        &mut self,
        destination: PeerName,
        message: SessionMessage,
        _now: Instant,
    ) -> Result<(), SendError> {
        self.send_body(destination, RoutedBody::Session(message))
    }

    /// Says which ring the host's addresses come from. Peers of other rings are refused from now on.
    pub fn set_ring_id(&mut self, ring_id: Option<RingId>) {
        self.ring_id = ring_id;
    }

    /// Forgets what an unreachable peer published, as if its time had come. It is known again once it returns.
    ///
    /// # Errors
    /// [`ForgetError`] if it is reachable or unknown.
    pub fn forget_peer(&mut self, peer: PeerName, now: Instant) -> Result<(), ForgetError> {
        if self.is_reachable(peer) {
            return Err(ForgetError::Reachable { peer });
        }
        if self.store.position(peer).is_none() || self.store.is_forgotten(peer) {
            return Err(ForgetError::Unknown { peer });
        }
        self.forget(peer, now);
        Ok(())
    }

    /// Closes all connections with a goodbye and dials no more.
    pub fn stop(&mut self, _now: Instant) {
        self.stopped = true;
        let contenders = std::mem::take(&mut self.contenders).into_values().map(|contender| contender.connection);
        let all: Vec<ConnectionId> = self.connections.keys().copied().chain(contenders).collect();
        for connection in all {
            let message = format!("weft is stopping on {}", self.config.nickname);
            self.close(connection, GoodbyeReason::Stopping, message, None);
        }
        self.connections.clear();
        self.by_peer.clear();
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

/// What follows from changes.
impl Mesh {
    fn dial(&mut self, now: Instant) {
        while let Some(dial) = self.dialler.poll(now).filter(|_| !self.stopped) {
            self.events.push_back(Event::Dial { dial: dial.id, address: dial.address, expected: dial.expected });
        }
    }

    fn targets_changed(&mut self, now: Instant) {
        self.events.push_back(Event::TargetsChanged);
        self.events.push_back(Event::ReachabilityChanged);
        self.dialler.set_candidates(self.candidates(), now);
        self.dial(now);
    }

    /// Notes that a service published, and ends the hold when all have said everything that did before the restart.
    fn note_published(&mut self, channel: &str, snapshot: bool) {
        if snapshot {
            self.published.insert(channel.to_owned());
        }
        if self.known_channels.insert(channel.to_owned()) {
            self.events.push_back(Event::KnownChannelsChanged { channels: self.known_channels.clone() });
        }
        if self.hold_until.is_some() && self.known_channels.is_subset(&self.published) {
            self.hold_until = None;
        }
    }

    fn links_changed(&mut self, now: Instant) {
        self.links_due.get_or_insert(now + self.config.timing.coalesce);
    }

    fn neighbours_changed(&mut self, now: Instant) {
        let connected: BTreeSet<PeerName> = self.by_peer.keys().copied().collect();
        self.dialler.set_connected(connected.clone());
        self.dialler.set_discovery_stopped(self.connections.len() >= self.config.connection_limit);
        if self.topology.set_neighbours(connected) {
            self.repair_soon(now);
        }
        self.links_changed(now);
        self.graph_changed(now);
    }

    fn repair_soon(&mut self, now: Instant) {
        self.digest_due = self.digest_due.min(now + self.config.timing.repair);
    }

    /// Finds out who is reachable now, and who may be dialled.
    fn graph_changed(&mut self, now: Instant) {
        let reachable: BTreeSet<PeerName> = self.topology.reachable().collect();
        // A forgotten peer that others have a connection with is back; the next digest finds what it published.
        let returned: Vec<PeerName> = self.store.forgotten().filter(|peer| self.topology.is_claimed(*peer)).collect();
        for peer in returned {
            self.store.remember(peer);
        }
        self.unreachable.retain(|peer, _| !reachable.contains(peer));
        for origin in self.store.origins().filter(|origin| *origin != self.config.local && !reachable.contains(origin))
        {
            self.unreachable.entry(origin).or_insert(now);
        }
        self.reachable = reachable;
        self.dialler.set_candidates(self.candidates(), now);
        self.events.push_back(Event::ReachabilityChanged);
    }

    fn forget_lost(&mut self, now: Instant) {
        let age = self.config.timing.forget;
        let lost: Vec<PeerName> =
            self.unreachable.iter().filter(|(_, since)| now >= **since + age).map(|(peer, _)| *peer).collect();
        for peer in lost {
            self.forget(peer, now);
        }
    }

    fn say_digest(&mut self) {
        let digest = self.store.digest();
        for state in self.connections.values_mut() {
            state.queue(ControlMessage::Digest(digest));
        }
    }

    fn drop_silent(&mut self, connection: ConnectionId, now: Instant) {
        let Some(state) = self.connections.get(&connection) else { return };
        let silence = self.config.timing.silence.as_secs();
        let message = format!("{} was silent for {silence} s: the host or the network between is down", state.remote);
        let reason = GoodbyeReason::Silence;
        let problem = Problem { reason: reason.word(), message: message.clone(), is_final: false };
        self.close(connection, reason, message, Some(problem.clone()));
        self.drop_connection(connection, Some(problem), now);
    }

    /// Forgets a connection; one that waits for its end takes its place.
    fn drop_connection(&mut self, connection: ConnectionId, problem: Option<Problem>, now: Instant) {
        let Some(state) = self.connections.remove(&connection) else { return };
        let peer = state.peer;
        if self.by_peer.get(&peer) != Some(&connection) {
            return;
        }
        self.by_peer.remove(&peer);
        self.neighbours_changed(now);
        self.dialler.lost(peer, now.saturating_duration_since(state.since), problem, now);
        self.events.push_back(Event::PeerDisconnected { peer });
        self.settle(peer, false, now);
    }

    fn send_body(&mut self, destination: PeerName, body: RoutedBody) -> Result<(), SendError> {
        let source = self.config.local;
        if destination == source {
            self.deliver(source, body);
            return Ok(());
        }
        let connection = self.towards(destination).ok_or(SendError::Unreachable { destination })?;
        let routed = Routed { source, destination, hops_left: message::MAX_HOPS, body };
        if self.queue(connection, ControlMessage::Routed(routed)) {
            Ok(())
        } else {
            Err(SendError::Congested { destination })
        }
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
            ring_id: self.ring_id,
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
        self.dialler.views(now)
    }

    /// Returns the texts of all targets, to persist.
    #[must_use]
    pub fn target_texts(&self) -> Vec<String> {
        self.dialler.targets().iter().map(|target| target.text().to_owned()).collect()
    }

    /// Returns how many targets there are, without those that are ourselves.
    #[must_use]
    pub fn target_count(&self) -> usize {
        self.dialler.target_count()
    }

    /// Returns whom the targets have led to since the start.
    #[must_use]
    pub fn target_peers(&self) -> BTreeSet<PeerName> {
        self.dialler.target_peers()
    }

    /// Returns all connections, in order of peer.
    #[must_use]
    pub fn connections(&self, now: Instant) -> Vec<ConnectionView> {
        let view = |(peer, connection): (&PeerName, &ConnectionId)| {
            let state = self.connections.get(connection)?;
            Some(ConnectionView {
                connection: *connection,
                identity: PeerIdentity {
                    peer: *peer,
                    name: state.introduction.name.clone(),
                    nickname: state.introduction.nickname.clone(),
                },
                remote: state.remote,
                outbound: state.outbound,
                age: now.saturating_duration_since(state.since),
                round_trip: state.round_trip,
                path: self.paths.get(peer).copied(),
            })
        };
        self.by_peer.iter().filter_map(view).collect()
    }

    /// Returns connections that were refused lately.
    #[must_use]
    pub fn refusals(&self, now: Instant) -> Vec<RefusalView> {
        self.recent_refusals(now)
    }

    /// Returns all peers known, the local one included, in order of name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        let local = self.config.local;
        let known: BTreeSet<PeerName> = self.store.origins().chain(self.reachable.iter().copied()).collect();
        let view = |peer: PeerName| {
            let facts = self.facts.get(&peer);
            let ours = || self.own_endpoints.iter().copied().collect();
            PeerView {
                identity: self.identity(peer),
                version: match facts {
                    Some(facts) => facts.version.clone(),
                    None if peer == local => self.config.version.clone(),
                    None => String::new(),
                },
                state: match () {
                    () if peer == local => PeerState::Local,
                    () if self.reachable.contains(&peer) => PeerState::Reachable,
                    () => PeerState::Unreachable,
                },
                endpoints: facts
                    .map_or_else(|| if peer == local { ours() } else { Vec::new() }, |f| f.endpoints.clone()),
                links: self.links_of(peer),
            }
        };
        known.into_iter().map(view).collect()
    }

    /// Returns what keeps the mesh from working as it should and is no single connection's matter.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let lost = |peer: &PeerName| {
            let identity = self.identity(*peer);
            let message = format!(
                "no chain of connections leads to {}({}): its containers cannot be reached, and their names are not answered",
                identity.name, identity.nickname
            );
            Problem { reason: "peer_unreachable", message, is_final: false }
        };
        self.key_problem().into_iter().chain(self.unreachable.keys().map(lost)).collect()
    }

    /// Tells whether a chain of links leads to the peer.
    #[must_use]
    pub fn is_reachable(&self, peer: PeerName) -> bool {
        peer == self.config.local || self.reachable.contains(&peer)
    }

    /// Returns the peers that a chain of links leads to, the local one included.
    #[must_use]
    pub fn reachable(&self) -> Vec<PeerIdentity> {
        let others = self.reachable.iter().map(|peer| self.identity(*peer));
        std::iter::once(self.local()).chain(others).collect()
    }

    /// Returns what people call a peer, as far as it is known.
    #[must_use]
    pub fn identity(&self, peer: PeerName) -> PeerIdentity {
        if peer == self.config.local {
            return self.local();
        }
        let introduced = self.by_peer.get(&peer).and_then(|connection| self.connections.get(connection));
        let (name, nickname) = match (introduced, self.facts.get(&peer)) {
            (Some(state), _) => (state.introduction.name.clone(), state.introduction.nickname.clone()),
            (None, Some(facts)) => (facts.name.clone(), facts.nickname.clone()),
            (None, None) => (peer.to_string(), String::new()),
        };
        PeerIdentity { peer, name, nickname }
    }

    /// Returns the neighbour to whom messages for a peer go first.
    #[must_use]
    pub fn next_hop(&self, peer: PeerName) -> Option<PeerName> {
        if self.by_peer.contains_key(&peer) { Some(peer) } else { self.topology.next_hop(peer) }
    }

    /// Returns all entries of a channel, of all origins, the local one included.
    #[must_use]
    pub fn channel(&self, channel: &str) -> Vec<OriginEntries> {
        let entries = |origin| {
            let entries =
                self.store.entries(origin, channel).map(|(key, value)| (key.clone(), value.clone())).collect();
            OriginEntries { origin, entries }
        };
        self.store.origins().map(entries).collect()
    }

    /// Returns what this host publishes on a channel.
    #[must_use]
    pub fn local_entries(&self, channel: &str) -> Vec<(Bytes, Bytes)> {
        let entries = self.store.entries(self.config.local, channel);
        entries.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests;
