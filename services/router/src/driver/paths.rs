//! What the packet path is told about peers: sessions, ways, who is where.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_router_core::{
    forward::{ForwardingTable, Moves},
    mesh::{ConnectionId, LinkView, Mesh, PeerState, PeerView},
    path::Via,
    route::Routes,
    session::{Cipher, agreement::Agreed},
};
use weft_types::PeerName;

use crate::{
    control::Stream,
    dataplane::{Command, DataPlaneHandle, LinkState, Route, RouteTable, Statistics},
};

/// Endpoints of one peer that are probed.
const ENDPOINTS: usize = 16;
/// How long changes of links wait for others before ways over other peers are computed anew.
const ROUTES_WAIT: Duration = Duration::from_millis(50);
/// Places that our datagrams are seen to come from, of which others are told.
const OBSERVED: usize = 4;

/// The packet path, and what is known of the way to each peer.
#[derive(Debug)]
pub(super) struct Paths {
    data_plane: DataPlaneHandle,
    peers: BTreeMap<PeerName, Path>,
    agreeing: BTreeSet<PeerName>,
    /// By which datagrams may go, of all connections.
    streams: BTreeMap<ConnectionId, Stream>,
    routes: Routes,
    links: BTreeMap<PeerName, u32>,
    routes_due: Option<Instant>,
    route_table: Arc<RouteTable>,
    /// Where peers see our datagrams come from.
    observed: BTreeMap<PeerName, SocketAddr>,
    table: Option<Arc<ForwardingTable>>,
    moves: Moves,
}

/// The way to one peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Path {
    /// Where its control connection says that it takes datagrams.
    connected: Option<SocketAddr>,
    /// Where it says so itself, sealed.
    offered: Vec<SocketAddr>,
    /// Where gossip says so.
    gossiped: Vec<SocketAddr>,
    /// What the packet path was told.
    told: Vec<SocketAddr>,
    /// The connection by which the packet path was told that datagrams may go.
    stream: Option<ConnectionId>,
    /// How datagrams pass both ways, and the round trip.
    pub(super) up: Option<(Via, Duration)>,
    /// Cipher of the newest session.
    pub(super) cipher: Option<Cipher>,
    /// Sessions agreed on.
    pub(super) sessions: u64,
    /// Since when there is a control connection and datagrams do not pass.
    pub(super) missing_since: Option<Instant>,
}

impl Path {
    /// Returns the port at which the peer says that it takes datagrams.
    pub(super) fn port(&self) -> Option<u16> {
        self.connected.map(|endpoint| endpoint.port())
    }
}

impl Paths {
    pub(super) fn new(local: PeerName, data_plane: DataPlaneHandle) -> Self {
        Self {
            data_plane,
            peers: BTreeMap::new(),
            agreeing: BTreeSet::new(),
            streams: BTreeMap::new(),
            routes: Routes::new(local),
            links: BTreeMap::new(),
            routes_due: None,
            route_table: Arc::default(),
            observed: BTreeMap::new(),
            table: None,
            moves: Moves::default(),
        }
    }

    pub(super) fn statistics(&self) -> Statistics {
        self.data_plane.statistics()
    }

    pub(super) fn get(&self, peer: PeerName) -> Option<&Path> {
        self.peers.get(&peer)
    }

    pub(super) fn is_up(&self, peer: PeerName) -> bool {
        self.peers.get(&peer).is_some_and(|path| path.up.is_some())
    }

    pub(super) fn set_path(&mut self, peer: PeerName, up: Option<(Via, Duration)>, now: Instant) {
        if let Some(path) = self.peers.get_mut(&peer) {
            path.missing_since = up.is_none().then(|| path.missing_since.unwrap_or(now));
            path.up = up;
        }
    }

    /// Notes how datagrams pass to a peer with nobody between.
    pub(super) fn set_link(&mut self, peer: PeerName, link: Option<LinkState>, now: Instant) {
        match link {
            Some(link) => self.links.insert(peer, link.cost),
            None => self.links.remove(&peer),
        };
        if self.routes.set_neighbours(self.links.clone()) {
            self.routes_due.get_or_insert(now + ROUTES_WAIT);
        }
    }

