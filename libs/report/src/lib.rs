//! What the services say of themselves, and why one says nothing: values that serialize to JSON, and display as text.
//!
//! The types are the schema of `--output json`, which [`SCHEMA_VERSION`] counts. Addresses are text as in `10.32.0.1/12`, times are
//! seconds, sizes bytes.

#![forbid(unsafe_code)]

mod connections;
mod containers;
mod exposed;
mod ipam;
mod log_levels;
mod names;
mod overview;
mod peers;
mod published;
mod service_error;
mod weave;
mod whole;

use std::{fmt, net::IpAddr, net::SocketAddr};

pub use connections::{Connection, Connections, Reached, Target, Targets, Way};
pub use containers::{Container, Containers, Floating};
pub use exposed::{HostAddress, HostAddresses, net};
pub use ipam::{Ipam, Pending, Primed, Share, unnamed_owner};
use ipnet::IpNet;
pub use log_levels::{LogLevel, LogLevels};
pub use names::{ChangedNames, Name, Names, ResolverOptions};
pub use overview::{DataPlane, DnsSection, IpamSection, Listener, ProxySection, RouterSection, Section, Status};
pub use peers::{Link, PasswordReload, Peer, Peers};
pub use published::{Backend, ImportedService, ImportedServices, PassedOn, PublishedPort, PublishedPorts};
use schemars::JsonSchema;
use serde::{Serialize, Serializer, ser::SerializeMap};
pub use service_error::ServiceError;
pub use weave::{Answers, WeaveReport, weave_names};
use weft_proto::{client::Service, common::v1 as pb};
use weft_types::PeerName;
pub use whole::Whole;

/// Version of the form of all objects. It is raised where a field is renamed or removed, or means something else; not where one is
/// added, or a word that a field may have.
pub const SCHEMA_VERSION: u32 = 1;

/// Why something is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// A stable word that programs may compare, as in "wrong_password".
    pub reason: String,
    /// One sentence that names the thing, the reason and the remedy.
    pub message: String,
    /// How long it has been so, in seconds; absent where nobody knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
}

impl From<&pb::Problem> for Problem {
    fn from(problem: &pb::Problem) -> Self {
        Self {
            reason: problem.reason.clone(),
            message: problem.message.clone(),
            age_seconds: Some(problem.age_seconds),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.age_seconds {
            Some(age) => write!(f, " (for {})", span(age)),
            None => Ok(()),
        }
    }
}

/// A peer as people know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Identity {
    /// Whole key in hexadecimal.
    pub key: String,
    /// Printed form of the name.
    pub name: String,
    /// Name of the host.
    pub nickname: String,
}

impl Identity {
    fn new(peer: Option<&pb::PeerName>, name: &str, nickname: &str) -> Self {
        let peer = peer.and_then(|peer| PeerName::try_from(peer).ok());
        let name =
            if name.is_empty() { peer.map(|peer| peer.to_string()).unwrap_or_default() } else { name.to_owned() };
        Self { key: peer.map(|peer| peer.to_hex()).unwrap_or_default(), name, nickname: nickname.to_owned() }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}({})", self.name, self.nickname))
    }
}

/// Words, one a line.
#[derive(Debug, PartialEq, Eq)]
pub struct Lines {
    key: &'static str,
    words: Vec<String>,
}

/// Words on one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Words(Lines);

/// What was changed; in text that is no news.
#[derive(Debug, PartialEq, Eq)]
pub struct Changed(Lines);

impl Lines {
    /// Takes the words; `key` is their name in JSON.
    #[must_use]
    pub fn new(key: &'static str, words: Vec<String>) -> Self {
        Self { key, words }
    }
}

impl Words {
    /// Takes the words; `key` is their name in JSON.
    #[must_use]
    pub fn new(key: &'static str, words: Vec<String>) -> Self {
        Self(Lines::new(key, words))
    }
}

impl Changed {
    /// Takes the words; `key` is their name in JSON.
    #[must_use]
    pub fn new(key: &'static str, words: Vec<String>) -> Self {
        Self(Lines::new(key, words))
    }
}

impl Serialize for Lines {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.key, &self.words)?;
        map.end()
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Serialize for Changed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.words.iter().try_for_each(|word| writeln!(f, "{word}"))
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.0.words.join(" "))
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// The versions of the command and the services.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Versions {
    /// The command's.
    pub weft: String,
    /// The services', in the order in which they start.
    pub services: Vec<ServiceVersion>,
}

/// The version of one service.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ServiceVersion {
    /// Its name.
    pub service: &'static str,
    /// Its version; absent if it cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it cannot be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Versions {
    /// Takes the version of each service, or why it does not say it.
    #[must_use]
    pub fn new(services: [(Service, Result<String, String>); 4]) -> Self {
        let services = services.map(|(service, version)| {
            let (version, problem) = version.map_or_else(|why| (None, Some(why)), |version| (Some(version), None));
            ServiceVersion { service: service.name(), version, problem }
        });
        Self { weft: env!("CARGO_PKG_VERSION").to_owned(), services: services.into() }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12} {}", "weft", self.weft)?;
        for service in &self.services {
            let text = service.version.as_ref().or(service.problem.as_ref()).map_or("", String::as_str);
            writeln!(f, "{:<12} {text}", service.service)?;
        }
        Ok(())
    }
}

/// Writes an address; what is none is shown as a question mark.
#[must_use]
pub fn address(address: &pb::IpAddress) -> String {
    IpAddr::try_from(address).map_or_else(|_| "?".to_owned(), |address| address.to_string())
}

/// Writes an address with its prefix length.
#[must_use]
pub fn prefix(prefix: &pb::IpPrefix) -> String {
    IpNet::try_from(prefix).map_or_else(|_| "?".to_owned(), |net| net.to_string())
}

/// Writes an address with its port.
fn endpoint(endpoint: &pb::Endpoint) -> String {
    SocketAddr::try_from(endpoint).map_or_else(|_| "?".to_owned(), |endpoint| endpoint.to_string())
}

/// Writes a time in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// Writes a size with a binary unit.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Shown with one digit after the point, in integers so that nothing rounds up past the unit.
    let power = (bytes.ilog2() / 10).min(6);
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS.get(power as usize - 1).copied().unwrap_or("EiB"))
}

/// Removes blanks at the end of a padded line.
fn trimmed(line: &str) -> &str {
    line.trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        let spans = [0, 59, 61, 3_600, 90_061].map(span);
        assert_eq!(spans, ["0s", "59s", "1m1s", "1h0m", "1d1h"]);
        let sizes = [0, 1023, 1024, 1536, 1 << 30, u64::MAX].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 GiB", "15.9 EiB"]);
    }
}

#[cfg(test)]
mod golden;
