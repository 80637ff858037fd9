//! What the router measures: names, units and help are defined here and nowhere else.
//!
//! Nothing is counted here: the packet path, the connections and the driver know all of it, and are asked at each scrape.

use weft_metrics::{Collect, Family, Label, Registry, Sheet, Unit};
use weft_proto::router::v1::{ConnectionState, GetStatusResponse, PathKind, PeerState, TargetState};

use crate::{
    api::{self, Facts},
    control::{Control, Kind},
    dataplane::{FacilityState, Statistics},
    direction::Direction,
    driver::{Command, DriverHandle},
    kernel::Kernel,
};

const PEER: Label = Label::new("peer", "the peer's printed name; at most 256 peers");
const DIRECTION: Label = Label::new("direction", "`sent`, `received`");
const DROP_REASON: Label = Label::new(
    "reason",
    "`unknown_destination`, `no_session`, `no_path`, `oversized`, `malformed_frame`, `link_local`, `forbidden_service`, \
     `vlan_tagged`, `queue_full`, `socket_full`, `send_failed`, `tap_full`, `malformed_datagram`, `unknown_session`, \
     `not_authentic`, `replayed`, `unknown_content`, `spoofed_source`, `spoofed_address`, `foreign_subnet`, \
     `session_exhausted`, `stream_full`, `no_route`, `hop_limit`, `not_neighbour`, `too_big`, `bad_fragment`",
);
const CONNECTED: &str = "while a peer is connected";

const PEERS: Family = Family::gauge("weft_router_peers", Unit::Count, "Other peers that are known.")
    .by(&[Label::new("state", "`connected`, `reachable` (over other peers only), `unreachable`, `revoked`")]);

const TARGETS: Family =
    Family::gauge("weft_router_targets", Unit::Count, "Targets: addresses or names that are dialled for ever.")
        .by(&[Label::new("state", "`connected`, `connecting`, `waiting`, `refused`")]);

const PATH: Family =
    Family::gauge("weft_router_peer_path", Unit::Truth, "Always 1; how frames travel to the peer is a label.")
        .by(&[
            PEER,
            Label::new(
                "path",
                "`none`, `direct_udp`, `relay` (over other peers), `stream` (inside the control connection), `kernel` (VXLAN, not sealed)",
            ),
        ])
        .when(CONNECTED);

const ROUND_TRIP: Family = Family::gauge(
    "weft_router_peer_round_trip_seconds",
    Unit::Seconds,
    "Round trip of sealed probes to the peer, smoothed.",
)
.by(&[PEER])
.when("while a path to a peer works");

const PEER_SENT: Family =
    Family::counter("weft_router_peer_sent_bytes_total", Unit::Bytes, "Sealed datagrams sent to the peer.")
        .by(&[PEER])
        .when(CONNECTED);

const PEER_RECEIVED: Family =
    Family::counter("weft_router_peer_received_bytes_total", Unit::Bytes, "Sealed datagrams received from the peer.")
        .by(&[PEER])
        .when(CONNECTED);

const VXLAN_FRAMES: Family = Family::counter(
    "weft_router_peer_vxlan_frames_total",
    Unit::Count,
    "Frames that the kernel exchanged with the trusted peer by VXLAN, not sealed; a batch of up to 64 KiB counts as one.",
)
.by(&[PEER, DIRECTION])
.when("while VXLAN with a trusted peer is set up");

const VXLAN_BYTES: Family = Family::counter(
    "weft_router_peer_vxlan_bytes_total",
    Unit::Bytes,
    "Frames that the kernel exchanged with the trusted peer by VXLAN, not sealed.",
)
.by(&[PEER, DIRECTION])
.when("while VXLAN with a trusted peer is set up");

const REKEYS: Family =
    Family::counter("weft_router_rekeys_total", Unit::Count, "Sets of data keys agreed on with the peer.")
        .by(&[PEER])
        .when(CONNECTED);

const GOSSIP_LAG: Family = Family::gauge(
    "weft_router_gossip_lag_seconds",
    Unit::Seconds,
    "How long the gossip here and at the connected peer has differed; while much changes, a few seconds are normal.",
)
.by(&[PEER])
.when(CONNECTED);

const FRAMES: Family = Family::counter(
    "weft_router_frames_total",
    Unit::Count,
    "Ethernet frames to and from all peers, but for those that go by VXLAN; a batch of up to 64 KiB counts as one.",
)
.by(&[DIRECTION]);

const DATAGRAMS: Family =
    Family::counter("weft_router_datagrams_total", Unit::Count, "Sealed datagrams to and from all peers.")
        .by(&[DIRECTION]);

