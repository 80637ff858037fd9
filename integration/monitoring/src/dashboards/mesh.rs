//! Whether all is well, on all hosts.

use super::{PEER, PROBLEM};
use crate::dashboard::{
    Dashboard,
    Good::{Any, From, Zero},
    Panel, Row,
    Unit::{Bytes, BytesPerSecond, Count, PerSecond, Seconds, Share},
};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "mesh",
        title: "Mesh",
        description: "Whether all is well on all hosts, and if not, where.",
        one_host: false,
        rows: vec![
            Row { title: "Now", panels: now() },
            Row { title: "Between hosts", panels: between() },
            Row { title: "On hosts", panels: on_hosts() },
        ],
    }
}

fn now() -> Vec<Panel> {
    vec![
        Panel::numbers("Hosts that are not scraped", Count, Zero, "Hosts of targets.yml that show no figures.")
            .query(r#"sum(1 - up{job="weft", host=~"$host"})"#, "hosts"),
        Panel::numbers("Services that do not answer", Count, Zero, "Of the four of each host that is scraped.")
            .query(r#"sum(1 - weft_up{host=~"$host"})"#, "services"),
        Panel::numbers("Hosts out of reach", Count, Zero, "The most hosts that any one host cannot reach.")
            .query(r#"max(weft_router_peers{host=~"$host", state="unreachable"})"#, "hosts"),
        Panel::numbers("Pairs without a data path", Count, Zero, "Connections over which no frames pass, counted from each side.")
            .query(r#"count(weft_router_peer_path{host=~"$host", path="none"}) or vector(0)"#, "pairs"),
        Panel::numbers("Containers attached", Count, Any, "On all hosts together.")
            .query(r#"sum(weft_router_attachments{host=~"$host"})"#, "containers"),
        Panel::numbers(
            "Addresses free",
            Share,
            From(10),
            "Of the range that all hosts share, as the host knows it that knows of the fewest.",
        )
        .query(
            r#"min(sum by (host) (weft_ipam_ring_free_addresses{host=~"$host"}) / sum by (host) (weft_ipam_range_addresses{host=~"$host"}))"#,
            "free",
        ),
        Panel::table("Alerts that fire", Count, "Each leads to its entry in docs/operations.md.")
            .query(
                r#"sum by (alertname, severity, host, service, reason) (ALERTS{alertname=~"Weft.+", alertstate="firing", host=~"$host|"})"#,
                "{{alertname}}",
            )
            .only(PROBLEM),
        Panel::table("Problems", Seconds, "What `weft status` lists on each host, and how long it has been so.")
            .query(
                r#"max by (host, service, reason) (weft_problem_age_seconds{host=~"$host"})"#,
                "{{host}} {{service}} {{reason}}",
            )
            .only(PROBLEM),
    ]
}

fn between() -> Vec<Panel> {
    vec![
        Panel::lines(
            "Other hosts, by state",
            Count,
            "Connected hosts exchange frames; reachable ones are known over others only; unreachable ones not at all.",
        )
        .query(r#"sum by (host, state) (weft_router_peers{host=~"$host"})"#, "{{host}} {{state}}"),
        Panel::lines("Round trip", Seconds, "Of sealed probes between the routers of two hosts, smoothed.")
            .query(r#"weft_router_peer_round_trip_seconds{host=~"$host"}"#, PEER),
        Panel::lines(
            "Gossip lag",
            Seconds,
            "How long two hosts have not agreed about names, addresses and containers. While much changes, a few seconds are normal.",
        )
        .query(r#"weft_router_gossip_lag_seconds{host=~"$host"}"#, PEER),
        Panel::lines("Sent to other hosts", BytesPerSecond, "Sealed datagrams, without UDP and IP headers.")
            .width(12)
            .query(r#"rate(weft_router_peer_sent_bytes_total{host=~"$host"}[$__rate_interval])"#, PEER),
        Panel::lines("Drops", PerSecond, "Frames and datagrams that went no further, for any reason. A few are normal.")
            .width(12)
            .query(r#"sum by (host) (rate(weft_router_drops_total{host=~"$host"}[$__rate_interval]))"#, "{{host}}"),
    ]
}

fn on_hosts() -> Vec<Panel> {
    vec![
        Panel::lines("Containers attached, by host", Count, "Containers that have their interface on the overlay.")
            .query(r#"sum by (host) (weft_router_attachments{host=~"$host"})"#, "{{host}}"),
        Panel::lines("Processors used", Share, "Of one processor, by all services of weft; 100 % is one processor.")
            .query(
                r#"sum by (host) (rate(process_cpu_seconds_total{job="weft", host=~"$host"}[$__rate_interval]))"#,
                "{{host}}",
            ),
        Panel::lines("Memory used", Bytes, "By all services of weft.")
            .query(r#"sum by (host) (process_resident_memory_bytes{job="weft", host=~"$host"})"#, "{{host}}"),
        Panel::table("Versions", Count, "Which version of weft each service is.").width(24).query(
            r#"max by (host, service, version) (weft_build_info{host=~"$host"})"#,
            "{{host}} {{service}} {{version}}",
        ),
    ]
}
