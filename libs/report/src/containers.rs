//! `ps`.

use std::fmt;

use serde::Serialize;
use weft_proto::proxy::v1 as pb;
use weft_types::MacAddress;

use super::{Problem, prefix};

/// Attached containers.
#[derive(Debug, Serialize)]
pub struct Containers {
    /// Containers in docker-proxy's order.
    pub containers: Vec<Container>,
}

/// One container.
#[derive(Debug, Serialize)]
pub struct Container {
    /// Its whole id.
    pub id: String,
    /// As `docker ps` shows it.
    pub name: String,
    /// "attached" or "attaching".
    pub state: &'static str,
    /// Ethernet address of its interface; empty while it has none.
    pub mac: String,
    /// Interface addresses.
    pub addresses: Vec<String>,
    /// Its names.
    pub dns_names: Vec<String>,
    /// Why it is not attached, or not as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl Containers {
    /// Takes what docker-proxy says.
    #[must_use]
    pub fn new<'a>(containers: impl Iterator<Item = &'a pb::Container>) -> Self {
        Self { containers: containers.map(Into::into).collect() }
    }
}

impl From<&pb::Container> for Container {
    fn from(container: &pb::Container) -> Self {
        let mac = container.mac.as_ref().and_then(|mac| MacAddress::try_from(mac).ok());
        Self {
            id: container.container_id.clone(),
            name: container.name.clone(),
            state: match container.state() {
                pb::ContainerState::Attached => "attached",
                pb::ContainerState::Unspecified | pb::ContainerState::Attaching => "attaching",
            },
            mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
            addresses: container.addresses.iter().map(prefix).collect(),
            dns_names: container.dns_names.clone(),
            problem: container.problem.as_ref().map(Into::into),
        }
    }
}

impl fmt::Display for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for container in &self.containers {
            let id = container.id.get(..12).unwrap_or(&container.id);
            if container.state == "attached" {
                let words = [id, &container.mac].into_iter().chain(container.addresses.iter().map(String::as_str));
                write!(f, "{}", words.collect::<Vec<_>>().join(" "))?;
            } else {
                write!(f, "{id} attaching")?;
            }
            match &container.problem {
                Some(problem) => writeln!(f, " - {problem}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
