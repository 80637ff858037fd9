//! Waiting for a condition, with a deadline.

use std::{future::Future, time::Duration};

use anyhow::Context;

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(40);

/// Calls `probe` until it succeeds, and returns what it found.
///
/// # Errors
/// The last failure of `probe` when `limit` has passed, with `what` as its context. A probe that is under way then is
/// dropped.
pub async fn eventually<T, F, Probe>(what: &str, limit: Duration, mut probe: Probe) -> anyhow::Result<T>
where
    Probe: FnMut() -> F,
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    let mut last = None;
    loop {
        match tokio::time::timeout_at(deadline, probe()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = Some(error),
            Err(_) => break,
        }
        if tokio::time::Instant::now() + INTERVAL >= deadline {
            break;
        }
        tokio::time::sleep(INTERVAL).await;
    }
    let last = last.unwrap_or_else(|| anyhow::anyhow!("one look took longer than that"));
    Err(last).with_context(|| format!("{what}: not within {limit:?}"))
}
