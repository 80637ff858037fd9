//! One host: commands inside it, and its Docker.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{EngineKit, namespace, project, state::HostState};

/// Longest time a command inside a host may take, unless it says another.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// Docker's API through weft.
const PROXY: &str = "unix:///run/weft/docker/docker.sock";

/// A host of a lab. Clones name the same host.
#[derive(Debug, Clone)]
pub struct Host {
    lab: String,
    state: HostState,
}

impl Host {
    /// Finds a host of a lab that another process holds.
    #[must_use]
    pub fn of(lab: &str, state: HostState) -> Self {
        Self { lab: lab.to_owned(), state }
    }

    /// Returns its name, `host1` and so on.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Returns the name of the lab it belongs to.
    #[must_use]
    pub fn lab(&self) -> &str {
        &self.lab
    }

    /// Returns its IPv4 address on the underlay.
    #[must_use]
    pub const fn ipv4(&self) -> Ipv4Addr {
        self.state.ipv4
    }

    /// Returns its IPv6 address on the underlay.
    #[must_use]
    pub const fn ipv6(&self) -> Ipv6Addr {
        self.state.ipv6
    }

    /// Returns its first process.
    #[must_use]
    pub const fn first_process(&self) -> u32 {
        self.state.first_process
    }

    pub(crate) const fn state(&self) -> &HostState {
        &self.state
    }

    pub(crate) fn set_engine(&mut self, engine: EngineKit) {
        self.state.engine = engine;
    }

    /// Returns where a path inside the host is found from outside.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.state.first_process))
    }

    /// Returns the host's network namespace.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn network(&self) -> io::Result<OwnedFd> {
        namespace::network_of(self.state.first_process).map(File::into)
    }

    /// Prepares a command inside the host.
    pub fn command<'a>(&self, program: &str, arguments: impl IntoIterator<Item = &'a str>) -> HostCommand {
        let mut command = enter(self.state.first_process);
        command.arg(program).args(arguments);
        command
            .env_clear()
            .env("PATH", self.state.engine.search_path())
            .env("HOME", "/root")
            .env("LANG", "C.UTF-8")
            .env("DOCKER_CONFIG", "/etc/docker/client");
        let what = format!("{}: {program}", self.name());
        HostCommand { command, what, limit: COMMAND_LIMIT, input: None }
    }

    /// Runs a command given as words, and returns its stdout.
    ///
    /// # Errors
    /// If it can't be started, fails, or takes too long.
    pub async fn exec(&self, words: &[&str]) -> anyhow::Result<String> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        self.command(program, arguments.iter().copied()).text().await
    }

    /// Prepares a Docker command at the engine's own socket.
    pub fn docker_command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> HostCommand {
        let client = self.state.engine.client();
        self.command(&client.to_string_lossy(), arguments)
    }

    /// Runs a Docker command at the engine's own socket and returns its stdout, without the last line feed.
    ///
    /// # Errors
    /// If it fails or takes too long.
    pub async fn docker(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.docker_command(arguments.iter().copied()).text().await
    }

    /// Prepares a Docker command through weft.
    pub fn proxy_command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> HostCommand {
        self.docker_command(arguments).env("DOCKER_HOST", PROXY)
    }

    /// Runs a Docker command through weft and returns its stdout, without the last line feed.
    ///
    /// # Errors
    /// If it fails or takes too long.
    pub async fn docker_via_proxy(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.proxy_command(arguments.iter().copied()).text().await
    }

    /// Loads images from an archive as `docker save` writes it.
    ///
    /// # Errors
    /// If the engine refuses it.
    pub async fn load_images(&self, archive: &Path) -> anyhow::Result<()> {
        let file = File::open(archive).with_context(|| format!("failed to open {}", archive.display()))?;
        let mut load = self.docker_command(["load", "--quiet"]);
        load.command.stdin(file);
        load.text().await.map(drop)
    }

    /// Prepares a command inside the network namespace of one of the host's containers, with the host's own programs.
    ///
    /// # Errors
    /// If the container does not run.
    pub async fn in_network_of(&self, container: &str, words: &[&str]) -> anyhow::Result<HostCommand> {
        let process = self.process_of(container).await?;
        let arguments = ["--net", "--target", &process, "--"].into_iter().map(str::to_owned);
        let arguments: Vec<_> = arguments.chain(words.iter().map(|word| (*word).to_owned())).collect();
        Ok(self.command("nsenter", arguments.iter().map(String::as_str)))
    }

    /// Opens sockets inside the network namespace of one of the host's containers, as a process there would.
    ///
    /// # Errors
    /// If the container does not run, or what `open` fails with.
    pub async fn open_in_network_of<T: Send + 'static>(
        &self,
        container: &str,
        open: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let path = self.path(&format!("/proc/{}/ns/net", self.process_of(container).await?));
        let network = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
        namespace::inside(network.into(), open)
    }

    /// Returns the first process of a container, as the host numbers it.
    async fn process_of(&self, container: &str) -> anyhow::Result<String> {
        let process = self.docker(&["inspect", "--format", "{{.State.Pid}}", container]).await?;
        if process == "0" {
            bail!("{}: container {container} does not run", self.name());
        }
        Ok(process)
    }

    /// Returns the addresses of the host on the underlay.
    #[must_use]
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }
}

/// Prepares a command that enters the namespaces of a first process; the words of the command follow.
pub(crate) fn enter(first_process: u32) -> Command {
    let mut command = Command::new(project::lab_program());
    command.args(["enter", &first_process.to_string(), "--"]).kill_on_drop(true);
    command
}

/// A command inside a host, before it runs.
#[derive(Debug)]
#[must_use]
pub struct HostCommand {
    command: Command,
    what: String,
    limit: Duration,
    input: Option<Vec<u8>>,
}

impl HostCommand {
    /// Sets a variable of its environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets several variables of its environment.
    pub fn envs<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    /// Sets what it reads from stdin; nothing by default.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Sets how long it may take.
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Returns the command, to be started as the caller likes. It is killed when its handle is dropped.
    #[must_use]
    pub fn into_tokio(self) -> Command {
        self.command
    }

    /// Runs it to its end, whatever that is.
    ///
    /// # Errors
    /// If it can't be started or takes too long; it is killed then.
    pub async fn output(self) -> anyhow::Result<Output> {
        let Self { mut command, what, limit, input } = self;
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{what}: failed to start"))?;
        let stdin = child.stdin.take();
        let write = async {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A command that does not read all of it says by itself whether that is an error.
                drop(stdin.write_all(&input).await);
            }
        };
        let run = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = tokio::time::timeout(limit, run)
            .await
            .with_context(|| format!("{what}: not done within {limit:?}"))?
            .with_context(|| format!("{what}: failed to run"))?;
        Ok(Output {
            what,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and returns its stdout without the last line feed.
    ///
    /// # Errors
    /// If it fails, with what it wrote to stderr, or takes too long.
    pub async fn text(self) -> anyhow::Result<String> {
        self.output().await?.text()
    }
}

/// What a command wrote and how it ended.
#[derive(Debug)]
pub struct Output {
    what: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
}

impl Output {
    /// Returns stdout without the last line feed.
    ///
    /// # Errors
    /// If the command failed.
    pub fn text(self) -> anyhow::Result<String> {
        if !self.status.success() {
            let complaint = if self.stderr.trim().is_empty() { self.stdout.trim() } else { self.stderr.trim() };
            bail!("{}: {}: {complaint}", self.what, self.status);
        }
        Ok(self.stdout.trim_end_matches('\n').to_owned())
    }

    /// Returns stdout and stderr together.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}
