//! `launch`, `stop`, `setup`: the services of this host, or of another engine's, from the definition in compose.yaml.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use tokio::time::{Instant, sleep};
use weft_engine::Client;
use weft_proto::client::{SOCKET_FOLDER, Service};

use super::own::{self, Own};
use crate::{
    Environment, Outcome,
    cli::Launch,
    compose::{Docker, Engine},
    output::Output,
    place::is_below,
    progress::Progress,
    report::{Changed, Lines},
    services::{ServiceError, Services},
};

/// How long the engine may take for each step, and all services until they do their job.
const DEADLINE: Duration = Duration::from_secs(60);

/// Pause between two questions.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long a service's last words may be those of the run before, which it takes away when it starts.
const LAST_WORDS_OF_OLD: Duration = Duration::from_secs(2);

/// Where the services are started and stopped.
pub(super) struct Target<'a> {
    /// The engine's API.
    engine: Client,
    /// Docker's client for that engine.
    docker: Docker,
    /// The services' sockets, on this host.
    services: Option<&'a Services>,
}

impl<'a> Target<'a> {
    /// This host, by the engine's own socket.
    pub(super) fn here(environment: &Environment, services: &'a Services) -> Self {
        Self::by_socket(own::own_engine(environment), services)
    }

    fn by_socket(socket: PathBuf, services: &'a Services) -> Self {
        let mut docker = Docker::at(&format!("unix://{}", socket.display()));
        docker.set("WEFT_ENGINE_SOCKET", &socket.to_string_lossy());
        Self { engine: Client::new(socket).with_deadline(DEADLINE), docker, services: Some(services) }
    }

    /// Where another engine runs.
    ///
    /// # Errors
    /// If Docker's client does not reach it, with the client's reason.
    pub(super) async fn elsewhere(docker: &Docker) -> anyhow::Result<Self> {
        docker.docker(&["version", "--format", "{{.Server.Version}}"]).await?;
        Ok(Self { engine: docker.client().with_deadline(DEADLINE), docker: docker.clone(), services: None })
    }
}

/// Starts the services, and returns when they do their job.
pub(super) async fn launch(
    launch: Launch,
    mut target: Target<'_>,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    for note in &launch.notes {
        output.complain(&format!("weft: {note}"));
    }
    let socket = launch.variables.iter().find(|(name, _)| *name == "WEFT_ENGINE_SOCKET");
    if let (Some((_, socket)), Some(services)) = (socket, target.services) {
        target = Target::by_socket(socket.into(), services);
    }
    let Target { engine, docker, services } = &mut target;
    let found = own::containers(engine).await?;
    let stopped = |service: &Service| !found.iter().any(|own| own.running && own.service == *service);
    let missing: Vec<_> = Service::ALL.into_iter().filter(stopped).map(Service::name).collect();
    if !missing.is_empty() && missing.len() < Service::ALL.len() {
        bail!("of weft's services all run but {}: `weft stop` before it is started", missing.join(", "));
    }
    if missing.is_empty() {
        output.complain(
            "weft: weft is running already: `weft stop` before it is started with other options; `weft connect` adds peers as it runs",
        );
        return Ok(Outcome::Running);
    }
    configure(docker, &launch, environment)?;
    let launched = up(engine, docker, *services, &output.progress()).await?;
    if output.is_weave() {
        let router = launched.into_iter().find(|own| own.service == Service::Router);
        output.print(&Lines::new("launched", router.map(|own| own.id).into_iter().collect()))?;
    } else {
        let names = launched.iter().map(|own| own.service.name().to_owned());
        output.print(&Changed::new("launched", names.collect()))?;
    }
    Ok(Outcome::Done)
}

