//! What goes through weft to the Docker Engine.

use crate::dashboard::{
    Dashboard,
    Good::{Any, Yes, Zero},
    Panel, Row,
    Unit::{Count, PerSecond, Seconds},
};

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        name: "docker",
        title: "Docker",
        description: "Calls of the Docker API through weft, what weft adds to them, and the containers that it attaches.",
        one_host: false,
        rows: vec![Row { title: "Containers", panels: containers() }, Row { title: "Calls", panels: calls() }],
    }
}

fn containers() -> Vec<Panel> {
    vec![
        Panel::numbers("Engine answers", Count, Yes, "Whether the Docker Engine of each host answers.")
            .width(8)
            .query(r#"max by (host) (weft_docker_proxy_engine_up{host=~"$host"})"#, "{{host}}"),
        Panel::numbers("Not attached", Count, Zero, "Containers that ought to be attached and are not.")
            .width(8)
            .query(r#"sum by (host) (weft_docker_proxy_containers{host=~"$host", state!="attached"})"#, "{{host}}"),
        Panel::numbers("Clients", Count, Any, "Connections of Docker clients that are open.")
            .width(8)
            .query(r#"max by (host) (weft_docker_proxy_clients{host=~"$host"})"#, "{{host}}"),
        Panel::lines("Containers, by state", Count, "`failing`: tried again after a failure, which `weft ps` tells.")
            .width(12)
            .query(r#"sum by (host, state) (weft_docker_proxy_containers{host=~"$host"})"#, "{{host}} {{state}}"),
        Panel::lines(
            "Interfaces",
            Count,
            "Containers with an interface on the overlay; the same number as attached ones.",
        )
        .width(12)
        .query(r#"sum by (host) (weft_router_attachments{host=~"$host"})"#, "{{host}}"),
    ]
}

fn calls() -> Vec<Panel> {
    vec![
        Panel::lines("Calls", PerSecond, "Calls of the Docker API, by what was called.").query(
            r#"sum by (host, call) (rate(weft_docker_proxy_requests_total{host=~"$host"}[$__rate_interval]))"#,
            "{{host}} {{call}}",
        ),
        Panel::lines("Calls, by result", PerSecond, "Classes of HTTP status: 1xx a stream began, 4xx the client erred, 5xx it failed.")
            .query(
                r#"sum by (host, result) (rate(weft_docker_proxy_requests_total{host=~"$host"}[$__rate_interval]))"#,
                "{{host}} {{result}}",
            ),
        Panel::lines("Calls that fail", PerSecond, "Answered with 5xx, by the engine or by weft.").query(
            r#"sum by (host, call) (rate(weft_docker_proxy_requests_total{host=~"$host", result="5xx"}[$__rate_interval]))"#,
            "{{host}} {{call}}",
        ),
        Panel::lines("weft adds to nine of ten calls at most", Seconds, "Beside the time that the engine took; starts wait for the network.")
            .width(12)
            .query(
                r#"histogram_quantile(0.9, sum by (host, call, le) (rate(weft_docker_proxy_added_duration_seconds_bucket{host=~"$host"}[$__rate_interval])))"#,
                "{{host}} {{call}}",
            ),
        Panel::lines("weft adds on average", Seconds, "Beside the time that the engine took; starts wait for the network.")
            .width(12)
            .query(
                r#"sum by (host, call) (rate(weft_docker_proxy_added_duration_seconds_sum{host=~"$host"}[$__rate_interval])) / sum by (host, call) (rate(weft_docker_proxy_added_duration_seconds_count{host=~"$host"}[$__rate_interval]))"#,
                "{{host}} {{call}}",
            ),
    ]
}
