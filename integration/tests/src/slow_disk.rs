//! A disk that takes its time.

use anyhow::ensure;
use tokio::process::Child;
use weft_lab::{Weft, eventually};

use crate::SOON;

/// Makes each write to the disk that a service waits for take longer by a `delay` as strace takes it ("200ms"), until what is
/// returned is killed. Killed, not dropped: it goes with the host at the latest.
///
/// # Errors
/// If the service does not run.
pub async fn slow_disk(weft: &Weft, service: &str, delay: &str) -> anyhow::Result<Child> {
    let (host, process) = (weft.host(), weft.process(service).await?);
    let inject = format!("inject=fsync,fdatasync,sync_file_range,msync:delay_exit={delay}");
    let trace = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync,sync_file_range,msync"];
    let tracer =
        host.command("strace", trace.into_iter().chain(["-e", &inject, "-p", &process])).into_tokio().spawn()?;
    eventually("the disk is slow", SOON, async || {
        let status = host.exec(&["grep", "TracerPid", &format!("/proc/{process}/status")]).await?;
        ensure!(!status.ends_with("\t0"), "{status}");
        Ok(())
    })
    .await?;
    Ok(tracer)
}
