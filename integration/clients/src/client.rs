//! Who is driven, and how.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use weft_lab::{Host, HostCommand, Project, cache_folder};

use crate::{outcome::Outcome, raw, rust, steps};

/// How long all calls of one client may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Where a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// At the engine's own socket.
    Engine,
    /// Through weft.
    Weft,
}

impl Way {
    /// Returns the socket's path inside the host.
    pub(crate) const fn socket(self) -> &'static str {
        match self {
            Self::Engine => "/run/docker.sock",
            Self::Weft => "/run/weft/docker/docker.sock",
        }
    }
}

/// A client of the Docker API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// The command line of Debian 12.
    OldCommand,
    /// The command line of Debian 13.
    NewCommand,
    /// Compose, as one program.
    ComposeV1,
    /// Compose, as a plugin.
    ComposeV2,
    /// The Python library.
    Python,
    /// The Node library.
    Node,
    /// The Rust library.
    Rust,
    /// HTTP that clients might speak, but none of the others does.
    Raw,
}

impl Client {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::OldCommand,
        Self::NewCommand,
        Self::ComposeV1,
        Self::ComposeV2,
        Self::Python,
        Self::Node,
        Self::Rust,
        Self::Raw,
    ];

    /// Returns its name, for readers and for `--only`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OldCommand => "docker-20.10",
            Self::NewCommand => "docker-26.1",
            Self::ComposeV1 => "compose-v1",
            Self::ComposeV2 => "compose-v2",
            Self::Python => "python",
            Self::Node => "node",
            Self::Rust => "rust",
            Self::Raw => "http",
        }
    }

    /// Drives it through all its calls, and returns its version with what they came to.
    pub(crate) async fn drive(self, host: &Host, way: Way) -> anyhow::Result<(String, Vec<Outcome>)> {
        let mut outcomes = match self {
            Self::OldCommand | Self::NewCommand => steps::run(self.steps(host, way), "docker/steps").await?,
            Self::ComposeV1 | Self::ComposeV2 => steps::run(self.steps(host, way), "compose/steps").await?,
            Self::Python => script(&self.at(host, way, "clients/python/bin/python", "python/drive.py")).await?,
            Self::Node => script(&self.at(host, way, "/usr/bin/node", "node/drive.js")).await?,
            Self::Rust => rust::drive(&host.path(way.socket())).await?,
            Self::Raw => raw::drive(&host.path(way.socket())).await?,
        };
        ensure!(!outcomes.is_empty(), "{} made no call", self.name());
        let version = outcomes.remove(0).outcome;
        let version = version["stdout"].as_str().or(version.as_str()).unwrap_or_default().to_owned();
        Ok((version, outcomes))
    }

    /// Lists its calls that `outcomes` lack.
    pub(crate) async fn missed(self, host: &Host, outcomes: &[Outcome]) -> anyhow::Result<Vec<String>> {
        let program: &[&str] = match self {
            Self::OldCommand | Self::NewCommand => &["docker"],
            Self::ComposeV1 => &["docker-compose"],
            Self::ComposeV2 => &["docker", "compose"],
            // The scripts see to it themselves, and a test does for the library of Rust.
            Self::Python | Self::Node | Self::Rust | Self::Raw => return Ok(Vec::new()),
        };
        let list = here("docker/commands").to_string_lossy().into_owned();
        let words = [&["sh", &list], program].concat();
        let command = self.environment(host.command("sh", words[1..].iter().copied()), Way::Engine);
        let named = command.limit(LIMIT).text().await.context("failed to list the commands of a client")?;
        let named: Vec<_> = named.lines().map(str::to_owned).collect();
        ensure!(named.len() > 20, "{} names only {named:?}", self.name());
        Ok(steps::missed(
            if program.len() == 1 && program[0] == "docker" { "docker" } else { "$COMPOSE" },
            &named,
            outcomes,
        ))
    }

    /// Sets what the steps of a client find in their environment.
    fn environment(self, command: HostCommand, way: Way) -> HostCommand {
        let newer = cache_folder().join("trixie/usr/bin");
        let (path, compose) = match self {
            Self::OldCommand | Self::ComposeV1 => (PathBuf::from("/usr/bin"), "docker-compose"),
            Self::NewCommand | Self::ComposeV2 | Self::Python | Self::Node | Self::Rust | Self::Raw => {
                (newer, "docker compose")
            }
        };
        let file = here("compose/compose.yaml");
        command
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path.display()))
            .env("DOCKER_HOST", format!("unix://{}", way.socket()))
            .env("DOCKER_CONFIG", "/run/clients/config")
            .env("HERE", here("docker"))
            .env("COMPOSE", format!("{compose} --project-name driven --file {}", file.display()))
    }

    fn steps(self, host: &Host, way: Way) -> impl Fn(&str) -> HostCommand {
        move |line| {
            let line = format!("cd /run/clients && {line}");
            self.environment(host.command("sh", ["-c", &line]), way)
        }
    }

    fn at(self, host: &Host, way: Way, program: &str, script: &str) -> impl Fn() -> HostCommand {
        let program = cache_folder().join(program);
        move || {
            let modules = cache_folder().join("clients/node/node_modules");
            let script = here(script);
            let command = host.command(&program.to_string_lossy(), [&*script.to_string_lossy()]);
            self.environment(command, way).env("NODE_PATH", modules)
        }
    }
}

/// Returns where a file of this crate is.
fn here(file: &str) -> PathBuf {
    Project::root().join("integration/clients").join(file)
}

async fn script(command: &impl Fn() -> HostCommand) -> anyhow::Result<Vec<Outcome>> {
    let output = command().limit(LIMIT).output().await?;
    if !output.status.success() {
        let last = output.stdout.lines().last().unwrap_or_default();
        bail!("the script failed: {}\nits last call was {last}", output.stderr);
    }
    Outcome::parse(&output.stdout)
}
