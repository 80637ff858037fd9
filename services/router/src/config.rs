//! What the operator decides: options and environment, parsed into final types.

mod trusted;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::builder::FalseyValueParser;
use ipnet::Ipv4Net;
use secrecy::SecretString;
use weft_router_core::{handshake::Passwords, target::Target};
use weft_service::CommonOptions;
use weft_types::{ApiAddress, InvalidApiAddress, LoopbackAddress};

pub use self::trusted::{InvalidSubnets, TrustedSubnets};
use crate::password;

/// Port of control (TCP) and data (UDP) unless another is chosen.
pub const DEFAULT_PORT: u16 = 6783;

/// Options of the router.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "weft-router", version, about = "Joins hosts into a mesh and carries the containers' frames, sealed")]
pub struct Config {
    /// What all services have.
    #[command(flatten)]
    pub common: CommonOptions,

    /// Port for control (TCP) and data (UDP). All hosts of a mesh should use the same.
    #[arg(long, env = "WEFT_PORT", value_name = "PORT", default_value_t = DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Address to listen on; all addresses of both families by default.
    #[arg(long, env = "WEFT_ROUTER_HOST", value_name = "ADDRESS")]
    pub host: Option<IpAddr>,

    /// Name of this peer, unique in the mesh; the first eight digits of its key by default.
    #[arg(long, env = "WEFT_NAME", value_name = "NAME", default_value = "", hide_default_value = true)]
    pub name: String,

    /// What people call this host; its host name by default.
    #[arg(long, env = "WEFT_ROUTER_NICKNAME", value_name = "NAME", default_value = "", hide_default_value = true)]
    pub nickname: String,

    /// Peers to connect with: host names or addresses, with or without port, separated by commas or spaces.
    #[arg(long, env = "WEFT_PEERS", value_name = "PEERS", default_value = "", hide_default_value = true)]
    pub peers: String,

    /// Start with the peers of the run before, as `weft connect` and `weft forget` left them, whatever --peers says now.
    #[arg(long, env = "WEFT_ROUTER_RESUME", value_parser = FalseyValueParser::new())]
    pub resume: bool,

    /// File that holds the password of the mesh, of at least 8 bytes; an empty file means no password. While it is changed, a
    /// second line is the one before. `weft reload-password` has it read again.
    #[arg(long, env = "WEFT_PASSWORD_FILE", value_name = "PATH")]
    pub password_file: Option<PathBuf>,

