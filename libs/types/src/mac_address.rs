//! Ethernet addresses.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use sha2::{Digest, Sha256};

use crate::ContainerId;

/// An Ethernet address (IEEE 802-2014, section 8.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address of every station on the segment.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Wraps six octets.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// Derives the address of a container's `ethwe` from the container's id.
    ///
    /// The same container has the same address after each restart, so that neighbours' caches stay right. Locally
    /// administered and unicast; 46 bits come from SHA-256.
    #[must_use]
    pub fn of_container(container: &ContainerId) -> Self {
        let digest = Sha256::digest(format!("weft ethwe {container}"));
        let mut octets = [0; 6];
        octets.copy_from_slice(&digest[..6]);
        octets[0] = (octets[0] & 0xfc) | 0x02;
        Self(octets)
    }

    /// Returns the six octets in the order of transmission.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Tells whether the address names a group of stations (broadcast included).
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Returns the link-local IPv6 address that follows from it (RFC 4291, appendix A).
    #[must_use]
    pub const fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from_bits(u128::from_be_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The input is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an Ethernet address has six octets, as in 02:00:5e:10:00:01")]
pub struct InvalidMacAddress;

impl TryFrom<&[u8]> for MacAddress {
    type Error = InvalidMacAddress;

    fn try_from(octets: &[u8]) -> Result<Self, Self::Error> {
        octets.try_into().map(Self).map_err(|_| InvalidMacAddress)
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMacAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(InvalidMacAddress)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddress)?;
        }
        if parts.next().is_some() { Err(InvalidMacAddress) } else { Ok(Self(octets)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_the_one_that_kernels_make() {
        let mac = MacAddress::new([0x02, 0x42, 0xac, 0x11, 0x00, 0x02]);
        assert_eq!(mac.link_local().to_string(), "fe80::42:acff:fe11:2");
    }

    #[test]
    fn text_form_round_trips() {
        let mac = MacAddress::new([2, 0, 0x5e, 0x10, 0, 1]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        assert!("2:0:5e:10:0:1".parse::<MacAddress>().is_err());
        assert!("02:00:5e:10:00:01:02".parse::<MacAddress>().is_err());
    }

    #[test]
    fn a_containers_address_is_local_unicast_and_stable() {
        let container: ContainerId = "0123456789abcdef".parse().expect("valid");
        let mac = MacAddress::of_container(&container);
        assert_eq!(mac, MacAddress::of_container(&container));
        assert!(!mac.is_multicast());
        assert_eq!(mac.octets()[0] & 0x02, 0x02);
    }
}
