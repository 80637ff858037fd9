//! Where a command does its work: on this host, by the services' own sockets, or where another engine runs.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    path::Path,
};

use anyhow::Context;
use weft_proto::client::{SOCKET_FOLDER, Service};

use crate::{
    Environment,
    compose::{Docker, Engine},
};

/// Port of weft's proxy where nobody names another.
const PROXY_PORT: u16 = 12375;

/// Where a command does its work.
#[derive(Debug)]
pub(crate) enum Place {
    /// On this host, whose engine a context of Docker's client may name.
    Here(Option<String>),
    /// Where this engine runs.
    Elsewhere(Docker),
}

impl Place {
    /// Finds out where the environment leads, for a command that is given this folder of sockets.
    ///
    /// # Errors
    /// If `DOCKER_CONTEXT` names a context that Docker's client does not know.
    pub(crate) async fn of(environment: &Environment, sockets: &Path) -> anyhow::Result<Self> {
        if sockets != Path::new(SOCKET_FOLDER) {
            return Ok(Self::Here(None));
        }
        let served = Service::ALL.into_iter().any(|service| service.socket(sockets).exists());
        let context = environment.set("DOCKER_CONTEXT").filter(|name| *name != "default");
        let original = environment.get("ORIG_DOCKER_HOST");
        let Some(host) = environment.set("DOCKER_HOST") else {
            let Some(name) = context else { return Ok(Self::Here(None)) };
            let docker = of_context(name).await.with_context(|| format!("DOCKER_CONTEXT names {name:?}"))?;
            let address = docker.engine().address();
            return Ok(if authority(address).is_none() {
                Self::Here(Some(address.to_owned()))
            } else {
                Self::Elsewhere(docker)
            });
        };
        // `weft env` was used where a context leads elsewhere.
        if original == Some("")
            && let Some(name) = context
            && let Ok(docker) = of_context(name).await
            && let Some((behind, _)) = authority(docker.engine().address())
            && authority(host).is_some_and(|(proxy, _)| proxy == behind)
        {
            return Ok(Self::Elsewhere(docker));
        }
        let own = Own { is_own: &is_own, served };
        Ok(own.engine(host, original).map_or(Self::Here(None), |engine| {
            let mut docker = Docker::at(engine);
            // `weft env` took it away where the proxy has no TLS.
            if let Some(verify) = environment.set("ORIG_DOCKER_TLS_VERIFY").filter(|_| engine != host) {
                docker.set("DOCKER_TLS_VERIFY", verify);
            }
            Self::Elsewhere(docker)
        }))
    }
}

/// Returns a client of the engine to which a context of Docker's client leads.
async fn of_context(name: &str) -> anyhow::Result<Docker> {
    let context = |address| Docker::of(Engine::Context { name: name.to_owned(), address });
    let format = "{{.Endpoints.docker.Host}}";
    let address = context(String::new()).docker(&["context", "inspect", "--format", format, "--", name]).await?;
    Ok(context(address))
}

/// What a host knows of itself.
struct Own<'a> {
    /// Tells whether a name or an address is its own.
    is_own: &'a dyn Fn(&str) -> bool,
    /// Whether weft has sockets here.
    served: bool,
}

impl Own<'_> {
    /// Returns the engine elsewhere that `DOCKER_HOST` leads to, if it leads elsewhere. `original` is what it was before
    /// `weft env`: then it leads to weft's proxy, and the engine is the one behind that.
    fn engine<'a>(&self, host: &'a str, original: Option<&'a str>) -> Option<&'a str> {
        let (name, port) = authority(host)?;
        let is_own = (self.is_own)(name);
        match original.map(|original| (original, authority(original))) {
            Some((original, Some((same, _)))) if same == name => return self.engine(original, None),
            Some((_, None)) if is_own => return None,
            Some(_) | None => {}
        }
        let here = is_own && (self.served || port == Some(PROXY_PORT));
        (!here).then_some(host)
    }
}

/// Returns the host name, or the address, and the port of what `DOCKER_HOST` may be; nothing for what is on this host in any case.
pub(crate) fn authority(host: &str) -> Option<(&str, Option<u16>)> {
    let rest = match host.trim().split_once("://") {
        Some(("unix" | "fd" | "npipe", _)) => return None,
        Some((_, rest)) => rest,
        None if host.is_empty() || host.starts_with('/') => return None,
        // Docker's client takes it for TCP.
        None => host.trim(),
    };
    let rest = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if let Some((address, port)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return Some((address, port.strip_prefix(':').and_then(|port| port.parse().ok())));
    }
    match rest.split_once(':') {
        Some((name, port)) => Some((name, port.parse().ok())),
        None => Some((rest, None)),
    }
}

