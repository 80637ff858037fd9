//! A container as the engine reports it.

use serde_json::Value;
use weft_types::ContainerId;

use crate::{
    eligibility::Network,
    health,
    json::{self, MalformedBody, Object},
    shim::Marks,
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
        let id: ContainerId = json::text(&reply, "Id").and_then(|id| id.parse().ok()).ok_or(InvalidContainer::Id)?;
        let empty = Object::new();
        let object = |key| json::object(&reply, key).unwrap_or(&empty);
        let owned = |object, key| json::text(object, key).unwrap_or_default().to_owned();
        let (state, config, host_config) = (object("State"), object("Config"), object("HostConfig"));
        let running = json::field(state, "Running").and_then(Value::as_bool).unwrap_or_default();
        let pid = json::field(state, "Pid").and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
        let health = json::object(state, "Health").and_then(|health| json::text(health, "Status"));
        Ok(Self {
            id,
            name: json::text(&reply, "Name").unwrap_or_default().trim_start_matches('/').to_owned(),
            pid: pid.filter(|pid| running && *pid > 0),
            unhealthy: health.is_some_and(health::is_unhealthy),
            waits: Marks::of_config(config).is_some(),
            network: Network::of(Some(host_config)),
            hosts_path: owned(&reply, "HostsPath"),
            hostname: owned(config, "Hostname"),
            domainname: owned(config, "Domainname"),
            extra_hosts: json::texts(json::field(host_config, "ExtraHosts")),
            aliases: aliases(object("NetworkSettings")),
            config: config.clone(),
        })
    }
}

/// Collects the aliases that a container has in its networks.
fn aliases(network_settings: &Object) -> Vec<String> {
    let networks = json::object(network_settings, "Networks").into_iter().flat_map(Object::values);
    networks.filter_map(Value::as_object).flat_map(|network| json::texts(json::field(network, "Aliases"))).collect()
}
