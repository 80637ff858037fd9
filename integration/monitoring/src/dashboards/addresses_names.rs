//! Who has which addresses, and how names are answered.

use crate::dashboard::{
    Dashboard,
    Good::{Any, Yes, Zero},
    Panel, Row,
    Unit::{Count, PerSecond, Seconds, Share},
};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "addresses-names",
        title: "Addresses and names",
        description: "Who owns which addresses and what waits for one; which names are asked for, and how they are answered.",
        one_host: false,
        rows: vec![
            Row { title: "Addresses", panels: addresses() },
            Row { title: "Names", panels: names() },
            Row { title: "The hosts' resolvers", panels: upstream() },
        ],
    }
}

fn addresses() -> Vec<Panel> {
    vec![
        Panel::numbers("Ring ready", Count, Yes, "Whether each host has a ring to take addresses from.")
            .width(8)
            .query(r#"max by (host) (weft_ipam_ring_state{host=~"$host", state="ready"})"#, "{{host}}"),
        Panel::numbers("Held by containers", Count, Any, "Addresses that containers of each host hold.")
            .width(8)
            .query(r#"max by (host) (weft_ipam_allocated_addresses{host=~"$host"})"#, "{{host}}"),
        Panel::numbers("Owned by hosts out of reach", Count, Zero, "Addresses that nobody gives out until their owners are back.")
            .width(8)
            .query(r#"max by (host) (weft_ipam_ring_unreachable_addresses{host=~"$host"})"#, "{{host}}"),
        Panel::lines("Owned", Count, "Addresses of the ring that each peer owns, as the hosts know it.")
            .query(r#"max by (peer) (weft_ipam_ring_owned_addresses{host=~"$host"})"#, "{{peer}}"),
        Panel::lines("Free", Count, "Addresses that each peer owns and says are free; peers say so again when it has changed much.")
            .query(r#"max by (peer) (weft_ipam_ring_free_addresses{host=~"$host"})"#, "{{peer}}"),
        Panel::lines("Used", Share, "Of the addresses that each peer owns, those that are not free.").query(
            r#"1 - max by (peer) (weft_ipam_ring_free_addresses{host=~"$host"}) / max by (peer) (weft_ipam_ring_owned_addresses{host=~"$host"})"#,
            "{{peer}}",
        ),
        Panel::lines("Requests that wait", Count, "For an address, by what they wait for. None should wait for long.")
            .query(r#"sum by (host, reason) (weft_ipam_pending_requests{host=~"$host"})"#, "{{host}} {{reason}}"),
        Panel::lines("Changes on disk", PerSecond, "How many changes were written; nothing is answered before.").query(
            r#"sum by (host) (rate(weft_ipam_commit_duration_seconds_count{host=~"$host"}[$__rate_interval]))"#,
            "{{host}}",
        ),
        Panel::lines("Nine of ten changes are on disk within", Seconds, "A slow disk delays each container that starts.").query(
            r#"histogram_quantile(0.9, sum by (host, le) (rate(weft_ipam_commit_duration_seconds_bucket{host=~"$host"}[$__rate_interval])))"#,
            "{{host}}",
        ),
    ]
}

fn names() -> Vec<Panel> {
    vec![
        Panel::lines("Queries, by type", PerSecond, "By the type of record that was asked for.").query(
            r#"sum by (host, kind) (rate(weft_dns_queries_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{kind}}",
        ),
        Panel::lines("Queries, by answer", PerSecond, "`empty`: the name has no such record. `servfail`: the host's resolvers failed.")
            .query(
                r#"sum by (host, result) (rate(weft_dns_queries_total{host=~"$host"}[$__rate_interval]))"#,
                "{{host}} {{result}}",
            ),
        Panel::lines(
            "Nine of ten answers take at most",
            Seconds,
            "From weft's memory, far less than a millisecond; from upstream, what the host's resolvers take.",
        )
        .query(
            r#"histogram_quantile(0.9, sum by (host, source, le) (rate(weft_dns_query_duration_seconds_bucket{host=~"$host"}[$__rate_interval])))"#,
            "{{host}} {{source}}",
        ),
        Panel::lines(
            "Containers with names",
            Count,
            "`suspended`: their host cannot be reached, so that they are not answered until it is back.",
        )
        .width(12)
        .query(r#"sum by (host, state) (weft_dns_records{host=~"$host"})"#, "{{host}} {{state}}"),
        Panel::lines("Containers called unhealthy", Count, "By their health check; healthy ones of the same name are answered first.")
            .width(12)
            .query(r#"sum by (host) (weft_dns_unhealthy_records{host=~"$host"})"#, "{{host}}"),
    ]
}

fn upstream() -> Vec<Panel> {
    vec![
        Panel::numbers(
            "Resolvers answer",
            Count,
            Yes,
            "Whether there is a resolver, and the last query for it was answered.",
        )
        .width(12)
        .query(r#"max by (host) (weft_dns_upstream_up{host=~"$host"})"#, "{{host}}"),
        Panel::numbers("Resolvers", Count, Any, "How many resolvers each host has to forward to.")
            .width(12)
            .query(r#"max by (host) (weft_dns_upstreams{host=~"$host"})"#, "{{host}}"),
        Panel::lines(
            "Queries forwarded, by outcome",
            PerSecond,
            "`overload`: too many waited, so the query was refused at once.",
        )
        .width(12)
        .query(
            r#"sum by (host, result) (rate(weft_dns_upstream_queries_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{result}}",
        ),
        Panel::lines("Queries that wait", Count, "For the host's resolvers; at most 512 at a time.")
            .width(12)
            .query(r#"sum by (host) (weft_dns_upstream_queries_in_flight{host=~"$host"})"#, "{{host}}"),
    ]
}
