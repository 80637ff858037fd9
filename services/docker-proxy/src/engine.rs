//! The proxy's own questions to the Docker Engine.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use weft_docker_proxy_core::Container;

use crate::relay::{Request as ClientRequest, ResponseHead, exchange};

/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 << 20;

/// How long the engine may take for an answer. One that is busy with hundreds of containers takes seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// The engine, by its socket.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: PathBuf,
    deadline: Duration,
}

/// An answer of the engine.
#[derive(Debug)]
pub struct EngineAnswer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// What runs at the other end.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct EngineVersion {
    /// Of the engine, as in "20.10.24".
    pub version: String,
    /// Of its newest API, as in "1.41".
    pub api_version: String,
}

impl Engine {
    /// Makes the client; nothing is opened yet.
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket, deadline: DEADLINE }
    }

    /// Returns the engine's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Tells whether the engine's socket was removed from where it is bound to: the engine made another one, which a
    /// container that has the old one by a bind never sees.
    #[must_use]
    pub fn socket_is_stale(&self) -> bool {
        fs::metadata(&self.socket).is_ok_and(|socket| socket.nlink() == 0)
    }

    /// Asks what runs there.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn version(&self) -> anyhow::Result<EngineVersion> {
        let answer = self.get("/version").await?;
        serde_json::from_slice(&answer.body).context("the engine's version is not what it should be")
    }

    /// Inspects a container, named by id, start of an id, or name; nothing if there is none.
    ///
    /// # Errors
    /// If the engine does not answer, or not as it should.
    pub async fn container(&self, name: &str) -> anyhow::Result<Option<Container>> {
        let answer = self.get(&format!("/containers/{}/json", encode(name))).await?;
        match answer.status {
            200 => Container::parse(&answer.body).map(Some).context("the engine's reply about a container is odd"),
            404 => Ok(None),
            status => bail!("the engine answered {status} when asked for container {name}"),
        }
    }

    /// Lists all containers: id, and whether it runs.
    ///
    /// # Errors
    /// If the engine does not answer, or not as it should.
    pub async fn containers(&self) -> anyhow::Result<Vec<(String, bool)>> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            id: String,
            #[serde(default)]
            state: String,
        }
        let answer = self.get("/containers/json?all=true").await?;
        if answer.status != 200 {
            bail!("the engine answered {} when asked for its containers", answer.status);
        }
        let listed: Vec<Listed> =
            serde_json::from_slice(&answer.body).context("the engine's list of containers is odd")?;
        let runs = |state: &str| matches!(state, "running" | "paused");
        Ok(listed.into_iter().map(|listed| (listed.id, runs(&listed.state))).collect())
    }

    /// Asks for something below the engine's newest API.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn get(&self, target: &str) -> anyhow::Result<EngineAnswer> {
        self.call(Method::GET, target).await
    }

    /// Stops a container's process at once; one that does not run is fine.
    ///
    /// # Errors
    /// If the engine does not answer, or refuses.
    pub async fn kill(&self, container: &str) -> anyhow::Result<()> {
        let answer = self.call(Method::POST, &format!("/containers/{}/kill", encode(container))).await?;
        match answer.status {
            204 | 404 | 409 => Ok(()),
            status => bail!("the engine answered {status} when asked to stop container {container}"),
        }
    }

    /// Opens the stream of what happens to containers.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn events(&self) -> anyhow::Result<Incoming> {
        let filters = encode(r#"{"type":["container","network"]}"#);
        let response = self.send(Method::GET, &format!("/events?filters={filters}")).await?;
        if response.status() != 200 {
            bail!("the engine answered {} when asked for its events", response.status());
        }
        Ok(response.into_body())
    }

    /// Sends a client's request with this body, and returns the engine's response whole. That takes as long as the client
    /// asked for: stopping a container may mean to wait for it.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub async fn forward(&self, request: &ClientRequest, body: &[u8]) -> anyhow::Result<(ResponseHead, Vec<u8>)> {
        let stream = self.connect().await?;
        exchange(stream, request, body).await.context("the engine did not answer as it should")
    }

    async fn connect(&self) -> anyhow::Result<UnixStream> {
        let connected = self.in_time("took no connection", UnixStream::connect(&self.socket)).await?;
        connected
            .with_context(|| format!("the Docker Engine does not answer on {}: is it running?", self.socket.display()))
    }

    async fn send(&self, method: Method, target: &str) -> anyhow::Result<http::Response<Incoming>> {
        let stream = TokioIo::new(self.connect().await?);
        let (mut sender, connection) =
            http1::handshake(stream).await.context("failed to speak with the Docker Engine")?;
        // Ends with the response's body.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "docker")
            .body(Full::<Bytes>::default())
            .with_context(|| format!("{target} is no request"))?;
        let answer = self.in_time(&format!("did not answer to {target}"), sender.send_request(request)).await?;
        answer.context("the Docker Engine closed the connection before it answered")
    }

    async fn call(&self, method: Method, target: &str) -> anyhow::Result<EngineAnswer> {
        let response = self.send(method, target).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect();
        let body = self
            .in_time(&format!("did not finish its answer to {target}"), body)
            .await?
            .map_err(|error| anyhow::anyhow!("the Docker Engine's answer was cut: {error}"))?;
        Ok(EngineAnswer { status, body: body.to_bytes() })
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
        let engine = Engine { deadline: Duration::from_millis(20), ..Engine::new(socket) };
        let error = format!("{:#}", engine.container("x").await.expect_err("no answer"));
        assert!(error.contains("did not answer to /containers/x/json within"), "{error}");
        assert!(engine.kill("x").await.is_err());
        assert!(engine.events().await.is_err());
    }

    #[test]
    fn names_cannot_leave_their_place_in_a_request() {
        assert_eq!(encode("registry:5000/a/b@sha256:0"), "registry:5000/a/b@sha256:0");
        assert_eq!(encode("a b?c#d\r\n%é"), "a%20b%3Fc%23d%0D%0A%25%C3%A9");
    }
}
