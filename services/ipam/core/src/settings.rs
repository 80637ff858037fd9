//! What the operator decides.

use std::str::FromStr;

use ipnet::Ipv4Net;
use weft_types::PeerName;

/// What the operator decided, and who we are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The local peer.
    pub peer: PeerName,
    /// The range of the ring, the same on all hosts.
    pub range: Ipv4Net,
    /// The subnet of containers for which none is named.
    pub default_subnet: Ipv4Net,
    /// How a ring comes to be.
    pub creation: Creation,
}

/// How a ring comes to be where nobody has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creation {
    /// A host without targets makes it, others elect it.
    Elect {
        /// How many peers vote; by default those that the operator listed and the local one.
        voters: Option<u32>,
    },
    /// The peers with these names or keys (64 hexadecimal digits) share it from the beginning.
    Seeds(Vec<String>),
    /// Others make it.
    Observe,
}

/// The text does not say how a ring comes to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--init says how the address ring comes to be: consensus, consensus=<voters>, seed=<name>,<name>… or observer, not {0:?}"
)]
pub struct InvalidCreation(String);

impl FromStr for Creation {
    type Err = InvalidCreation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidCreation(text.to_owned());
        let (mode, argument) = text.split_once('=').map_or((text, None), |(mode, argument)| (mode, Some(argument)));
        match (mode, argument) {
            ("consensus", None) => Ok(Self::Elect { voters: None }),
            ("consensus", Some(count)) => match count.parse() {
                Ok(voters @ 1..=1000) => Ok(Self::Elect { voters: Some(voters) }),
                Ok(_) | Err(_) => Err(invalid()),
            },
            ("seed", Some(list)) => {
                let mut seeds: Vec<String> =
                    list.split([',', ' ']).filter(|seed| !seed.is_empty()).map(Into::into).collect();
                seeds.sort();
                seeds.dedup();
                if seeds.is_empty() { Err(invalid()) } else { Ok(Self::Seeds(seeds)) }
            }
            ("observer", None) => Ok(Self::Observe),
            _ => Err(invalid()),
        }
    }
}

/// The settings contradict themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    /// The range has host bits.
    #[error("the address range {given} is no network: bits after the prefix are not zero; did you mean {network}?")]
    HostBits {
        /// What was given.
        given: Ipv4Net,
        /// The network it lies in.
        network: Ipv4Net,
    },
    /// The range is too small to be of use.
    #[error("the address range {0} is too small: it needs at least 4 addresses, so a prefix length of 30 or less")]
    TooSmall(Ipv4Net),
    /// The default subnet has nothing to do with the range.
    #[error("the default subnet {subnet} lies outside the address range {range}: choose a part of the range")]
    SubnetOutside {
        /// The default subnet.
        subnet: Ipv4Net,
        /// The range.
        range: Ipv4Net,
    },
}

impl Settings {
    /// Checks that `range` can be a ring's range and has a place for `default_subnet`.
    ///
    /// # Errors
    /// [`InvalidRange`] says what is wrong with them.
    pub fn check(range: Ipv4Net, default_subnet: Ipv4Net) -> Result<(), InvalidRange> {
        for net in [range, default_subnet] {
            if net.addr() != net.network() {
                return Err(InvalidRange::HostBits { given: net, network: net.trunc() });
            }
            if net.prefix_len() > 30 {
                return Err(InvalidRange::TooSmall(net));
            }
        }
        if range.contains(&default_subnet) || default_subnet.contains(&range) {
            Ok(())
        } else {
            Err(InvalidRange::SubnetOutside { subnet: default_subnet, range })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_make_a_ring_are_parsed() {
        let seeds = |names: &[&str]| Creation::Seeds(names.iter().map(|name| (*name).to_owned()).collect());
        let table = [
            ("consensus", Some(Creation::Elect { voters: None })),
            ("consensus=3", Some(Creation::Elect { voters: Some(3) })),
            ("seed=b,a,b", Some(seeds(&["a", "b"]))),
            ("observer", Some(Creation::Observe)),
            ("consensus=0", None),
            ("consensus=x", None),
            ("seed", None),
            ("seed=", None),
            ("observer=1", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Creation>().ok(), expected, "{text}");
        }
    }

    #[test]
    fn ranges_are_checked() {
        let check = |range: &str, subnet: &str| {
            Settings::check(range.parse().expect("valid"), subnet.parse().expect("valid"))
                .map_err(|error| error.to_string())
        };
        assert_eq!(check("10.32.0.0/12", "10.32.1.0/24"), Ok(()));
        assert_eq!(check("10.32.0.0/12", "10.0.0.0/8"), Ok(()));
        assert!(check("10.33.0.0/12", "10.32.0.0/12").is_err_and(|text| text.contains("did you mean 10.32.0.0/12")));
        assert!(check("10.32.0.0/31", "10.32.0.0/31").is_err_and(|text| text.contains("at least 4")));
        assert!(check("10.32.0.0/12", "10.48.0.0/12").is_err_and(|text| text.contains("outside")));
    }
}
