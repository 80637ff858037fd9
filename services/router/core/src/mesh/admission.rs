//! Which connections are let in, which stay, and what both sides are told of those that do not.

use std::time::{Duration, Instant};

use weft_types::PeerName;

use super::{
    ConnectionId, Event, Goodbye, GoodbyeReason, Introduced, Mesh, Problem,
    connection::Connection,
    problems::other_rings,
    view::{PeerIdentity, RefusalView},
};

/// Refusals that are shown.
const MAX_REFUSALS: usize = 64;

/// How long a refusal is shown.
const REFUSAL_AGE: Duration = Duration::from_secs(120);

/// A connection that was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    view: RefusalView,
    at: Instant,
}

/// A connection with another instance of a connected peer: either the peer restarted and its old connection is dead, or
/// two hosts use one key. The old connection's proof of life decides.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) introduced: Introduced,
    pub(super) connection: ConnectionId,
    pub(super) since: Instant,
    /// Heartbeat of the other end to be answered, so that it does not take the wait for death.
    pub(super) echo: Option<u64>,
}

impl Mesh {
    /// Lets a connection in, lets it wait, or refuses it.
    pub(super) fn admit(&mut self, connection: ConnectionId, introduced: Introduced, now: Instant) {
        let peer = introduced.peer;
        if let Some((reason, message)) = self.objection(&introduced) {
            self.refuse(connection, &introduced, reason, message, now);
            return;
        }
        let Some(present) = self.by_peer.get(&peer).copied() else {
            self.install(connection, introduced, false, now);
            return;
        };
        if let Some(dial) = introduced.dial {
            self.dialler.reached(dial, peer, now);
        }
        let Some(known) = self.connections.get_mut(&present) else { return };
        if known.introduction.instance != introduced.introduction.instance {
            known.beat(self.config.timing.heartbeat, now);
            self.contend(connection, introduced, now);
            return;
        }
        if introduced.order() < known.order {
            self.connections.remove(&present);
            self.close(present, GoodbyeReason::DuplicateConnection, String::new(), None);
            self.add(connection, introduced, false, now);
        } else {
            self.close(connection, GoodbyeReason::DuplicateConnection, String::new(), None);
        }
    }

    /// Lets a connection wait for the end of the peer's present one. Of two with the same instance the one stays that
    /// the other end keeps too.
    fn contend(&mut self, connection: ConnectionId, introduced: Introduced, now: Instant) {
        let peer = introduced.peer;
        let mut contender = Contender { introduced, connection, since: now, echo: None };
        if let Some(mut earlier) = self.contenders.remove(&peer) {
            let same = earlier.introduced.introduction.instance == contender.introduced.introduction.instance;
            if same && earlier.introduced.order() < contender.introduced.order() {
                std::mem::swap(&mut earlier, &mut contender);
            }
            self.close(earlier.connection, GoodbyeReason::DuplicateConnection, String::new(), None);
        }
        self.contenders.insert(peer, contender);
    }

    /// Returns why a connection cannot be, if so.
    fn objection(&self, introduced: &Introduced) -> Option<(GoodbyeReason, String)> {
        let (theirs, ours) = (&introduced.introduction, &self.config);
        let remote = introduced.remote;
        let (oldest, newest) = crate::handshake::PROTOCOL_VERSIONS;
        if self.stopped {
            return Some((GoodbyeReason::Stopping, "weft is stopping here".to_owned()));
        }
        if introduced.peer == ours.local {
            if theirs.instance == ours.instance {
                return Some((GoodbyeReason::SelfConnection, format!("{remote} is this host itself")));
            }
            return Some((GoodbyeReason::SameKey, same_key(introduced, &ours.nickname)));
        }
        if let Some(objection) = self.key_objection(introduced) {
            return Some(objection);
        }
        if theirs.protocol_max < oldest.into() || theirs.protocol_min > newest.into() {
            let message = format!(
                "{} at {remote} speaks protocol versions {} to {}, and {} speaks {oldest} to {newest}: run the same version of weft on both",
                theirs.name, theirs.protocol_min, theirs.protocol_max, ours.name
            );
            return Some((GoodbyeReason::ProtocolVersion, message));
        }
        if theirs.address_range != ours.address_range {
            let message = format!(
                "{} at {remote} uses the address range {}, and {} uses {}: set the same WEFT_IPALLOC_RANGE on all hosts",
                theirs.name, theirs.address_range, ours.name, ours.address_range
            );
            return Some((GoodbyeReason::AddressRange, message));
        }
        if let (Some(one), Some(other)) = (theirs.ring_id, self.ring_id)
            && one != other
        {
            let message = other_rings(&format!("{} at {remote}", theirs.name), &one, &ours.name, &other);
            return Some((GoodbyeReason::RingId, message));
        }
        if let Some(holder) = self.holder_of(&theirs.name, introduced.peer) {
            let message = format!(
                "the name {} is that of two hosts, {} and {} (at {remote}): set another WEFT_NAME on one of them",
                theirs.name, holder.nickname, theirs.nickname
            );
            return Some((GoodbyeReason::SameName, message));
        }
        if self.connections.len() >= ours.connection_limit && !self.by_peer.contains_key(&introduced.peer) {
            let message = format!("{} has {} connections, which is its limit", ours.name, ours.connection_limit);
            return Some((GoodbyeReason::ConnectionLimit, message));
        }
        None
    }

