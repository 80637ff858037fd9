//! `expose`, `hide`.

use std::fmt;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::{common::v1::IpPrefix, router::v1 as pb};

use super::prefix;

/// Addresses of the host on the overlay, as `expose` or `hide` left them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HostAddresses {
    /// The host has them.
    Exposed(Vec<HostAddress>),
    /// The host had them.
    Removed(Vec<HostAddress>),
}

/// An address of the host on the overlay.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HostAddress {
    /// Interface address of IPv4.
    pub address: String,
    /// Its twin of IPv6; absent where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub twin: Option<String>,
    /// Whether what passes the host between the subnet and elsewhere gets the host's address.
    pub masquerade: bool,
    /// Names that mean it.
    pub names: Vec<String>,
}

impl From<&pb::Exposed> for HostAddress {
    fn from(exposed: &pb::Exposed) -> Self {
        Self {
            address: exposed.address.as_ref().map(prefix).unwrap_or_default(),
            twin: exposed.twin.as_ref().map(prefix),
            masquerade: exposed.masquerade,
            names: exposed.names.clone(),
        }
    }
}

impl HostAddresses {
    /// Takes what the router says that the host has.
    #[must_use]
    pub fn exposed(exposed: &[pb::Exposed]) -> Self {
        Self::Exposed(exposed.iter().map(Into::into).collect())
    }

    /// Takes what the router says that the host had.
    #[must_use]
    pub fn removed(removed: &[pb::Exposed]) -> Self {
        Self::Removed(removed.iter().map(Into::into).collect())
    }
}

impl fmt::Display for HostAddresses {
    /// On one line, without prefix lengths, as scripts expect it; nothing for none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Exposed(addresses) | Self::Removed(addresses)) = self;
        let texts = addresses.iter().flat_map(|address| [Some(&address.address), address.twin.as_ref()]).flatten();
        let hosts: Vec<_> = texts.map(|text| text.split('/').next().unwrap_or(text)).collect();
        if hosts.is_empty() { Ok(()) } else { writeln!(f, "{}", hosts.join(" ")) }
    }
}

/// Reads an interface address.
#[must_use]
pub fn net(prefix: Option<&IpPrefix>) -> Option<IpNet> {
    IpNet::try_from(prefix?).ok()
}
