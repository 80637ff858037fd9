//! `ps`.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::{proxy::v1 as pb, router::v1 as router};
use weft_types::MacAddress;

use super::{Problem, prefix};

/// Attached containers.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Containers {
    /// Containers in docker-proxy's order.
    pub containers: Vec<Container>,
}

/// One container.
#[derive(Debug, Serialize, JsonSchema)]
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
    /// Floating addresses that it may give itself, and ranges of them; absent where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floating_addresses: Option<Vec<String>>,
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

    /// Takes what the router says that containers may give themselves.
    #[must_use]
    pub fn with_floating(mut self, attachments: &[router::Attachment]) -> Self {
        for container in &mut self.containers {
            let attached = attachments.iter().find(|attached| attached.container_id == container.id);
            container.floating_addresses = Some(attached.map(floating).unwrap_or_default());
        }
        self
    }
}

/// Floating addresses of a host's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Floating {
    /// How many addresses are permitted.
    pub addresses: usize,
    /// How many containers may have some of them.
    pub containers: usize,
}

impl Floating {
    /// Takes what the router says that containers may give themselves.
    #[must_use]
    pub fn new(attachments: &[router::Attachment]) -> Self {
        let permitted = attachments.iter().filter(|attached| !attached.allowed.is_empty());
        let addresses: BTreeSet<IpAddr> = permitted.clone().flat_map(allowed).collect();
        Self { addresses: addresses.len(), containers: permitted.count() }
    }
}

impl fmt::Display for Floating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { addresses, containers } = self;
        write!(f, "{addresses} permitted to {containers} container{}", if *containers == 1 { "" } else { "s" })
    }
}

fn allowed(attached: &router::Attachment) -> impl Iterator<Item = IpAddr> {
    attached.allowed.iter().filter_map(|address| IpAddr::try_from(address).ok())
}

/// Writes the addresses that a container may give itself, whole ranges as such.
fn floating(attached: &router::Attachment) -> Vec<String> {
    let each: Vec<IpNet> = allowed(attached).map(IpNet::from).collect();
    let text = |net: &IpNet| {
        if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
    };
    IpNet::aggregate(&each).iter().map(text).collect()
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
            floating_addresses: None,
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
            if let Some(floating) = container.floating_addresses.as_ref().filter(|floating| !floating.is_empty()) {
                write!(f, " floating={}", floating.join(","))?;
            }
            match &container.problem {
                Some(problem) => writeln!(f, " - {problem}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}
