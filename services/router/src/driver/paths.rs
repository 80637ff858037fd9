//! What the packet path is told about peers: sessions, endpoints, who is where.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_router_core::{
    forward::{ForwardingTable, Moves},
    mesh::{Mesh, PeerState, PeerView},
    session::{Cipher, agreement::Agreed},
};
use weft_types::PeerName;

use crate::dataplane::{Command, DataPlaneHandle, Statistics};

/// Endpoints of one peer that are probed.
const ENDPOINTS: usize = 16;

/// The packet path, and what is known of the way to each peer.
#[derive(Debug)]
pub(super) struct Paths {
    data_plane: DataPlaneHandle,
    peers: BTreeMap<PeerName, Path>,
    agreeing: BTreeSet<PeerName>,
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
    /// Where datagrams pass both ways, and the round trip.
    pub(super) up: Option<(SocketAddr, Duration)>,
    /// Cipher of the newest session.
    pub(super) cipher: Option<Cipher>,
    /// Sessions agreed on.
    pub(super) sessions: u64,
    /// Since when there is a control connection and datagrams do not pass.
    pub(super) missing_since: Option<Instant>,
}

impl Paths {
    pub(super) fn new(data_plane: DataPlaneHandle) -> Self {
        Self { data_plane, peers: BTreeMap::new(), agreeing: BTreeSet::new(), table: None, moves: Moves::default() }
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

    pub(super) fn set_path(&mut self, peer: PeerName, up: Option<(SocketAddr, Duration)>, now: Instant) {
        if let Some(path) = self.peers.get_mut(&peer) {
            path.missing_since = up.is_none().then(|| path.missing_since.unwrap_or(now));
            path.up = up;
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
                PeerState::Local => ours.clone_from(&view.endpoints),
                PeerState::Reachable => {
                    self.peers.entry(view.identity.peer).or_default().gossiped.clone_from(&view.endpoints);
                    self.tell(view.identity.peer).await;
                }
                PeerState::Unreachable => {}
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
