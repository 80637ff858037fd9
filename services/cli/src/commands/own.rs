//! The services' own containers, by the engine's own socket.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use weft_docker_proxy_core::eligibility::SERVICE_LABEL;
use weft_engine::{Answer, Client, encode};
use weft_proto::client::{SOCKET_FOLDER, Service};

use crate::{Environment, place::is_below};

/// Where the engine's socket is where nobody says otherwise.
const ENGINE_SOCKET: &str = "/var/run/docker.sock";

/// The container of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) service: Service,
    pub(super) id: String,
    pub(super) running: bool,
}

/// Returns the own socket of the engine that runs weft on this host.
pub(crate) fn own_engine(environment: &Environment) -> PathBuf {
    engine_socket(environment, Path::new(SOCKET_FOLDER))
}

/// Returns the engine's own socket: DOCKER_HOST if it is a Unix socket, but for weft's own, below `sockets`.
fn engine_socket(environment: &Environment, sockets: &Path) -> PathBuf {
    let named = environment.get("WEFT_ENGINE_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
    let of_docker = |variable| {
        let path = Path::new(environment.get(variable)?.strip_prefix("unix://")?);
        (path.is_absolute() && !is_below(path, sockets)).then(|| path.to_owned())
    };
    named
        .or_else(|| of_docker("DOCKER_HOST"))
        .or_else(|| of_docker("ORIG_DOCKER_HOST"))
        .unwrap_or_else(|| PathBuf::from(ENGINE_SOCKET))
}

/// Returns the services' containers, in the order in which they can go.
pub(super) async fn containers(engine: &Client) -> anyhow::Result<Vec<Own>> {
    let filters = encode(&json!({ "label": [SERVICE_LABEL] }).to_string());
    let answer = engine.get(&format!("/containers/json?all=true&filters={filters}")).await?;
    if answer.status != 200 {
        bail!("the engine does not list its containers: {}", message(&answer));
    }
    let listed: Vec<Value> = serde_json::from_slice(&answer.body).context("the engine's list of containers is odd")?;
    let own = |container: &Value| {
        let name = container["Labels"][SERVICE_LABEL].as_str()?;
        let service = Service::ALL.into_iter().find(|service| service.name() == name)?;
        let running = matches!(container["State"].as_str(), Some("running" | "restarting" | "paused"));
        Some(Own { service, id: container["Id"].as_str()?.to_owned(), running })
    };
    let mut found: Vec<_> = listed.iter().filter_map(own).collect();
    // Who asks others goes before those.
    found.sort_by_key(|own| match own.service {
        Service::DockerProxy => 0,
        Service::Dns => 1,
        Service::Ipam => 2,
        Service::Router => 3,
    });
    Ok(found)
}

/// Returns why a container ended, whether the engine has started it again or not: the last error that it wrote; nothing if it never
/// ended.
pub(super) async fn end(engine: &Client, id: &str) -> anyhow::Result<Option<String>> {
    let id = encode(id);
    let answer = engine.get(&format!("/containers/{id}/json")).await?;
    let container: Value = serde_json::from_slice(&answer.body).context("the engine's answer is odd")?;
    let ended = matches!(container["State"]["Status"].as_str(), Some("exited" | "dead"));
    if !ended && container["RestartCount"].as_u64().unwrap_or_default() == 0 {
        return Ok(None);
    }
    let log = engine.get(&format!("/containers/{id}/logs?stderr=true&tail=20")).await?;
    Ok(Some(last_error(&log.body)))
}

/// Finds the last error in a log as the engine gives it: records of eight bytes, the last four their length, and a text.
fn last_error(mut log: &[u8]) -> String {
    let mut text = String::new();
    while let Some(([.., a, b, c, d], rest)) = log.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX).min(rest.len());
        let (record, rest) = rest.split_at(length);
        text.push_str(&String::from_utf8_lossy(record));
        log = rest;
    }
    let line = text.lines().rfind(|line| line.starts_with("error:")).or(text.lines().rfind(|line| !line.is_empty()));
    line.unwrap_or("it gives no reason").trim_start_matches("error:").trim().to_owned()
}

