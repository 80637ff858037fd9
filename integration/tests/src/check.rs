//! Many checks on one host: side by side, and all of them, so that one that fails hides no other.

use std::future::Future;

use anyhow::ensure;
use futures::{
    StreamExt,
    future::{FutureExt, LocalBoxFuture},
    stream,
};

/// How many checks run at once: enough to use the time in which one waits for something.
const AT_ONCE: usize = 4;

/// One thing that is to hold.
pub struct Check<'a> {
    what: String,
    outcome: LocalBoxFuture<'a, anyhow::Result<()>>,
}

impl<'a> Check<'a> {
    /// Makes one; it runs when [`all`] do.
    pub fn new(what: impl Into<String>, outcome: impl Future<Output = anyhow::Result<()>> + 'a) -> Self {
        Self { what: what.into(), outcome: outcome.boxed_local() }
    }
}

impl std::fmt::Debug for Check<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Check").field(&self.what).finish()
    }
}

impl Check<'_> {
    /// Runs it, and returns what it says where it fails.
    async fn failure(self) -> Option<String> {
        self.outcome.await.err().map(|error| format!("{}: {error:#}", self.what))
    }
}

/// Runs all checks.
///
/// # Errors
/// What each that failed says, together.
pub async fn all(place: &str, checks: Vec<Check<'_>>) -> anyhow::Result<()> {
    let failures: Vec<_> = stream::iter(checks).map(Check::failure).buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<_> = failures.into_iter().flatten().map(|failure| format!("{place}: {failure}")).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_fails_hides_no_other() {
        let fails = |what: &'static str| Check::new(what, async move { anyhow::bail!("it does not") });
        let checks = vec![fails("first"), Check::new("second", async { Ok(()) }), fails("third")];
        let error = all("host1", checks).await.expect_err("two fail").to_string();
        assert!(error.contains("host1: first: it does not") && error.contains("host1: third"), "{error}");
        assert!(!error.contains("second"), "{error}");
        all("host1", Vec::new()).await.expect("nothing fails");
    }
}
