//! A kernel that takes its time.

use anyhow::ensure;
use tokio::process::Child;
use weft_lab::{Weft, eventually};

use crate::SOON;

/// Makes each write to the disk that a service waits for take longer, as [`slow_calls`].
///
/// # Errors
/// If the service does not run.
pub async fn slow_disk(weft: &Weft, service: &str, delay: &str) -> anyhow::Result<Child> {
    slow_calls(weft, service, "fsync,fdatasync,sync_file_range,msync", delay).await
}

/// Makes system calls of a service take longer by a `delay` as strace takes it ("200ms"), until what is returned is killed.
/// Killed, not dropped: it goes with the host at the latest.
///
/// # Errors
/// If the service does not run.
pub async fn slow_calls(weft: &Weft, service: &str, calls: &str, delay: &str) -> anyhow::Result<Child> {
    let (host, process) = (weft.host(), weft.process(service).await?);
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:delay_exit={delay}"));
    let words = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &process];
    let tracer = host.command("strace", words).into_tokio().spawn()?;
    eventually("the kernel takes its time", SOON, async || {
        let status = host.exec(&["grep", "TracerPid", &format!("/proc/{process}/status")]).await?;
        ensure!(!status.ends_with("\t0"), "{status}");
        Ok(())
    })
    .await?;
    Ok(tracer)
}
