//! The router's status as a message.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use weft_proto::{
    common::v1::Problem as ProblemMessage,
    router::v1::{
        Connection, ConnectionState, DataPath, DataPlaneStatus, GetStatusResponse, PathKind, Peer, PeerLink,
        PeerState as PeerStateMessage, Target as TargetMessage, TargetState as TargetStateMessage,
    },
};
use weft_router_core::{
    forward::DropReason,
    hostnet::VXLAN_PORT,
    mesh::{ConnectionView, PeerState, PeerView, TargetState, TargetView},
    path::{CandidateState, CandidateView, Via},
    session::Cipher,
};
use weft_types::PeerName;

use crate::{
    dataplane::{FacilityState, Statistics},
    driver::{ProblemView, Status},
    kernel::LinkTraffic,
    trusted::TrustedView,
};

/// What does not change while the router runs.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Whether the mesh has a password.
    pub password_set: bool,
    /// Whether peers that gossip names are dialled.
    pub discovery: bool,
    /// Port of control and data.
    pub port: u16,
    /// Range of all overlay addresses.
    pub address_range: Ipv4Net,
    /// Name of the bridge.
    pub bridge: String,
    /// MTU of containers' interfaces, in bytes.
    pub mtu: u16,
    /// Subnets of hosts that are trusted with frames that are not sealed.
    pub trusted_subnets: Vec<IpNet>,
}

pub(crate) fn message(status: Status, facts: &Facts) -> GetStatusResponse {
    let connections = status.connections.iter().map(|view| connection(view, &status)).collect();
    let peers = status.peers.iter().map(|view| peer_with_data(view, &status, facts)).collect();
    GetStatusResponse {
        version: weft_service::VERSION.into(),
        peer_name: Some(status.local.peer.into()),
        name: status.local.name,
        nickname: status.local.nickname,
        encrypted: true,
        password_set: facts.password_set,
        discovery: facts.discovery,
        port: facts.port.into(),
        address_range: Some(facts.address_range.into()),
        targets: status.targets.into_iter().map(target).collect(),
        connections,
        peers,
        data_plane: Some(data_plane(&status.statistics, &status.trusted, facts)),
        problems: status.problems.into_iter().map(problem).collect(),
        trusted_subnets: facts.trusted_subnets.iter().copied().map(Into::into).collect(),
    }
}

fn problem(view: ProblemView) -> ProblemMessage {
    ProblemMessage { reason: view.reason, message: view.message, age_seconds: view.age.as_secs() }
}

fn target((view, view_problem): (TargetView, Option<ProblemView>)) -> TargetMessage {
    let state = match view.state {
        TargetState::Connected => TargetStateMessage::Connected,
        TargetState::Connecting => TargetStateMessage::Connecting,
        TargetState::Waiting => TargetStateMessage::Waiting,
        TargetState::Refused => TargetStateMessage::Refused,
    };
    TargetMessage {
        text: view.text,
        state: state.into(),
        problem: view_problem.map(problem),
        retry_seconds: view.retry.map(|retry| retry.as_secs()),
    }
}

