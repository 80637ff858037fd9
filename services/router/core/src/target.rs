//! Targets: the peers that the operator names, and how often they are tried.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

mod backoff;
pub(crate) mod dialler;

/// Longest host name, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST_LENGTH: usize = 253;

/// Where to dial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DialAddress {
    /// An address and a port.
    Endpoint(SocketAddr),
    /// A name to be resolved at each try, all of its addresses to be tried, and a port.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for DialAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(endpoint) => endpoint.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A peer's address or name, as the operator gave it. Equal by that text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    text: String,
    host: Host,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Address(IpAddr),
    Name(String),
}

/// The text names no peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no peer: {reason}; give host, host:port, an IPv4 address, an IPv6 address, or [IPv6]:port")]
pub struct InvalidTarget {
    text: String,
    reason: &'static str,
}

impl Target {
    /// Returns the text it was given as.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns where to dial, with `default_port` where the text names none.
    #[must_use]
    pub fn address(&self, default_port: u16) -> DialAddress {
        let port = self.port.unwrap_or(default_port);
        match &self.host {
            Host::Address(address) => DialAddress::Endpoint(SocketAddr::new(*address, port)),
            Host::Name(host) => DialAddress::Name { host: host.clone(), port },
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let text = given.trim();
        let invalid = |reason| InvalidTarget { text: text.chars().take(MAX_HOST_LENGTH).collect(), reason };
        let (host, port) = if let Ok(address) = text.parse::<Ipv6Addr>() {
            (Host::Address(address.into()), None)
        } else if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(|| invalid("the closing bracket is missing"))?;
            let address = address.parse::<Ipv6Addr>().map_err(|_| invalid("the brackets hold no IPv6 address"))?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(|| invalid("a colon follows the bracket"))?),
            };
            (Host::Address(address.into()), port)
        } else {
            match text.split_once(':') {
                Some((host, port)) => (parse_host(host).map_err(invalid)?, Some(port)),
                None => (parse_host(text).map_err(invalid)?, None),
            }
        };
        let port = match port {
            None => None,
            Some(digits) => match digits.parse::<u16>() {
                Ok(port) if port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(port),
                Ok(_) | Err(_) => return Err(invalid("a port is a number from 1 to 65535")),
            },
        };
        Ok(Self { text: text.to_owned(), host, port })
    }
}

fn parse_host(text: &str) -> Result<Host, &'static str> {
    if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    if text.is_empty() {
        return Err("the host is missing");
    }
    if text.len() > MAX_HOST_LENGTH {
        return Err("a host name has at most 253 characters");
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if !name.split('.').all(label_is_valid) {
        return Err("a host name consists of letters, digits, '-', '_' and single dots");
    }
    if name.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("it looks like an IPv4 address and is none");
    }
    Ok(Host::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        let endpoint = |text: &str| DialAddress::Endpoint(text.parse().expect("an endpoint"));
        let name = |host: &str, port| DialAddress::Name { host: host.to_owned(), port };
        for (text, expected) in [
            ("192.0.2.7", endpoint("192.0.2.7:6783")),
            ("192.0.2.7:99", endpoint("192.0.2.7:99")),
            ("2001:db8::7", endpoint("[2001:db8::7]:6783")),
            ("[2001:db8::7]", endpoint("[2001:db8::7]:6783")),
            ("[2001:db8::7]:99", endpoint("[2001:db8::7]:99")),
            ("host1", name("host1", 6783)),
            ("host1:99", name("host1", 99)),
            (" db-1.example.org. ", name("db-1.example.org.", 6783)),
        ] {
            let target: Target = text.parse().expect(text);
            assert_eq!(target.address(6783), expected, "{text}");
            assert_eq!(target.text(), text.trim());
        }
    }

    #[test]
    fn what_names_no_peer_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "the host is missing"),
            (":6783", "the host is missing"),
            ("host:", "a port is"),
            ("host:0", "a port is"),
            ("host:+1", "a port is"),
            ("host:65536", "a port is"),
            ("a:b:c", "a port is"),
            ("[::1", "bracket is missing"),
            ("[host]:1", "no IPv6 address"),
            ("[::1]1", "a colon follows"),
            ("300.1.1.1", "looks like an IPv4"),
            ("a b", "consists of letters"),
            ("-a", "consists of letters"),
            ("a..b", "consists of letters"),
        ] {
            let error = text.parse::<Target>().expect_err(text);
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }
}