    /// Returns the peer that takes part under this name, if it is another than `peer`.
    fn holder_of(&self, name: &str, peer: PeerName) -> Option<PeerIdentity> {
        if self.config.name == name {
            return Some(self.local());
        }
        self.reachable().into_iter().find(|identity| identity.peer != peer && identity.name == name)
    }

    fn refuse(
        &mut self,
        connection: ConnectionId,
        introduced: &Introduced,
        reason: GoodbyeReason,
        message: String,
        now: Instant,
    ) {
        let problem = Problem { reason: reason.word(), message: message.clone(), is_final: reason.is_final() };
        if let Some(dial) = introduced.dial {
            if reason == GoodbyeReason::SelfConnection {
                self.dialler.reached_local(dial, problem.clone(), now);
                self.events.push_back(Event::ReachabilityChanged);
            } else {
                self.dialler.failed(dial, problem.clone(), now);
            }
        }
        // That a revoked host knocks is nothing to be mended; where we dial it, its target says so.
        let unremarkable = [GoodbyeReason::SelfConnection, GoodbyeReason::Stopping, GoodbyeReason::Revoked];
        if !unremarkable.contains(&reason) {
            self.note_refusal(introduced, problem.clone(), now);
        }
        self.close(connection, reason, message, Some(problem));
    }

    fn note_refusal(&mut self, introduced: &Introduced, problem: Problem, now: Instant) {
        let identity = PeerIdentity {
            peer: introduced.peer,
            name: introduced.introduction.name.clone(),
            nickname: introduced.introduction.nickname.clone(),
        };
        let outbound = introduced.dial.is_some();
        let view = RefusalView { remote: introduced.remote, outbound, identity, problem, age: Duration::ZERO };
        self.refusals.retain(|known| {
            known.view.identity.peer != view.identity.peer || known.view.problem.reason != view.problem.reason
        });
        self.refusals.push_back(Refusal { view, at: now });
        if self.refusals.len() > MAX_REFUSALS {
            self.refusals.pop_front();
        }
    }

    /// Notes that either side closed a connection for a reason that somebody has to mend.
    pub(super) fn note_goodbye(&mut self, connection: &Connection, problem: &Problem, now: Instant) {
        let introduced = Introduced {
            peer: connection.peer,
            introduction: connection.introduction.clone(),
            local_random: 0,
            remote: connection.remote,
            dial: None,
            password: None,
        };
        self.note_refusal(&introduced, problem.clone(), now);
    }

    /// Returns the refusals of late.
    pub(super) fn recent_refusals(&self, now: Instant) -> Vec<RefusalView> {
        let view = |refusal: &Refusal| {
            let age = now.saturating_duration_since(refusal.at);
            (age < REFUSAL_AGE).then(|| RefusalView { age, ..refusal.view.clone() })
        };
        self.refusals.iter().filter_map(view).collect()
    }