const SEALED: Family = Family::counter(
    "weft_router_sealed_bytes_total",
    Unit::Bytes,
    "Sealed datagrams to and from all peers, without UDP and IP headers.",
)
.by(&[DIRECTION]);

const RELAYED_DATAGRAMS: Family = Family::counter(
    "weft_router_relayed_datagrams_total",
    Unit::Count,
    "Sealed datagrams handed on for other peers, which alone can open them.",
);

const RELAYED_BYTES: Family = Family::counter(
    "weft_router_relayed_bytes_total",
    Unit::Bytes,
    "Datagrams handed on for other peers, without UDP and IP headers.",
);

const DROPS: Family =
    Family::counter("weft_router_drops_total", Unit::Count, "Frames and datagrams that went no further.")
        .by(&[DIRECTION, DROP_REASON]);

const NEIGHBOUR_ANSWERS: Family = Family::counter(
    "weft_router_neighbour_answers_total",
    Unit::Count,
    "ARP requests and neighbour solicitations that were answered from gossip.",
);

const REFUSED_BATCHES: Family = Family::counter(
    "weft_router_refused_batches_total",
    Unit::Count,
    "Times that a batch had to be sent datagram by datagram, because the path refused it.",
);

const FACILITY: Family = Family::gauge(
    "weft_router_facility_in_use",
    Unit::Truth,
    "Whether a facility of the kernel that makes the packet path fast is in use.",
)
.by(&[Label::new(
    "facility",
    "`virtio-header`, `tcp-segmentation`, `udp-segmentation`, `batched-send`, `coalesced-receive`, `dual-stack`",
)]);

const MTU: Family = Family::gauge("weft_router_mtu_bytes", Unit::Bytes, "MTU of the containers' interfaces.");

const ATTACHMENTS: Family =
    Family::gauge("weft_router_attachments", Unit::Count, "Containers of this host that are attached.");

const CONTROL_KIND: Label =
    Label::new("kind", "`heartbeat`, `gossip`, `routed` (messages to one peer, keys among them), `datagram`, `other`");

const CONTROL_MESSAGES: Family = Family::counter(
    "weft_router_control_messages_total",
    Unit::Count,
    "Messages on control connections with all peers.",
)
.by(&[DIRECTION, CONTROL_KIND]);

const CONTROL_BYTES: Family = Family::counter(
    "weft_router_control_bytes_total",
    Unit::Bytes,
    "Messages on control connections with all peers, before they are sealed.",
)
.by(&[DIRECTION, CONTROL_KIND]);

/// All that the router measures beside what all services do.
pub const FAMILIES: &[Family] = &[
    PEERS,
    TARGETS,
    PATH,
    ROUND_TRIP,
    PEER_SENT,
    PEER_RECEIVED,
    VXLAN_FRAMES,
    VXLAN_BYTES,
    REKEYS,
    GOSSIP_LAG,
    FRAMES,
    DATAGRAMS,
    SEALED,
    RELAYED_DATAGRAMS,
    RELAYED_BYTES,
    DROPS,
    NEIGHBOUR_ANSWERS,
    REFUSED_BATCHES,
    FACILITY,
    MTU,
    ATTACHMENTS,
    CONTROL_MESSAGES,
    CONTROL_BYTES,
];

/// Most peers that are shown by name.
const MOST_PEERS: usize = 256;

/// Makes the registry.
pub(crate) fn registry() -> Registry {
    Registry::new(weft_proto::client::Service::Router.name(), weft_service::VERSION, FAMILIES)
}

/// Asks driver and connections at each scrape.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) driver: DriverHandle,
    pub(crate) control: Control,
    pub(crate) facts: Facts,
    pub(crate) kernel: Kernel,
}

#[tonic::async_trait]
impl Collect for Collector {
    async fn collect(&self, sheet: &mut Sheet) {
        let (Ok(mut status), Ok(attachments)) =
            (self.driver.ask(Command::Status).await, self.driver.ask(Command::Attachments).await)
        else {
            return;
        };
        sheet.problems(status.problems.iter().map(|problem| (problem.reason.as_str(), problem.age.as_secs_f64())));
        sheet.count(&ATTACHMENTS, &[], attachments.len() as u64);
        for (reason, count) in self.kernel.dropped() {
            *status.statistics.drops.entry((Direction::Sent, reason)).or_default() += count;
        }
        packets(sheet, &status.statistics);
        let lags: Vec<(String, f64)> = status
            .connections
            .iter()
            .map(|(view, _)| (view.identity.name.clone(), view.gossip_lag.as_secs_f64()))
            .collect();
        for (peer, lag) in lags.iter().take(MOST_PEERS) {
            sheet.set(&GOSSIP_LAG, &[peer], *lag);
        }
        mesh(sheet, &api::status_message(status, &self.facts));
        for direction in Direction::ALL {
            for kind in Kind::ALL {
                let traffic = self.control.traffic(direction, kind);
                let labels = [direction.name(), kind.name()];
                sheet.count(&CONTROL_MESSAGES, &labels, traffic.messages);
                sheet.count(&CONTROL_BYTES, &labels, traffic.bytes);
            }
        }
    }
}

