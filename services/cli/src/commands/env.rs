//! `env`, `config`: pointing Docker clients at the proxy and back.

use std::{fmt, net::SocketAddr};

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{elsewhere, status};
use crate::{
    Environment, Outcome,
    compose::{Docker, Engine},
    output::Output,
    place::authority,
    services::Services,
};

/// What a shell has to evaluate.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Settings {
    /// Value for `DOCKER_HOST`; absent: to be unset.
    docker_host: Option<String>,
    /// Value for `ORIG_DOCKER_HOST`; absent: to be left as it is.
    orig_docker_host: Option<String>,
    /// Whether `ORIG_DOCKER_HOST` is to be unset.
    restore: bool,
    /// What `DOCKER_TLS_VERIFY` was set to, which not every client disregards at a Unix socket; absent: it was not.
    orig_docker_tls_verify: Option<String>,
}

pub(super) async fn env(
    restore: bool,
    services: &Services,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let settings = if restore { restored(environment)? } else { redirected(services, environment).await? };
    output.print(&settings)?;
    Ok(Outcome::Done)
}

/// What a call of docker has to be given.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct HostOption {
    /// Value for `docker --host`.
    docker_host: String,
}

pub(super) async fn config(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    output.print(&HostOption { docker_host: proxy_address(services).await? })?;
    Ok(Outcome::Done)
}

/// Does what [`env`] does for the proxy of an engine elsewhere.
pub(super) async fn env_elsewhere(
    docker: &Docker,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let listener = far_listener(docker).await?;
    let present = environment.set("DOCKER_HOST").unwrap_or_default();
    let behind = matches!(docker.engine(), Engine::At(engine) if engine != present);
    let orig_docker_host = (!behind && present != listener.address).then(|| present.to_owned());
    let orig_docker_tls_verify = set(environment, "DOCKER_TLS_VERIFY").filter(|_| !listener.tls);
    let docker_host = Some(listener.address);
    output.print(&Settings { docker_host, orig_docker_host, restore: false, orig_docker_tls_verify })?;
    Ok(Outcome::Done)
}

/// Does what [`config`] does for the proxy of an engine elsewhere.
pub(super) async fn config_elsewhere(docker: &Docker, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    output.print(&HostOption { docker_host: far_listener(docker).await?.address })?;
    Ok(Outcome::Done)
}

/// An address of the proxy, as `weft status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Listener {
    address: String,
    tls: bool,
}

/// Asks for the best address of the proxy elsewhere that this host reaches.
async fn far_listener(docker: &Docker) -> anyhow::Result<Listener> {
    let mut status = elsewhere::ask(docker, &["status"]).await?;
    if let Some(why) = status["proxy"]["away"]["message"].as_str() {
        bail!("at {}: {why}", docker.engine());
    }
    let listeners = serde_json::from_value(status["proxy"]["listeners"].take());
    let listeners: Vec<Listener> = listeners.context("the addresses of docker-proxy make no sense here")?;
    reachable(listeners, docker.engine()).with_context(|| match docker.engine() {
        Engine::At(engine) => format!(
            "docker-proxy at {engine} listens for clients of its own host only: `weft launch -H tcp://0.0.0.0:12375 --tlsverify` has \
             others use it, too"
        ),
        Engine::Context { name, address } => format!(
            "docker-proxy at {address} has no address that is reached from here without the certificates of the context {name}, which \
             DOCKER_HOST does not have: set DOCKER_HOST={address} and DOCKER_CERT_PATH instead of DOCKER_CONTEXT, or use ssh"
        ),
    })
}

/// Finds the address that other hosts reach, by the name that the engine's host has here.
fn reachable(listeners: Vec<Listener>, engine: &Engine) -> Option<Listener> {
    let host = engine.address();
    if let Some(rest) = host.strip_prefix("ssh://") {
        // Who reaches the engine by ssh reaches any socket there, and may reach nothing else.
        let own = listeners.iter().find_map(|listener| listener.address.strip_prefix("unix://"))?;
        let authority = rest.split('/').next()?;
        return Some(Listener { address: format!("ssh://{authority}{own}"), tls: false });
    }
    let (name, _) = authority(host)?;
    // The certificates of a context are that context's alone.
    let has_certificates = matches!(engine, Engine::At(_));
    listeners.into_iter().filter(|listener| has_certificates || !listener.tls).find_map(|listener| {
        let address: SocketAddr = listener.address.strip_prefix("tcp://")?.parse().ok()?;
        if address.ip().is_loopback() {
            return None;
        }
        let bracketed = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        let named = format!("tcp://{bracketed}:{}", address.port());
        Some(Listener { address: if address.ip().is_unspecified() { named } else { listener.address }, ..listener })
    })
}

/// Asks docker-proxy for the best of its addresses.
async fn proxy_address(services: &Services) -> anyhow::Result<String> {
    let listeners = status::proxy(services).await?.listeners;
    let listener = listeners.into_iter().next().context("docker-proxy listens on no address yet: try again")?;
    Ok(listener.address)
}

async fn redirected(services: &Services, environment: &Environment) -> anyhow::Result<Settings> {
    let address = proxy_address(services).await?;
    let present = environment.get("DOCKER_HOST");
    // When it points there already, what it was before must not be overwritten.
    let redirected = present == Some(address.as_str());
    let orig_docker_host = (!redirected).then(|| present.unwrap_or_default().to_owned());
    let orig_docker_tls_verify = set(environment, "DOCKER_TLS_VERIFY");
    Ok(Settings { docker_host: Some(address), orig_docker_host, restore: false, orig_docker_tls_verify })
}