    /// Password of the mesh. Other users of the host can read a process's arguments: prefer the file.
    #[arg(long, env = "WEFT_PASSWORD", value_name = "PASSWORD", hide_env_values = true, conflicts_with = "password_file",
          value_parser = |text: &str| Ok::<_, std::convert::Infallible>(SecretString::from(text)))]
    pub password: Option<SecretString>,

    /// Password that the mesh had before, while it is changed host by host: hosts that have no other yet are let in with it,
    /// new ones are not. A second line of the password's file says the same.
    #[arg(long, env = "WEFT_PASSWORD_OLD", value_name = "PASSWORD", hide_env_values = true,
          value_parser = |text: &str| Ok::<_, std::convert::Infallible>(SecretString::from(text)))]
    pub password_old: Option<SecretString>,

    /// Run without a password: traffic is sealed, but anyone who reaches the port may join.
    #[arg(long, env = "WEFT_INSECURE_NO_PASSWORD", value_parser = FalseyValueParser::new())]
    pub insecure_no_password: bool,

    /// Range of all overlay addresses; the same on all hosts.
    #[arg(long = "ipalloc-range", env = "WEFT_IPALLOC_RANGE", value_name = "CIDR", default_value = "10.32.0.0/12")]
    pub address_range: Ipv4Net,

    /// Connect with the given peers only, not with those that gossip names.
    #[arg(long, env = "WEFT_ROUTER_NO_DISCOVERY", value_parser = FalseyValueParser::new())]
    pub no_discovery: bool,

    /// Most connections at a time; 0 for no limit.
    #[arg(long, env = "WEFT_ROUTER_CONNECTION_LIMIT", value_name = "COUNT", default_value_t = 200)]
    pub connection_limit: usize,

    /// MTU of containers' interfaces, in bytes; the same on all hosts.
    #[arg(long, env = "WEFT_MTU", value_name = "BYTES", default_value_t = 1400,
          value_parser = clap::value_parser!(u16).range(576..=8900))]
    pub mtu: u16,

    /// Subnets of hosts that are trusted with frames that are not sealed: between two hosts that find each other there, frames go by
    /// the kernel's VXLAN (UDP port 6784), which is faster. Who can read or forge what passes there reads and forges them.
    #[arg(long, env = "WEFT_TRUSTED_SUBNETS", value_name = "CIDRS", default_value = "", hide_default_value = true)]
    pub trusted_subnets: TrustedSubnets,

    /// Folder of the identity and of what must survive a restart.
    #[arg(long, env = "WEFT_ROUTER_STATE_FOLDER", value_name = "PATH", default_value = "/var/lib/weft/router")]
    pub state_folder: PathBuf,

    /// Where the host's /proc/sys can be written.
    #[arg(long, env = "WEFT_ROUTER_PROC_SYS", value_name = "PATH", default_value = "/proc/sys")]
    pub proc_sys: PathBuf,

    /// Where the host's root folder is seen: its /etc/hosts and /etc/resolv.conf say where peers are, and its own iptables is
    /// run where the host filters with legacy xtables.
    #[arg(long, env = "WEFT_ROUTER_HOST_ROOT", value_name = "PATH", default_value = "/")]
    pub host_root: PathBuf,

    /// Where docker-proxy offers the Docker API, as its --host says: nobody may reach the loopback's ports from outside.
    #[arg(long, env = "WEFT_DOCKER_PROXY_HOSTS", value_name = "ADDRESSES", default_value = "tcp://127.0.0.1:12375",
          value_parser = api_addresses)]
    pub docker_proxy_hosts: ApiAddresses,

    /// Where docker-proxy offers Weave Net's HTTP API, as its --http-addr says: nobody may reach the loopback's ports from outside.
    #[arg(long, env = "WEFT_HTTP_ADDR", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6784")]
    pub http_addr: LoopbackAddress,

    /// Where metrics of all services of this host are served by HTTP, to whoever reaches the address; on the loopback the status of
    /// this host, too, as Weave Net's HTTP API has it. `off`: nowhere.
    #[arg(long, env = "WEFT_METRICS_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6782")]
    pub metrics_listen: String,

    /// Name of the bridge that containers are joined to.
    #[arg(long, env = "WEFT_ROUTER_BRIDGE", value_name = "NAME", default_value = "weft")]
    pub bridge: String,

    /// Take away all that routers have made in this host's network, do nothing else: containers lose their interface. Only
    /// while no router runs.
    #[arg(long)]
    pub remove: bool,

    /// Facilities of the kernel that the packet path must not use, separated by commas.
    #[arg(long, env = "WEFT_ROUTER_MASK", value_name = "FACILITIES", default_value = "", hide_default_value = true)]
    pub mask: String,
}

/// Where the Docker API is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddresses(pub Vec<ApiAddress>);

fn api_addresses(text: &str) -> Result<ApiAddresses, InvalidApiAddress> {
    ApiAddress::parse_list(text).map(ApiAddresses)
}

/// What the options mean, checked.
#[derive(Debug)]
pub struct Plan {
    /// As given.
    pub config: Config,
    /// The password, if the mesh has one, and the one before.
    pub passwords: Option<Passwords>,
    /// Peers to connect with.
    pub peers: Vec<Target>,
    /// What people call this host.
    pub nickname: String,
}

impl Config {
    /// Returns where metrics are served.
    ///
    /// # Errors
    /// If the option is no address.
    pub fn metrics_address(&self) -> anyhow::Result<Option<SocketAddr>> {
        match self.metrics_listen.trim() {
            "" | "off" => Ok(None),
            text => text.parse().map(Some).with_context(|| {
                format!("--metrics-listen {text:?} is no address: write it as 127.0.0.1:6782, or say off")
            }),
        }
    }

