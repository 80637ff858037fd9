//! A container as the engine reports it.

use weft_types::ContainerId;

use crate::{
    eligibility::Network,
    json::{self, MalformedBody, Object},
};

/// What weft needs to know of a container, from the engine's reply to `GET /containers/{id}/json`, not restored.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The full id.
    pub id: ContainerId,
    /// The name without its slash.
    pub name: String,
    /// The main process in the host's pid namespace; none unless it runs.
    pub pid: Option<u32>,
    /// Its health check says that it is not healthy.
    pub unhealthy: bool,
    /// It waits for its network: it was created through the proxy.
    pub waits: bool,
    /// The network of its first interface.
    pub network: Network,
    /// Path of its `/etc/hosts` on the host; empty if the engine made none.
    pub hosts_path: String,
    /// Its host name, without the domain.
    pub hostname: String,
    /// The domain of its host name; mostly empty.
    pub domainname: String,
    /// `--add-host` entries as given.
    pub extra_hosts: Vec<String>,
    pub(crate) config: Object,
    pub(crate) aliases: Vec<String>,
}

/// A reply about a container cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidContainer {
    /// It is not a JSON object.
    #[error(transparent)]
    Body(#[from] MalformedBody),
    /// It names no container.
    #[error("the engine's reply has no container id")]
    Id,
}

impl Container {
    /// Reads the engine's reply.
    ///
    /// # Errors
    /// [`InvalidContainer`] if it is not an object with an id; all else may be missing.
    pub fn parse(reply: &[u8]) -> Result<Self, InvalidContainer> {
        let reply = json::parse_object(reply)?;
        let id = json::text(&reply, "Id").and_then(|id| id.parse().ok()).ok_or(InvalidContainer::Id)?;
        Ok(Self {
            id,
            name: String::new(),
            pid: None,
            unhealthy: false,
            waits: false,
            network: Network::of(json::object(&reply, "HostConfig")),
            hosts_path: String::new(),
            hostname: String::new(),
            domainname: String::new(),
            extra_hosts: Vec::new(),
            config: json::object(&reply, "Config").cloned().unwrap_or_default(),
            aliases: Vec::new(),
        })
    }
}
