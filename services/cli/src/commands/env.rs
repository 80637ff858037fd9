//! `env`, `config`: pointing Docker clients at the proxy and back.

use std::fmt;

use anyhow::{Context, bail};
use serde::Serialize;

use super::status;
use crate::{Environment, Outcome, output::Output, services::Services};

/// What a shell has to evaluate.
#[derive(Debug, Serialize)]
struct Settings {
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
#[derive(Debug, Serialize)]
struct HostOption {
    /// Value for `docker --host`.
    docker_host: String,
}

pub(super) async fn config(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    output.print(&HostOption { docker_host: proxy_address(services).await? })?;
    Ok(Outcome::Done)
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
    fn odd_values_stay_one_word() {
        assert_eq!(quoted("unix:///run/weft/docker/docker.sock"), "unix:///run/weft/docker/docker.sock");
        assert_eq!(quoted("a b'$(c)"), r"'a b'\''$(c)'");
    }
}
