//! What neighbours tell each other, and what follows: gossip, heartbeats, messages for others.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use weft_types::PeerName;

use super::{
    ConnectionId, ControlMessage, Event, Goodbye, GoodbyeReason, LINKS_CHANNEL, Mesh, PEERS_CHANNEL, Problem,
    ProtocolError, REVOCATIONS_CHANNEL,
    message::{Routed, RoutedBody},
};
use crate::gossip::{ChannelChange, Delta, Entry, Outcome, Position};

/// How often an earlier life is answered without a pause: neighbours may remember several lives.
pub(super) const FREE_RAISES: u32 = 4;

/// First pause between further answers; each is twice as long as the one before.
const RAISE_PAUSE: Duration = Duration::from_secs(1);

/// How long an answer counts, and the longest pause.
const RAISE_MEMORY: Duration = Duration::from_secs(120);

impl Mesh {
    pub(super) fn receive(
        &mut self,
        connection: ConnectionId,
        message: ControlMessage,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        let Some(state) = self.connections.get_mut(&connection) else {
            let contender = self.contenders.values_mut().find(|contender| contender.connection == connection);
            if let (Some(contender), ControlMessage::Heartbeat { token, echo: false }) = (contender, message) {
                contender.echo = Some(token);
            }
            return Ok(());
        };
        state.heard = now;
        match message {
            ControlMessage::Heartbeat { token, echo: false } => {
                self.queue(connection, ControlMessage::Heartbeat { token, echo: true });
            }
            ControlMessage::Heartbeat { token, echo: true } => {
                let peer = state.peer;
                let sent = state.handle_echo(token, now);
                let contender = self.contenders.get(&peer);
                if contender.is_some_and(|contender| sent.is_some_and(|sent| sent >= contender.since)) {
                    self.settle(peer, true, now);
                }
            }
            ControlMessage::Digest(theirs) => self.compare_digest(connection, theirs, now),
            ControlMessage::Vector { origins, answer } => {
                let heard = origins.iter().find(|known| known.origin == self.config.local).map(|known| known.at);
                if let Some(heard) = heard {
                    self.hear_of_local(heard, now);
                }
                if let Some(state) = self.connections.get_mut(&connection) {
                    let peer = state.peer;
                    if let Some(own) = origins.iter().find(|known| known.origin == peer) {
                        self.store.correct(peer, own.at);
                    }
                    state.neighbour.handle_vector(&origins, &self.store);
                }
                if answer {
                    let origins = self.store.vector();
                    self.queue(connection, ControlMessage::Vector { origins, answer: false });
                }
            }
            ControlMessage::Delta(part) => {
                let Some(state) = self.connections.get_mut(&connection) else { return Ok(()) };
                if let Some(delta) = state.assembler.push(part)? {
                    self.apply(connection, delta, now)?;
                }
            }
            ControlMessage::Routed(routed) => self.route(routed),
            ControlMessage::Goodbye(goodbye) => self.hear_goodbye(connection, &goodbye, now),
            // Datagrams are the packet path's, to which the shell hands them.
            ControlMessage::Datagram(_) | ControlMessage::Unknown => {}
        }
        Ok(())
    }

    pub(super) fn queue(&mut self, connection: ConnectionId, message: ControlMessage) -> bool {
        self.connections.get_mut(&connection).is_some_and(|state| state.queue(message))
    }

    fn compare_digest(&mut self, connection: ConnectionId, theirs: [u8; 32], now: Instant) {
        if self.store.digest() == theirs {
            if let Some(state) = self.connections.get_mut(&connection) {
                state.neighbour.handle_equal_digest(&self.store);
                state.differs_since = None;
            }
        } else {
            if let Some(state) = self.connections.get_mut(&connection) {
                state.differs_since.get_or_insert(now);
            }
            let origins = self.store.vector();
            self.queue(connection, ControlMessage::Vector { origins, answer: true });
        }
    }