fn restored(environment: &Environment) -> anyhow::Result<Settings> {
    let Some(original) = environment.get("ORIG_DOCKER_HOST") else {
        bail!("there is nothing to restore: `eval $(weft env)` was not run in this shell");
    };
    let docker_host = (!original.is_empty()).then(|| original.to_owned());
    let orig_docker_tls_verify = set(environment, "ORIG_DOCKER_TLS_VERIFY");
    Ok(Settings { docker_host, orig_docker_host: None, restore: true, orig_docker_tls_verify })
}

fn set(environment: &Environment, name: &str) -> Option<String> {
    environment.get(name).filter(|value| !value.is_empty()).map(str::to_owned)
}

impl fmt::Display for HostOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "-H={}", self.docker_host)
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.docker_host, &self.orig_docker_host) {
            (Some(host), Some(original)) => {
                write!(f, "export DOCKER_HOST={} ORIG_DOCKER_HOST={}", quoted(host), quoted(original))?;
            }
            (Some(host), None) => write!(f, "export DOCKER_HOST={}", quoted(host))?,
            (None, _) => write!(f, "unset DOCKER_HOST")?,
        }
        if self.restore {
            write!(f, "; unset ORIG_DOCKER_HOST")?;
        }
        if let Some(verify) = &self.orig_docker_tls_verify {
            let names = ["DOCKER_TLS_VERIFY", "ORIG_DOCKER_TLS_VERIFY"];
            let [to, from] = if self.restore { names } else { [names[1], names[0]] };
            write!(f, "; export {to}={}; unset {from}", quoted(verify))?;
        }
        writeln!(f)
    }
}

/// Writes a value so that a shell reads it as one word.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:.,_-@%+=".contains(c);
    if value.chars().all(plain) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restoring_needs_something_to_restore() {
        let restored = |environment| restored(&environment).map(|settings| settings.to_string());
        let was_set = restored(Environment::of([("ORIG_DOCKER_HOST", "tcp://192.0.2.1:2375")]));
        assert_eq!(was_set.expect("works"), "export DOCKER_HOST=tcp://192.0.2.1:2375; unset ORIG_DOCKER_HOST\n");
        let was_unset = restored(Environment::of([("ORIG_DOCKER_HOST", "")]));
        assert_eq!(was_unset.expect("works"), "unset DOCKER_HOST; unset ORIG_DOCKER_HOST\n");
        let with_tls = Environment::of([("ORIG_DOCKER_HOST", "tcp://h:1"), ("ORIG_DOCKER_TLS_VERIFY", "1")]);
        let expected = "export DOCKER_HOST=tcp://h:1; unset ORIG_DOCKER_HOST; export DOCKER_TLS_VERIFY=1; \
                        unset ORIG_DOCKER_TLS_VERIFY\n";
        assert_eq!(restored(with_tls).expect("works"), expected);
        let error = restored(Environment::of([])).expect_err("nothing there").to_string();
        assert!(error.contains("nothing to restore"), "{error}");
    }

    #[test]
    fn a_proxy_elsewhere_is_named_as_it_is_reached() {
        let found = |listeners: &[(&str, bool)], engine: &str| {
            let listener = |(address, tls): &(&str, bool)| Listener { address: (*address).to_owned(), tls: *tls };
            let engine = match engine.strip_prefix("context ") {
                Some(address) => Engine::Context { name: "far".to_owned(), address: address.to_owned() },
                None => Engine::At(engine.to_owned()),
            };
            let found = reachable(listeners.iter().map(listener).collect(), &engine)?;
            Some((found.address, found.tls))
        };
        let text = |address: &str, tls| Some((address.to_owned(), tls));
        let own = [("unix:///run/weft/docker/docker.sock", false), ("tcp://127.0.0.1:12375", false)];
        assert_eq!(found(&own, "tcp://host1:2375"), None);
        assert_eq!(found(&own, "ssh://me@host1"), text("ssh://me@host1/run/weft/docker/docker.sock", false));
        let open = [own[0], ("tcp://0.0.0.0:12376", true)];
        assert_eq!(found(&open, "tcp://host1:2376"), text("tcp://host1:12376", true));
        assert_eq!(found(&open, "tcp://[fd00::1]:2376"), text("tcp://[fd00::1]:12376", true));
        assert_eq!(found(&open, "ssh://host1"), text("ssh://host1/run/weft/docker/docker.sock", false));
        let one = [own[0], ("tcp://192.0.2.1:12375", false)];
        assert_eq!(found(&one, "tcp://host1:2375"), text("tcp://192.0.2.1:12375", false));
        assert_eq!(found(&own, "context ssh://me@host1"), text("ssh://me@host1/run/weft/docker/docker.sock", false));
        assert_eq!(found(&one, "context tcp://host1:2375"), text("tcp://192.0.2.1:12375", false));
        assert_eq!(found(&open, "context tcp://host1:2376"), None, "it asks for certificates, which are the context's");
    }

    #[test]
    fn odd_values_stay_one_word() {
        assert_eq!(quoted("unix:///run/weft/docker/docker.sock"), "unix:///run/weft/docker/docker.sock");
        assert_eq!(quoted("a b'$(c)"), r"'a b'\''$(c)'");
    }
}
