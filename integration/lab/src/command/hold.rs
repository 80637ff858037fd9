//! A lab that outlives the command that made it: a process in the background holds it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    signal::unix::{SignalKind, signal},
};
use weft_lab::{
    Lab, eventually,
    state::{self, LabState},
};

/// How long a lab may take to go.
const DOWN_LIMIT: Duration = Duration::from_secs(30);

/// What the holder says when its lab is up.
const READY: &str = "ready";

/// Makes a lab and returns when it is up. A lab of that name that still is there is taken down first.
pub(crate) async fn up(name: &str, hosts: u8, mtu: u32) -> anyhow::Result<()> {
    down(name).await?;
    fs::create_dir_all(state::FOLDER).with_context(|| format!("failed to make {}", state::FOLDER))?;
    let log = File::create(log_path(name)).context("failed to make the holder's log")?;
    let mut holder = Command::new(std::env::current_exe().context("failed to find this program")?)
        .args(["hold", "--lab", name, "--hosts", &hosts.to_string(), "--mtu", &mtu.to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("failed to start the lab's holder")?;
    let mut said = String::new();
    BufReader::new(holder.stdout.take().context("the holder has no stdout")?).read_line(&mut said).await?;
    if said.trim() != READY {
        let log = fs::read_to_string(log_path(name)).unwrap_or_default();
        drop(fs::remove_file(log_path(name)));
        bail!("the lab could not be made: {}", log.trim());
    }
    Ok(())
}

/// Takes a lab down, and returns when it is gone, also if it was killed or was never there.
pub(crate) async fn down(name: &str) -> anyhow::Result<()> {
    if let Ok(state) = LabState::read(name)
        && state.holder.is_alive()
    {
        let holder = Pid::from_raw(i32::try_from(state.holder.id)?).context("process 0")?;
        kill_process(holder, Signal::TERM).with_context(|| format!("failed to end the holder of {name}"))?;
        eventually(&format!("lab {name} goes down"), DOWN_LIMIT, async || {
            ensure!(!state.holder.is_alive(), "its holder, process {}, still runs", state.holder.id);
            Ok(())
        })
        .await?;
    }
    drop(fs::remove_file(log_path(name)));
    eventually(&format!("lab {name} is gone"), DOWN_LIMIT, async || {
        state::clean()?;
        let folder = state::lab_folder(name);
        ensure!(!folder.exists(), "{} is still there", folder.display());
        Ok(())
    })
    .await
}

/// Holds a lab until SIGTERM.
pub(crate) async fn hold(name: &str, hosts: u8, mtu: u32) -> anyhow::Result<()> {
    rustix::process::setsid().context("failed to leave the terminal's session")?;
    let mut end = signal(SignalKind::terminate()).context("failed to wait for signals")?;
    let lab = tokio::select! {
        lab = Lab::new().name(name).hosts(hosts).mtu(mtu).start() => lab?,
        _ = end.recv() => return Ok(()),
    };
    println!("{READY}");
    end.recv().await;
    lab.stop().await
}

fn log_path(name: &str) -> PathBuf {
    PathBuf::from(state::FOLDER).join(format!("{name}.log"))
}
