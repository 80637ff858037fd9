//! Recording what crosses the underlay.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use crate::Underlay;

/// How long tcpdump may take to start or to end.
const LIMIT: Duration = Duration::from_secs(10);

/// A recording under way.
#[derive(Debug)]
pub struct Capture {
    process: Child,
    path: PathBuf,
}

impl Capture {
    /// Starts recording all frames of all links, whole.
    pub(crate) async fn start(underlay: &Underlay, path: &Path) -> anyhow::Result<Self> {
        // In a host's namespaces `/run` is another; the open file is the same everywhere.
        let file = std::fs::File::create(path).with_context(|| format!("failed to make {}", path.display()))?;
        let mut process = underlay
            .command("tcpdump")
            .args([
                "--interface=any",
                "--snapshot-length=262144",
                "--packet-buffered",
                "--buffer-size=65536",
                "-n",
                "-w",
                "-",
            ])
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start tcpdump")?;
        let mut complaints = BufReader::new(process.stderr.take().context("tcpdump has no stderr")?).lines();
        let mut said = Vec::new();
        let started = async {
            while let Some(line) = complaints.next_line().await? {
                let listens = line.contains("listening on");
                said.push(line);
                if listens {
                    return Ok(());
                }
            }
            bail!("tcpdump ended: {}", said.join(" | "))
        };
        tokio::time::timeout(LIMIT, started).await.context("tcpdump does not start")??;
        Ok(Self { process, path: path.to_owned() })
    }

    /// Ends the recording and returns all of it.
    ///
    /// # Errors
    /// If tcpdump does not end.
    pub async fn stop(mut self) -> anyhow::Result<Vec<u8>> {
        let id = self.process.id().context("tcpdump has ended already")?;
        let id = Pid::from_raw(i32::try_from(id)?).context("process 0")?;
        kill_process(id, Signal::TERM).context("failed to end tcpdump")?;
        tokio::time::timeout(LIMIT, self.process.wait()).await.context("tcpdump does not end")??;
        let recorded = std::fs::read(&self.path).with_context(|| format!("failed to read {}", self.path.display()))?;
        drop(std::fs::remove_file(&self.path));
        Ok(recorded)
    }
}

/// Returns whether `text` occurs in `recorded`.
#[must_use]
pub fn contains(recorded: &[u8], text: &[u8]) -> bool {
    !text.is_empty() && recorded.windows(text.len()).any(|window| window == text)
}