    /// Takes a connection with a peer that had none.
    fn install(&mut self, connection: ConnectionId, introduced: Introduced, waited: bool, now: Instant) {
        let (peer, remote) = (introduced.peer, introduced.remote);
        self.refusals.retain(|refusal| refusal.view.identity.peer != peer);
        if let Some(dial) = introduced.dial {
            self.dialler.reached(dial, peer, now);
        }
        let introduction = &introduced.introduction;
        let port =
            [introduction.data_port, introduction.listen_port, remote.port()].into_iter().find(|port| *port != 0);
        let data_endpoint = std::net::SocketAddr::new(remote.ip(), port.unwrap_or_default());
        self.store.remember(peer);
        self.note_member(peer);
        self.add(connection, introduced, waited, now);
        self.events.push_back(Event::PeerConnected { peer, remote, data_endpoint });
        self.part_from_other_ring(peer, now);
    }

    /// Closes the connection with a peer if its ring is another than ours, which neither side may have known when they met.
    pub(super) fn part_from_other_ring(&mut self, peer: PeerName, now: Instant) {
        let Some(connection) = self.by_peer.get(&peer).copied() else { return };
        let Some(state) = self.connections.get_mut(&connection) else { return };
        // Gossip may still tell of the peer's life before, whose ring it may have left.
        let facts = self.facts.get(&peer).filter(|facts| facts.instance == Some(state.introduction.instance));
        if let Some(ring) = facts.and_then(|facts| facts.ring_id) {
            state.introduction.ring_id = Some(ring);
        }
        let (Some(theirs), Some(ours)) = (state.introduction.ring_id, self.ring_id) else { return };
        if theirs == ours {
            return;
        }
        let name = format!("{} at {}", state.introduction.name, state.remote);
        let message = other_rings(&name, &theirs, &self.config.name, &ours);
        let reason = GoodbyeReason::RingId;
        let problem = Problem { reason: reason.word(), message: message.clone(), is_final: reason.is_final() };
        if let Some(state) = self.connections.remove(&connection) {
            self.note_goodbye(&state, &problem, now);
            self.connections.insert(connection, state);
        }
        self.close(connection, reason, message, Some(problem.clone()));
        self.drop_connection(connection, Some(problem), now);
    }

    /// Enters a connection. What came over one that `waited` was ignored, so the peer is asked to say again what it knows.
    fn add(&mut self, connection: ConnectionId, introduced: Introduced, waited: bool, now: Instant) {
        let peer = introduced.peer;
        self.learn_own_endpoint(&introduced, now);
        let mut entered = Connection::new(introduced, now);
        entered.queue(super::ControlMessage::Vector { origins: self.store.vector(), answer: waited });
        self.connections.insert(connection, entered);
        self.by_peer.insert(peer, connection);
        self.neighbours_changed(now);
    }

    /// Decides about a contender: the peer's present connection is dead, or has proved to be alive.
    pub(super) fn settle(&mut self, peer: PeerName, present_lives: bool, now: Instant) {
        let Some(contender) = self.contenders.remove(&peer) else { return };
        if present_lives {
            let message = same_key(&contender.introduced, &self.identity(peer).nickname);
            // Its dial counts as one that led to the peer; what is wrong is told as a refusal.
            let introduced = Introduced { dial: None, ..contender.introduced };
            self.refuse(contender.connection, &introduced, GoodbyeReason::SameKey, message, now);
            return;
        }
        if let Some(present) = self.by_peer.get(&peer).copied() {
            self.close(present, GoodbyeReason::DuplicateConnection, String::new(), None);
            self.drop_connection(present, None, now);
        }
        let introduced = Introduced { dial: None, ..contender.introduced };
        self.install(contender.connection, introduced, true, now);
    }

    /// Says goodbye on a connection and lets the shell close it.
    pub(super) fn close(
        &mut self,
        connection: ConnectionId,
        reason: GoodbyeReason,
        message: String,
        problem: Option<Problem>,
    ) {
        let goodbye = Some(Goodbye { reason, message });
        self.events.push_back(Event::Close { connection, goodbye, problem });
    }
}

fn same_key(introduced: &Introduced, nickname: &str) -> String {
    format!(
        "two hosts, {nickname} and {} (at {}), use one key: remove /var/lib/weft/router on the one that is the copy, \
         and restart weft there",
        introduced.introduction.nickname, introduced.remote
    )
}