/// Has all containers started, and returns them when they do their job. Where one cannot be started, or ends, none is left.
async fn up(
    engine: &Client,
    docker: &Docker,
    services: Option<&Services>,
    progress: &Progress,
) -> anyhow::Result<Vec<Own>> {
    let _wait = progress.wait("starting weft");
    let started = docker.compose(&["up", "--detach", "--quiet-pull"]).await;
    let launched = own::containers(engine).await?;
    let outcome = match started {
        Ok(_) => ready(&launched, engine, docker, services, progress).await,
        Err(error) if is_ours(&error.to_string(), &launched) => {
            bail!("somebody else starts weft at this moment: `weft status` says how it goes on")
        }
        Err(error) => Err(error.context(NotStarted)),
    };
    let Err(error) = outcome else { return Ok(launched) };
    if error.is::<Ended>() || error.is::<NotStarted>() {
        // Those that ended would be started again and again, and what is left of a start looks like weft.
        own::remove_all(engine, &launched).await.map_err(|left| anyhow!("{error:#}; {left:#}"))?;
    }
    Err(error)
}

/// Tells whether a name is taken, as Docker's client says, by one of these containers.
fn is_ours(said: &str, launched: &[Own]) -> bool {
    let holder = said.split_once("is already in use by container").and_then(|(_, rest)| rest.split('"').nth(1));
    holder.is_some_and(|holder| launched.iter().any(|own| own.id == holder))
}

/// Gives Docker's client all settings.
fn configure(docker: &mut Docker, launch: &Launch, environment: &Environment) -> anyhow::Result<()> {
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
    Ok(())
}

fn is_set(launch: &Launch, environment: &Environment, variable: &str) -> bool {
    launch.variables.iter().any(|(name, _)| *name == variable)
        || environment.get(variable).is_some_and(|value| !value.is_empty())
}

/// A service ended by itself, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Ended(String);

/// The containers could not all be started.
#[derive(Debug, thiserror::Error)]
#[error("not all services could be started")]
struct NotStarted;

/// Returns when all services do their job.
async fn ready(
    launched: &[Own],
    engine: &Client,
    docker: &Docker,
    services: Option<&Services>,
    progress: &Progress,
) -> anyhow::Result<()> {
    let began = Instant::now();
    for service in Service::ALL {
        let _wait = progress.wait(format!("waiting for {}", service.name()));
        let own = launched.iter().find(|own| own.service == service);
        loop {
            let asked = match (services, own) {
                (Some(services), _) => by_socket(services, service).await,
                (None, Some(own)) => by_health_check(docker, own).await,
                (None, None) => Err(Missing::Yet(format!("the engine shows no container of {}", service.name()))),
            };
            let why = match asked {
                Ok(()) => break,
                Err(Missing::Gone(why)) if began.elapsed() > LAST_WORDS_OF_OLD => return Err(Ended(why).into()),
                Err(Missing::Gone(why) | Missing::Yet(why)) => why,
            };
            if let Some(own) = own
                && let Some(reason) = own::end(engine, &own.id).await?
            {
                return Err(Ended(format!("{} ended: {reason}", service.name())).into());
            }
            if began.elapsed() > DEADLINE {
                bail!("{why} after {} s; `weft status` says how it goes on, `weft stop` ends it", DEADLINE.as_secs());
            }
            sleep(INTERVAL).await;
        }
    }
    Ok(())
}

/// Why a service does not do its job.
enum Missing {
    /// It may at the next question.
    Yet(String),
    /// It ended, and its last words, which may be those of the run before.
    Gone(String),
}

async fn by_socket(services: &Services, service: Service) -> Result<(), Missing> {
    match services.ready(service).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Missing::Yet(format!("{} is not ready", service.name()))),
        Err(error @ ServiceError::Away { reason: "failed", .. }) => Err(Missing::Gone(error.to_string())),
        Err(error) => Err(Missing::Yet(error.to_string())),
    }
}

/// Asks as the engine's health check does, without waiting for that.
async fn by_health_check(docker: &Docker, own: &Own) -> Result<(), Missing> {
    let program = format!("/weft-{}", own.service.name());
    let asked = docker.docker(&["exec", &own.id, &program, "--health"]).await;
    asked.map(drop).map_err(|error| Missing::Yet(format!("{} is not ready: {error:#}", own.service.name())))
}

