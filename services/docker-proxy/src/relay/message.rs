//! Whole messages, for the few calls that are looked into.

use serde_json::json;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::head::{RequestHead, ResponseHead};

/// A request whose body was collected.
#[derive(Debug)]
pub struct Request {
    /// Head as it came.
    pub head: RequestHead,
    /// Body, without chunks.
    pub body: Vec<u8>,
    /// How long the engine has taken for it so far.
    pub engine_time: EngineTime,
}

/// Adds up the time that the engine takes for one request.
#[derive(Debug, Default)]
pub struct EngineTime {
    micros: AtomicU64,
}

impl EngineTime {
    /// Adds some.
    pub(super) fn add(&self, time: Duration) {
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Returns the sum.
    #[must_use]
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.micros.load(Relaxed))
    }
}

/// What a client gets for a request that was looked into.
#[derive(Debug)]
pub struct Answer {
    /// Head, with the length of the body.
    pub head: Vec<u8>,
    /// Body.
    pub body: Vec<u8>,
    /// Whether the connection may be used again.
    pub keep_alive: bool,
}

impl Answer {
    /// Returns the status code; 0 if there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        let digits = self.head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or_default()
    }

    /// Passes on what the engine said.
    #[must_use]
    pub fn of_engine(response: &ResponseHead, body: Vec<u8>) -> Self {
        let bodiless = response.status == 204 || response.status == 304;
        let head = if bodiless { response.head.bytes.clone() } else { response.head.with_length(body.len()) };
        Self { head, body, keep_alive: !response.head.has_token("connection", "close") }
    }

    /// Says why something failed, as the engine itself would: a status and one sentence.
    #[must_use]
    pub fn error(status: u16, message: &str) -> Self {
        let reason = match status {
            400 => "Bad Request",
            403 => "Forbidden",
            413 => "Request Entity Too Large",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let body = format!("{}\n", json!({ "message": message })).into_bytes();
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        Self { head: head.into_bytes(), body, keep_alive: true }
    }
}
