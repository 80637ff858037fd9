//! What follows from changes: whom to dial, who is reachable now, what to tell everyone.

use std::{collections::BTreeSet, time::Instant};

use weft_types::PeerName;

use super::{
    ConnectionId, ControlMessage, Event, GoodbyeReason, Mesh, Problem, SendError, message,
    message::{Routed, RoutedBody},
};

impl Mesh {
    pub(super) fn dial(&mut self, now: Instant) {
        while let Some(dial) = self.dialler.poll(now).filter(|_| !self.stopped) {
            self.events.push_back(Event::Dial { dial: dial.id, address: dial.address, expected: dial.expected });
        }
    }

    pub(super) fn targets_changed(&mut self, now: Instant) {
        self.events.push_back(Event::ReachabilityChanged);
        self.dialler.set_candidates(self.candidates(), now);
        self.dial(now);
    }

    /// Notes that a service published, and ends the hold when all have said everything that did before the restart.
    pub(super) fn note_published(&mut self, channel: &str, snapshot: bool) {
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

    /// Forgets channels on which no service has published since the start, so that the next start does not wait for them.
    pub(super) fn forget_silent_channels(&mut self) {
        let (local, store, published) = (self.config.local, &self.store, &self.published);
        let before = self.known_channels.len();
        self.known_channels
            .retain(|channel| published.contains(channel) || store.entries(local, channel).next().is_some());
        if self.known_channels.len() < before {
            self.events.push_back(Event::KnownChannelsChanged { channels: self.known_channels.clone() });
        }
    }

    pub(super) fn links_changed(&mut self, now: Instant) {
        self.links_due.get_or_insert(now + self.config.timing.coalesce);
    }

    pub(super) fn neighbours_changed(&mut self, now: Instant) {
        let connected: BTreeSet<PeerName> = self.by_peer.keys().copied().collect();
        self.dialler.set_connected(connected.clone());
        self.dialler.set_discovery_stopped(self.connections.len() >= self.config.connection_limit);
        if self.topology.set_neighbours(connected) {
            self.repair_soon(now);
        }
        self.links_changed(now);
        self.graph_changed(now);
    }

    pub(super) fn repair_soon(&mut self, now: Instant) {
        self.digest_due = self.digest_due.min(now + self.config.timing.repair);
    }

    /// Finds out who is reachable now, and who may be dialled.
    pub(super) fn graph_changed(&mut self, now: Instant) {
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

    pub(super) fn forget_lost(&mut self, now: Instant) {
        let age = self.config.timing.forget;
        let lost: Vec<PeerName> =
            self.unreachable.iter().filter(|(_, since)| now >= **since + age).map(|(peer, _)| *peer).collect();
        for peer in lost {
            self.forget(peer, now);
        }
    }

    pub(super) fn say_digest(&mut self) {
        let digest = self.store.digest();
        for state in self.connections.values_mut() {
            state.queue(ControlMessage::Digest(digest));
        }
    }

    pub(super) fn drop_silent(&mut self, connection: ConnectionId, now: Instant) {
        let Some(state) = self.connections.get(&connection) else { return };
        let silence = self.config.timing.silence.as_secs();
        let message = format!("{} was silent for {silence} s: the host or the network between is down", state.remote);
        let reason = GoodbyeReason::Silence;
        let problem = Problem { reason: reason.word(), message: message.clone(), is_final: false };
        self.close(connection, reason, message, Some(problem.clone()));
        self.drop_connection(connection, Some(problem), now);
    }

    /// Forgets a connection; one that waits for its end takes its place.
    pub(super) fn drop_connection(&mut self, connection: ConnectionId, problem: Option<Problem>, now: Instant) {
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

    pub(super) fn send_body(&mut self, destination: PeerName, body: RoutedBody) -> Result<(), SendError> {
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
