//! weft's services as Docker Compose starts them, from the one definition.

use std::{
    ffi::OsStr,
    fmt, io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{io::AsyncWriteExt, net::UnixStream, process::Command, time::timeout};
use weft_engine::Client;

use crate::place::authority;

/// The definition of the services, as it is put on hosts.
pub(crate) const DEFINITION: &str = include_str!("../../../compose.yaml");

/// How long Docker's client may take. Loading images from a slow disk is what takes longest.
const DEADLINE: Duration = Duration::from_secs(300);

/// What Docker's client has to be told so that Compose reads weft's definition from its input. Settings come from the environment
/// alone, not from a `.env` in whichever folder the user is.
const COMPOSE: [&str; 7] = ["compose", "--project-directory", "/", "--env-file", "/dev/null", "--file", "-"];

/// Variables by which Docker's client uses TLS.
const FOR_TCP: [&str; 2] = ["DOCKER_TLS", "DOCKER_TLS_VERIFY"];

/// An engine, as Docker's client finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Engine {
    /// At an address, as `DOCKER_HOST` has it.
    At(String),
    /// By a context of the client's.
    Context {
        /// Its name.
        name: String,
        /// Where it leads.
        address: String,
    },
}

impl Engine {
    /// Returns where it is, as `DOCKER_HOST` would have it.
    pub(crate) fn address(&self) -> &str {
        match self {
            Self::At(address) | Self::Context { address, .. } => address,
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(host) => f.write_str(host),
            Self::Context { name, .. } => write!(f, "the context {name}"),
        }
    }
}

/// Docker's own client on this host, for one engine.
#[derive(Debug, Clone)]
pub(crate) struct Docker {
    engine: Engine,
    /// Variables beside those of this process.
    variables: Vec<(String, String)>,
}

impl Docker {
    /// Makes a client of an engine.
    pub(crate) const fn of(engine: Engine) -> Self {
        Self { engine, variables: Vec::new() }
    }

    /// Makes a client of the engine at `host`, as `DOCKER_HOST` would name it.
    pub(crate) fn at(host: &str) -> Self {
        Self::of(Engine::At(host.to_owned()))
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Sets a variable, whatever this process has.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Runs Compose with weft's definition and returns what it prints.
    pub(crate) async fn compose(&self, words: &[&str]) -> anyhow::Result<String> {
        self.run(&[&COMPOSE[..], words].concat(), DEFINITION.as_bytes()).await
    }

    /// Runs Docker's client and returns what it prints.
    pub(crate) async fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        self.run(words, &[]).await
    }

    /// Runs Compose with weft's definition to its end, on the outputs of this process, and returns its exit code.
    pub(crate) async fn attached_compose(&self, words: &[&OsStr]) -> anyhow::Result<u8> {
        let words: Vec<_> = COMPOSE.iter().map(OsStr::new).chain(words.iter().copied()).collect();
        self.attached(&words, Some(DEFINITION.as_bytes())).await
    }

