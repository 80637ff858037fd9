//! Where something listens that only this host may reach.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// A TCP address of the loopback, or none, which is written `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopbackAddress(Option<SocketAddr>);

/// Why something is no address of the loopback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLoopbackAddress {
    /// Not an IP address with a port.
    #[error("\"{0}\" is no IP address with a port: write it as 127.0.0.1:6784, or say off")]
    Form(String),
    /// Others reach it, too.
    #[error("{0} is not on the loopback: whoever reaches it could change this host, so write 127.0.0.1:{port}, or say off", port = .0.port())]
    Elsewhere(SocketAddr),
}

impl LoopbackAddress {
    /// Returns the address, if there is one.
    #[must_use]
    pub const fn socket(&self) -> Option<SocketAddr> {
        self.0
    }
}

impl FromStr for LoopbackAddress {
    type Err = InvalidLoopbackAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() || text == "off" {
            return Ok(Self(None));
        }
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("{}:{port}", Ipv4Addr::LOCALHOST),
            None => text.to_owned(),
        };
        let address: SocketAddr = numeric.parse().map_err(|_| InvalidLoopbackAddress::Form(text.to_owned()))?;
        if address.port() == 0 {
            return Err(InvalidLoopbackAddress::Form(text.to_owned()));
        }
        if !address.ip().to_canonical().is_loopback() {
            return Err(InvalidLoopbackAddress::Elsewhere(address));
        }
        Ok(Self(Some(address)))
    }
}

impl fmt::Display for LoopbackAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => write!(f, "{address}"),
            None => f.write_str("off"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_is_taken() {
        for (text, is) in [
            ("127.0.0.1:6784", "127.0.0.1:6784"),
            (" 127.9.9.9:1 ", "127.9.9.9:1"),
            ("localhost:80", "127.0.0.1:80"),
            ("[::1]:1", "[::1]:1"),
            ("off", "off"),
            ("", "off"),
        ] {
            assert_eq!(text.parse::<LoopbackAddress>().expect(text).to_string(), is);
        }
        for (text, says) in [
            ("6784", "\"6784\" is no IP address with a port"),
            ("localhost", "\"localhost\""),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("/run/weave.sock", "say off"),
            ("0.0.0.0:6784", "0.0.0.0:6784 is not on the loopback"),
            ("192.0.2.1:7", "write 127.0.0.1:7"),
            ("[::]:6784", "[::]:6784 is not on"),
        ] {
            let error = text.parse::<LoopbackAddress>().expect_err(text).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
