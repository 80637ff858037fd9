//! When to stop.

use std::time::Duration;

use anyhow::Context;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::Result;

/// Tells every part of a service to stop. Clones share the state.
#[derive(Debug, Clone)]
pub struct Shutdown {
    state: watch::Receiver<bool>,
}

/// Asks for the stop of all who hold the [`Shutdown`] it was made with.
#[derive(Debug)]
pub struct ShutdownTrigger {
    state: watch::Sender<bool>,
}

impl ShutdownTrigger {
    /// Asks for the stop.
    pub fn request(&self) {
        self.state.send_replace(true);
    }
}

impl Shutdown {
    /// Makes one that SIGTERM and SIGINT set off.
    pub(crate) fn on_signals() -> Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("failed to wait for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("failed to wait for SIGINT")?;
        let (trigger, shutdown) = Self::triggered();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            trigger.request();
            // Dropping the trigger would look like a stop that nobody asked for; signals end only with the process.
            trigger.state.closed().await;
        });
        Ok(shutdown)
    }

    /// Makes one that its trigger sets off, and which counts as set off when the trigger is gone.
    #[must_use]
    pub fn triggered() -> (ShutdownTrigger, Self) {
        let (sender, state) = watch::channel(false);
        (ShutdownTrigger { state: sender }, Self { state })
    }

    /// Waits until somebody asked for the stop. Cancel safe.
    pub async fn requested(&self) {
        let mut state = self.state.clone();
        // An error means that the trigger is gone: nobody can ask any more, so stop.
        let _ = state.wait_for(|requested| *requested).await;
    }

    /// Waits until the stop was asked for and `grace` has passed since.
    pub async fn requested_for(&self, grace: Duration) {
        self.requested().await;
        tokio::time::sleep(grace).await;
    }

    /// Tells whether the stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.state.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_reaches_every_clone() {
        let (trigger, shutdown) = Shutdown::triggered();
        let clone = shutdown.clone();
        assert!(!clone.is_requested());
        trigger.request();
        clone.requested().await;
        shutdown.requested().await;
    }
}
