//! How one host is.

use super::PROBLEM;
use crate::dashboard::{
    Dashboard,
    Good::{Any, Yes, Zero},
    Panel, Row,
    Unit::{Bytes, BytesPerSecond, Count, PerSecond, Seconds, Share},
};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "host",
        title: "One host",
        description: "How the services of one host are, and what they talk about with each other and with other hosts.",
        one_host: true,
        rows: vec![
            Row { title: "Now", panels: now() },
            Row { title: "Processes", panels: processes() },
            Row { title: "Calls between services", panels: calls() },
            Row { title: "Other hosts", panels: others() },
        ],
    }
}

fn now() -> Vec<Panel> {
    vec![
        Panel::numbers("Services answer", Count, Yes, "Whether each service answered the last scrape.")
            .width(8)
            .query(r#"max by (service) (weft_up{host=~"$host"})"#, "{{service}}"),
        Panel::numbers("Problems", Count, Zero, "How much each service says does not work, as `weft status` lists it.")
            .width(8)
            .query(r#"max by (service) (weft_problems{host=~"$host"})"#, "{{service}}"),
        Panel::numbers(
            "Running for",
            Seconds,
            Any,
            "How long ago each service started, by the clocks of the two hosts.",
        )
        .width(8)
        .query(r#"time() - max by (service) (process_start_time_seconds{job="weft", host=~"$host"})"#, "{{service}}"),
        Panel::table(
            "Since when",
            Seconds,
            "How long each problem has lasted; `weft status` on the host has the sentences.",
        )
        .width(24)
        .query(r#"max by (service, reason) (weft_problem_age_seconds{host=~"$host"})"#, "{{service}} {{reason}}")
        .only(PROBLEM),
    ]
}

fn processes() -> Vec<Panel> {
    vec![
        Panel::lines("Processors used", Share, "Of one processor; the router's packet path uses at most one.").query(
            r#"sum by (service) (rate(process_cpu_seconds_total{job="weft", host=~"$host"}[$__rate_interval]))"#,
            "{{service}}",
        ),
        Panel::lines("Memory used", Bytes, "Memory that each process has in use.")
            .query(r#"sum by (service) (process_resident_memory_bytes{job="weft", host=~"$host"})"#, "{{service}}"),
        Panel::lines("Address space", Bytes, "Mostly not in use; it grows before memory does.")
            .query(r#"sum by (service) (process_virtual_memory_bytes{job="weft", host=~"$host"})"#, "{{service}}"),
        Panel::lines("Files open", Share, "Of the files and sockets that each process may have open.")
            .width(12)
            .query(
                r#"sum by (service) (process_open_fds{job="weft", host=~"$host"}) / sum by (service) (process_max_fds{job="weft", host=~"$host"})"#,
                "{{service}}",
            ),
        Panel::lines("Threads", Count, "Threads of each process.")
            .width(12)
            .query(r#"sum by (service) (process_threads{job="weft", host=~"$host"})"#, "{{service}}"),
    ]
}

fn calls() -> Vec<Panel> {
    vec![
        Panel::lines("Calls", PerSecond, "On each service's socket, by the other services and the command.").query(
            r#"sum by (service, method) (rate(weft_grpc_requests_total{host=~"$host"}[$__rate_interval]))"#,
            "{{service}} {{method}}",
        ),
        Panel::lines("Calls that fail", PerSecond, "By the status that they ended with. A few `unavailable` go with each restart.")
            .query(
                r#"sum by (service, method, code) (rate(weft_grpc_requests_total{host=~"$host", code!="ok"}[$__rate_interval]))"#,
                "{{service}} {{method}} {{code}}",
            )
            .only("once a call failed"),
        Panel::lines("Nine of ten calls take at most", Seconds, "Until the answer began; calls that wait for something are among them.")
            .query(
                r#"histogram_quantile(0.9, sum by (service, method, le) (rate(weft_grpc_request_duration_seconds_bucket{host=~"$host"}[$__rate_interval])))"#,
                "{{service}} {{method}}",
            ),
        Panel::lines("Spans of traces", PerSecond, "Sent on, by the router those of all services; and lost, which should be none.")
            .width(24)
            .query(
                r#"sum by (service, result) (rate(weft_trace_spans_total{host=~"$host"}[$__rate_interval]))"#,
                "{{service}}: {{result}}",
            )
            .only("while traces are sent"),
    ]
}

fn others() -> Vec<Panel> {
    vec![
        Panel::lines("Round trip", Seconds, "Of sealed probes, smoothed.")
            .query(r#"weft_router_peer_round_trip_seconds{host=~"$host"}"#, "{{peer}}"),
        Panel::lines("Bytes to and from", BytesPerSecond, "Sealed datagrams, without UDP and IP headers.")
            .query(r#"rate(weft_router_peer_sent_bytes_total{host=~"$host"}[$__rate_interval])"#, "to {{peer}}")
            .query(r#"rate(weft_router_peer_received_bytes_total{host=~"$host"}[$__rate_interval])"#, "from {{peer}}"),
        Panel::lines(
            "Targets, by state",
            Count,
            "Addresses and names that are dialled for ever; all should be connected.",
        )
        .query(r#"sum by (state) (weft_router_targets{host=~"$host"})"#, "{{state}}"),
        Panel::table(
            "Paths",
            Count,
            "How frames travel to each host that this one is connected with; `none` means they do not.",
        )
        .width(24)
        .query(r#"max by (peer, path) (weft_router_peer_path{host=~"$host"})"#, "{{peer}} {{path}}"),
    ]
}