/// Stops a container. One that is gone is stopped.
pub(super) async fn stop(engine: &Client, id: &str) -> anyhow::Result<()> {
    done(engine, http::Method::POST, &format!("/containers/{}/stop?t=5", encode(id)), &[204, 304, 404]).await
}

/// Stops a container and removes it.
pub(super) async fn remove(engine: &Client, id: &str) -> anyhow::Result<()> {
    stop(engine, id).await?;
    done(engine, http::Method::DELETE, &format!("/containers/{}?force=true&v=true", encode(id)), &[204, 404]).await
}

/// Stops and removes all of these containers, and goes on where one cannot be removed.
///
/// # Errors
/// Why which could not be removed.
pub(super) async fn remove_all(engine: &Client, containers: &[Own]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for own in containers {
        if let Err(error) = remove(engine, &own.id).await {
            failed.push(format!("{} could not be removed: {error:#}", own.service.name()));
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(())
}

/// Has the engine do something, where these statuses mean that it is done.
pub(super) async fn done(engine: &Client, method: http::Method, target: &str, statuses: &[u16]) -> anyhow::Result<()> {
    let answer = engine.call(method, target, None).await?;
    if !statuses.contains(&answer.status) {
        bail!("the engine answered {} to {target}: {}", answer.status, message(&answer));
    }
    Ok(())
}

/// Returns the reason in an answer that refuses something.
fn message(answer: &Answer) -> String {
    let said = serde_json::from_slice::<Value>(&answer.body);
    let message = said.ok().and_then(|said| said["message"].as_str().map(str::to_owned));
    message.unwrap_or_else(|| String::from_utf8_lossy(&answer.body).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_a_log_is_found() {
        let record = |text: &str| {
            let length = u32::try_from(text.len()).expect("short").to_be_bytes();
            [&[2, 0, 0, 0], &length[..], text.as_bytes()].concat()
        };
        let log =
            [record("error: too small\n"), record("\n"), record("For more information, try '--help'.\n")].concat();
        assert_eq!(last_error(&log), "too small");
        assert_eq!(last_error(&log[..log.len() - 3]), "too small", "cut");
        assert_eq!(last_error(&record("one\ntwo\n")), "two");
        assert_eq!(last_error(&[2, 0, 0, 0, 255, 255, 255, 255, b'x']), "x");
        assert_eq!(last_error(b"abc"), "it gives no reason");
    }

    #[test]
    fn the_engines_own_socket_is_not_wefts() {
        fn socket<const N: usize>(variables: [(&str, &str); N]) -> String {
            engine_socket(&Environment::of(variables), Path::new("/run/weft")).display().to_string()
        }
        assert_eq!(socket([]), ENGINE_SOCKET);
        assert_eq!(socket([("DOCKER_HOST", "unix:///run/user/1000/docker.sock")]), "/run/user/1000/docker.sock");
        assert_eq!(socket([("DOCKER_HOST", "unix:///run/weft/docker/docker.sock")]), ENGINE_SOCKET);
        assert_eq!(socket([("DOCKER_HOST", "unix:///var/run/weft/docker/docker.sock")]), ENGINE_SOCKET);
        let redirected =
            [("DOCKER_HOST", "unix:///run/weft/docker/docker.sock"), ("ORIG_DOCKER_HOST", "unix:///e.sock")];
        assert_eq!(socket(redirected), "/e.sock");
        assert_eq!(socket([("DOCKER_HOST", "tcp://127.0.0.1:12375")]), ENGINE_SOCKET);
        assert_eq!(socket([("DOCKER_HOST", "unix:///a.sock"), ("WEFT_ENGINE_SOCKET", "/b.sock")]), "/b.sock");
    }
}