/// Stops the services. Containers keep their network, and the state stays.
pub(super) async fn stop(
    target: Target<'_>,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let engine = target.engine;
    let _wait = output.progress().wait("stopping weft");
    let found = own::containers(&engine).await?;
    if found.is_empty() {
        output.complain("weft: weft is not running");
    }
    if is_proxy(environment, target.docker.engine()) {
        output.complain(
            "weft: DOCKER_HOST of this shell is weft's proxy, which is stopped: `eval $(weft env --restore)`",
        );
    }
    // A container that is stopped only comes back when the engine starts again.
    own::remove_all(&engine, &found).await?;
    output.print(&Changed::new("stopped", found.iter().map(|own| own.service.name().to_owned()).collect()))?;
    Ok(Outcome::Done)
}

/// Tells whether `DOCKER_HOST` leads to weft's proxy, and not to the engine itself.
fn is_proxy(environment: &Environment, engine: &Engine) -> bool {
    let Some(host) = environment.set("DOCKER_HOST") else { return false };
    match (host.strip_prefix("unix://"), engine) {
        (Some(path), _) => is_below(Path::new(path), Path::new(SOCKET_FOLDER)),
        // It was passed over for what was there before it.
        (None, Engine::At(engine)) => environment.get("ORIG_DOCKER_HOST").is_some() && engine != host,
        (None, Engine::Context { .. }) => true,
    }
}

/// Loads the images, if there is an archive of them, and says whether the engine has all.
pub(super) async fn setup(
    archive: Option<PathBuf>,
    target: Target<'_>,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let docker = target.docker;
    let _wait = output.progress().wait(if archive.is_some() { "loading images" } else { "looking for images" });
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
            "the engine at {} has no {}: `weft setup weft-images.tar` loads them from what `make images` wrote",
            docker.engine(),
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
        let prepare = |launch: &Launch, environment: &Environment| {
            configure(&mut Docker::at("unix:///nonexistent.sock"), launch, environment)
        };
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

    #[test]
    fn a_launch_beside_this_one_is_told_from_somebody_elses_container() {
        let launched = [Own { service: Service::Router, id: "4f66".to_owned(), running: true }];
        let said = |id: &str| {
            format!(
                "`docker compose` failed: Error response from daemon: Conflict. The container name \"/weft-router-1\" is already in \
                 use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
            )
        };
        assert!(is_ours(&said("4f66"), &launched));
        assert!(!is_ours(&said("77aa"), &launched), "it has to be made room for");
        assert!(!is_ours("`docker compose` failed: no such image", &launched));
    }

    #[test]
    fn a_proxy_is_told_from_the_engine_behind_it() {
        let engine = |host: &str| Engine::At(host.to_owned());
        let own = engine("unix:///var/run/docker.sock");
        let far = engine("tcp://host2:2375");
        assert!(is_proxy(&Environment::of([("DOCKER_HOST", "unix:///run/weft/docker/docker.sock")]), &own));
        assert!(is_proxy(&Environment::of([("DOCKER_HOST", "unix:///var/run/weft/docker/docker.sock")]), &own));
        assert!(!is_proxy(&Environment::default(), &own));
        let context = Engine::Context { name: "far".to_owned(), address: "tcp://host2:2375".to_owned() };
        assert!(is_proxy(&Environment::of([("DOCKER_HOST", "tcp://host2:12375"), ("ORIG_DOCKER_HOST", "")]), &context));
        assert!(!is_proxy(&Environment::default(), &context));
        let redirected = [("DOCKER_HOST", "tcp://host2:12375"), ("ORIG_DOCKER_HOST", "tcp://host2:2375")];
        assert!(is_proxy(&Environment::of(redirected), &far));
        assert!(!is_proxy(&Environment::of([("DOCKER_HOST", "tcp://host2:2375")]), &far));
        assert!(!is_proxy(&Environment::of([("DOCKER_HOST", "unix:///run/other.sock")]), &own));
    }
}
