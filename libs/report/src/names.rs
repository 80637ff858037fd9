//! `status dns`, `dns-args`, `dns-add`, `dns-remove`.

use std::{fmt, net::IpAddr};

use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::{common::v1::IpAddress, dns::v1 as pb};

use super::{Identity, address, trimmed};

/// All names.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Names {
    /// The domain of all names, with its trailing dot.
    pub zone: String,
    /// Names, in order of name, origin and container.
    pub names: Vec<Name>,
}

/// One name of one container.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Name {
    /// Absolute, with a trailing dot.
    pub name: String,
    /// What it means.
    pub addresses: Vec<String>,
    /// Whose it is.
    pub container: String,
    /// Where the container is.
    pub origin: Identity,
    /// Set: left out while a healthy container has the name.
    pub unhealthy: bool,
    /// Set: not answered, because its host cannot be reached, or because it waits.
    pub suspended: bool,
    /// Set: given by `dns-add`.
    pub by_hand: bool,
    /// Set: its container has not been seen since weft restarted.
    pub waiting: bool,
}

/// What `dns-add` gave, or what `dns-remove` was to take away; in text that is no news.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ChangedNames {
    /// Whose; absent: no container's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Names as dns was asked; with `removed`, none means any.
    pub names: Vec<String>,
    /// Addresses; with `removed`, none means any.
    pub addresses: Vec<String>,
    /// How many pairs of a name and an address were taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<u64>,
}

impl ChangedNames {
    /// Takes what dns was asked to add.
    #[must_use]
    pub fn added(request: &pb::AddNamesRequest) -> Self {
        Self::new(&request.container_id, &request.names, &request.addresses, None)
    }

    /// Takes what dns was asked to remove, and how much that was.
    #[must_use]
    pub fn removed(request: &pb::RemoveNamesRequest, removed: u64) -> Self {
        Self::new(&request.container_id, &request.names, &request.addresses, Some(removed))
    }

    fn new(container: &str, names: &[String], addresses: &[IpAddress], removed: Option<u64>) -> Self {
        let container = (!container.is_empty()).then(|| container.to_owned());
        Self { container, names: names.to_vec(), addresses: addresses.iter().map(address).collect(), removed }
    }
}

impl fmt::Display for ChangedNames {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// What `docker run` has to be given so that a container asks weft.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ResolverOptions {
    /// Value for `--dns`.
    pub dns: String,
    /// Value for `--dns-search`, without a trailing dot, as the proxy gives it.
    pub dns_search: String,
}

impl ResolverOptions {
    /// Takes where containers ask, and the domain of all names.
    #[must_use]
    pub fn new(resolver: IpAddr, zone: &str) -> Self {
        Self { dns: resolver.to_string(), dns_search: zone.trim_end_matches('.').to_owned() }
    }
}

impl fmt::Display for ResolverOptions {
    /// Without a newline, as scripts expect it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--dns={} --dns-search={}", self.dns, self.dns_search)
    }
}

impl Names {
    /// Takes what dns says.
    #[must_use]
    pub fn new(zone: &str, records: &[pb::Record]) -> Self {
        let name = |record: &pb::Record| Name {
            name: record.name.clone(),
            addresses: record.addresses.iter().map(address).collect(),
            container: record.container_id.clone(),
            origin: Identity::new(record.origin.as_ref(), &record.origin_name, &record.origin_nickname),
            unhealthy: record.unhealthy,
            suspended: record.suspended,
            by_hand: record.by_hand,
            waiting: record.waiting,
        };
        let mut names: Vec<_> = records.iter().map(name).collect();
        names.sort_by(|a, b| (&a.name, &a.origin.name, &a.container).cmp(&(&b.name, &b.origin.name, &b.container)));
        Self { zone: zone.to_owned(), names }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = format!(".{}", self.zone);
        for name in &self.names {
            let host = name.name.strip_suffix(&below).unwrap_or(&name.name);
            let container = name.container.get(..12).unwrap_or(&name.container);
            let notes = [
                (name.waiting, "waits for its container"),
                (name.suspended && !name.waiting, "suspended, its host cannot be reached"),
                (name.unhealthy && !name.suspended, "unhealthy"),
                (name.by_hand, "by hand"),
            ];
            let notes: Vec<_> = notes.into_iter().filter(|(applies, _)| *applies).map(|(_, note)| note).collect();
            let note = if notes.is_empty() { String::new() } else { format!(" - {}", notes.join(", ")) };
            let addresses = if name.addresses.is_empty() { &["-".to_owned()][..] } else { &name.addresses };
            for address in addresses {
                let line = format!("{host:<12} {address:<15} {container:<12} {}{note}", name.origin);
                writeln!(f, "{}", trimmed(&line))?;
            }
        }
        Ok(())
    }
}
