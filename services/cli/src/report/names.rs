//! `status dns`, `dns-args`.

use std::{fmt, net::IpAddr};

use serde::Serialize;
use weft_proto::dns::v1 as pb;

use super::{Identity, address, trimmed};

/// All names.
#[derive(Debug, Serialize)]
pub struct Names {
    /// The domain of all names, with its trailing dot.
    pub zone: String,
    /// Names, in order of name, origin and container.
    pub names: Vec<Name>,
}

/// One name of one container.
#[derive(Debug, Serialize)]
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
    /// Set: not answered, because its host cannot be reached.
    pub suspended: bool,
}

/// What `docker run` has to be given so that a container asks weft.
#[derive(Debug, Serialize)]
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
            let note = match (name.suspended, name.unhealthy) {
                (true, _) => " - suspended, its host cannot be reached",
                (false, true) => " - unhealthy",
                (false, false) => "",
            };
            let addresses = if name.addresses.is_empty() { &["-".to_owned()][..] } else { &name.addresses };
            for address in addresses {
                let line = format!("{host:<12} {address:<15} {container:<12} {}{note}", name.origin);
                writeln!(f, "{}", trimmed(&line))?;
            }
        }
        Ok(())
    }
}
