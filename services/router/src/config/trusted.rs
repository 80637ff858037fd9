//! Subnets that are trusted with frames that are not sealed.

use std::str::FromStr;

use ipnet::IpNet;
use weft_router_core::trusted::MAX_SUBNETS;

/// Subnets, as they are given: separated by commas or spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedSubnets(pub Vec<IpNet>);

/// Why a list of subnets is none.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSubnets {
    /// A word is no subnet.
    #[error("{0} is no subnet: write it as 10.0.0.0/8 or fd00::/8")]
    NoSubnet(String),
    /// The address is one within the subnet.
    #[error("the subnet {0} has host bits: did you mean {trunc}?", trunc = .0.trunc())]
    HostBits(IpNet),
    /// All addresses.
    #[error("the subnet {0} is every address there is, and nobody can trust that: name those of your hosts")]
    Everything(IpNet),
    /// A list that is too long.
    #[error("there are {0} subnets, and at most {MAX_SUBNETS} may be trusted")]
    TooMany(usize),
}

impl FromStr for TrustedSubnets {
    type Err = InvalidSubnets;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty());
        let subnets = words.map(subnet).collect::<Result<Vec<_>, _>>()?;
        if subnets.len() > MAX_SUBNETS { Err(InvalidSubnets::TooMany(subnets.len())) } else { Ok(Self(subnets)) }
    }
}

fn subnet(word: &str) -> Result<IpNet, InvalidSubnets> {
    let subnet: IpNet = word.parse().map_err(|_| InvalidSubnets::NoSubnet(word.to_owned()))?;
    match () {
        () if subnet.trunc() != subnet => Err(InvalidSubnets::HostBits(subnet)),
        () if subnet.prefix_len() == 0 => Err(InvalidSubnets::Everything(subnet)),
        () => Ok(subnet),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Config;

    #[test]
    fn trusted_subnets_are_subnets() {
        let parse = |text: &str| Config::try_parse_from(["weft-router", "--password", "x", "--trusted-subnets", text]);
        let subnets = |text| parse(text).expect("valid").trusted_subnets.0;
        assert_eq!(subnets(""), []);
        let two = ["10.0.0.0/8", "fd00::/8"].map(|text| text.parse().expect("valid"));
        assert_eq!((subnets("10.0.0.0/8,fd00::/8"), subnets(" 10.0.0.0/8 fd00::/8\n")), (two.to_vec(), two.to_vec()));
        let error = |text: &str| parse(text).expect_err("refused").to_string();
        assert!(error("10.0.0.1/8").contains("did you mean 10.0.0.0/8?"));
        assert!(error("10.0.0.0").contains("10.0.0.0 is no subnet: write it as"));
        assert!(error("10.0.0.0/8,::/0").contains("::/0 is every address"));
        assert!(error(&"10.0.0.0/8,".repeat(65)).contains("at most 64"));
        for text in ["10.0.0.1/8", "host1", "0.0.0.0/0"] {
            assert!(error(text).contains("--trusted-subnets"), "{}", error(text));
        }
    }
}
