//! `launch`, `stop`, `setup`: the services of this host, from the definition in compose.yaml.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};
use weft_engine::Client;
use weft_proto::client::{SOCKET_FOLDER, Service};

use super::own::{self, Own};
use crate::{
    Environment, Outcome,
    cli::Launch,
    compose::Docker,
    output::Output,
    report::{Changed, Lines},
    services::{ServiceError, Services},
};

/// How long the engine may take for each step, and all services until they do their job.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pause between two questions.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long a service's last words may be those of the run before, which it takes away when it starts.
const LAST_WORDS_OF_OLD: Duration = Duration::from_secs(2);

/// Starts the services, and returns when they do their job.
pub(super) async fn launch(
    launch: Launch,
    services: &Services,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    for note in &launch.notes {
        output.complain(&format!("weft: {note}"));
    }
    let (socket, docker) = prepare(&launch, environment)?;
    let engine = Client::new(socket).with_deadline(DEADLINE);
    if own::containers(&engine).await?.iter().any(|own| own.running) {
        output.complain(
            "weft: weft is running already: `weft stop` before it is started with other options; `weft connect` adds peers as it runs",
        );
        return Ok(Outcome::Running);
    }
    docker.compose(&["up", "--detach", "--quiet-pull"]).await?;
    let launched = own::containers(&engine).await?;
    if let Err(error) = ready(&launched, &engine, services).await {
        if error.is::<Ended>() {
            // They would be started again and again.
            for own in &launched {
                own::remove(&engine, &own.id).await?;
            }
        }
        return Err(error);
    }
    if output.is_weave() {
        let router = launched.into_iter().find(|own| own.service == Service::Router);
        output.print(&Lines::new("launched", router.map(|own| own.id).into_iter().collect()))?;
    } else {
        let names = launched.iter().map(|own| own.service.name().to_owned());
        output.print(&Changed::new("launched", names.collect()))?;
    }
    Ok(Outcome::Done)
}

/// Returns the engine's socket, and Docker's client with all settings.
fn prepare(launch: &Launch, environment: &Environment) -> anyhow::Result<(PathBuf, Docker)> {
    let socket = launch.variables.iter().find(|(name, _)| *name == "WEFT_ENGINE_SOCKET");
    let socket = socket.map(|(_, path)| PathBuf::from(path));
    let socket = socket.unwrap_or_else(|| own::engine_socket(environment, Path::new(SOCKET_FOLDER)));
    let mut docker = Docker::at(&format!("unix://{}", socket.display()));
    docker.set("WEFT_ENGINE_SOCKET", &socket.to_string_lossy());
    for (name, value) in &launch.variables {
        docker.set(name, value);
    }
    if let Some(path) = &launch.password_file {
        let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
        docker.set("WEFT_PASSWORD", text.lines().next().unwrap_or_default());
    } else if !is_set(launch, environment, "WEFT_PASSWORD") {
        if !is_set(launch, environment, "WEFT_INSECURE_NO_PASSWORD") {
            bail!(
                "there is no password for the mesh: name its file with --password-file, or set WEFT_PASSWORD; --insecure-no-password \
                 lets in whoever reaches the port"
            );
        }
        docker.set("WEFT_PASSWORD", "");
    }
    Ok((socket, docker))
}

fn is_set(launch: &Launch, environment: &Environment, variable: &str) -> bool {
    launch.variables.iter().any(|(name, _)| *name == variable)
        || environment.get(variable).is_some_and(|value| !value.is_empty())
}

/// A service ended by itself, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Ended(String);

/// Returns when all services do their job.
async fn ready(launched: &[Own], engine: &Client, services: &Services) -> anyhow::Result<()> {
    let began = Instant::now();
    for service in Service::ALL {
        loop {
            let why = match services.ready(service).await {
                Ok(true) => break,
                Ok(false) => format!("{} is not ready", service.name()),
                Err(error) => {
                    let ended = matches!(error, ServiceError::Away { reason: "failed", .. });
                    if ended && began.elapsed() > LAST_WORDS_OF_OLD {
                        return Err(Ended(error.to_string()).into());
                    }
                    error.to_string()
                }
            };
            for own in launched.iter().filter(|own| own.service == service) {
                if let Some(reason) = own::end(engine, &own.id).await? {
                    return Err(Ended(format!("{} ended: {reason}", service.name())).into());
                }
            }
            if began.elapsed() > DEADLINE {
                bail!("{why} after {} s; `weft status` says how it goes on, `weft stop` ends it", DEADLINE.as_secs());
            }
            sleep(INTERVAL).await;
        }
    }
    Ok(())
}

/// Stops the services. Containers keep their network, and the state stays.
pub(super) async fn stop(environment: &Environment, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let sockets = Path::new(SOCKET_FOLDER);
    let engine = Client::new(own::engine_socket(environment, sockets)).with_deadline(DEADLINE);
    let found = own::containers(&engine).await?;
    if found.is_empty() {
        output.complain("weft: weft is not running");
    }
    let redirected = environment.get("DOCKER_HOST").and_then(|host| host.strip_prefix("unix://"));
    if redirected.is_some_and(|path| Path::new(path).starts_with(sockets)) {
        output.complain(
            "weft: DOCKER_HOST of this shell is weft's proxy, which is stopped: `eval $(weft env --restore)`",
        );
    }
    for own in &found {
        // A container that is stopped only comes back when the engine starts again.
        own::remove(&engine, &own.id).await?;
    }
    output.print(&Changed::new("stopped", found.iter().map(|own| own.service.name().to_owned()).collect()))?;
    Ok(Outcome::Done)
}

/// Loads the images, if there is an archive of them, and says whether the engine has all.
pub(super) async fn setup(
    archive: Option<PathBuf>,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let socket = own::engine_socket(environment, Path::new(SOCKET_FOLDER));
    let docker = Docker::at(&format!("unix://{}", socket.display()));
    if let Some(archive) = &archive {
        docker.docker(&["load", "--quiet", "--input", &archive.to_string_lossy()]).await?;
    }
    let images = docker.compose(&["--profile", "command", "config", "--images"]).await?;
    let mut images: Vec<_> = images.lines().map(str::to_owned).collect();
    images.sort();
    let mut missing = Vec::new();
    for image in &images {
        if docker.docker(&["image", "inspect", image]).await.is_err() {
            missing.push(image.as_str());
        }
    }
    if !missing.is_empty() {
        bail!(
            "the engine on {} has no {}: `weft setup weft-images.tar` loads them from what `make images` wrote",
            socket.display(),
            missing.join(", ")
        );
    }
    output.print(&Lines::new("images", images))?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_password_nothing_is_started_unless_that_is_wanted() {
        let nothing = Environment::default();
        let refused = prepare(&Launch::default(), &nothing).expect_err("no password").to_string();
        assert!(refused.contains("--password-file") && refused.contains("--insecure-no-password"), "{refused}");
        let insecure =
            Launch { variables: vec![("WEFT_INSECURE_NO_PASSWORD", "true".to_owned())], ..Launch::default() };
        assert!(prepare(&insecure, &nothing).is_ok());
        assert!(prepare(&Launch::default(), &Environment::of([("WEFT_PASSWORD", "sesame")])).is_ok());
        let missing = Launch { password_file: Some("/nonexistent".into()), ..Launch::default() };
        let error = format!("{:#}", prepare(&missing, &nothing).expect_err("no file"));
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
