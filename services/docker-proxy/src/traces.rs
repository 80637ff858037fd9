//! The spans of clients' calls.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use weft_docker_proxy_core::{Call, Container};
use weft_service::trace::{Kind, Parent, Span, is_on};

use crate::relay::{Answer, Request};

/// For how long the start of a container is taken for a part of its creation, where the client does not say: `docker run` is
/// two calls.
const TOGETHER: Duration = Duration::from_secs(60);

/// Containers that were created and not started yet, of which that is known.
const MOST_CREATED: usize = 256;

/// Begins a trace, or continues the client's, for each call that changes something. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traces {
    created: Arc<Mutex<VecDeque<Created>>>,
}

/// A container that a call created.
#[derive(Debug)]
struct Created {
    container: String,
    call: Parent,
    at: Instant,
}

impl Traces {
    /// Begins the span of a call; of calls that only look there is none.
    pub(crate) fn begin(&self, call: &Call, request: &Request) -> Span {
        let Some(route) = route(call, &request.head.target).filter(|_| is_on()) else { return Span::none() };
        let head = &request.head.head;
        let mut parent = Parent::received(head.values("traceparent"), head.values("tracestate"));
        if let Call::Start { container } = call
            && !parent.is_some()
        {
            parent = self.creation(container);
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

    /// Notes what was answered.
    pub(crate) fn end(&self, span: &Span, call: &Call, answer: &Answer) {
        let parent = span.parent();
        if !parent.is_some() {
            return;
        }
        answered(span, answer.status());
        if let (Call::Create { .. }, Some(container)) = (call, created(answer)) {
            span.set("container.id", container.clone());
            let mut all = self.created.lock().unwrap_or_else(PoisonError::into_inner);
            all.truncate(MOST_CREATED - 1);
            all.push_front(Created { container, call: parent, at: Instant::now() });
        }
    }

    /// Returns the call that created a container just now; once.
    fn creation(&self, container: &str) -> Parent {
        let mut all = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|created| created.at.elapsed() < TOGETHER);
        let place = all.iter().position(|created| created.container == container);
        place.and_then(|place| all.remove(place)).map(|created| created.call).unwrap_or_default()
    }
}

/// Notes the container that a call is about, which the client may have named by id, start of an id, or name.
pub(crate) fn about(span: &Span, container: &Container) {
    if span.parent().is_some() {
        span.set("container.id", container.id.to_string());
        span.set("container.name", container.name.clone());
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

/// Returns the id of the container that was created.
fn created(answer: &Answer) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(rename = "Id")]
        id: String,
    }
    let body: Option<Body> = (answer.status() == 201).then(|| serde_json::from_slice(&answer.body).ok()).flatten();
    body.map(|body| body.id)
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

    #[test]
    fn the_container_that_was_created_is_found_in_the_answer() {
        let answer = |head: &str, body: &str| Answer {
            head: head.as_bytes().to_vec(),
            body: body.as_bytes().to_vec(),
            keep_alive: true,
        };
        let created = |head, body| created(&answer(head, body));
        assert_eq!(created("HTTP/1.1 201 Created\r\n\r\n", r#"{"Id":"ab","Warnings":[]}"#), Some("ab".to_owned()));
        assert_eq!(created("HTTP/1.1 201 Created\r\n\r\n", "{"), None);
        assert_eq!(created("HTTP/1.1 409 Conflict\r\n\r\n", r#"{"Id":"ab"}"#), None);
    }
}
