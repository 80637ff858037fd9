//! weft on lab hosts, started as a user starts it.

use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::{Host, HostCommand, Project, image};

/// How long Compose may take until all services are healthy.
const LAUNCH_LIMIT: Duration = Duration::from_secs(90);

/// How weft is started on a host: the variables of `compose.yaml`.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Launch {
    variables: Vec<(String, String)>,
}

impl Launch {
    /// Starts with a password and no peers.
    pub fn new(password: &str) -> Self {
        Self::default().with("WEFT_PASSWORD", password)
    }

    /// Adds the peers to connect to.
    pub fn peers(self, peers: &[&Host]) -> Self {
        let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
        self.with("WEFT_PEERS", &names.join(","))
    }

    /// Sets a variable.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// weft on one host.
#[derive(Debug, Clone)]
pub struct Weft {
    host: Host,
    launch: Launch,
}

impl Weft {
    /// Loads the images on a host.
    ///
    /// # Errors
    /// If they can't be built or loaded.
    pub async fn load(host: &Host) -> anyhow::Result<()> {
        for archive in [image::own_archive()?, image::testing_archive()?] {
            host.load_images(&archive).await?;
        }
        Ok(())
    }

    /// Starts all services on a host whose engine has the images, and returns when they are healthy.
    ///
    /// # Errors
    /// If a service does not become healthy, with what it logged.
    pub async fn launch(host: &Host, launch: Launch) -> anyhow::Result<Self> {
        let weft = Self { host: host.clone(), launch };
        let started =
            weft.compose(["up", "--detach", "--wait", "--wait-timeout", "60"]).limit(LAUNCH_LIMIT).text().await;
        if let Err(error) = started {
            let logs = weft.compose(["logs", "--no-color", "--tail", "15"]).output().await;
            let logs = logs.map(|output| output.all()).unwrap_or_default();
            return Err(error).with_context(|| format!("weft does not start on {}:\n{logs}", host.name()));
        }
        Ok(weft)
    }

    /// Returns the host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Prepares a Compose command for weft's own services.
    pub fn compose<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> HostCommand {
        let file = Project::root().join("compose.yaml");
        let file = file.to_string_lossy();
        let mut command = self.host.docker_command(["compose", "--file", &file]);
        for argument in arguments {
            command = command.arg(argument);
        }
        command.envs(self.launch.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// Prepares the `weft` command.
    ///
    /// # Errors
    /// If it was not built.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> anyhow::Result<HostCommand> {
        let program = Project::program("weft")?;
        Ok(self.host.command(&program.to_string_lossy(), arguments))
    }

    /// Runs the `weft` command and returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub async fn weft(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.command(arguments.iter().copied())?.text().await
    }

    /// Runs the `weft` command with `--output json`.
    ///
    /// # Errors
    /// If it fails or prints something else.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.weft(&[arguments, &["--output", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("weft {} printed {text:?}", arguments.join(" ")))
    }

    /// Kills a service at once; Docker starts it again.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill(&self, service: &str) -> anyhow::Result<()> {
        let container = self.container(service).await?;
        let process = self.host.docker(&["inspect", "--format", "{{.State.Pid}}", &container]).await?;
        self.host.exec(&["kill", "-9", &process]).await.map(drop)
    }

    /// Returns the id of a service's container.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn container(&self, service: &str) -> anyhow::Result<String> {
        self.compose(["ps", "--quiet", service]).text().await
    }

    /// Returns what a service has logged.
    ///
    /// # Errors
    /// If there is no such service.
    pub async fn logs(&self, service: &str) -> anyhow::Result<String> {
        Ok(self.compose(["logs", "--no-color", "--no-log-prefix", service]).output().await?.all())
    }
}