/// Tells whether the path of a socket is in a folder, which may be below /run: that has two names.
pub(crate) fn is_below(path: &Path, folder: &Path) -> bool {
    let other = path.strip_prefix("/var/run").map(|rest| Path::new("/run").join(rest));
    path.starts_with(folder) || other.is_ok_and(|path| path.starts_with(folder))
}

/// Tells whether a name or an address leads to whoever uses it.
pub(crate) fn is_loopback(name: &str) -> bool {
    name.is_empty() || name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Tells whether a name or an address is this host's own, without asking anybody.
fn is_own(name: &str) -> bool {
    match name.parse::<IpAddr>() {
        // The kernel lets sockets have its own addresses only.
        Ok(address) => address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok(),
        Err(_) => {
            let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            is_loopback(name) || name == own.trim()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found_in_addresses() {
        for (host, expected) in [
            ("unix:///var/run/docker.sock", None),
            ("/var/run/docker.sock", None),
            ("tcp://host1:2375", Some(("host1", Some(2375)))),
            ("tcp://[fd00::1]:2376/", Some(("fd00::1", Some(2376)))),
            ("ssh://me@host1", Some(("host1", None))),
            ("ssh://host1:22/run/docker.sock", Some(("host1", Some(22)))),
            ("tcp://:2375", Some(("", Some(2375)))),
            ("host1:2375", Some(("host1", Some(2375)))),
            (" host1", Some(("host1", None))),
            ("[fd00::1]:2375", Some(("fd00::1", Some(2375)))),
            ("", None),
        ] {
            assert_eq!(authority(host), expected, "{host}");
        }
    }

    #[test]
    fn the_engine_that_the_environment_leads_to_is_found() {
        let own = |served| Own { is_own: &|name| matches!(name, "127.0.0.1" | "host1"), served };
        let proxy = "tcp://host2:12375";
        for (host, original, expected) in [
            ("unix:///run/weft/docker/docker.sock", None, None),
            ("tcp://host2:2375", None, Some("tcp://host2:2375")),
            ("ssh://me@host2", None, Some("ssh://me@host2")),
            ("host2:2375", None, Some("host2:2375")),
            // An engine of this host by TCP, and weft runs here.
            ("tcp://127.0.0.1:2375", None, None),
            ("tcp://host1:2375", None, None),
            // weft's proxy, with what was before it, also where that has gone stale.
            (proxy, Some("tcp://host2:2375"), Some("tcp://host2:2375")),
            (proxy, Some("ssh://me@host2"), Some("ssh://me@host2")),
            (proxy, Some("tcp://host3:2375"), Some(proxy)),
            (proxy, Some(""), Some(proxy)),
            (proxy, None, Some(proxy)),
            ("tcp://127.0.0.1:12375", Some(""), None),
            ("tcp://127.0.0.1:12375", Some("unix:///var/run/docker.sock"), None),
        ] {
            assert_eq!(own(true).engine(host, original), expected, "{host} after {original:?}");
        }
        // Where weft has no sockets, an engine of this host may be one that is only reached by it, as by a tunnel.
        assert_eq!(own(false).engine("tcp://127.0.0.1:2375", None), Some("tcp://127.0.0.1:2375"));
        assert_eq!(own(false).engine("tcp://127.0.0.1:12375", None), None, "the proxy before a launch");
    }

    #[test]
    fn a_host_knows_itself() {
        assert!(is_own("127.0.0.1") && is_own("::1") && is_own("localhost"));
        assert!(!is_own("192.0.2.1") && !is_own("another.example"));
    }

    #[test]
    fn a_folder_below_run_has_two_names() {
        let own = |path: &str| is_below(Path::new(path), Path::new(SOCKET_FOLDER));
        assert!(own("/run/weft/docker/docker.sock") && own("/var/run/weft/docker/docker.sock"));
        assert!(!own("/run/weft2/docker.sock") && !own("/var/run/docker.sock") && !own("/var/runweft/docker.sock"));
    }

    #[tokio::test]
    async fn a_folder_of_sockets_is_this_hosts() {
        let environment = Environment::of([("DOCKER_HOST", "tcp://192.0.2.1:2375")]);
        let place = Place::of(&environment, Path::new("/tmp/sockets")).await.expect("no context");
        assert!(matches!(place, Place::Here(None)));
        let place = Place::of(&environment, Path::new(SOCKET_FOLDER)).await.expect("no context");
        assert!(matches!(place, Place::Elsewhere(docker) if docker.engine().to_string() == "tcp://192.0.2.1:2375"));
        let nothing = Environment::of([("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "default")]);
        assert!(matches!(Place::of(&nothing, Path::new(SOCKET_FOLDER)).await, Ok(Place::Here(None))));
    }
}
