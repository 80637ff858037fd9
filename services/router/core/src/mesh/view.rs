//! What the mesh shows of itself.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use weft_types::PeerName;

use super::{
    Introduction, Mesh,
    event::{ConnectionId, Problem},
};
use crate::trusted::{Agreed, Distrust, agree};

/// A peer and what people call it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerIdentity {
    /// The peer.
    pub peer: PeerName,
    /// Printed form.
    pub name: String,
    /// The host's name.
    pub nickname: String,
}

/// State of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetState {
    /// The peer that was reached there has a connection to us, by whatever way.
    Connected,
    /// A try is under way.
    Connecting,
    /// The next try comes with time.
    Waiting,
    /// It is ourselves, or cannot work before somebody changes something. In the latter case it is tried again slowly.
    Refused,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// As given.
    pub text: String,
    /// Its state.
    pub state: TargetState,
    /// Why the last try failed, if it did.
    pub problem: Option<Problem>,
    /// How long until the next try; nothing where none is due.
    pub retry: Option<Duration>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionView {
    /// Its id.
    pub connection: ConnectionId,
    /// Who is at the other end.
    pub identity: PeerIdentity,
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Whether we dialled it.
    pub outbound: bool,
    /// How long it has existed.
    pub age: Duration,
    /// Round trip of the last heartbeat, once one was answered.
    pub round_trip: Option<Duration>,
    /// How long the gossip of both ends has differed, as far as digests told.
    pub gossip_lag: Duration,
}

/// A connection that was refused lately, by either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalView {
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Whether we dialled it.
    pub outbound: bool,
    /// Who was at the other end.
    pub identity: PeerIdentity,
    /// Why.
    pub problem: Problem,
    /// How long ago.
    pub age: Duration,
}

/// Whether a peer takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// It is us.
    Local,
    /// A chain of links leads to it.
    Reachable,
    /// None does: what it published is suspended, not gone.
    Unreachable,
    /// Its key was revoked: it is let in no more, and what it published is suspended.
    Revoked,
}

/// A link that a peer says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// The other end.
    pub remote: PeerName,
    /// Where the peer reaches it.
    pub endpoint: Option<SocketAddr>,
    /// Whether the peer dialled it.
    pub outbound: bool,
    /// Whether datagrams pass directly by UDP.
    pub data_direct: bool,
    /// Whether they pass inside the control connection.
    pub data_stream: bool,
    /// What one costs, in units of 0.1 ms.
    pub cost: u32,
}

/// How datagrams pass to a neighbour, with nobody between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataLink {
    /// Whether they pass inside the control connection, and not by UDP.
    pub stream: bool,
    /// What one costs, in units of 0.1 ms.
    pub cost: u32,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// The peer and its names; the names are empty while only its links are known.
    pub identity: PeerIdentity,
    /// Version of weft that it runs; may be empty.
    pub version: String,
    /// Whether it takes part.
    pub state: PeerState,
    /// Where it may be reached, as it says.
    pub endpoints: Vec<SocketAddr>,
    /// Where else its datagrams come from, as others told it.
    pub data_endpoints: Vec<SocketAddr>,
    /// Its links.
    pub links: Vec<LinkView>,
}

/// One origin's entries of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginEntries {
    /// Whose they are.
    pub origin: PeerName,
    /// Key and value of each.
    pub entries: Vec<(Bytes, Bytes)>,
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
            trusted_subnets: self.config.trusted_subnets.clone(),
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
                gossip_lag: state.differs_since.map(|since| now.saturating_duration_since(since)).unwrap_or_default(),
            })
        };
        self.by_peer.iter().filter_map(view).collect()
    }

    /// Returns of all peers with a connection whether both ends trust each other with data that is not sealed.
    pub fn trusts(&self) -> impl Iterator<Item = (PeerName, Result<Agreed, Distrust>)> {
        self.by_peer.iter().filter_map(|(peer, connection)| {
            let state = self.connections.get(connection)?;
            let said = &state.introduction;
            let observed = said.observed.map(|observed| observed.ip());
            Some((*peer, agree(&self.config.trusted_subnets, &said.trusted_subnets, state.remote.ip(), observed)))
        })
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
        let known = self.store.origins().chain(self.reachable.iter().copied()).chain(self.admission.revoked());
        let known: BTreeSet<PeerName> = known.collect();
        let view = |peer: PeerName| {
            let facts = self.facts.get(&peer);
            let ours = || self.own_endpoints.iter().copied().collect();
            let data_endpoints = match facts {
                Some(facts) => facts.data_endpoints.clone(),
                None if peer == local => self.data_endpoints.clone(),
                None => Vec::new(),
            };
            PeerView {
                identity: self.identity(peer),
                version: match facts {
                    Some(facts) => facts.version.clone(),
                    None if peer == local => self.config.version.clone(),
                    None => String::new(),
                },
                state: match () {
                    () if peer == local => PeerState::Local,
                    () if self.is_revoked(peer) => PeerState::Revoked,
                    () if self.reachable.contains(&peer) => PeerState::Reachable,
                    () => PeerState::Unreachable,
                },
                endpoints: facts
                    .map_or_else(|| if peer == local { ours() } else { Vec::new() }, |f| f.endpoints.clone()),
                data_endpoints,
                links: self.links_of(peer),
            }
        };
        known.into_iter().map(view).collect()
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
            (None, None) => match self.revoked_identity(peer) {
                Some(identity) => return identity,
                None => (peer.to_string(), String::new()),
            },
        };
        PeerIdentity { peer, name, nickname }
    }

    /// Returns with whom there are connections, and by which each of them is reached.
    pub fn neighbours(&self) -> impl Iterator<Item = (PeerName, ConnectionId)> {
        self.by_peer.iter().map(|(peer, connection)| (*peer, *connection))
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
