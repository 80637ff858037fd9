//! The proxy's own questions to the Docker Engine.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use http::Method;
use hyper::body::Incoming;
use weft_docker_proxy_core::Container;
use weft_engine::{Answer, Client, encode};

use crate::relay::{Request as ClientRequest, ResponseHead, exchange};

/// The engine, by its socket.
#[derive(Debug, Clone)]
pub struct Engine(Client);

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
        Self(Client::new(socket))
    }

    /// Returns the engine's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.0.socket()
    }

    /// Tells whether the engine's socket was removed from where it is bound to: the engine made another one, which a
    /// container that has the old one by a bind never sees.
    #[must_use]
    pub fn socket_is_stale(&self) -> bool {
        fs::metadata(self.0.socket()).is_ok_and(|socket| socket.nlink() == 0)
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
    pub async fn get(&self, target: &str) -> anyhow::Result<Answer> {
        self.0.get(target).await
    }

    /// Stops a container's process at once; one that does not run is fine.
    ///
    /// # Errors
    /// If the engine does not answer, or refuses.
    pub async fn kill(&self, container: &str) -> anyhow::Result<()> {
        let answer = self.0.call(Method::POST, &format!("/containers/{}/kill", encode(container)), None).await?;
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
        let response = self.0.send(Method::GET, &format!("/events?filters={filters}"), None).await?;
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
        let stream = self.0.connect().await?;
        exchange(stream, request, body).await.context("the engine did not answer as it should")
    }
}
