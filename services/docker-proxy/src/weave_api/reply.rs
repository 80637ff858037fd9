//! What is answered.

use http::{HeaderValue, StatusCode, header};
use weft_service::{METRICS_CONTENT_TYPE, http::Answer, http::plain};

/// An answer, before it is HTTP.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn text(text: String) -> Self {
        Self { status: StatusCode::OK, kind: "text/plain; charset=utf-8", text }
    }

    pub(super) fn json(text: String) -> Self {
        Self { kind: "application/json", ..Self::text(text) }
    }

    pub(super) fn metrics(text: String) -> Self {
        Self { kind: METRICS_CONTENT_TYPE, ..Self::text(text) }
    }

    /// Says that it was done, where there is nothing more to say.
    pub(super) fn done() -> Self {
        Self { status: StatusCode::NO_CONTENT, ..Self::text(String::new()) }
    }

    /// Says in one sentence why it was not done.
    pub(super) fn refused(status: StatusCode, reason: &str) -> Self {
        Self { status, ..Self::text(format!("{reason}\n")) }
    }

    /// The same with another status.
    pub(super) fn with(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        let mut answer = plain(reply.status, reply.text);
        if reply.status == StatusCode::NO_CONTENT {
            answer.headers_mut().remove(header::CONTENT_TYPE);
        } else {
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.kind));
        }
        answer
    }
}