fn packets(sheet: &mut Sheet, statistics: &Statistics) {
    for (direction, traffic) in [("sent", statistics.sent), ("received", statistics.received)] {
        sheet.count(&FRAMES, &[direction], traffic.frames);
        sheet.count(&DATAGRAMS, &[direction], traffic.datagrams);
        sheet.count(&SEALED, &[direction], traffic.bytes);
    }
    sheet.count(&RELAYED_DATAGRAMS, &[], statistics.relayed.datagrams);
    sheet.count(&RELAYED_BYTES, &[], statistics.relayed.bytes);
    for ((direction, reason), count) in &statistics.drops {
        sheet.count(&DROPS, &[direction.name(), reason.name()], *count);
    }
    for (facility, state) in &statistics.facilities {
        sheet.set(&FACILITY, &[facility.name()], if *state == FacilityState::InUse { 1.0 } else { 0.0 });
    }
    sheet.count(&NEIGHBOUR_ANSWERS, &[], statistics.neighbour_answers);
    sheet.count(&REFUSED_BATCHES, &[], statistics.refused_batches);
}

fn mesh(sheet: &mut Sheet, status: &GetStatusResponse) {
    let count = |state: PeerState| status.peers.iter().filter(|peer| peer.state() == state).count() as u64;
    let connected = status.connections.len() as u64;
    sheet.count(&PEERS, &["connected"], connected);
    sheet.count(&PEERS, &["reachable"], count(PeerState::Reachable).saturating_sub(connected));
    sheet.count(&PEERS, &["unreachable"], count(PeerState::Unreachable));
    sheet.count(&PEERS, &["revoked"], count(PeerState::Revoked));
    for (state, name) in [
        (TargetState::Connected, "connected"),
        (TargetState::Connecting, "connecting"),
        (TargetState::Waiting, "waiting"),
        (TargetState::Refused, "refused"),
    ] {
        sheet.count(&TARGETS, &[name], status.targets.iter().filter(|target| target.state() == state).count() as u64);
    }
    sheet.count(&MTU, &[], status.data_plane.as_ref().map_or(0, |data_plane| data_plane.mtu_bytes.into()));
    for connection in status.connections.iter().take(MOST_PEERS) {
        let peer = connection.name.as_str();
        sheet.set(&PATH, &[peer, &path_name(connection.path())], 1.0);
        sheet.count(&PEER_SENT, &[peer], connection.sent_bytes);
        sheet.count(&PEER_RECEIVED, &[peer], connection.received_bytes);
        sheet.count(&REKEYS, &[peer], connection.rekeys);
        let ways = status.peers.iter().filter(|known| known.peer_name == connection.peer_name);
        let vxlan = ways.flat_map(|known| &known.data_paths).find(|way| way.kind() == PathKind::Kernel);
        if let Some(way) = vxlan.filter(|way| way.endpoint.is_some()) {
            sheet.count(&VXLAN_FRAMES, &[peer, "sent"], way.sent_frames);
            sheet.count(&VXLAN_FRAMES, &[peer, "received"], way.received_frames);
            sheet.count(&VXLAN_BYTES, &[peer, "sent"], way.sent_bytes);
            sheet.count(&VXLAN_BYTES, &[peer, "received"], way.received_bytes);
        }
        if connection.state() == ConnectionState::Established {
            sheet.set(&ROUND_TRIP, &[peer], connection.round_trip_micros as f64 / 1e6);
        }
    }
}

/// Returns the contract's name of a path, as a label has it.
fn path_name(path: PathKind) -> String {
    let name = path.as_str_name();
    name.strip_prefix("PATH_KIND_").unwrap_or(name).to_lowercase()
}

#[cfg(test)]
mod tests {
    use weft_router_core::forward::DropReason;

    use super::*;

    #[test]
    fn every_reason_of_drops_is_described() {
        let described: Vec<&str> = DROP_REASON.values.split('`').skip(1).step_by(2).collect();
        assert_eq!(described, DropReason::ALL.map(DropReason::name));
    }

    #[test]
    fn paths_are_named_as_the_contract_names_them() {
        assert_eq!(path_name(PathKind::DirectUdp), "direct_udp");
        assert_eq!(path_name(PathKind::None), "none");
    }
}
