//! What the operator sets.

use std::{path::PathBuf, str::FromStr};

use clap::Parser;
use ipnet::Ipv4Net;
use weft_ipam_core::{Creation, Settings};
use weft_service::{CommonOptions, Result, UserOptions};

const DEFAULT_RANGE: &str = "10.32.0.0/12";

/// Gives addresses to containers.
#[derive(Debug, Clone, Parser)]
#[command(name = "weft-ipam", version)]
pub struct Config {
    /// Options that all services have.
    #[command(flatten)]
    pub common: CommonOptions,

    /// Who the service is.
    #[command(flatten)]
    pub user: UserOptions,

    /// Range that all containers' addresses come from: a network of at least 4 addresses, the same on all hosts for as
    /// long as the mesh lives.
    #[arg(long = "ipalloc-range", env = "WEFT_IPALLOC_RANGE", value_name = "CIDR", default_value = DEFAULT_RANGE, value_parser = range)]
    pub address_range: Ipv4Net,

    /// Subnet of containers for which none is named; without it, the whole range.
    #[arg(
        long,
        env = "WEFT_IPALLOC_DEFAULT_SUBNET",
        value_name = "CIDR",
        default_value = "",
        hide_default_value = true
    )]
    pub default_subnet: OptionalNet,

    /// How the hosts come to share the range where no host has a share yet: `consensus` (a host without peers takes it
    /// all, others vote), `consensus=<voters>`, `seed=<name or key>,…` (those share it from the beginning), or `observer`
    /// (others decide).
    #[arg(long, env = "WEFT_IPALLOC_INIT", value_name = "HOW", default_value = "consensus", value_parser = creation)]
    pub init: Creation,

    /// Folder of the store. It has to survive restarts: without it the addresses that this host owned are lost to all.
    #[arg(long, env = "WEFT_IPAM_STATE_FOLDER", value_name = "PATH", default_value = "/var/lib/weft/ipam")]
    pub state_folder: PathBuf,
}

/// A network, or none for the empty text that an unset variable leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionalNet(pub Option<Ipv4Net>);

impl FromStr for OptionalNet {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(|net| Self(Some(net))) }
    }
}

/// Reads the range; empty, as an unset variable leaves it, is the default.
fn range(text: &str) -> Result<Ipv4Net, ipnet::AddrParseError> {
    if text.is_empty() { DEFAULT_RANGE.parse() } else { text.parse() }
}

fn creation(text: &str) -> Result<Creation, weft_ipam_core::InvalidCreation> {
    if text.is_empty() { "consensus".parse() } else { text.parse() }
}

/// The settings, checked, without what only the router knows.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) range: Ipv4Net,
    pub(crate) default_subnet: Ipv4Net,
    pub(crate) creation: Creation,
}

impl Config {
    /// Checks the settings against each other.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let range = self.address_range;
        let default_subnet = self.default_subnet.0.unwrap_or(range);
        Settings::check(range, default_subnet)?;
        Ok(Plan { range, default_subnet, creation: self.init.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let config = Config::try_parse_from([&["weft-ipam"], arguments].concat()).map_err(|error| error.to_string())?;
        config.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_and_empty_values_are_the_same() {
        let plan = plan(&["--ipalloc-range", "", "--default-subnet", "", "--init", ""]).expect("valid");
        assert_eq!(plan.range.to_string(), "10.32.0.0/12");
        assert_eq!(plan.default_subnet, plan.range);
        assert_eq!(plan.creation, Creation::Elect { voters: None });
    }

    #[test]
    fn a_bad_value_is_named() {
        let table: [(&[&str], &str); 3] = [
            (&["--ipalloc-range", "10.33.0.0/12"], "did you mean 10.32.0.0/12"),
            (&["--ipalloc-range", "10.32.0.0/31"], "too small"),
            (&["--init", "magic"], "consensus=<voters>"),
        ];
        for (arguments, expected) in table {
            let error = plan(arguments).expect_err("refused");
            assert!(error.contains(expected), "{error}");
        }
    }
}