fn connection((view, view_problem): &(ConnectionView, Option<ProblemView>), status: &Status) -> Connection {
    let peer = view.identity.peer;
    let data = status.data.get(&peer);
    let up = data.and_then(|data| data.up);
    let statistics = status.statistics.peers.get(&peer);
    let round_trip = statistics.and_then(|peer| peer.path.round_trip).or(up.map(|(_, round_trip)| round_trip));
    let used = status.trusted.get(&peer).is_some_and(|way| way.used);
    let data_endpoint = match up {
        Some((Via::Direct(endpoint), _)) => Some(endpoint.into()),
        Some((Via::Relay(_) | Via::Stream, _)) | None => None,
    };
    Connection {
        peer_name: Some(peer.into()),
        name: view.identity.name.clone(),
        nickname: view.identity.nickname.clone(),
        endpoint: Some(view.remote.into()),
        outbound: view.outbound,
        state: if up.is_some() { ConnectionState::Established } else { ConnectionState::Pending }.into(),
        path: if used { PathKind::Kernel } else { up.map_or(PathKind::None, |(via, _)| kind(via)) }.into(),
        data_endpoint,
        problem: view_problem.clone().map(problem),
        round_trip_micros: round_trip.map_or(0, micros),
        cipher: data.and_then(|data| data.cipher).map(Cipher::name).unwrap_or_default().into(),
        sent_bytes: statistics.map_or(0, |peer| peer.sent.bytes),
        received_bytes: statistics.map_or(0, |peer| peer.received.bytes),
        rekeys: data.map_or(0, |data| data.sessions),
        age_seconds: view.age.as_secs(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

const fn kind(via: Via) -> PathKind {
    match via {
        Via::Direct(_) => PathKind::DirectUdp,
        Via::Relay(_) => PathKind::Relay,
        Via::Stream => PathKind::Stream,
    }
}

/// Describes a peer, and the ways of data to it.
fn peer_with_data(view: &PeerView, status: &Status, facts: &Facts) -> Peer {
    let data = status.data.get(&view.identity.peer);
    let statistics = status.statistics.peers.get(&view.identity.peer);
    let mut ways: Vec<&CandidateView> = statistics.into_iter().flat_map(|peer| &peer.path.candidates).collect();
    ways.sort_by_key(|way| (way.unused.is_some(), way.state != CandidateState::Alive, way.round_trip));
    let kernel = status.trusted.get(&view.identity.peer);
    let (used, unused): (Vec<_>, Vec<_>) = kernel.into_iter().partition(|way| way.used);
    let sealed = ways.into_iter().map(|way| match (data_path(way, status), &used[..]) {
        (way, [_]) if way.in_use => DataPath { in_use: false, reason: BESIDE_KERNEL.into(), ..way },
        (way, _) => way,
    });
    let by_kernel = |way: &TrustedView| kernel_path(way, facts);
    Peer {
        data_paths: used
            .iter()
            .copied()
            .map(by_kernel)
            .chain(sealed)
            .chain(unused.iter().copied().map(by_kernel))
            .collect(),
        cipher: data.and_then(|data| data.cipher).map(Cipher::name).unwrap_or_default().into(),
        sent_bytes: statistics.map_or(0, |peer| peer.sent.bytes),
        received_bytes: statistics.map_or(0, |peer| peer.received.bytes),
        ..peer(view.clone())
    }
}

fn data_path(way: &CandidateView, status: &Status) -> DataPath {
    let name = |relay| {
        let known = status.peers.iter().find(|peer| peer.identity.peer == relay);
        known.map_or_else(|| relay.to_string(), |peer| peer.identity.name.clone())
    };
    let (endpoint, relay) = match way.via {
        Via::Direct(endpoint) => (Some(endpoint.into()), String::new()),
        Via::Relay(relay) => (None, name(relay)),
        Via::Stream => (None, String::new()),
    };
    DataPath {
        kind: kind(way.via).into(),
        endpoint,
        relay,
        in_use: way.unused.is_none(),
        round_trip_micros: way.round_trip.map_or(0, micros),
        loss_permille: way.loss.into(),
        largest_bytes: u32::try_from(way.largest).unwrap_or(u32::MAX),
        batched: way.batched,
        reason: way.unused.as_ref().map(|(reason, _)| reason.to_string()).unwrap_or_default(),
        ..DataPath::default()
    }
}

/// Why the best sealed way is not the one in use.
const BESIDE_KERNEL: &str = "carries broadcast and multicast, and all else when VXLAN does not work";

/// Describes the way by VXLAN.
fn kernel_path(way: &TrustedView, facts: &Facts) -> DataPath {
    DataPath {
        kind: PathKind::Kernel.into(),
        endpoint: way.remote.map(|remote| SocketAddr::new(remote, VXLAN_PORT).into()),
        in_use: way.used,
        round_trip_micros: way.round_trip.map_or(0, micros),
        largest_bytes: if way.used { facts.mtu.into() } else { 0 },
        batched: way.batched,
        reason: way.reason.clone(),
        sent_frames: way.traffic.sent_frames,
        sent_bytes: way.traffic.sent_bytes,
        received_frames: way.traffic.received_frames,
        received_bytes: way.traffic.received_bytes,
        ..DataPath::default()
    }
}

pub(super) fn peer(view: PeerView) -> Peer {
    let state = match view.state {
        PeerState::Local => PeerStateMessage::Local,
        PeerState::Reachable => PeerStateMessage::Reachable,
        PeerState::Unreachable => PeerStateMessage::Unreachable,
        PeerState::Revoked => PeerStateMessage::Revoked,
    };
    let links = view.links.into_iter().map(|link| PeerLink {
        remote: Some(link.remote.into()),
        endpoint: link.endpoint.map(Into::into),
        outbound: link.outbound,
        data_direct: link.data_direct,
        data_stream: link.data_stream,
        cost: link.cost,
    });
    Peer {
        peer_name: Some(view.identity.peer.into()),
        name: view.identity.name,
        nickname: view.identity.nickname,
        version: view.version,
        state: state.into(),
        links: links.collect(),
        ..Peer::default()
    }
}

fn data_plane(statistics: &Statistics, trusted: &BTreeMap<PeerName, TrustedView>, facts: &Facts) -> DataPlaneStatus {
    let named = |wanted: bool| {
        let facilities = statistics.facilities.iter();
        facilities
            .filter(|(_, state)| (**state == FacilityState::InUse) == wanted)
            .map(|(facility, _)| facility.name().to_owned())
            .collect()
    };
    let by_kernel = |of: fn(&LinkTraffic) -> u64| trusted.values().map(|way| of(&way.traffic)).sum::<u64>();
    let (sent, received) = (statistics.sent, statistics.received);
    DataPlaneStatus {
        bridge: facts.bridge.clone(),
        mtu_bytes: facts.mtu.into(),
        facilities: named(true),
        missing_facilities: named(false),
        sent_frames: sent.frames + by_kernel(|traffic| traffic.sent_frames),
        sent_bytes: sent.bytes + by_kernel(|traffic| traffic.sent_bytes),
        received_frames: received.frames + by_kernel(|traffic| traffic.received_frames),
        received_bytes: received.bytes + by_kernel(|traffic| traffic.received_bytes),
        drops: DropReason::ALL
            .into_iter()
            .map(|reason| (reason.name().to_owned(), statistics.dropped(reason)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        relayed_datagrams: statistics.relayed.datagrams,
        relayed_bytes: statistics.relayed.bytes,
    }
}
