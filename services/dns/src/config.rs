//! Options of the service.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, builder::FalseyValueParser};
use ipnet::Ipv4Net;
use weft_dns_core::{InvalidDomain, Zone};
use weft_service::{CommonOptions, UserOptions};

/// Answers the names of all containers of the mesh.
#[derive(Debug, Clone, Parser)]
#[command(name = "weft-dns", version)]
pub struct Config {
    /// Options that all services have.
    #[command(flatten)]
    pub common: CommonOptions,

    /// Who the service is.
    #[command(flatten)]
    pub user: UserOptions,

    /// Domain of the containers' names. All hosts of a mesh must agree on it.
    #[arg(long, env = "WEFT_DNS_DOMAIN", value_name = "DOMAIN", default_value = "weft.internal")]
    pub domain: String,

    /// How long an answer about a container may be kept, in seconds. A longer time means fewer queries, and that a name
    /// leads to a container longer after its death.
    #[arg(long, env = "WEFT_DNS_TTL", value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub ttl: u32,

    /// Where containers of several hosts have one name, answer with those of this host first, so that most clients stay on
    /// it. Otherwise the load is spread over all.
    #[arg(long, env = "WEFT_DNS_LOCAL_FIRST", value_parser = FalseyValueParser::new())]
    pub local_first: bool,

    /// Where the host's root folder is seen, or as much of it as its file of resolvers needs.
    #[arg(long, env = "WEFT_DNS_HOST_ROOT", value_name = "PATH", default_value = "/")]
    pub host_root: PathBuf,

    /// The host's file that lists the resolvers to which everything outside the domain is forwarded, as the host sees it.
    /// Followed within a second when it changes; while it names none, those before are asked.
    #[arg(long, env = "WEFT_DNS_RESOLV_CONF", value_name = "PATH", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,

    /// Resolvers to forward to instead of those in the file, in order of preference: `address[:port]`, port 53 if none is
    /// given.
    #[arg(long = "upstream", env = "WEFT_DNS_UPSTREAMS", value_name = "ADDRESS", value_delimiter = ',',
          value_parser = parse_upstream)]
    pub upstreams: Vec<SocketAddr>,

    /// The overlay's range of addresses, as all services of the mesh have it: addresses of it are never asked upstream.
    #[arg(long = "ipalloc-range", env = "WEFT_IPALLOC_RANGE", value_name = "CIDR", default_value = "10.32.0.0/12")]
    pub range: Ipv4Net,

    /// Folder for names that were given by hand (`weft dns-add`), which are lost with it when the host starts anew.
    #[arg(long, env = "WEFT_DNS_STATE_FOLDER", value_name = "PATH", default_value = "/var/lib/weft/dns")]
    pub state_folder: PathBuf,

    /// Answer on this address too, beside the one that containers ask: `address:port`. Whoever reaches it may ask.
    #[arg(long, env = "WEFT_DNS_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

impl Config {
    /// Reads the command line and the environment; exits with a message if they make no sense.
    #[must_use]
    pub fn read() -> Self {
        let mut config: Self = weft_service::parse();
        // The DNS libraries log each query at INFO; what names users ask for is nobody's business at that level.
        config.common.log_level = format!("hickory_server=warn,hickory_net=warn,{}", config.common.log_level);
        config
    }

    pub(crate) fn zone(&self) -> Result<Zone, InvalidDomain> {
        Zone::new(&self.domain, self.ttl)
    }
}

fn parse_upstream(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>();
    with_port
        .or_else(|_| text.parse().map(|address| SocketAddr::new(address, 53)))
        .map_err(|_| "not an address as in 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:53".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Config::command().debug_assert();
        let config = Config::try_parse_from(["weft-dns", "--upstream", "192.0.2.1,[2001:db8::1]:54"]).expect("valid");
        assert_eq!(
            config.upstreams,
            ["192.0.2.1:53".parse().expect("valid"), "[2001:db8::1]:54".parse().expect("valid")]
        );
        assert!(Config::try_parse_from(["weft-dns", "--upstream", "example.org"]).is_err());
    }
}