    fn apply(&mut self, connection: ConnectionId, delta: Delta, now: Instant) -> Result<(), ProtocolError> {
        let (origin, at) = (delta.origin, delta.at);
        if origin == self.config.local {
            self.hear_of_local(at, now);
            return Ok(());
        }
        let outcome = match self.speaks_for_itself(connection, origin) {
            Some(own) => {
                self.ask_about(own, origin, at);
                Outcome::Known
            }
            None => self.store.apply(delta, now)?,
        };
        // Of origins that are not known here nothing is kept, so that nobody can make us keep much.
        let known = self.store.position(origin).is_some();
        if let Some(state) = self.connections.get_mut(&connection).filter(|_| known) {
            state.neighbour.handle_known(origin, at);
        }
        match outcome {
            Outcome::Applied(changes) => {
                self.note_member(origin);
                // First the changes: where they are links, the tree that the news travels along is the new one.
                self.take_changes(origin, changes, now);
                self.spread(origin, at, Some(connection));
            }
            Outcome::Known | Outcome::Raised | Outcome::LeftOut | Outcome::Barred => {}
            Outcome::Lacking => {
                let origins = self.store.vector();
                self.queue(connection, ControlMessage::Vector { origins, answer: false });
            }
        }
        Ok(())
    }

    /// Offers news of an origin to those neighbours that hear of it from us.
    fn spread(&mut self, origin: PeerName, at: Position, from: Option<ConnectionId>) {
        let children: Option<BTreeSet<PeerName>> =
            self.topology.children(origin).map(|children| children.iter().copied().collect());
        for (connection, state) in &mut self.connections {
            let ours = children.as_ref().is_none_or(|children| children.contains(&state.peer));
            if Some(*connection) != from && ours {
                state.neighbour.offer(origin, at);
            }
        }
    }

    /// Returns the connection by which an origin tells us its news itself, if this is another. What others say of it is not
    /// believed then, so that nobody can speak in its name.
    fn speaks_for_itself(&self, connection: ConnectionId, origin: PeerName) -> Option<ConnectionId> {
        self.by_peer.get(&origin).copied().filter(|own| *own != connection)
    }

    /// Tells an origin that somebody knows it further than it has told us: from a life before, or from another host with its
    /// key. It answers as [`Mesh::hear_of_local`] does.
    fn ask_about(&mut self, own: ConnectionId, origin: PeerName, at: Position) {
        if self.store.position(origin).is_none_or(|known| known < at) {
            let delta =
                Delta { origin, at, base_version: at.version, complete: false, entries: Vec::new(), part: 0, parts: 1 };
            self.queue(own, ControlMessage::Delta(delta));
        }
    }

    /// Offers news of an origin to all neighbours.
    pub(super) fn spread_to_all(&mut self, origin: PeerName, from: Option<ConnectionId>) {
        let Some(at) = self.store.position(origin) else { return };
        for (_, state) in self.connections.iter_mut().filter(|(connection, _)| Some(**connection) != from) {
            state.neighbour.offer(origin, at);
        }
    }

    /// Answers that somebody knows the local peer from an earlier life. Where two hosts have one key, each would answer the
    /// other for ever, so the pauses grow; a digest brings up again what is passed over.
    fn hear_of_local(&mut self, heard: Position, now: Instant) {
        self.expire_raises(now);
        let further = u32::try_from(self.raises.len()).unwrap_or(u32::MAX).checked_sub(FREE_RAISES);
        let pause = further.map_or(Duration::ZERO, |count| RAISE_PAUSE * 2u32.saturating_pow(count));
        let early = self.raises.back().is_some_and(|last| now < *last + pause.min(RAISE_MEMORY));
        if early || !self.store.raise_above(heard) {
            return;
        }
        self.raises.push_back(now);
        self.events.push_back(Event::GenerationRaised { generation: self.store.own_generation() });
        self.spread_own();
    }

    /// Forgets answers to earlier lives that were long ago.
    pub(super) fn expire_raises(&mut self, now: Instant) {
        self.raises.retain(|at| now < *at + RAISE_MEMORY);
    }

    fn spread_own(&mut self) {
        let local = self.config.local;
        if let Some(at) = self.store.position(local) {
            self.spread(local, at, None);
        }
    }

