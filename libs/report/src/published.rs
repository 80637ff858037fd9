//! `publish`, `unpublish`, `import`, `unimport`, `status services`.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::router::v1 as pb;

use super::{Problem, address, prefix, trimmed};

/// Ports of the host that lead to containers, as `publish` or `unpublish` left them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublishedPorts {
    /// They lead there.
    Published(Vec<PublishedPort>),
    /// They did.
    Removed(Vec<PublishedPort>),
}

/// All that the host passes on.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PassedOn {
    /// Ports of the host that lead to containers.
    pub published: Vec<PublishedPort>,
    /// Services outside that have names inside.
    pub imported: Vec<ImportedService>,
}

/// Services outside that have names inside, as `import` or `unimport` left them.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportedServices {
    /// They have.
    Imported(Vec<ImportedService>),
    /// They had.
    Removed(Vec<ImportedService>),
}

/// A service outside that has a name inside.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ImportedService {
    /// Its name inside.
    pub name: String,
    /// "tcp" or "udp".
    pub protocol: &'static str,
    /// Its host outside.
    pub host: String,
    /// Its port, inside and outside.
    pub port: u32,
    /// Interface addresses that the name means.
    pub addresses: Vec<String>,
    /// Addresses outside to which they lead now.
    pub targets: Vec<String>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A port of the host that leads to containers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PublishedPort {
    /// "tcp" or "udp".
    pub protocol: &'static str,
    /// The address of the host, if only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port of the host.
    pub port: u32,
    /// Name or address of the containers.
    pub target: String,
    /// The port there.
    pub target_port: u32,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Who gets connections now.
    pub backends: Vec<Backend>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// A container that gets connections.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Backend {
    /// Its address on the overlay.
    pub address: String,
    /// Whom it takes for the client: "client", "host", which publishes the port, or "proxy_protocol", the host with a header that
    /// names the client.
    pub client: &'static str,
}

impl From<&pb::Published> for PublishedPort {
    fn from(published: &pb::Published) -> Self {
        let port = published.host_port.clone().unwrap_or_default();
        let protocol = protocol_name(port.protocol());
        let problems = published.problems.iter().map(|problem| Problem { age_seconds: None, ..problem.into() });
        Self {
            protocol,
            address: port.address.as_ref().map(address),
            port: port.port,
            target: published.target.clone(),
            target_port: published.target_port,
            proxy_protocol: published.proxy_protocol,
            backends: published.backends.iter().map(Into::into).collect(),
            problems: problems.collect(),
        }
    }
}

const fn protocol_name(protocol: pb::Protocol) -> &'static str {
    match protocol {
        pb::Protocol::Udp => "udp",
        pb::Protocol::Unspecified | pb::Protocol::Tcp => "tcp",
    }
}

impl From<&pb::Imported> for ImportedService {
    fn from(imported: &pb::Imported) -> Self {
        let problems = imported.problems.iter().map(|problem| Problem { age_seconds: None, ..problem.into() });
        Self {
            name: imported.name.clone(),
            protocol: protocol_name(imported.protocol()),
            host: imported.host.clone(),
            port: imported.port,
            addresses: imported.addresses.iter().map(prefix).collect(),
            targets: imported.targets.iter().map(address).collect(),
            problems: problems.collect(),
        }
    }
}

impl From<&pb::Backend> for Backend {
    fn from(backend: &pb::Backend) -> Self {
        let client = match backend.client() {
            pb::ClientSeen::Client => "client",
            pb::ClientSeen::ProxyProtocol => "proxy_protocol",
            pb::ClientSeen::Unspecified | pb::ClientSeen::Host => "host",
        };
        Self { address: backend.address.as_ref().map(address).unwrap_or_default(), client }
    }
}

impl PublishedPorts {
    /// Takes what the router says that is published.
    #[must_use]
    pub fn published(published: &[pb::Published]) -> Self {
        Self::Published(published.iter().map(Into::into).collect())
    }

    /// Takes what the router says that was published.
    #[must_use]
    pub fn removed(removed: &[pb::Published]) -> Self {
        Self::Removed(removed.iter().map(Into::into).collect())
    }
}

impl ImportedServices {
    /// Takes what the router says that is imported.
    #[must_use]
    pub fn imported(imported: &[pb::Imported]) -> Self {
        Self::Imported(imported.iter().map(Into::into).collect())
    }

    /// Takes what the router says that was imported.
    #[must_use]
    pub fn removed(removed: &[pb::Imported]) -> Self {
        Self::Removed(removed.iter().map(Into::into).collect())
    }
}

impl PassedOn {
    /// Takes what the router says.
    #[must_use]
    pub fn new(published: &[pb::Published], imported: &[pb::Imported]) -> Self {
        let published = published.iter().map(Into::into).collect();
        Self { published, imported: imported.iter().map(Into::into).collect() }
    }
}

impl fmt::Display for PassedOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.published.iter().try_for_each(|port| write!(f, "{port}"))?;
        self.imported.iter().try_for_each(|service| write!(f, "{service}"))
    }
}

