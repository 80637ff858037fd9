//! Options of the service.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::builder::FalseyValueParser;
use weft_docker_proxy_core::{create, eligibility::Policy, hostname::HostnameRule};
use weft_service::CommonOptions;
use weft_types::LoopbackAddress;

use crate::{intercept, listener};

/// Attaches containers by relaying the Docker API.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "weft-docker-proxy", version)]
pub struct Config {
    /// Options that all services have.
    #[command(flatten)]
    pub common: CommonOptions,

    /// The engine's own Unix socket.
    #[arg(long, env = "WEFT_DOCKER_PROXY_ENGINE_SOCKET", value_name = "PATH", default_value = "/var/run/docker.sock")]
    pub engine_socket: PathBuf,

    /// Path of the engine's socket on the host, for sentences that name it; default: --engine-socket.
    #[arg(long, env = "WEFT_ENGINE_SOCKET", value_name = "PATH")]
    pub engine_socket_on_host: Option<PathBuf>,

    /// Where and how the Docker API is offered.
    #[command(flatten)]
    pub listen: listener::options::Options,

    /// Where Weave Net's HTTP API is offered to scripts, on the loopback: it changes this host's mesh, names and addresses for whoever
    /// reaches it. `off`: nowhere.
    #[arg(long, env = "WEFT_HTTP_ADDR", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6784")]
    pub http_addr: LoopbackAddress,

    /// How long a start may wait for the container's network, in seconds, at most 12; then the container is stopped, and
    /// the client is told why. The program that waits inside the container gives up after 15.
    #[arg(long, env = "WEFT_DOCKER_PROXY_ATTACH_TIMEOUT", value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=12))]
    pub attach_timeout: u64,

    /// Folder on the host, at the same path here, where the program that containers wait in is kept.
    #[arg(long, env = "WEFT_DOCKER_PROXY_SHIM_FOLDER", value_name = "PATH", default_value = "/var/lib/weft/shim")]
    pub shim_folder: PathBuf,

    /// Folder for what `weft attach` was told of containers.
    #[arg(
        long,
        env = "WEFT_DOCKER_PROXY_STATE_FOLDER",
        value_name = "PATH",
        default_value = "/var/lib/weft/docker-proxy"
    )]
    pub state_folder: PathBuf,

    /// Zone of the containers' names.
    #[arg(long, env = "WEFT_DNS_DOMAIN", value_name = "DOMAIN", default_value = "weft.internal")]
    pub dns_domain: String,

    /// Leave the resolvers and host names of containers as the user wants them; names are registered all the same.
    #[arg(long, env = "WEFT_DOCKER_PROXY_WITHOUT_DNS", value_parser = FalseyValueParser::new())]
    pub without_dns: bool,

    /// Do not route multicast to the overlay inside containers.
    #[arg(long, env = "WEFT_DOCKER_PROXY_NO_MULTICAST_ROUTE", value_parser = FalseyValueParser::new())]
    pub no_multicast_route: bool,

    /// Leave the containers' /etc/hosts as the engine wrote them.
    #[arg(long, env = "WEFT_DOCKER_PROXY_NO_REWRITE_HOSTS", value_parser = FalseyValueParser::new())]
    pub no_rewrite_hosts: bool,

    /// Attach only containers that ask for an address, by WEFT_CIDR, WEAVE_CIDR or the label weft.cidr; an empty value asks
    /// for one of the default subnet.
    #[arg(long, env = "WEFT_DOCKER_PROXY_NO_DEFAULT_IPALLOC", value_parser = FalseyValueParser::new())]
    pub no_default_ipalloc: bool,

    /// Show the address in the overlay where a container is inspected, instead of the one in Docker's default network.
    #[arg(long, env = "WEFT_DOCKER_PROXY_REWRITE_INSPECT", value_parser = FalseyValueParser::new())]
    pub rewrite_inspect: bool,

    /// Make the host name of containers that were given none from the value of this label; where it is missing, and without
    /// this option, from the container's name.
    #[arg(long, env = "WEFT_DOCKER_PROXY_HOSTNAME_FROM_LABEL", value_name = "LABEL")]
    pub hostname_from_label: Option<String>,

    /// What to replace in a host name that is made: a regular expression. What does not match stays as it is.
    #[arg(long, env = "WEFT_DOCKER_PROXY_HOSTNAME_MATCH", value_name = "EXPRESSION", default_value = "(.*)")]
    pub hostname_match: String,

    /// What comes instead of each match, where $1 is what the first parentheses matched. Empty, with the default expression:
    /// host names are left to the engine.
    #[arg(long, env = "WEFT_DOCKER_PROXY_HOSTNAME_REPLACEMENT", value_name = "TEXT", default_value = "$1")]
    pub hostname_replacement: String,
}

/// Where dns answers the containers: the same on each host.
pub(crate) const DNS_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(169, 254, 83, 53);

impl Config {
    /// Returns how long a start may wait for the network.
    #[must_use]
    pub fn attach_deadline(&self) -> Duration {
        Duration::from_secs(self.attach_timeout)
    }

    /// Returns the zone without a dot at its end.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.dns_domain.trim_end_matches('.')
    }

    /// Returns the path by which people know the engine's socket.
    #[must_use]
    pub fn engine_socket_name(&self) -> String {
        self.engine_socket_on_host.as_ref().unwrap_or(&self.engine_socket).display().to_string()
    }

    /// Returns what holds for all containers that are created and shown.
    ///
    /// # Errors
    /// If --hostname-match is no regular expression.
    pub fn intercept_options(&self, shim: &std::path::Path) -> anyhow::Result<intercept::Options> {
        let hostname = HostnameRule::new(
            self.hostname_from_label.clone().filter(|label| !label.is_empty()),
            &self.hostname_match,
            self.hostname_replacement.clone(),
        );
        let hostname = hostname.context("--hostname-match cannot be used")?;
        let dns = create::Dns { address: DNS_ADDRESS, domain: self.zone().to_owned(), hostname };
        Ok(intercept::Options {
            create: create::Options {
                shim_host_path: shim.display().to_string(),
                dns: (!self.without_dns).then_some(dns),
            },
            policy: Policy { engine_socket: self.engine_socket_name(), without_asking: !self.no_default_ipalloc },
            rewrite_inspect: self.rewrite_inspect,
        })
    }
}
