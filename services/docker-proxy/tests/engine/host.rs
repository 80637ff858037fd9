//! A lab host with an engine, the proxy, and stand-ins for the other services.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
};
use tonic::transport::Channel;
use weft_lab::{Host, HostCommand, Lab, eventually, image};
use weft_metrics::{
    merge,
    testing::{Scrape, read},
};
use weft_proto::{
    client::{self, Service},
    proxy::v1::{GetStatusRequest, container_service_client::ContainerServiceClient},
};

use crate::services::Services;

/// How long anything may take that should happen at once, on a machine that is busy with other hosts.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// How long the proxy tries to attach a container that somebody waits for.
pub(crate) const ATTACH_TIMEOUT: Duration = Duration::from_secs(3);

const PROXY: &str = env!("CARGO_BIN_EXE_weft-docker-proxy");

/// A lab host behind the proxy.
#[derive(Debug)]
pub(crate) struct Proxied {
    services: Services,
    proxy: Option<Child>,
    options: Vec<String>,
    lab: Lab,
}

impl Proxied {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts it with options for the proxy.
    pub(crate) async fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        let lab = Lab::new().hosts(1).start().await?;
        lab.host(1).load_images(&image::testing_archive()?).await?;
        let services = Services::start(lab.host(1))?;
        let options = options.iter().copied().map(str::to_owned).collect();
        let mut host = Self { services, proxy: None, options, lab };
        host.start_proxy().await?;
        Ok(host)
    }

    /// Starts the proxy and returns when it has found the engine.
    pub(crate) async fn start_proxy(&mut self) -> anyhow::Result<()> {
        let timeout = ATTACH_TIMEOUT.as_secs().to_string();
        let arguments = ["--engine-socket", "/run/docker.sock", "--attach-timeout", &timeout];
        let arguments = arguments.into_iter().chain(self.options.iter().map(String::as_str));
        self.start_proxy_as(self.lab_host().command(PROXY, arguments)).await
    }

    /// Starts the proxy with the engine's socket as a container sees it: a file that is bound to another one.
    pub(crate) async fn start_proxy_in_container(&mut self) -> anyhow::Result<()> {
        let script = "touch /tmp/engine.sock; mount --bind /run/docker.sock /tmp/engine.sock; exec \"$0\" \"$@\"";
        let arguments =
            ["--mount", "--propagation", "private", "sh", "-ec", script, PROXY, "--engine-socket", "/tmp/engine.sock"];
        self.start_proxy_as(self.lab_host().command("unshare", arguments)).await
    }

    async fn start_proxy_as(&mut self, command: HostCommand) -> anyhow::Result<()> {
        self.proxy = Some(command.into_tokio().spawn().context("failed to start the proxy")?);
        eventually("the proxy answers", SOON, async || {
            let status = self.api().get_status(GetStatusRequest {}).await?.into_inner();
            ensure!(!status.engine_version.is_empty(), "it has not found the engine: {status:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the proxy has ended by itself, and tells whether it said that it failed.
    pub(crate) async fn proxy_failed(&mut self) -> anyhow::Result<bool> {
        let mut proxy = self.proxy.take().context("the proxy does not run")?;
        let status = tokio::time::timeout(SOON, proxy.wait()).await.context("the proxy goes on")??;
        Ok(!status.success())
    }

    pub(crate) async fn kill_proxy(&mut self) -> anyhow::Result<()> {
        self.proxy.take().context("the proxy does not run")?.kill().await.context("failed to kill the proxy")?;
        // The kernel ends it when its parent, which was killed here, is gone.
        let socket = Service::DockerProxy.socket(&self.lab_host().path("/run/weft"));
        eventually("the proxy is gone", SOON, async || {
            ensure!(UnixStream::connect(&socket).await.is_err(), "it answers");
            Ok(())
        })
        .await
    }

    pub(crate) async fn stop_engine(&mut self) -> anyhow::Result<()> {
        self.lab.stop_engine(1).await
    }

    pub(crate) async fn start_engine(&mut self) -> anyhow::Result<()> {
        self.lab.start_engine(1).await
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        drop((self.proxy, self.services));
        self.lab.stop().await
    }

    pub(crate) fn lab_host(&self) -> &Host {
        self.lab.host(1)
    }

    pub(crate) const fn services(&self) -> &Services {
        &self.services
    }

    pub(crate) const fn services_mut(&mut self) -> &mut Services {
        &mut self.services
    }

    /// Runs a Docker command at the engine itself.
    pub(crate) async fn engine(&self, words: &[&str]) -> anyhow::Result<String> {
        self.lab_host().docker(words).await.with_context(|| words.join(" "))
    }

    /// Runs a Docker command through the proxy.
    pub(crate) async fn via_proxy(&self, words: &[&str]) -> anyhow::Result<String> {
        self.lab_host().docker_via_proxy(words).await.with_context(|| words.join(" "))
    }

    /// Returns the proxy's own API.
    pub(crate) fn api(&self) -> ContainerServiceClient<Channel> {
        let socket = Service::DockerProxy.socket(&self.lab_host().path("/run/weft"));
        ContainerServiceClient::new(client::channel(&socket))
    }

    /// Reads the proxy's metrics.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Scrape> {
        let socket = Service::DockerProxy.socket(&self.lab_host().path("/run/weft"));
        read(&merge([weft_service::fetch_metrics(client::channel(&socket)).await?])).map_err(anyhow::Error::msg)
    }

    /// Sends a request to the proxy as no client would, and returns the answer.
    pub(crate) async fn request(&self, method: &str, target: &str, body: &str) -> anyhow::Result<String> {
        let mut stream = UnixStream::connect(self.lab_host().path("/run/weft/docker/docker.sock")).await?;
        let length = body.len();
        let fields = format!("Connection: close\r\nContent-Type: application/json\r\nContent-Length: {length}");
        let head = format!("{method} {target} HTTP/1.1\r\nHost: d\r\n{fields}");
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(SOON, stream.read_to_string(&mut answer)).await.context("no answer")??;
        Ok(answer)
    }

    /// Returns what a container's own `ip` prints of its overlay addresses.
    pub(crate) async fn address(&self, container: &str) -> anyhow::Result<String> {
        let shown = self.engine(&["exec", container, "ip", "-o", "-4", "addr", "show", "dev", "ethwe"]).await?;
        let words: Vec<&str> = shown.split_whitespace().collect();
        let addresses = words.windows(2).filter(|pair| pair[0] == "inet").map(|pair| pair[1]);
        let addresses = addresses.collect::<Vec<_>>().join(" ");
        ensure!(!addresses.is_empty(), "container {container} has no overlay address: {shown:?}");
        Ok(addresses)
    }

    /// Waits until the services hold nothing.
    pub(crate) async fn holds_nothing(&self) -> anyhow::Result<()> {
        eventually("nothing is left of the containers", SOON, async || {
            let held = self.services.held();
            let nothing = held.addresses.is_empty() && held.attached.is_empty() && held.names.is_empty();
            ensure!(nothing, "the services hold {held:?}");
            Ok(())
        })
        .await
    }
}
