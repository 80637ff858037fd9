//! Where the Docker API is offered.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

/// An address of the Docker API, as in `DOCKER_HOST` and in dockerd's `-H`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApiAddress {
    /// `unix:///absolute/path`.
    Unix(PathBuf),
    /// `tcp://ADDRESS:PORT`.
    Tcp(SocketAddr),
}

/// Why something is no address of the Docker API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidApiAddress {
    /// Neither of the two forms.
    #[error("\"{0}\" is no address of the Docker API: write unix:///absolute/path or tcp://ADDRESS:PORT")]
    Form(String),
    /// A path that depends on who reads it.
    #[error("\"{0}\" is no absolute path: Unix sockets are named as in unix:///run/weft/docker/other.sock")]
    Relative(String),
    /// Something else than an IP address and a port.
    #[error(
        "\"{0}\" is no IP address with a port: write it as tcp://127.0.0.1:{port}, tcp://[::1]:{port} or \
         tcp://localhost:{port}; other names are not looked up",
        port = ApiAddress::PORT
    )]
    Tcp(String),
    /// The same twice.
    #[error("{0} is named twice: name each address of the Docker API once")]
    Twice(ApiAddress),
    /// Nothing, and something.
    #[error("\"off\" is said beside addresses of the Docker API: say either")]
    OffBeside,
}

impl ApiAddress {
    /// The TCP port where none is named.
    pub const PORT: u16 = 12375;

    /// Reads addresses that commas or spaces separate; `off` is none.
    ///
    /// # Errors
    /// If one makes no sense, or is there twice.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, InvalidApiAddress> {
        let words = || text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
        if words().any(|word| word == "off") {
            return if words().count() == 1 { Ok(Vec::new()) } else { Err(InvalidApiAddress::OffBeside) };
        }
        let mut addresses = Vec::new();
        for word in words() {
            let address: Self = word.parse()?;
            if addresses.contains(&address) {
                return Err(InvalidApiAddress::Twice(address));
            }
            addresses.push(address);
        }
        Ok(addresses)
    }

    /// Returns the TCP address, if it is one.
    #[must_use]
    pub const fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(address) => Some(*address),
        }
    }
}

impl FromStr for ApiAddress {
    type Err = InvalidApiAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix://") {
            let absolute = path.starts_with('/') && path.len() > 1;
            return if absolute {
                Ok(Self::Unix(path.into()))
            } else {
                Err(InvalidApiAddress::Relative(path.to_owned()))
            };
        }
        let Some(address) = text.strip_prefix("tcp://") else {
            return Err(InvalidApiAddress::Form(text.to_owned()));
        };
        let named = address.strip_prefix("localhost").filter(|rest| rest.is_empty() || rest.starts_with(':'));
        let numeric = named.map_or_else(|| address.to_owned(), |rest| format!("{}{rest}", Ipv4Addr::LOCALHOST));
        let without_port = || match numeric.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(address) => address.parse().map(IpAddr::V6),
            None => numeric.parse().map(IpAddr::V4),
        };
        let whole = numeric.parse().or_else(|_| without_port().map(|ip| SocketAddr::new(ip, Self::PORT)));
        match whole {
            Ok(socket) if socket.port() != 0 => Ok(Self::Tcp(socket)),
            Ok(_) | Err(_) => Err(InvalidApiAddress::Tcp(address.to_owned())),
        }
    }
}

impl fmt::Display for ApiAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_docker_host() {
        let list = |text: &str| {
            let addresses = ApiAddress::parse_list(text).expect(text);
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (text, is) in [
            ("unix:///run/a.sock", "unix:///run/a.sock"),
            ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1"),
            ("tcp://127.0.0.1", "tcp://127.0.0.1:12375"),
            ("tcp://localhost", "tcp://127.0.0.1:12375"),
            ("tcp://localhost:1", "tcp://127.0.0.1:1"),
            ("tcp://[::1]:1", "tcp://[::1]:1"),
            ("tcp://[::1]", "tcp://[::1]:12375"),
            ("tcp://0.0.0.0:1", "tcp://0.0.0.0:1"),
        ] {
            assert_eq!(list(text), [is]);
        }
        assert_eq!(
            list("tcp://0.0.0.0:1, unix:///a ,tcp://[::1]:2\n"),
            ["tcp://0.0.0.0:1", "unix:///a", "tcp://[::1]:2"]
        );
        assert!(list(" off ").is_empty() && list("").is_empty());
        assert_eq!(list("tcp://127.0.0.1").len(), 1);
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (text, says) in [
            ("127.0.0.1:1", "unix:///absolute/path or tcp://ADDRESS:PORT"),
            ("fd://", "\"fd://\""),
            ("unix://a.sock", "\"a.sock\" is no absolute path"),
            ("unix:///", "absolute"),
            ("tcp://host:1", "\"host:1\" is no IP address"),
            ("tcp://localhostess:1", "\"localhostess:1\""),
            ("tcp://127.0.0.1:0", "\"127.0.0.1:0\""),
            ("tcp://127.0.0.1:65536", "\"127.0.0.1:65536\""),
            ("tcp://", "\"\" is no IP address"),
            ("tcp://::1:a", "\"::1:a\""),
            ("tcp://127.0.0.1,tcp://localhost:12375", "tcp://127.0.0.1:12375 is named twice"),
            ("off tcp://127.0.0.1", "\"off\""),
        ] {
            let error = ApiAddress::parse_list(text).expect_err(text).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
