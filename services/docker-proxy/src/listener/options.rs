//! Where and how the Docker API is offered.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::builder::FalseyValueParser;
use weft_types::ApiAddress;

use crate::tls::{self, Acceptor, Settings, detect};

/// Options of the listeners; part of the service's.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to offer the Docker API, beside the socket docker/docker.sock in the folder of sockets: tcp://ADDRESS:PORT or
    /// unix:///absolute/path; may be repeated. In the variable, commas or spaces separate them. Port 12375 if none is named.
    /// TCP on other addresses than the loopback's needs --tlsverify: the API gives root on the host to whoever reaches it.
    /// `off`: only on that socket.
    #[arg(
        short = 'H',
        long = "host",
        env = "WEFT_DOCKER_PROXY_HOSTS",
        value_name = "ADDRESS",
        default_value = "tcp://127.0.0.1:12375"
    )]
    pub hosts: Vec<String>,

    /// TLS settings, in dockerd's words.
    #[command(flatten)]
    pub tls: Settings,

    /// TLS settings in the environment, as dockerd's.
    #[command(flatten)]
    pub environment: tls::Environment,

    /// Do not take over TLS settings of the engine.
    #[arg(long, env = "WEFT_DOCKER_PROXY_NO_DETECT_TLS", value_parser = FalseyValueParser::new())]
    pub no_detect_tls: bool,

    /// Offer the Docker API by TCP also where other hosts reach it and need no certificate. Whoever reaches the address has
    /// root on this host then.
    #[arg(long, env = "WEFT_DOCKER_PROXY_INSECURE_TCP", value_parser = FalseyValueParser::new())]
    pub insecure_tcp: bool,

    /// Host names, beside `localhost`, by which clients reach TCP addresses without client certificates, separated by
    /// commas. Requests that name another host are refused there, as are those of web pages: a browser would send them for
    /// whoever asks.
    #[arg(
        long,
        env = "WEFT_DOCKER_PROXY_TCP_NAMES",
        value_name = "NAMES",
        default_value = "",
        hide_default_value = true
    )]
    pub tcp_names: String,
}

/// What is listened on, beside the socket that is always there.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) unix: Vec<PathBuf>,
    pub(crate) tcp: Vec<SocketAddr>,
    /// For all TCP addresses; nothing where they are served without.
    pub(crate) tls: Option<Acceptor>,
}

impl Options {
    /// Returns what is asked for, with the settings of the engine that listens on `engine_socket`; `always` is listened on
    /// anyway.
    ///
    /// # Errors
    /// If an address makes no sense, TLS cannot be had as asked for, or other hosts would have root on this one without
    /// anybody having said so.
    pub(crate) async fn plan(&self, always: &Path, engine_socket: &Path) -> anyhow::Result<Plan> {
        let mut plan = Plan::default();
        for address in ApiAddress::parse_list(&self.hosts.join(" ")).context("--host (WEFT_DOCKER_PROXY_HOSTS)")? {
            match address {
                ApiAddress::Unix(path) if path == always => {}
                ApiAddress::Unix(path) if path == engine_socket => bail!(
                    "--host (WEFT_DOCKER_PROXY_HOSTS): {} is the Docker Engine's own socket: choose another path",
                    path.display()
                ),
                ApiAddress::Unix(path) => plan.unix.push(path),
                ApiAddress::Tcp(address) => plan.tcp.push(address),
            }
        }
        if !plan.tcp.is_empty() {
            let protection = self.protection(engine_socket).await?;
            for address in &plan.tcp {
                self.check(*address, &protection)?;
            }
            plan.tls = self.settle(protection);
        }
        Ok(plan)
    }

    /// Finds out how TCP addresses are protected.
    async fn protection(&self, engine_socket: &Path) -> anyhow::Result<Protection> {
        let given = self.environment.complete(self.tls.clone());
        let folder = self.environment.folder();
        if given.say_whether() || self.no_detect_tls {
            let Some(files) = given.clone().files(folder.unwrap_or(Path::new(tls::FOLDER))) else {
                return Ok(Protection::Missing);
            };
            return Ok(Protection::Tls(Acceptor::load(files).context("TLS was asked for, and cannot be offered")?));
        }
        let found = match detect::settings(engine_socket).await {
            Ok(found) => found,
            Err(error) => return Ok(Protection::Unknown(error.into())),
        };
        let Some(files) = given.clone().or(found).files(folder.unwrap_or(Path::new(detect::FOLDER))) else {
            if given.name_files() {
                bail!(
                    "--tlscacert, --tlscert and --tlskey say nothing alone, because the Docker Engine has no TLS: add \
                     --tlsverify"
                );
            }
            return Ok(Protection::Missing);
        };
        match Acceptor::load(files) {
            Ok(acceptor) => Ok(Protection::Tls(acceptor)),
            Err(error) => Ok(Protection::Unknown(error.context("the engine's TLS settings cannot be taken over"))),
        }
    }

    /// Refuses to give root to other hosts by mistake.
    fn check(&self, address: SocketAddr, protection: &Protection) -> anyhow::Result<()> {
        if is_loopback(address.ip()) {
            return Ok(());
        }
        match protection {
            Protection::Tls(acceptor) if acceptor.verifies() => Ok(()),
            Protection::Unknown(error) => bail!(
                "tcp://{address} is reached from other hosts, and would lack the protection that the Docker Engine may have: \
                 {error:#}; {REMEDY}"
            ),
            Protection::Tls(_) | Protection::Missing if self.insecure_tcp => Ok(()),
            Protection::Tls(_) => bail!(
                "tcp://{address} is reached from other hosts, and the Docker API gives root to whoever reaches it: --tls asks \
                 clients for no certificate, --tlsverify does; or say that it shall be so by --insecure-tcp"
            ),
            Protection::Missing => bail!(
                "tcp://{address} is reached from other hosts, and the Docker API gives root to whoever reaches it: ask clients \
                 for certificates by --tlsverify, listen on 127.0.0.1, or say that it shall be so by --insecure-tcp"
            ),
        }
    }

