//! A host's Docker Engine.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
};

use crate::{cgroup, eventually, host::Host, state};

/// How long an engine may take to start or stop.
const ENGINE_LIMIT: Duration = Duration::from_secs(30);

/// Where an engine, its client and Compose come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineKit {
    /// Root of the tree with `usr/sbin/dockerd` and what belongs to it: `/` for the distribution's packages.
    pub root: PathBuf,
    /// The Compose plugin.
    pub compose: PathBuf,
}

impl EngineKit {
    /// Returns the machine's engine, or the one that the variable `WEFT_LAB_ENGINE` names by the root of its tree.
    ///
    /// # Errors
    /// If a part is missing; says what installs it.
    pub fn find() -> anyhow::Result<Self> {
        Self::at(variable("WEFT_LAB_ENGINE").unwrap_or_else(|| PathBuf::from("/")))
    }

    /// Returns the engine of the next release of the distribution, to which hosts may be upgraded.
    ///
    /// # Errors
    /// If a part is missing; says what installs it.
    pub fn newer() -> anyhow::Result<Self> {
        Self::at(newer_folder())
    }

    fn at(root: PathBuf) -> anyhow::Result<Self> {
        let kit = Self { root, compose: newer_folder().join("usr/libexec/docker/cli-plugins/docker-compose") };
        for part in [kit.root.join("usr/sbin/dockerd"), kit.client(), kit.compose.clone()] {
            if !part.exists() {
                bail!("{} is missing; `integration/set-up lab` installs it", part.display());
            }
        }
        Ok(kit)
    }

    /// Returns the path of the command-line client.
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.root.join("usr/bin/docker")
    }

    /// Returns the search path for programs inside a host.
    pub(crate) fn search_path(&self) -> String {
        let standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        if self.root == Path::new("/") {
            return standard.to_owned();
        }
        let root = self.root.display();
        format!("{root}/usr/sbin:{root}/usr/bin:{standard}")
    }
}

/// Returns the folder of what `integration/set-up` fetched.
#[must_use]
pub fn cache_folder() -> PathBuf {
    variable("WEFT_CACHE").unwrap_or_else(|| PathBuf::from("/var/cache/weft"))
}

/// Returns the root of the tree of the distribution's next release.
fn newer_folder() -> PathBuf {
    cache_folder().join("trixie")
}

#[expect(clippy::disallowed_methods, reason = "the lab's own settings, read where they are used")]
fn variable(name: &str) -> Option<PathBuf> {
    env::var(name).ok().map(PathBuf::from)
}

/// A setting that later engines no longer know, and refuse to start with.
const FORGOTTEN: &str = "oom-score-adjust";

/// Returns the engine's configuration file.
pub(crate) fn configuration(lab: &str, host: &str, kit: &EngineKit, settings: &BTreeMap<String, Value>) -> String {
    // Without `tls` the engine waits a quarter of a minute before it listens on plain TCP.
    let mut configuration = json!({
        "cgroup-parent": cgroup::parent(lab, host),
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "log-level": "warn",
        "storage-driver": "overlay2",
        "tls": false,
    });
    if kit.root != newer_folder() {
        configuration[FORGOTTEN] = 0.into();
    }
    for (name, value) in settings {
        configuration[name] = value.clone();
    }
    format!("{configuration:#}\n")
}

/// Takes what later engines do not know out of an engine's configuration file.
pub(crate) fn for_newer(configuration: &str) -> anyhow::Result<String> {
    let mut configuration: serde_json::Map<String, Value> =
        serde_json::from_str(configuration).context("the engine's configuration is no JSON object")?;
    configuration.remove(FORGOTTEN);
    Ok(format!("{:#}\n", Value::Object(configuration)))
}

/// A running engine; killed when dropped.
#[derive(Debug)]
pub(crate) struct Engine {
    process: Child,
}

impl Engine {
    /// Starts the engine of a host and returns when it answers.
    pub(crate) async fn start(host: &Host) -> anyhow::Result<Self> {
        let path = state::host_folder(host.lab(), host.name()).join("engine.log");
        let log = File::options().create(true).append(true).open(&path).context("failed to open the engine's log")?;
        let mut process = host
            .command("dockerd", [])
            .into_tokio()
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("failed to share the engine's log")?)
            .stderr(log)
            .spawn()
            .context("failed to start dockerd")?;
        let socket = host.path("/run/docker.sock");
        let answered = eventually("the engine answers", ENGINE_LIMIT, || ping(&socket));
        tokio::select! {
            outcome = answered => outcome.with_context(|| format!("{}: see {}", host.name(), path.display()))?,
            status = process.wait() => bail!(
                "{}: dockerd ended with {}: {}", host.name(), status?, last_lines(&path)
            ),
        }
        Ok(Self { process })
    }

    /// Asks the engine to stop, as a service manager does, and waits until it has.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let id = self.process.id().context("the engine has ended already")?;
        let id = Pid::from_raw(i32::try_from(id)?).context("process 0")?;
        kill_process(id, Signal::TERM).context("failed to stop the engine")?;
        self.ended().await
    }

    /// Kills it at once, and what it started with it. Containers live on.
    pub(crate) async fn kill(self, host: &Host) -> anyhow::Result<()> {
        let process = host.exec(&["cat", "/run/docker.pid"]).await?;
        host.exec(&["kill", "-9", &process]).await?;
        self.ended().await
    }

    async fn ended(mut self) -> anyhow::Result<()> {
        tokio::time::timeout(ENGINE_LIMIT, self.process.wait()).await.context("the engine does not stop")??;
        Ok(())
    }
}

async fn ping(socket: &Path) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket).await.with_context(|| format!("no engine on {}", socket.display()))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    if !answer.ends_with(b"OK") {
        bail!("the engine answered {:?}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