    /// Notes over which links another peer says that datagrams pass.
    pub(super) fn set_links(&mut self, origin: PeerName, links: &[LinkView], now: Instant) {
        let carrying = links.iter().filter(|link| link.data_direct || link.data_stream);
        if self.routes.set_links(origin, carrying.map(|link| (link.remote, link.cost)).collect()) {
            self.routes_due.get_or_insert(now + ROUTES_WAIT);
        }
    }

    /// Notes where a peer sees our datagrams come from.
    pub(super) fn set_observed(&mut self, peer: PeerName, endpoint: Option<SocketAddr>) {
        match endpoint {
            Some(endpoint) => self.observed.insert(peer, endpoint),
            None => self.observed.remove(&peer),
        };
    }

    /// Returns where peers see our datagrams come from, what most of them see first. Behind some NATs each sees another
    /// place, none of which helps anybody else; so there are only a few.
    pub(super) fn observed(&self) -> Vec<SocketAddr> {
        let mut counts: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for endpoint in self.observed.values() {
            *counts.entry(*endpoint).or_default() += 1;
        }
        let mut endpoints: Vec<(usize, SocketAddr)> =
            counts.into_iter().map(|(endpoint, count)| (count, endpoint)).collect();
        endpoints.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        endpoints.into_iter().map(|(_, endpoint)| endpoint).take(OBSERVED).collect()
    }

