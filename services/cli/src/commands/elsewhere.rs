//! The command from another machine: by the engine alone, which executes this command where the services run.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
};

use anyhow::{Context, bail};
use serde_json::Value;
use weft_docker_proxy_core::eligibility::SERVICE_LABEL;
use weft_proto::client::{SOCKET_FOLDER, Service};

use super::{
    env,
    launch::{self, Target},
    version,
};
use crate::{
    Environment, Outcome,
    cli::{Command, Launch},
    compose::{Docker, Engine},
    environment::{CALLER, CALLER_ERRORS, PIPE, TERMINAL},
    output::Output,
    place::{authority, is_loopback},
    services::Services,
    weave::Asked,
};

/// A command's words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The program to execute in the container, by the name that it has here.
    pub(crate) program: &'static str,
    /// What it is given.
    pub(crate) words: &'a [OsString],
}

/// Codes with which Docker's client says that the program cannot be executed, and is not there.
const NOT_EXECUTED: [u8; 2] = [126, 127];

/// The largest code that the command ends with by itself.
const MOST: u8 = 3;

/// What shells add to the number of the signal that ended a program.
const SIGNALS: u8 = 128;

/// The code of a command line that makes no sense.
const NO_SENSE: u8 = 2;

/// Runs a command where an engine runs.
pub(crate) async fn run(
    asked: Asked,
    call: Call<'_>,
    docker: &Docker,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let (cli, mut notes) = match asked {
        Asked::Version(_) => return version::as_weave(docker, output).await,
        Asked::Run(cli, notes) => (cli, notes),
        Asked::Report(cli, _) => (cli, Vec::new()),
    };
    let command = cli.command;
    // Where ssh asks for a password, nothing else is to be written.
    let by_ssh = docker.engine().address().starts_with("ssh://");
    let wait =
        (!by_ssh).then(|| output.progress().wait(format!("waiting for the engine at {}", docker.engine().address())));
    if let Command::Launch(mut what) = command {
        if output.is_weave() {
            notes.extend(offer_proxy(&mut what, docker, environment));
        }
        notes.iter().for_each(|note| output.complain(note));
        return launch::launch(what, Target::elsewhere(docker).await?, environment, output).await;
    }
    if matches!(command, Command::Stop) {
        return launch::stop(Target::elsewhere(docker).await?, environment, output).await;
    }
    if let Command::Setup { archive } = command {
        return launch::setup(archive, Target::elsewhere(docker).await?, output).await;
    }
    if let Command::Env { restore: false } = command {
        return env::env_elsewhere(docker, environment, output).await;
    }
    if matches!(command, Command::Config) {
        return env::config_elsewhere(docker, output).await;
    }
    if matches!(command, Command::Version) {
        return version::elsewhere(docker, output).await;
    }
    if matches!(command, Command::Install { .. } | Command::Env { .. } | Command::Schema) {
        // What they change, or say, is here.
        let services = Services::new(SOCKET_FOLDER.as_ref());
        return super::run(command, &services, environment, output).await;
    }
    // A reset ends the services, and changes files of the host.
    let router = if matches!(command, Command::Reset { .. }) { None } else { router(docker).await? };
    // From here on it is the command there that says what it waits for.
    drop(wait);
    let code = match router {
        Some(router) => execute(call, &router, docker, output).await?,
        None => in_own_container(call, docker).await?,
    };
    if code == NO_SENSE {
        output.complain(&format!("weft: the command at {} is of another version than this one", docker.engine()));
    }
    Ok(Outcome::Ended(known(code)))
}

/// Returns the exit code for what Docker's client ended with: the command's own, or that of a signal; its client has others for what
/// keeps it from executing the command.
const fn known(code: u8) -> u8 {
    if code <= MOST || code > SIGNALS { code } else { 1 }
}

/// Asks the command in the router's container for what it prints with `--output json`.
pub(super) async fn ask(docker: &Docker, words: &[&str]) -> anyhow::Result<Value> {
    let Some(router) = router(docker).await? else {
        bail!("weft is not running at {}: `weft launch` starts it there", docker.engine());
    };
    let asked = docker.output(&[&["exec", &router, "/weft", "--output", "json"], words].concat(), &[]).await?;
    serde_json::from_slice(&asked.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&asked.stderr);
        format!("the command at {} answers in no way that is known here: {}", docker.engine(), said.trim())
    })
}

/// Returns the id of the router's container, if it runs.
async fn router(docker: &Docker) -> anyhow::Result<Option<String>> {
    let label = format!("label={SERVICE_LABEL}={}", Service::Router.name());
    let filters = ["--filter", &label, "--filter", "status=running"];
    let listed = docker.docker(&[&["ps", "--quiet", "--no-trunc"], &filters[..]].concat()).await?;
    Ok(listed.lines().next().map(str::to_owned))
}

