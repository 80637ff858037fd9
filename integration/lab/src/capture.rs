//! Recording what crosses the underlay, or a host.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Child,
};

use crate::{Underlay, eventually, host::enter, underlay::BRIDGE};

/// How long tcpdump may take to start or to end.
const LIMIT: Duration = Duration::from_secs(10);

/// What the packet carries that ends a recording.
const END: &[u8; 16] = b"end of recording";

/// A recording under way.
#[derive(Debug)]
pub struct Capture {
    /// Where it records, and the interface there on which a last packet is sent.
    place: (u32, &'static str),
    process: Child,
    path: PathBuf,
}

impl Capture {
    /// Starts recording all frames of all links, whole, to a file at `path`.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub async fn start(underlay: &Underlay, path: &Path) -> anyhow::Result<Self> {
        Self::start_at(underlay.first_process(), BRIDGE, path).await
    }

    /// Starts recording all frames of all interfaces in the namespaces of a first process; `interface` is one of them.
    ///
    /// # Errors
    /// If tcpdump does not start.
    pub(crate) async fn start_at(first_process: u32, interface: &'static str, path: &Path) -> anyhow::Result<Self> {
        // In a host's namespaces `/run` is another; the open file is the same everywhere.
        let file = std::fs::File::create(path).with_context(|| format!("failed to make {}", path.display()))?;
        let mut process = enter(first_process)
            .args([
                "tcpdump",
                "--interface=any",
                "--snapshot-length=262144",
                "--packet-buffered",
                "--immediate-mode",
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
        Ok(Self { place: (first_process, interface), process, path: path.to_owned() })
    }

    /// Ends the recording and returns all of it.
    ///
    /// # Errors
    /// If tcpdump does not end.
    pub async fn stop(mut self) -> anyhow::Result<Vec<u8>> {
        // What the kernel has queued is lost when tcpdump ends; a packet of ours that was recorded is behind all others.
        let pattern: String = END.iter().map(|byte| format!("{byte:02x}")).collect();
        let (first_process, interface) = self.place;
        let mut ping = enter(first_process);
        // To everybody, so that nobody has to be found first.
        let words = ["ping", "-6", "-c", "1", "-W", "1", "-s", "64", "-p", &pattern, "-I", interface, "ff02::1"];
        ping.args(words).stdout(Stdio::null());
        ping.status().await.context("failed to send the last packet")?;
        eventually("the last packet is recorded", LIMIT, async || {
            let recorded = tokio::fs::read(&self.path).await?;
            ensure!(contains(&recorded, END), "it is not among {} bytes", recorded.len());
            Ok(())
        })
        .await?;

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
