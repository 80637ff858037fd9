//! The spans of clients' calls.

use weft_docker_proxy_core::Call;
use weft_service::trace::{Kind, Parent, Span, is_on};
use weft_types::ContainerId;

use crate::relay::Request;

/// Begins a trace, or continues the client's, for a call that changes something; of calls that only look there is none.
/// Where the client does not say, a start is part of the call that `created` the container.
pub(crate) fn begin(call: &Call, request: &Request, created: Option<&Parent>) -> Span {
    let Some(route) = route(call, &request.head.target).filter(|_| is_on()) else { return Span::none() };
    let head = &request.head.head;
    let mut parent = Parent::received(head.values("traceparent"), head.values("tracestate"));
    if let Some(created) = created.filter(|_| !parent.is_some()) {
        parent = created.clone();
    }
    let method = &request.head.method;
    let span = Span::begin(Kind::Server, format!("{method} {route}"), &parent);
    span.set("http.request.method", method.clone());
    span.set("http.route", route);
    span.set("url.path", path(&request.head.target).to_owned());
    if let Call::Create { name: Some(name) } = call {
        span.set("container.name", name.clone());
    }
    span
}

/// Notes the container that a call is about, which the client may have named by id, start of an id, or name; and its name,
/// unless that is not known and empty.
pub(crate) fn about(span: &Span, container: &ContainerId, name: &str) {
    if span.parent().is_some() {
        span.set("container.id", container.to_string());
        if !name.is_empty() {
            span.set("container.name", name.to_owned());
        }
    }
}

/// Begins the span of a call that is passed on to the engine, as part of the client's.
pub(crate) fn passed_on(request: &Request, socket: &std::path::Path) -> Span {
    let span = Span::part(Kind::Client, request.head.method.clone());
    if span.parent().is_some() {
        span.set("http.request.method", request.head.method.clone());
        span.set("url.path", path(&request.head.target).to_owned());
        span.set("server.address", socket.display().to_string());
    }
    span
}

/// Notes an HTTP status.
pub(crate) fn answered(span: &Span, status: u16) {
    span.set("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.set("error.type", status.to_string());
        span.fail("");
    }
}

fn path(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}

/// Returns what calls of one kind have in common.
fn route(call: &Call, target: &str) -> Option<&'static str> {
    match call {
        Call::Create { .. } => Some("/containers/create"),
        Call::Start { .. } => Some("/containers/{id}/start"),
        Call::Restart { .. } => Some("/containers/{id}/restart"),
        Call::Control { .. } => Some(match path(target).rsplit('/').next() {
            Some("stop") => "/containers/{id}/stop",
            Some("kill") => "/containers/{id}/kill",
            Some("pause") => "/containers/{id}/pause",
            Some(_) | None => "/containers/{id}",
        }),
        Call::Exec { .. } => Some("/containers/{id}/exec"),
        Call::Commit { .. } => Some("/commit"),
        Call::Inspect { .. } | Call::List | Call::Top | Call::DiskUsage | Call::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use weft_docker_proxy_core::route::classify;

    use super::*;

    #[test]
    fn calls_that_change_something_have_a_route_without_names() {
        for (method, target, expected) in [
            (Method::POST, "/v1.51/containers/create?name=db", Some("/containers/create")),
            (Method::POST, "/containers/stop/start", Some("/containers/{id}/start")),
            (Method::POST, "/v1.51/containers/db/stop?t=1", Some("/containers/{id}/stop")),
            (Method::DELETE, "/containers/db?force=1", Some("/containers/{id}")),
            (Method::POST, "/containers/db/exec", Some("/containers/{id}/exec")),
            (Method::POST, "/commit?container=db", Some("/commit")),
            (Method::GET, "/containers/db/json", None),
            (Method::GET, "/events", None),
        ] {
            assert_eq!(route(&classify(&method, target), target), expected, "{method} {target}");
        }
    }
}