impl fmt::Display for ImportedServices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Imported(services) => services.iter().try_for_each(|service| write!(f, "{service}")),
            Self::Removed(_) => Ok(()),
        }
    }
}

impl fmt::Display for ImportedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = format!("{}:{}/{}", self.name, self.port, self.protocol);
        let to = format!("{}:{}", bracketed(&self.host), self.port);
        let inside: Vec<&str> = self.addresses.iter().map(|net| net.split('/').next().unwrap_or(net)).collect();
        let (inside, targets) = (inside.join(", "), self.targets.join(", "));
        writeln!(f, "{}", trimmed(&format!("{from:<22} {to:<28} {inside} leads to {targets}")))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "    {problem}"))
    }
}

fn bracketed(text: &str) -> String {
    if text.contains(':') { format!("[{text}]") } else { text.to_owned() }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.as_ref().map(|address| bracketed(address) + ":").unwrap_or_default();
        let from = format!("{address}{}/{}", self.port, self.protocol);
        let to = format!("{}:{}", bracketed(&self.target), self.target_port);
        let seen = |backend: &Backend| match backend.client {
            "client" => format!("{} (sees clients)", backend.address),
            "proxy_protocol" => format!("{} (told clients by the PROXY protocol)", backend.address),
            _ => format!("{} (sees this host)", backend.address),
        };
        let backends: Vec<String> = self.backends.iter().map(seen).collect();
        let backends = if backends.is_empty() { "nobody".to_owned() } else { backends.join(", ") };
        writeln!(f, "{}", trimmed(&format!("{from:<22} {to:<28} {backends}")))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "    {problem}"))
    }
}

impl fmt::Display for PublishedPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published(ports) => ports.iter().try_for_each(|port| write!(f, "{port}")),
            // Who took them back knows where they led.
            Self::Removed(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> pb::Published {
        let backend = |text: &str, client: pb::ClientSeen| pb::Backend {
            address: Some(text.parse::<std::net::IpAddr>().expect("valid").into()),
            client: client.into(),
        };
        pb::Published {
            host_port: Some(pb::HostPort { protocol: pb::Protocol::Tcp.into(), address: None, port: 8080 }),
            target: "web".into(),
            target_port: 80,
            proxy_protocol: false,
            backends: vec![backend("10.32.0.1", pb::ClientSeen::Client), backend("10.40.0.1", pb::ClientSeen::Host)],
            problems: Vec::new(),
        }
    }

    #[test]
    fn a_listing_says_whom_containers_take_for_the_client() {
        let text = PublishedPorts::published(&[published()]).to_string();
        assert_eq!(
            text,
            "8080/tcp               web:80                       10.32.0.1 (sees clients), 10.40.0.1 (sees this host)\n"
        );
        let json = serde_json::to_value(PublishedPorts::published(&[published()])).expect("encoded");
        assert_eq!(
            json,
            serde_json::json!({ "published": [{
                "protocol": "tcp", "port": 8080, "target": "web", "target_port": 80, "proxy_protocol": false,
                "backends": [
                    { "address": "10.32.0.1", "client": "client" },
                    { "address": "10.40.0.1", "client": "host" },
                ],
                "problems": [],
            }] })
        );
    }

    #[test]
    fn imported_services_stand_below_ports() {
        let imported = pb::Imported {
            name: "printer".into(),
            protocol: pb::Protocol::Tcp.into(),
            host: "printer.example.org".into(),
            port: 9100,
            addresses: vec!["10.32.0.9/12".parse::<ipnet::IpNet>().expect("valid").into()],
            targets: vec![std::net::IpAddr::from([192, 0, 2, 9]).into()],
            problems: Vec::new(),
        };
        let all = PassedOn::new(&[published()], std::slice::from_ref(&imported));
        let text = all.to_string();
        assert_eq!(
            text.lines().nth(1),
            Some("printer:9100/tcp       printer.example.org:9100     10.32.0.9 leads to 192.0.2.9"),
        );
        let json = serde_json::to_value(all).expect("encoded");
        assert_eq!((&json["published"][0]["port"], &json["imported"][0]["name"]), (&8080.into(), &"printer".into()));
        assert_eq!(ImportedServices::removed(&[imported]).to_string(), "");
    }

    #[test]
    fn what_is_wrong_stands_below() {
        let problem = weft_proto::common::v1::Problem {
            reason: "nobody_to_publish".into(),
            message: "nobody is there".into(),
            age_seconds: 0,
        };
        let port = pb::HostPort {
            protocol: pb::Protocol::Udp.into(),
            address: Some(std::net::IpAddr::from([0; 16]).into()),
            port: 53,
        };
        let published =
            pb::Published { host_port: Some(port), backends: Vec::new(), problems: vec![problem], ..published() };
        let text = PublishedPorts::published(&[published]).to_string();
        assert_eq!(text, "[::]:53/udp            web:80                       nobody\n    nobody is there\n");
    }
}