    /// Reads the password and checks what depends on each other.
    ///
    /// # Errors
    /// One sentence that names the option and the remedy.
    pub fn check(mut self) -> anyhow::Result<Plan> {
        let passwords =
            password::read(self.password_file.as_deref(), self.password.as_ref(), self.password_old.as_ref())?;
        if passwords.is_none() && !self.insecure_no_password {
            bail!(
                "no password: set WEFT_PASSWORD to the same secret on all hosts, or ask for a mesh that anyone may join \
                 with --insecure-no-password (WEFT_INSECURE_NO_PASSWORD=1)"
            );
        }
        if passwords.is_some() && self.insecure_no_password {
            bail!("a password and --insecure-no-password contradict each other: leave one of them out");
        }
        if self.address_range.trunc() != self.address_range {
            let range = self.address_range;
            bail!("the range {range} has host bits: did you mean {}? (WEFT_IPALLOC_RANGE)", range.trunc());
        }
        if self.address_range.prefix_len() > 29 || self.address_range.addr() == Ipv4Addr::UNSPECIFIED {
            bail!(
                "the range {} is no use: give a private network with at least eight addresses (WEFT_IPALLOC_RANGE)",
                self.address_range
            );
        }
        let peers = self
            .peers
            .split([',', ' ', '\t', '\n'])
            .filter(|text| !text.is_empty())
            .map(str::parse)
            .collect::<Result<Vec<Target>, _>>()
            .context("the list of peers (WEFT_PEERS) is not valid")?;
        let nickname = if self.nickname.is_empty() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            std::mem::take(&mut self.nickname)
        };
        let name_is_plain = |name: &str| {
            name.len() <= 255 && name.chars().all(|char| char.is_ascii_alphanumeric() || "_.:-".contains(char))
        };
        if !name_is_plain(&self.name) {
            bail!("the name {:?} is not valid: use up to 255 of a-z A-Z 0-9 _ . : - (WEFT_NAME)", self.name);
        }
        Ok(Plan { config: self, passwords, peers, nickname })
    }

    /// Returns the TCP ports on the host's loopback that nobody may reach from outside.
    ///
    /// # Errors
    /// If an option is no address.
    pub fn loopback_ports(&self) -> anyhow::Result<Vec<u16>> {
        let docker_proxy = self.docker_proxy_hosts.0.iter().filter_map(ApiAddress::tcp);
        let listeners = docker_proxy.chain(self.metrics_address()?).chain(self.http_addr.socket());
        let is_loopback = |listener: &SocketAddr| listener.ip().to_canonical().is_loopback();
        let mut ports: Vec<u16> = listeners.filter(is_loopback).map(|listener| listener.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use weft_router_core::handshake::Password;

    use super::*;

    fn check(arguments: &[&str]) -> anyhow::Result<Plan> {
        Config::try_parse_from([&["weft-router"], arguments].concat())?.check()
    }

    #[test]
    fn a_mesh_without_password_has_to_be_asked_for() {
        let error = check(&[]).expect_err("no password").to_string();
        assert!(error.contains("--insecure-no-password"), "{error}");
        assert!(check(&["--insecure-no-password"]).expect("asked for").passwords.is_none());
        assert!(check(&["--password", "a secret"]).expect("given").passwords.is_some());
        assert!(check(&["--password", "a secret", "--insecure-no-password"]).is_err());
    }

    #[test]
    fn the_password_file_is_read_without_its_last_line_break_and_named_when_missing() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let path = file.path().to_str().expect("plain");
        fs::write(file.path(), "\n").expect("written");
        assert!(check(&["--password-file", path]).is_err(), "an empty password is none");
        fs::write(file.path(), "the secret\n").expect("written");
        let plan = check(&["--password-file", path]).expect("given");
        assert!(!format!("{plan:?}").contains("secret"));
        let error = format!("{:#}", check(&["--password-file", "/nowhere/at/all"]).expect_err("missing"));
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn the_old_password_is_the_second_line_or_given_by_itself() {
        let marks = |arguments: &[&str]| {
            let plan = check(arguments).expect("valid");
            plan.passwords.expect("given").marks()
        };
        let mark = |text: &str| Password::new(text.as_bytes()).mark();
        let both = [mark("the new one"), mark("old")];
        assert_eq!(marks(&["--password", "the new one", "--password-old", "old"]), both);
        assert_eq!(marks(&["--password", "the new one\nold\n"]), both);
        assert_eq!(marks(&["--password", "the same", "--password-old", "the same"]), [mark("the same")]);
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        fs::write(file.path(), "the new one\r\nold\r\n\n").expect("written");
        let path = file.path().to_str().expect("plain");
        assert_eq!(marks(&["--password-file", path]), both);
        assert_eq!(marks(&["--password", "the new one", "--password-old", ""]), [mark("the new one")]);
        for (bad, says) in [
            (&["--password", "a\nb\nc"][..], "more than two lines"),
            (&["--password", "the new one\nb", "--password-old", "c"], "given twice"),
            (&["--password", "seven77"], "the password has 7 bytes"),
            (&["--password-old", "a"], "set WEFT_PASSWORD too"),
        ] {
            let error = check(bad).expect_err("refused").to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn peers_are_separated_by_commas_or_spaces() {
        let plan = check(&["--password", "a secret", "--peers", "a, b:1  [::1]:2,,c"]).expect("valid");
        assert_eq!(plan.peers.iter().map(Target::text).collect::<Vec<_>>(), ["a", "b:1", "[::1]:2", "c"]);
        let error = format!("{:#}", check(&["--password", "a secret", "--peers", "a:99999"]).expect_err("no port"));
        assert!(error.contains("WEFT_PEERS") && error.contains("a:99999"), "{error}");
    }

    #[test]
    fn ports_of_the_loopback_are_kept_from_outside_wherever_they_are() {
        let ports = |arguments: &[&str]| {
            let plan = check(&[&["--password", "a secret"], arguments].concat()).expect("valid");
            plan.config.loopback_ports().expect("addresses")
        };
        assert_eq!(ports(&[]), [6782, 6784, 12375]);
        let hosts = "tcp://127.0.0.1:2375, unix:///run/a.sock tcp://192.0.2.1:2376";
        assert_eq!(ports(&["--docker-proxy-hosts", hosts]), [2375, 6782, 6784]);
        assert_eq!(ports(&["--docker-proxy-hosts", "tcp://[::1]:6784", "--metrics-listen", "127.0.0.1:9"]), [9, 6784]);
        assert_eq!(ports(&["--docker-proxy-hosts", "off", "--metrics-listen", "192.0.2.1:6782"]), [6784]);
        assert_eq!(ports(&["--http-addr", "[::1]:80", "--metrics-listen", "off"]), [80, 12375]);
        assert_eq!(ports(&["--http-addr", "off"]), [6782, 12375]);
        let error = format!("{:#}", check(&["--docker-proxy-hosts", "2375"]).expect_err("refused"));
        assert!(error.contains("\"2375\"") && error.contains("tcp://ADDRESS:PORT"), "{error}");
    }

    #[test]
    fn metrics_are_served_on_an_address_or_nowhere() {
        let address = |text: &str| {
            let plan = check(&["--password", "a secret", "--metrics-listen", text]).expect("valid so far");
            plan.config.metrics_address()
        };
        assert_eq!(address("off").expect("valid"), None);
        assert_eq!(address("[::1]:1").expect("valid").expect("somewhere").port(), 1);
        let error = address("6782").expect_err("no address").to_string();
        assert!(error.contains("6782") && error.contains("off"), "{error}");
    }

    #[test]
    fn bad_ranges_name_the_remedy() {
        let error =
            |range| check(&["--password", "a secret", "--ipalloc-range", range]).expect_err("refused").to_string();
        assert!(error("10.32.0.1/12").contains("did you mean 10.32.0.0/12"));
        assert!(error("10.32.0.0/31").contains("at least eight addresses"));
        assert!(error("10.32.0.0/33").contains("10.32.0.0/33"));
    }
}
