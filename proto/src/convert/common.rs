//! Messages of `weft.common.v1`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_types::{MacAddress, PeerName};

use crate::common::v1 as pb;

/// A message does not say what its field needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// A field that has to be there is not.
    #[error("the field {field} is missing")]
    Missing {
        /// Name of the field in the contract.
        field: &'static str,
    },
    /// A field is there and makes no sense.
    #[error("the field {field} is not valid: {reason}")]
    Invalid {
        /// Name of the field in the contract.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl InvalidMessage {
    /// Says that `field` is missing.
    #[must_use]
    pub const fn missing(field: &'static str) -> Self {
        Self::Missing { field }
    }

    /// Says that `field` is not valid, and why.
    #[must_use]
    pub fn invalid(field: &'static str, reason: impl ToString) -> Self {
        Self::Invalid { field, reason: reason.to_string() }
    }
}

impl From<InvalidMessage> for tonic::Status {
    fn from(error: InvalidMessage) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

impl From<PeerName> for pb::PeerName {
    fn from(name: PeerName) -> Self {
        Self { key: name.as_bytes().to_vec() }
    }
}

impl TryFrom<&pb::PeerName> for PeerName {
    type Error = InvalidMessage;

    fn try_from(name: &pb::PeerName) -> Result<Self, Self::Error> {
        Self::try_from(name.key.as_slice()).map_err(|error| InvalidMessage::invalid("PeerName.key", error))
    }
}

impl From<MacAddress> for pb::MacAddress {
    fn from(mac: MacAddress) -> Self {
        Self { octets: mac.octets().to_vec() }
    }
}

impl TryFrom<&pb::MacAddress> for MacAddress {
    type Error = InvalidMessage;

    fn try_from(mac: &pb::MacAddress) -> Result<Self, Self::Error> {
        Self::try_from(mac.octets.as_slice()).map_err(|error| InvalidMessage::invalid("MacAddress.octets", error))
    }
}

impl From<IpAddr> for pb::IpAddress {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        Self { octets }
    }
}

impl TryFrom<&pb::IpAddress> for IpAddr {
    type Error = InvalidMessage;

    fn try_from(address: &pb::IpAddress) -> Result<Self, Self::Error> {
        let octets = address.octets.as_slice();
        if let Ok(v4) = <[u8; 4]>::try_from(octets) {
            Ok(Ipv4Addr::from(v4).into())
        } else if let Ok(v6) = <[u8; 16]>::try_from(octets) {
            Ok(Ipv6Addr::from(v6).into())
        } else {
            let reason = format!("an IP address has 4 or 16 bytes, not {}", octets.len());
            Err(InvalidMessage::invalid("IpAddress.octets", reason))
        }
    }
}

impl From<IpNet> for pb::IpPrefix {
    fn from(net: IpNet) -> Self {
        Self { address: Some(net.addr().into()), length: net.prefix_len().into() }
    }
}

impl From<Ipv4Net> for pb::IpPrefix {
    fn from(net: Ipv4Net) -> Self {
        IpNet::from(net).into()
    }
}

impl From<Ipv6Net> for pb::IpPrefix {
    fn from(net: Ipv6Net) -> Self {
        IpNet::from(net).into()
    }
}

impl TryFrom<&pb::IpPrefix> for IpNet {
    type Error = InvalidMessage;

    fn try_from(prefix: &pb::IpPrefix) -> Result<Self, Self::Error> {
        let address = prefix.address.as_ref().ok_or(InvalidMessage::missing("IpPrefix.address"))?.try_into()?;
        let invalid = |reason: &dyn ToString| InvalidMessage::invalid("IpPrefix.length", reason.to_string());
        let length = u8::try_from(prefix.length).map_err(|error| invalid(&error))?;
        Self::new(address, length).map_err(|error| invalid(&error))
    }
}

impl TryFrom<&pb::IpPrefix> for Ipv4Net {
    type Error = InvalidMessage;

    fn try_from(prefix: &pb::IpPrefix) -> Result<Self, Self::Error> {
        match IpNet::try_from(prefix)? {
            IpNet::V4(net) => Ok(net),
            IpNet::V6(net) => Err(InvalidMessage::invalid("IpPrefix.address", format!("{net} is not an IPv4 prefix"))),
        }
    }
}

impl From<SocketAddr> for pb::Endpoint {
    fn from(endpoint: SocketAddr) -> Self {
        Self { address: Some(endpoint.ip().into()), port: endpoint.port().into() }
    }
}

impl TryFrom<&pb::Endpoint> for SocketAddr {
    type Error = InvalidMessage;

    fn try_from(endpoint: &pb::Endpoint) -> Result<Self, Self::Error> {
        let address = endpoint.address.as_ref().ok_or(InvalidMessage::missing("Endpoint.address"))?.try_into()?;
        let port = u16::try_from(endpoint.port).map_err(|error| InvalidMessage::invalid("Endpoint.port", error))?;
        Ok(Self::new(address, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_in_both_families() {
        for text in ["10.32.0.1/12", "fd12::1/108"] {
            let net: IpNet = text.parse().expect("valid");
            assert_eq!(IpNet::try_from(&pb::IpPrefix::from(net)), Ok(net));
        }
        for text in ["192.0.2.1:6783", "[2001:db8::1]:6783"] {
            let endpoint: SocketAddr = text.parse().expect("valid");
            assert_eq!(SocketAddr::try_from(&pb::Endpoint::from(endpoint)), Ok(endpoint));
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let address = pb::IpAddress { octets: vec![10, 32, 0] };
        assert!(IpAddr::try_from(&address).is_err());
        let prefix = pb::IpPrefix { address: Some(pb::IpAddress { octets: vec![10, 32, 0, 0] }), length: 33 };
        let error = IpNet::try_from(&prefix).expect_err("a prefix length over 32");
        assert!(error.to_string().starts_with("the field IpPrefix.length is not valid"), "{error}");
    }
}
