//! How frames travel.

use super::PEER;
use crate::dashboard::{
    Dashboard,
    Good::{Any, Yes},
    Panel, Row,
    Unit::{Bytes, BytesPerSecond, Count, PerSecond, Seconds},
};

/// When frames go by VXLAN.
const TRUSTED: &str = "while VXLAN with a trusted peer is set up";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "data-plane",
        title: "Data plane",
        description: "How many frames travel between hosts, what is dropped and why, and with which facilities of the kernel.",
        one_host: false,
        rows: vec![
            Row { title: "Frames", panels: frames() },
            Row { title: "Paths and keys", panels: paths() },
            Row { title: "Facilities", panels: facilities() },
            Row { title: "Control connections", panels: control() },
        ],
    }
}

fn frames() -> Vec<Panel> {
    vec![
        Panel::lines("Bytes", BytesPerSecond, "Sealed datagrams to and from all peers, without UDP and IP headers.").query(
            r#"sum by (host, direction) (rate(weft_router_sealed_bytes_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{direction}}",
        ),
        Panel::lines("Frames", PerSecond, "Ethernet frames, but for those that go by VXLAN; a batch of up to 64 KiB that crosses as one counts as one.").query(
            r#"sum by (host, direction) (rate(weft_router_frames_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{direction}}",
        ),
        Panel::lines("Datagrams", PerSecond, "Sealed datagrams, probes among them.").query(
            r#"sum by (host, direction) (rate(weft_router_datagrams_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{direction}}",
        ),
        Panel::lines(
            "Drops, by direction and reason",
            PerSecond,
            "Frames and datagrams that went no further. `unknown_destination` and `link_local` are normal; others should be rare.",
        )
        .width(12)
        .query(
            r#"sum by (host, direction, reason) (rate(weft_router_drops_total{host=~"$host"}[$__rate_interval])) > 0"#,
            "{{host}} {{direction}}: {{reason}}",
        )
        .only("while something is dropped"),
        Panel::lines(
            "Bytes per frame",
            Bytes,
            "Sealed bytes for each frame: large for bulk transfers, where segments cross whole; small for many small packets.",
        )
        .width(12)
        .query(
            r#"sum by (host, direction) (rate(weft_router_sealed_bytes_total{host=~"$host"}[$__rate_interval])) / sum by (host, direction) (rate(weft_router_frames_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{direction}}",
        ),
    ]
}

fn paths() -> Vec<Panel> {
    vec![
        Panel::lines("Round trip", Seconds, "Of sealed probes between two hosts, smoothed.")
            .query(r#"weft_router_peer_round_trip_seconds{host=~"$host"}"#, PEER),
        Panel::lines("Bytes from peers", BytesPerSecond, "Sealed datagrams received, without UDP and IP headers.")
            .query(r#"rate(weft_router_peer_received_bytes_total{host=~"$host"}[$__rate_interval])"#, PEER),
        Panel::lines(
            "Key sets",
            PerSecond,
            "Sets of data keys agreed on with each peer: one every two minutes while frames travel.",
        )
        .query(r#"rate(weft_router_rekeys_total{host=~"$host"}[$__rate_interval])"#, PEER),
        Panel::lines(
            "Datagrams handed on",
            PerSecond,
            "Sealed datagrams of other peers that have no direct path to each other; this host cannot open them.",
        )
        .width(12)
        .query(
            r#"sum by (host) (rate(weft_router_relayed_datagrams_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}}",
        ),
        Panel::lines("Bytes handed on", BytesPerSecond, "Of the same, without UDP and IP headers.").width(12).query(
            r#"sum by (host) (rate(weft_router_relayed_bytes_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}}",
        ),
        Panel::lines(
            "Frames by VXLAN",
            PerSecond,
            "Exchanged by the kernel with trusted peers, not sealed; a batch of up to 64 KiB counts as one.",
        )
        .width(12)
        .only(TRUSTED)
        .query(
            r#"rate(weft_router_peer_vxlan_frames_total{host=~"$host"}[$__rate_interval])"#,
            "{{host}} → {{peer}}, {{direction}}",
        ),
        Panel::lines("Bytes by VXLAN", BytesPerSecond, "Of the same.").width(12).only(TRUSTED).query(
            r#"rate(weft_router_peer_vxlan_bytes_total{host=~"$host"}[$__rate_interval])"#,
            "{{host}} → {{peer}}, {{direction}}",
        ),
    ]
}

fn facilities() -> Vec<Panel> {
    vec![
        Panel::numbers(
            "Facilities in use",
            Count,
            Yes,
            "Whether each facility of the kernel that makes the packet path fast is in use on all hosts. Without, all works, slower.",
        )
        .width(18)
        .query(r#"min by (facility) (weft_router_facility_in_use{host=~"$host"})"#, "{{facility}}"),
        Panel::numbers("MTU", Bytes, Any, "Of the containers' interfaces; all hosts should have the same.")
            .width(6)
            .query(r#"max by (host) (weft_router_mtu_bytes{host=~"$host"})"#, "{{host}}"),
        Panel::lines("Batches refused", PerSecond, "Times that a path refused a batch, so that it was sent datagram by datagram.")
            .width(12)
            .query(r#"sum by (host) (rate(weft_router_refused_batches_total{host=~"$host"}[$__rate_interval]))"#, "{{host}}"),
        Panel::lines(
            "Neighbours answered",
            PerSecond,
            "ARP requests and neighbour solicitations that were answered from gossip and never crossed the network.",
        )
        .width(12)
        .query(r#"sum by (host) (rate(weft_router_neighbour_answers_total{host=~"$host"}[$__rate_interval]))"#, "{{host}}"),
    ]
}

fn control() -> Vec<Panel> {
    vec![
        Panel::lines("Messages", PerSecond, "On control connections with all peers, by kind.").width(12).query(
            r#"sum by (host, direction, kind) (rate(weft_router_control_messages_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{direction}} {{kind}}",
        ),
        Panel::lines("Bytes of messages", BytesPerSecond, "On control connections with all peers, before they are sealed.")
            .width(12)
            .query(
                r#"sum by (host, direction, kind) (rate(weft_router_control_bytes_total{host=~"$host"}[$__rate_interval]))"#,
                "{{host}} {{direction}} {{kind}}",
            ),
    ]
}
