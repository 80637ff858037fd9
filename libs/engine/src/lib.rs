//! Asks the Docker Engine on its Unix socket.

#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// How long the engine may take for an answer. One that is busy with hundreds of containers takes seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client of the engine; each call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    deadline: Duration,
}

/// An answer of the engine.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

impl Client {
    /// Makes the client; nothing is opened yet. The engine has 30 s for each answer.
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket, deadline: DEADLINE }
    }

    /// Gives the engine this time for each answer.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Returns the engine's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If nobody takes it in time.
    pub async fn connect(&self) -> anyhow::Result<UnixStream> {
        let connected = self.in_time("took no connection", UnixStream::connect(&self.socket)).await?;
        connected
            .with_context(|| format!("the Docker Engine does not answer on {}: is it running?", self.socket.display()))
    }

    /// Asks for something below the engine's newest API and returns the whole answer, whatever its status.
    ///
    /// # Errors
    /// If the engine does not answer in time, or more than 64 MiB.
    pub async fn get(&self, target: &str) -> anyhow::Result<Answer> {
        self.call(Method::GET, target, None).await
    }

    /// Has something done, and returns the whole answer as [`get`](Self::get) does.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn call(&self, method: Method, target: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let response = self.send(method, target, body).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect();
        let body = self
            .in_time(&format!("did not finish its answer to {target}"), body)
            .await?
            .map_err(|error| anyhow::anyhow!("the Docker Engine's answer was cut: {error}"))?;
        Ok(Answer { status, body: body.to_bytes() })
    }

    /// Sends a request and returns the answer when it begins: its body may go on without end.
    ///
    /// # Errors
    /// If the engine does not begin to answer in time.
    pub async fn send(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) =
            http1::handshake(stream).await.context("failed to speak with the Docker Engine")?;
        // Ends with the response's body.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(target).header(header::HOST, "docker");
        let request = match body {
            Some(body) => {
                request.header(header::CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body.to_string())))
            }
            None => request.body(Full::default()),
        };
        let request = request.with_context(|| format!("{target} is no request"))?;
        let answer = self.in_time(&format!("did not answer to {target}"), sender.send_request(request)).await?;
        answer.context("the Docker Engine closed the connection before it answered")
    }

    /// Waits for the engine until the deadline; `failed` says what it did not do by then.
    async fn in_time<T>(&self, failed: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
        let late = || format!("the Docker Engine {failed} within {} s", self.deadline.as_secs());
        tokio::time::timeout(self.deadline, future).await.with_context(late)
    }
}

/// Makes a name safe for a path or a query, as the engine's own clients do; slashes and colons of image names stay.
#[must_use]
pub fn encode(name: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_engine_that_hangs_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let socket = folder.path().join("engine.sock");
        // Connections are taken by the kernel; nobody ever reads.
        let _listener = tokio::net::UnixListener::bind(&socket).expect("the socket can be bound");
        let engine = Client::new(socket).with_deadline(Duration::from_millis(20));
        let error = format!("{:#}", engine.get("/x/json").await.expect_err("no answer"));
        assert!(error.contains("did not answer to /x/json within"), "{error}");
        assert!(engine.call(Method::POST, "/x/kill", Some(&Value::Null)).await.is_err());
        assert!(engine.send(Method::GET, "/events", None).await.is_err());
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_request() {
        assert_eq!(encode("registry:5000/a/b@sha256:0"), "registry:5000/a/b@sha256:0");
        assert_eq!(encode("a b?c#d\r\n%é"), "a%20b%3Fc%23d%0D%0A%25%C3%A9");
    }
}
