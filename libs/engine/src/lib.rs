//! Asks the Docker Engine on its Unix socket, or by a stream that leads to it.

#![forbid(unsafe_code)]

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
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

/// What requests on a socket name as their host, as those of the engine's own clients do.
const HOST: &str = "docker";

/// How long the engine may take for an answer. One that is busy with hundreds of containers takes seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// A client of the engine; each call has a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    dial: Option<Dial>,
    /// What requests name as their host.
    host: Cow<'static, str>,
    deadline: Duration,
}

/// Opens streams that lead to an engine elsewhere.
#[derive(Clone)]
struct Dial(Arc<dyn Fn() -> io::Result<UnixStream> + Send + Sync>);

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
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
        Self { socket, dial: None, host: Cow::Borrowed(HOST), deadline: DEADLINE }
    }

    /// Makes the client of an engine to which each call of `dial` opens a stream. Sentences have `address` in place of the socket; the
    /// host and port of `tcp://host:port` are those that requests name.
    #[must_use]
    pub fn dialling(address: &str, dial: impl Fn() -> io::Result<UnixStream> + Send + Sync + 'static) -> Self {
        let host = address.strip_prefix("tcp://").map_or(Cow::Borrowed(HOST), |host| Cow::Owned(host.to_owned()));
        Self { socket: address.into(), dial: Some(Dial(Arc::new(dial))), host, deadline: DEADLINE }
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
        let connected = match &self.dial {
            Some(Dial(dial)) => dial(),
            None => self.in_time("took no connection", UnixStream::connect(&self.socket)).await?,
        };
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
        let request = Request::builder().method(method).uri(target).header(header::HOST, &*self.host);
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

    #[tokio::test]
    async fn an_engine_elsewhere_is_asked_by_streams_that_lead_there() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let engine = Client::dialling("tcp://192.0.2.1:2375", || {
            let (near, mut far) = UnixStream::pair()?;
            tokio::spawn(async move {
                let mut request = [0; 256];
                let count = far.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..count]).to_lowercase();
                assert!(request.starts_with("get /info") && request.contains("host: 192.0.2.1:2375\r\n"), "{request}");
                far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await
            });
            Ok(near)
        });
        for _ in 0..2 {
            let answer = engine.get("/info").await.expect("it answers");
            assert_eq!((answer.status, answer.body.as_ref()), (200, b"{}".as_slice()));
        }
        let nobody = Client::dialling("tcp://192.0.2.1:2375", || Err(io::ErrorKind::NotFound.into()));
        let error = format!("{:#}", nobody.get("/info").await.expect_err("no stream"));
        assert!(error.contains("tcp://192.0.2.1:2375"), "{error}");
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_request() {
        assert_eq!(encode("registry:5000/a/b@sha256:0"), "registry:5000/a/b@sha256:0");
        assert_eq!(encode("a b?c#d\r\n%é"), "a%20b%3Fc%23d%0D%0A%25%C3%A9");
    }
}
