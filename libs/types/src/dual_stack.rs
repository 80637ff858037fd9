//! The IPv6 twin of every overlay address.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use ipnet::{Ipv4Net, Ipv6Net};

/// The mesh's unique local /48 prefix (RFC 4193), under which every IPv4 address of the overlay has a twin.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UlaPrefix([u8; 6]);

impl UlaPrefix {
    /// Makes the prefix from a 40-bit global id, which should be random (RFC 4193, section 3.2).
    #[must_use]
    pub const fn from_global_id(id: [u8; 5]) -> Self {
        let [a, b, c, d, e] = id;
        Self([0xfd, a, b, c, d, e])
    }

    /// Returns the first 48 bits of every address under the prefix.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Returns the twin of an interface address `a.b.c.d/LL`: `PREFIX:00LL::a.b.c.d/(96+LL)`.
    ///
    /// The subnet id holds the prefix length, so twins of addresses in nested subnets differ, and two addresses share an
    /// IPv6 subnet exactly when they share the IPv4 one. Nothing has to be agreed beyond the prefix.
    #[must_use]
    pub fn twin(self, address: Ipv4Net) -> Ipv6Net {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets[7] = address.prefix_len();
        octets[12..].copy_from_slice(&address.addr().octets());
        Ipv6Net::new_assert(Ipv6Addr::from(octets), 96 + address.prefix_len())
    }
}

impl fmt::Display for UlaPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        write!(f, "{}/48", Ipv6Addr::from(octets))
    }
}

impl fmt::Debug for UlaPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The input is not a unique local /48 prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a unique local prefix as in fd12:3456:789a::/48")]
pub struct InvalidUlaPrefix;

impl TryFrom<&[u8]> for UlaPrefix {
    type Error = InvalidUlaPrefix;

    fn try_from(octets: &[u8]) -> Result<Self, Self::Error> {
        let octets: [u8; 6] = octets.try_into().map_err(|_| InvalidUlaPrefix)?;
        if octets[0] == 0xfd { Ok(Self(octets)) } else { Err(InvalidUlaPrefix) }
    }
}

impl FromStr for UlaPrefix {
    type Err = InvalidUlaPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net: Ipv6Net = text.parse().map_err(|_| InvalidUlaPrefix)?;
        let octets = net.addr().octets();
        if net.prefix_len() != 48 || octets[6..].iter().any(|octet| *octet != 0) {
            return Err(InvalidUlaPrefix);
        }
        Self::try_from(&octets[..6])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_keep_nesting() {
        let ula: UlaPrefix = "fd12:3456:789a::/48".parse().expect("valid");
        let net = |text: &str| text.parse::<Ipv4Net>().expect("valid");
        assert_eq!(ula.twin(net("10.32.0.1/12")).to_string(), "fd12:3456:789a:c::a20:1/108");
        assert!(ula.twin(net("10.32.0.0/12")).trunc().contains(&ula.twin(net("10.47.255.255/12")).addr()));
        assert!(!ula.twin(net("10.32.0.0/12")).trunc().contains(&ula.twin(net("10.32.0.1/24")).addr()));
    }

    #[test]
    fn other_prefixes_are_refused() {
        for text in ["fd12:3456:789a::/64", "2001:db8::/48", "fd12::1/48", "x"] {
            assert!(text.parse::<UlaPrefix>().is_err(), "{text}");
        }
    }
}
