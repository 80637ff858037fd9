//! weft on lab hosts, started as a user starts it.

use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use tonic::transport::Channel;
use weft_proto::{
    client::{self, Service},
    ipam::v1::{self as ipam, RingState, address_service_client::AddressServiceClient},
    router::v1::{self as router, ConnectionState, peer_service_client::PeerServiceClient},
};

use crate::{Host, HostCommand, Project, eventually, image};

/// How long Compose may take to start all services, and how long they may take to get ready or to find each other. On
/// two cores, three hosts start at once.
const LIMIT: Duration = Duration::from_secs(60);

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

    /// Starts all services on a host whose engine has the images. They may still be getting ready, or fail to.
    ///
    /// # Errors
    /// If Compose can't start them.
    pub async fn up(host: &Host, launch: Launch) -> anyhow::Result<Self> {
        let weft = Self { host: host.clone(), launch };
        weft.compose(["up", "--detach", "--quiet-pull"]).limit(LIMIT).text().await?;
        Ok(weft)
    }

    /// Makes a service's container anew with other variables, as a user does to change a setting.
    ///
    /// # Errors
    /// If Compose can't do that.
    pub async fn recreate(&mut self, service: &str, launch: Launch) -> anyhow::Result<()> {
        self.launch = launch;
        let words = ["up", "--detach", "--quiet-pull", "--force-recreate", service];
        self.compose(words).limit(LIMIT).text().await.map(drop)
    }

    /// Starts all services on a host whose engine has the images, and returns when they do their job.
    ///
    /// # Errors
    /// If a service does not become ready, with what all of them logged.
    pub async fn launch(host: &Host, launch: Launch) -> anyhow::Result<Self> {
        let weft = Self::up(host, launch).await?;
        weft.ready().await?;
        Ok(weft)
    }

    /// Returns when all services do their job.
    ///
    /// # Errors
    /// If one does not, with what all of them logged.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let ready = try_join_all(Service::ALL.map(|service| self.service_ready(service))).await;
        let Err(error) = ready else { return Ok(()) };
        let logs = self.compose(["logs", "--no-color", "--tail", "15"]).output().await;
        let logs = logs.map(|output| output.all()).unwrap_or_default();
        Err(error.context(format!("weft does not get ready on {}:\n{logs}", self.host.name())))
    }

    async fn service_ready(&self, service: Service) -> anyhow::Result<()> {
        let program = Project::program(&format!("weft-{}", service.name()))?;
        eventually(&format!("{} is ready", service.name()), LIMIT, async || {
            self.host.command(&program.to_string_lossy(), ["--health"]).text().await.map(drop)
        })
        .await
    }

    /// Returns when this host is connected with `peers` others, over which data passes, and has addresses to give.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn joined(&self, peers: usize) -> anyhow::Result<()> {
        let name = self.host.name();
        eventually(&format!("{name} is connected with {peers} peers"), LIMIT, async || {
            let status = self.router_status().await?;
            let established = status.connections.iter().filter(|c| c.state() == ConnectionState::Established).count();
            ensure!(established == peers, "it is with {established}: {:?} {:?}", status.connections, status.targets);
            Ok(())
        })
        .await?;
        eventually(&format!("{name} has addresses to give"), LIMIT, async || {
            let status = self.ipam_status().await?;
            ensure!(status.state() == RingState::Ready, "its ring is not ready: {:?}", status.problems);
            Ok(())
        })
        .await
    }

    /// Returns the services' sockets as seen from outside the host.
    fn channel(&self, service: Service) -> Channel {
        client::channel(&service.socket(&self.host.path(client::SOCKET_FOLDER)))
    }

    /// Asks the router for its status.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn router_status(&self) -> anyhow::Result<router::GetStatusResponse> {
        let mut peers = PeerServiceClient::new(self.channel(Service::Router));
        let status = peers.get_status(router::GetStatusRequest {}).await;
        Ok(status.with_context(|| format!("{}: no status of the router", self.host.name()))?.into_inner())
    }

    /// Asks ipam for its status.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn ipam_status(&self) -> anyhow::Result<ipam::GetStatusResponse> {
        let mut addresses = AddressServiceClient::new(self.channel(Service::Ipam));
        let status = addresses.get_status(ipam::GetStatusRequest {}).await;
        Ok(status.with_context(|| format!("{}: no status of ipam", self.host.name()))?.into_inner())
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
        self.host.exec(&["kill", "-9", &self.process(service).await?]).await.map(drop)
    }

    /// Returns the process of a service, as its host numbers it.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn process(&self, service: &str) -> anyhow::Result<String> {
        let container = self.container(service).await?;
        self.host.docker(&["inspect", "--format", "{{.State.Pid}}", &container]).await
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
