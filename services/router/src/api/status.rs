//! The router's status as a message.

use ipnet::Ipv4Net;
use weft_proto::{
    common::v1::Problem as ProblemMessage,
    router::v1::{
        Connection, ConnectionState, DataPlaneStatus, GetStatusResponse, PathKind, Peer, PeerLink,
        PeerState as PeerStateMessage, Target as TargetMessage, TargetState as TargetStateMessage,
    },
};
use weft_router_core::{
    forward::DropReason,
    mesh::{ConnectionView, PeerState, PeerView, TargetState, TargetView},
    session::Cipher,
};

use crate::{
    dataplane::{FacilityState, Statistics},
    driver::{ProblemView, Status},
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
}

pub(crate) fn message(status: Status, facts: &Facts) -> GetStatusResponse {
    let connections = status.connections.iter().map(|view| connection(view, &status)).collect();
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
        peers: status.peers.into_iter().map(peer).collect(),
        data_plane: Some(data_plane(&status.statistics, facts)),
        problems: status.problems.into_iter().map(problem).collect(),
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
    let round_trip = statistics.and_then(|peer| peer.round_trip).or(up.map(|(_, round_trip)| round_trip));
    Connection {
        peer_name: Some(peer.into()),
        name: view.identity.name.clone(),
        nickname: view.identity.nickname.clone(),
        endpoint: Some(view.remote.into()),
        outbound: view.outbound,
        state: if up.is_some() { ConnectionState::Established } else { ConnectionState::Pending }.into(),
        path: if up.is_some() { PathKind::DirectUdp } else { PathKind::None }.into(),
        data_endpoint: up.map(|(endpoint, _)| endpoint.into()),
        problem: view_problem.clone().map(problem),
        round_trip_micros: round_trip.map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        cipher: data.and_then(|data| data.cipher).map(Cipher::name).unwrap_or_default().into(),
        sent_bytes: statistics.map_or(0, |peer| peer.sent.bytes),
        received_bytes: statistics.map_or(0, |peer| peer.received.bytes),
        rekeys: data.map_or(0, |data| data.sessions),
        age_seconds: view.age.as_secs(),
    }
}

pub(super) fn peer(view: PeerView) -> Peer {
    let state = match view.state {
        PeerState::Local => PeerStateMessage::Local,
        PeerState::Reachable => PeerStateMessage::Reachable,
        PeerState::Unreachable => PeerStateMessage::Unreachable,
    };
    let links = view.links.into_iter().map(|link| PeerLink {
        remote: Some(link.remote.into()),
        endpoint: link.endpoint.map(Into::into),
        outbound: link.outbound,
        data_direct: link.data_direct,
    });
    Peer {
        peer_name: Some(view.identity.peer.into()),
        name: view.identity.name,
        nickname: view.identity.nickname,
        version: view.version,
        state: state.into(),
        links: links.collect(),
    }
}

fn data_plane(statistics: &Statistics, facts: &Facts) -> DataPlaneStatus {
    let named = |wanted: bool| {
        let facilities = statistics.facilities.iter();
        facilities
            .filter(|(_, state)| (**state == FacilityState::InUse) == wanted)
            .map(|(facility, _)| facility.name().to_owned())
            .collect()
    };
    let peers = || statistics.peers.values();
    DataPlaneStatus {
        bridge: facts.bridge.clone(),
        mtu_bytes: facts.mtu.into(),
        facilities: named(true),
        missing_facilities: named(false),
        sent_frames: peers().map(|peer| peer.sent.frames).sum(),
        sent_bytes: peers().map(|peer| peer.sent.bytes).sum(),
        received_frames: peers().map(|peer| peer.received.frames).sum(),
        received_bytes: peers().map(|peer| peer.received.bytes).sum(),
        drops: DropReason::ALL
            .into_iter()
            .map(|reason| (reason.name().to_owned(), statistics.dropped(reason)))
            .filter(|(_, count)| *count > 0)
            .collect(),
    }
}