    /// Publishes on a channel and tells everyone.
    pub(super) fn publish_on(
        &mut self,
        channel: &str,
        snapshot: bool,
        entries: Vec<Entry>,
        now: Instant,
    ) -> Result<(), crate::gossip::GossipError> {
        let changed = self.store.publish(channel, snapshot, entries, now)?;
        if !changed.is_empty() {
            self.spread_own();
            let (channel, origin) = (channel.to_owned(), self.config.local);
            self.events.push_back(Event::ChannelChanged { channel, origin, entries: changed });
        }
        Ok(())
    }

    fn take_changes(&mut self, origin: PeerName, changes: Vec<ChannelChange>, now: Instant) {
        let mut graph_changed = false;
        for ChannelChange { channel, entries } in changes {
            if channel == LINKS_CHANNEL {
                let remotes = self.links_of(origin).into_iter().map(|link| link.remote).collect();
                if self.topology.set_links(origin, remotes) {
                    self.repair_soon(now);
                }
                graph_changed = true;
            } else if channel == PEERS_CHANNEL {
                self.learn_facts(origin);
                self.part_from_other_ring(origin, now);
                graph_changed = true;
            } else if channel == REVOCATIONS_CHANNEL {
                self.learn_revocations(origin, &entries, now);
            }
            self.events.push_back(Event::ChannelChanged { channel, origin, entries });
        }
        // An origin without links counts as a peer too.
        if !self.is_reachable(origin) {
            self.unreachable.entry(origin).or_insert(now);
        }
        if graph_changed {
            self.graph_changed(now);
        }
    }

    /// Forgets an origin for good.
    pub(super) fn forget(&mut self, origin: PeerName, now: Instant) {
        let changes = self.store.forget(origin);
        self.facts.remove(&origin);
        self.topology.set_links(origin, BTreeSet::new());
        self.unreachable.remove(&origin);
        for ChannelChange { channel, entries } in changes {
            self.events.push_back(Event::ChannelChanged { channel, origin, entries });
        }
        self.graph_changed(now);
    }

    /// Delivers a message, or passes it on. What cannot be passed on is lost, as its sender expects.
    fn route(&mut self, mut routed: Routed) {
        let local = self.config.local;
        if routed.source == local || self.is_revoked(routed.source) || self.is_revoked(routed.destination) {
            return;
        }
        if routed.destination == local {
            self.deliver(routed.source, routed.body);
        } else if routed.hops_left > 0 {
            routed.hops_left -= 1;
            if let Some(connection) = self.towards(routed.destination) {
                self.queue(connection, ControlMessage::Routed(routed));
            }
        }
    }

    pub(super) fn deliver(&mut self, source: PeerName, body: RoutedBody) {
        self.events.push_back(match body {
            RoutedBody::Channel { channel, payload } => Event::IncomingMessage { channel, source, payload },
            RoutedBody::Session(message) => Event::IncomingSession { source, message },
        });
    }

    /// Returns the connection over which a peer is reached.
    pub(super) fn towards(&self, destination: PeerName) -> Option<ConnectionId> {
        let direct = self.by_peer.get(&destination);
        direct.or_else(|| self.by_peer.get(&self.topology.next_hop(destination)?)).copied()
    }

    fn hear_goodbye(&mut self, connection: ConnectionId, goodbye: &Goodbye, now: Instant) {
        let Some(state) = self.connections.remove(&connection) else { return };
        let reason = goodbye.reason;
        let problem = (reason != GoodbyeReason::DuplicateConnection).then(|| Problem {
            reason: reason.word(),
            message: match goodbye.message.as_str() {
                "" => format!("{} closed the connection", state.remote),
                message => message.to_owned(),
            },
            is_final: reason.is_final(),
        });
        if reason == GoodbyeReason::Revoked {
            self.hear_of_own(state.peer, goodbye.message.clone());
        }
        if let Some(problem) = problem.as_ref().filter(|problem| problem.is_final) {
            self.note_goodbye(&state, problem, now);
        }
        self.events.push_back(Event::Close { connection, goodbye: None, problem: problem.clone() });
        self.connections.insert(connection, state);
        self.drop_connection(connection, problem, now);
    }
}
