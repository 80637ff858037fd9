//! Floating addresses.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// Where every host's name server answers its own containers.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 83, 53);

/// Addresses that a container may give itself, beside those that it was given: of several that are allowed one, whoever has it now
/// uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedAddresses(BTreeSet<IpAddr>);

/// The text does not say which addresses are allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAllowedAddresses {
    /// A part of it has no known form.
    #[error("\"{0}\" is no address: write a.b.c.d, a.b.c.d/len or the same of IPv6, with commas between")]
    Form(String),
    /// A range has bits set after its prefix.
    #[error("\"{given}\" is no range of addresses: write {range} for all of it, or {} for the one", .given.addr())]
    HostBits {
        /// What was given.
        given: IpNet,
        /// What it lies in.
        range: IpNet,
    },
    /// There are more than there may be.
    #[error(
        "a container may be allowed {} addresses at most: name fewer, or ranges with longer prefixes",
        AllowedAddresses::MOST
    )]
    TooMany,
    /// One of them cannot be a container's.
    #[error(
        "{0} is an address that no container can have: leave out those of loopback, of multicast, of the name server, and \
         unspecified ones"
    )]
    NoContainers(IpAddr),
}

impl AllowedAddresses {
    /// How many there may be for one container: the kernel keeps each of them.
    pub const MOST: usize = 256;

    /// Takes addresses that are apart.
    ///
    /// # Errors
    /// If one of them can be no container's, or there are too many.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Result<Self, InvalidAllowedAddresses> {
        let mut allowed = BTreeSet::new();
        for address in addresses {
            if !is_possible(address) {
                return Err(InvalidAllowedAddresses::NoContainers(address));
            }
            allowed.insert(address);
            if allowed.len() > Self::MOST {
                return Err(InvalidAllowedAddresses::TooMany);
            }
        }
        Ok(Self(allowed))
    }

    /// Takes what somebody else says, as far as it makes sense.
    pub fn possible(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self(addresses.into_iter().filter(|address| is_possible(*address)).take(Self::MOST).collect())
    }

    /// Lists them, in order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.0.iter().copied()
    }

    /// Tells whether an address is one of them.
    #[must_use]
    pub fn contains(&self, address: &IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Tells whether a container can have an address.
fn is_possible(address: IpAddr) -> bool {
    let other = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    !other && address != RESOLVER && address != Ipv4Addr::BROADCAST
}

impl FromStr for AllowedAddresses {
    type Err = InvalidAllowedAddresses;

    /// Reads addresses and ranges of them with commas or white space between; nothing means none.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut allowed = Vec::new();
        for part in text.split([',', ' ', '\t', '\n']).filter(|part| !part.is_empty()) {
            let form = || InvalidAllowedAddresses::Form(part.chars().take(64).collect());
            let given = match part.parse::<IpAddr>() {
                Ok(address) => address.into(),
                Err(_) => part.parse::<IpNet>().map_err(|_| form())?,
            };
            if given != given.trunc() {
                return Err(InvalidAllowedAddresses::HostBits { given, range: given.trunc() });
            }
            let room = Self::MOST.saturating_sub(allowed.len());
            if given.max_prefix_len() - given.prefix_len() > 8
                || room < 1 << (given.max_prefix_len() - given.prefix_len())
            {
                return Err(InvalidAllowedAddresses::TooMany);
            }
            allowed.extend(all_of(given));
        }
        Self::new(allowed)
    }
}

/// Lists all addresses of a range of at most 256.
fn all_of(range: IpNet) -> impl Iterator<Item = IpAddr> {
    let count = 1u16 << (range.max_prefix_len() - range.prefix_len()).min(8);
    (0..count).map(move |number| match range {
        IpNet::V4(range) => Ipv4Addr::from_bits(range.addr().to_bits() | u32::from(number)).into(),
        IpNet::V6(range) => Ipv6Addr::from_bits(range.addr().to_bits() | u128::from(number)).into(),
    })
}

impl fmt::Display for AllowedAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if number == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AllowedAddresses, String> {
        text.parse().map_err(|error: InvalidAllowedAddresses| error.to_string())
    }

    #[test]
    fn addresses_and_ranges_are_read_and_written() {
        let allowed = read("10.32.0.100, 10.32.1.0/30,fd00::7 10.32.0.100").expect("valid");
        assert_eq!(allowed.to_string(), "10.32.0.100,10.32.1.0,10.32.1.1,10.32.1.2,10.32.1.3,fd00::7");
        assert_eq!(read(&allowed.to_string()), Ok(allowed));
        assert_eq!(read("10.32.1.0/24").expect("valid").iter().count(), AllowedAddresses::MOST);
        assert_eq!(read("fd00::/120").expect("valid").iter().last(), "fd00::ff".parse().ok());
        assert!(read(" ,").expect("valid").is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_remedy() {
        for (text, says) in [
            ("10.32.0.100,db", "\"db\" is no address"),
            ("10.32.0.100/12", "write 10.32.0.0/12 for all of it, or 10.32.0.100 for the one"),
            ("10.32.0.0/23", "256 addresses at most"),
            ("::/0", "256 addresses at most"),
            ("10.32.1.0/24,10.32.2.1", "256 addresses at most"),
            ("169.254.83.48/28", "169.254.83.53 is an address that no container can have"),
            ("0.0.0.0", "no container can have"),
            ("ff02::12", "no container can have"),
            ("255.255.255.255", "no container can have"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn of_what_others_say_only_so_much_is_taken() {
        let said = (0..=u16::MAX).map(|number| IpAddr::from(Ipv4Addr::from_bits(u32::from(number))));
        let allowed = AllowedAddresses::possible(said);
        assert_eq!((allowed.iter().count(), allowed.contains(&Ipv4Addr::UNSPECIFIED.into())), (256, false));
    }
}