    /// Runs Docker's client to its end, on the outputs of this process, and returns its exit code. Its stdin ends after `input`;
    /// without one it stays open for as long as the client runs.
    pub(crate) async fn attached(&self, words: &[&OsStr], input: Option<&[u8]>) -> anyhow::Result<u8> {
        let mut command = self.command(words);
        // Older ones do not know the option.
        command.env("COMPOSE_PROGRESS", "quiet");
        let mut child = command.stdin(Stdio::piped()).spawn().with_context(needed)?;
        let mut stdin = child.stdin.take();
        if let Some(input) = input
            && let Some(mut stdin) = stdin.take()
        {
            // A client that ends early says why on stderr.
            let _ = stdin.write_all(input).await;
        }
        let status = child.wait().await.context("failed to wait for `docker`")?;
        drop(stdin);
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    /// Runs Docker's client and returns how it ended, and what it printed.
    pub(crate) async fn output(&self, words: &[&str], input: &[u8]) -> anyhow::Result<Output> {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(needed)?;
        let mut stdin = child.stdin.take().context("the client has no input")?;
        let ran = async {
            // A client that ends early says why on stderr.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let late = || format!("`docker {}` did not end within {} s", verb(words), DEADLINE.as_secs());
        Ok(timeout(DEADLINE, ran).await.with_context(late)??)
    }

    /// Makes a client of the engine's API, to which Docker's client leads by whichever way it has.
    pub(crate) fn client(&self) -> Client {
        let docker = self.clone();
        Client::dialling(&self.engine.to_string(), move || docker.dial())
    }

    fn dial(&self) -> io::Result<UnixStream> {
        let (near, far) = std::os::unix::net::UnixStream::pair()?;
        let mut command = self.command(&["system", "dial-stdio"]);
        command.stdin(OwnedFd::from(far.try_clone()?)).stdout(OwnedFd::from(far)).stderr(Stdio::null());
        // It ends with the stream.
        drop(command.kill_on_drop(false).spawn()?);
        near.set_nonblocking(true)?;
        UnixStream::from_std(near)
    }

    async fn run(&self, words: &[&str], input: &[u8]) -> anyhow::Result<String> {
        let ended = self.output(words, input).await?;
        if !ended.status.success() {
            bail!("`docker {}` failed: {}", verb(words), reason(&String::from_utf8_lossy(&ended.stderr)));
        }
        Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned())
    }

    fn command(&self, words: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new("docker");
        command.args(words).kill_on_drop(true);
        match &self.engine {
            Engine::At(host) => command.env("DOCKER_HOST", host).env_remove("DOCKER_CONTEXT"),
            Engine::Context { name, .. } => command.env("DOCKER_CONTEXT", name).env_remove("DOCKER_HOST"),
        };
        if authority(self.engine.address()).is_none() {
            // What is for TCP is not disregarded by every client at a Unix socket.
            for variable in FOR_TCP {
                command.env_remove(variable);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn needed() -> &'static str {
    "failed to run `docker`: install Docker's client with Compose, or start weft with `docker compose up -d` where they are"
}

/// Returns the word that says what the client is to do.
fn verb<'a>(words: &[&'a str]) -> &'a str {
    words.iter().find(|word| !word.starts_with('-')).copied().unwrap_or_default()
}

/// Finds the reason in what Docker's client says before it fails.
fn reason(said: &str) -> String {
    if said.contains("'compose' is not a docker command") || said.contains("unknown shorthand flag: 'f'") {
        return "this Docker client has no Compose: install its plugin (docker-compose-plugin, or Debian's docker-compose)".to_owned();
    }
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it gives no reason");
    if last.contains("No such image") || last.contains("not found: manifest") {
        return format!("{last}; `weft setup weft-images.tar` loads weft's images");
    }
    last.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_reason() {
        assert_eq!(reason(" Container weft-router-1  Creating\nError response: x\n\n"), "Error response: x");
        assert!(reason("docker: 'compose' is not a docker command.\nSee 'docker --help'").contains("plugin"));
        assert!(reason("Error response from daemon: No such image: weft/router:0.1.0").contains("weft setup"));
        assert_eq!(reason(""), "it gives no reason");
    }

    #[test]
    fn what_is_for_tcp_is_kept_from_unix_sockets() {
        let removed = |engine: &str| {
            let command = Docker::at(engine).command(&["version"]);
            let removed = command.as_std().get_envs().filter(|(_, value)| value.is_none());
            removed.map(|(name, _)| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(removed("unix:///var/run/docker.sock"), ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY"]);
        assert_eq!(removed("tcp://host1:2376"), ["DOCKER_CONTEXT"]);
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named() {
        let error = Docker::at("unix:///nonexistent.sock").docker(&["version"]).await.expect_err("nobody is there");
        let text = format!("{error:#}");
        assert!(text.contains("docker"), "{text}");
    }
}