/// Has the command executed in the router's container, which sees the sockets of all services. It ends with its stdin, because
/// signals do not reach it.
async fn execute(call: Call<'_>, router: &str, docker: &Docker, output: &mut Output<'_>) -> anyhow::Result<u8> {
    let what = |is_terminal| if is_terminal { TERMINAL } else { PIPE };
    let caller = format!("{CALLER}={}", what(output.is_terminal()));
    let errors = format!("{CALLER_ERRORS}={}", what(io::stderr().is_terminal()));
    let exec = ["exec", "--interactive", "--env", &caller, "--env", &errors, router, call.program].map(OsStr::new);
    let words: Vec<_> = exec.into_iter().chain(call.words.iter().map(OsString::as_os_str)).collect();
    let code = docker.attached(&words, None).await?;
    if NOT_EXECUTED.contains(&code) {
        bail!(
            "the router at {} is of a version that has no command to execute: `weft stop` and `weft launch` start this one",
            docker.engine()
        );
    }
    Ok(code)
}

/// Has the command run in a container of its own, as `docker compose run --rm weft` does.
async fn in_own_container(call: Call<'_>, docker: &Docker) -> anyhow::Result<u8> {
    let run = ["--profile", "command", "run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", call.program, "weft"];
    let words: Vec<_> = run.iter().map(OsStr::new).chain(call.words.iter().map(OsString::as_os_str)).collect();
    docker.attached_compose(&words).await
}

/// Has the proxy listen where the client's host reaches it, as Weave Net does where the client uses TCP; with TLS if the engine has
/// it. Returns what to say of it.
fn offer_proxy(launch: &mut Launch, docker: &Docker, environment: &Environment) -> Option<String> {
    let Engine::At(host) = docker.engine() else { return None };
    let (name, _) = authority(host).filter(|_| host.starts_with("tcp://") || !host.contains("://"))?;
    if is_loopback(name) {
        // Nobody else reaches this engine, and there the proxy listens anyway.
        return None;
    }
    let given = |variable: &str| environment.set(variable).is_some();
    if given("WEFT_DOCKER_PROXY_HOSTS") || launch.has("WEFT_DOCKER_PROXY_HOSTS") {
        return None;
    }
    launch.default_to("WEFT_DOCKER_PROXY_HOSTS", "tcp://0.0.0.0:12375");
    if given("DOCKER_TLS_VERIFY") || given("ORIG_DOCKER_TLS_VERIFY") {
        return None;
    }
    launch.default_to("WEFT_DOCKER_PROXY_INSECURE_TCP", "true");
    launch.default_to("WEFT_DOCKER_PROXY_TCP_NAMES", name);
    Some(format!(
        "weave: the proxy listens on port 12375 without asking for certificates, as the engine at {host} does: whoever reaches either \
         has root on that host"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_documented_codes_are_passed_on() {
        assert_eq!([0, 1, 2, 3, 4, 18, 125, 130, 143].map(known), [0, 1, 2, 3, 1, 1, 1, 130, 143]);
    }

    #[test]
    fn the_proxy_is_offered_as_the_engine_is() {
        let offered = |host: &str, environment: &Environment, mut launch: Launch| {
            let note = offer_proxy(&mut launch, &Docker::at(host), environment);
            (launch.variables, note.is_some())
        };
        let nothing = Environment::default();
        let hosts = ("WEFT_DOCKER_PROXY_HOSTS", "tcp://0.0.0.0:12375".to_owned());
        let (variables, warned) = offered("tcp://host1:2375", &nothing, Launch::default());
        let insecure = ("WEFT_DOCKER_PROXY_INSECURE_TCP", "true".to_owned());
        let names = ("WEFT_DOCKER_PROXY_TCP_NAMES", "host1".to_owned());
        assert_eq!((variables, warned), (vec![hosts.clone(), insecure, names], true));
        let tls = Environment::of([("DOCKER_TLS_VERIFY", "1")]);
        assert_eq!(offered("tcp://host1:2376", &tls, Launch::default()), (vec![hosts], false));
        assert!(offered("host1:2375", &nothing, Launch::default()).1, "TCP is what Docker's client takes it for");
        for own in ["tcp://127.0.0.1:2375", "tcp://localhost:2375", "tcp://[::1]:2375", "tcp://:2375", "localhost:2375"]
        {
            assert_eq!(offered(own, &nothing, Launch::default()), (vec![], false), "{own}");
        }
        assert_eq!(offered("ssh://host1", &nothing, Launch::default()), (vec![], false));
        let own = Environment::of([("WEFT_DOCKER_PROXY_HOSTS", "off")]);
        assert_eq!(offered("tcp://host1:2375", &own, Launch::default()), (vec![], false));
        let off = vec![("WEFT_DOCKER_PROXY_HOSTS", "off".to_owned())];
        let given = Launch { variables: off.clone(), ..Launch::default() };
        assert_eq!(offered("tcp://host1:2375", &nothing, given), (off, false));
    }
}