    /// Says what is not as it might be expected, and returns TLS where there is.
    fn settle(&self, protection: Protection) -> Option<Acceptor> {
        match protection {
            Protection::Tls(acceptor) => Some(acceptor),
            Protection::Missing => None,
            Protection::Unknown(error) => {
                tracing::warn!("the Docker API is offered by TCP without TLS on this host: {error:#}; {REMEDY}");
                None
            }
        }
    }
}

/// What to do where the engine's settings cannot be used.
const REMEDY: &str = "mount the files where the engine has them, name others by --tlsverify with --tlscacert, --tlscert and \
                      --tlskey, or say --tls=false";

/// How TCP addresses are protected.
#[derive(Debug)]
enum Protection {
    /// Not at all.
    Missing,
    /// Perhaps it should be, but why that is not known, or cannot be done, is here.
    Unknown(anyhow::Error),
    /// By TLS.
    Tls(Acceptor),
}

/// Tells whether only this host reaches the address.
pub(crate) const fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    const ALWAYS: &str = "/run/weft/docker/docker.sock";

    async fn plan(arguments: &[&str]) -> anyhow::Result<Plan> {
        // The tests' own machine may have an engine.
        let words = ["x", "--no-detect-tls"].iter().chain(arguments);
        let options = Command::try_parse_from(words).expect("options").options;
        options.plan(Path::new(ALWAYS), Path::new("/no/engine.sock")).await
    }

    #[tokio::test]
    async fn addresses_are_those_that_are_named() {
        let default = plan(&[]).await.expect("valid");
        assert_eq!((default.unix.len(), default.tcp), (0, vec![([127, 0, 0, 1], 12375).into()]));
        let off = plan(&["-H", "off"]).await.expect("valid");
        assert!(off.unix.is_empty() && off.tcp.is_empty());
        let always = format!("unix://{ALWAYS}");
        let several = ["-H", "unix:///a.sock", "--host=tcp://[::1]:1,tcp://127.0.0.1:2", "-H", &always];
        let several = plan(&several).await.expect("valid");
        assert_eq!(several.unix, [Path::new("/a.sock")]);
        assert_eq!(several.tcp, ["[::1]:1", "127.0.0.1:2"].map(|address| address.parse().expect("an address")));
        for (arguments, says) in [
            (&["-H", "unix://a.sock"][..], "\"a.sock\" is no absolute path"),
            (&["-H", "tcp://host"], "\"host\" is no IP address"),
            (&["-H", "unix:///no/engine.sock"], "is the Docker Engine's own socket"),
            (&["-H", "tcp://127.0.0.1:1", "-H", "tcp://127.0.0.1:1"], "tcp://127.0.0.1:1 is named twice"),
        ] {
            let error = format!("{:#}", plan(arguments).await.expect_err("refused"));
            assert!(error.starts_with("--host (WEFT_DOCKER_PROXY_HOSTS): ") && error.contains(says), "{error}");
        }
    }

    #[tokio::test]
    async fn other_hosts_get_root_only_if_that_is_said() {
        for address in ["tcp://0.0.0.0:1", "tcp://192.0.2.1:1", "tcp://[::]:1", "tcp://[::ffff:192.0.2.1]:1"] {
            let error = plan(&["-H", "tcp://127.0.0.1:1", "-H", address]).await.expect_err("refused").to_string();
            assert!(error.contains(address) && error.contains("--insecure-tcp"), "{error}");
            assert!(plan(&["-H", address, "--insecure-tcp"]).await.is_ok());
        }
        for address in ["tcp://[::1]:1", "tcp://127.1.2.3:1", "tcp://localhost:1", "tcp://[::ffff:127.0.0.1]:1"] {
            assert!(plan(&["-H", address]).await.is_ok(), "{address}");
        }
    }

    #[tokio::test]
    async fn what_is_not_known_of_the_engine_is_no_reason_to_be_open() {
        let command = Command::try_parse_from(["x", "--insecure-tcp"]).expect("options");
        let unknown = || Protection::Unknown(anyhow::anyhow!("/etc/docker/daemon.json cannot be read"));
        let error = command.options.check(([192, 0, 2, 1], 1).into(), &unknown()).expect_err("refused").to_string();
        assert!(error.contains("/etc/docker/daemon.json cannot be read") && error.contains("--tls=false"), "{error}");
        assert!(command.options.check(([127, 0, 0, 1], 1).into(), &unknown()).is_ok());
        assert!(command.options.settle(unknown()).is_none());
    }

    #[tokio::test]
    async fn tls_that_was_asked_for_is_had_or_nothing() {
        for arguments in [&["--tls", "--tlscert", "/no/cert.pem"][..], &["--tlsverify", "--tlscacert=/no/cert.pem"]] {
            let error = format!("{:#}", plan(arguments).await.expect_err("refused"));
            assert!(error.starts_with("TLS was asked for") && error.contains("/no/cert.pem"), "{error}");
        }
        assert!(plan(&["--tls=false"]).await.expect("valid").tls.is_none());
    }
}