    /// Returns when [`Paths::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.routes_due
    }

    /// Computes ways over other peers, if links have changed.
    pub(super) async fn handle_timeout(&mut self, mesh: &Mesh, now: Instant) {
        if self.routes_due.is_none_or(|due| now < due) {
            return;
        }
        self.routes_due = None;
        let local = mesh.local().peer;
        let others = mesh.reachable().into_iter().map(|identity| identity.peer).filter(|peer| *peer != local);
        let table: RouteTable = others.map(|peer| (peer, self.route(peer, local))).collect();
        if *self.route_table != table {
            self.route_table = Arc::new(table);
            self.send(Command::SetRoutes(Arc::clone(&self.route_table))).await;
        }
    }

    fn route(&mut self, peer: PeerName, local: PeerName) -> Route {
        let best = self.routes.next_hop_for_relay(peer, local);
        let other = best.and_then(|best| self.routes.next_hop_for_relay(peer, best));
        Route { relays: self.routes.next_hops(peer), next_hops: best.into_iter().chain(other).collect() }
    }

    /// Notes by which datagrams may go inside a connection, once its peer is let in.
    pub(super) fn add_stream(&mut self, connection: ConnectionId, stream: Stream) {
        self.streams.insert(connection, stream);
    }

    /// Tells the packet path of connections that came and went.
    pub(super) async fn update_streams(&mut self, mesh: &Mesh, now: Instant) {
        self.routes_due.get_or_insert(now + ROUTES_WAIT);
        self.streams.retain(|_, stream| !stream.is_closed());
        let connected: BTreeMap<PeerName, ConnectionId> = mesh.neighbours().collect();
        let mut told = Vec::new();
        for (peer, path) in &mut self.peers {
            let connection = connected.get(peer).copied().filter(|connection| self.streams.contains_key(connection));
            if path.stream != connection {
                path.stream = connection;
                let stream = connection.and_then(|connection| self.streams.get(&connection)).cloned();
                told.push(Command::SetStream { peer: *peer, stream });
            }
        }
        for command in told {
            self.send(command).await;
        }
    }

    /// Notes where the control connection to a peer leads, or that there is none any more.
    pub(super) async fn set_connected(&mut self, peer: PeerName, endpoint: Option<SocketAddr>, now: Instant) {
        let path = self.peers.entry(peer).or_default();
        if endpoint.is_some() {
            path.connected = endpoint;
        }
        path.missing_since = (endpoint.is_some() && path.up.is_none()).then_some(now);
        self.tell(peer).await;
    }

    /// Takes over what gossip says of all peers, and returns where we are reached ourselves.
    pub(super) async fn update_peers(&mut self, peers: &[PeerView]) -> Vec<SocketAddr> {
        let mut ours = Vec::new();
        for view in peers {
            match view.state {
                PeerState::Local => ours = reached_at(view).collect(),
                PeerState::Reachable => {
                    self.peers.entry(view.identity.peer).or_default().gossiped = reached_at(view).collect();
                    self.tell(view.identity.peer).await;
                }
                PeerState::Unreachable | PeerState::Revoked => {}
            }
        }
        ours
    }

    /// Returns peers that have become reachable since the last call.
    pub(super) fn take_appeared(&mut self, mesh: &Mesh) -> Vec<PeerName> {
        let local = mesh.local().peer;
        let reachable = mesh.reachable().into_iter().map(|identity| identity.peer);
        let appeared: Vec<PeerName> =
            reachable.filter(|peer| *peer != local && !self.agreeing.contains(peer)).collect();
        self.agreeing.extend(&appeared);
        appeared
    }

    /// Returns peers that have stopped being reachable since the last call.
    pub(super) fn take_vanished(&mut self, mesh: &Mesh) -> Vec<PeerName> {
        let vanished: Vec<PeerName> = self.agreeing.iter().filter(|peer| !mesh.is_reachable(**peer)).copied().collect();
        self.agreeing.retain(|peer| !vanished.contains(peer));
        vanished
    }

    /// Gives the packet path a new session.
    pub(super) async fn install(&mut self, agreed: Agreed) {
        let peer = agreed.session.peer;
        let path = self.peers.entry(peer).or_default();
        path.offered = agreed.endpoints;
        path.cipher = Some(agreed.session.cipher);
        path.sessions += 1;
        tracing::debug!(%peer, cipher = agreed.session.cipher.name(), "agreed on keys");
        self.send(Command::InstallSession(agreed.session)).await;
        self.tell(peer).await;
    }

    /// Forgets a peer that neither messages nor datagrams reach.
    pub(super) async fn remove(&mut self, peer: PeerName) {
        self.observed.remove(&peer);
        if self.peers.remove(&peer).is_some() {
            self.send(Command::RemovePeer(peer)).await;
        }
    }

    /// Replaces the forwarding table if it has changed.
    pub(super) async fn set_forwarding(&mut self, table: Arc<ForwardingTable>) {
        if self.table.as_ref() != Some(&table) {
            self.table = Some(Arc::clone(&table));
            let moved = self.moves.follow(&table);
            self.send(Command::SetForwarding(table)).await;
            if !moved.is_empty() {
                self.send(Command::Announce(moved)).await;
            }
        }
    }

    /// Tells the packet path where a peer may be reached, if that has changed.
    async fn tell(&mut self, peer: PeerName) {
        let Some(path) = self.peers.get_mut(&peer) else { return };
        let mut endpoints: Vec<SocketAddr> = Vec::new();
        for endpoint in path.connected.iter().chain(&path.offered).chain(&path.gossiped) {
            let usable = endpoint.port() != 0 && !endpoint.ip().is_unspecified() && !endpoint.ip().is_multicast();
            if usable && !endpoints.contains(endpoint) && endpoints.len() < ENDPOINTS {
                endpoints.push(*endpoint);
            }
        }
        if endpoints != path.told {
            path.told.clone_from(&endpoints);
            self.send(Command::SetEndpoints { peer, endpoints }).await;
        }
    }

    async fn send(&self, command: Command) {
        if self.data_plane.send(command).await.is_err() {
            tracing::error!("the packet path has stopped");
        }
    }
}

/// Returns where a peer says that it takes datagrams.
fn reached_at(view: &PeerView) -> impl Iterator<Item = SocketAddr> {
    view.endpoints.iter().chain(&view.data_endpoints).copied()
}
