//! Readiness, as `--health` and other services ask for it.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use tonic_health::{
    ServingStatus,
    pb::{
        HealthCheckRequest, health_check_response::ServingStatus as Reported, health_client::HealthClient,
        health_server::HealthServer,
    },
    server::{HealthReporter, HealthService},
};

use crate::Result;

/// Whether this process is ready to do its job. Starts as not ready.
#[derive(Debug, Clone)]
pub struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// Makes the state, not ready.
    pub async fn starting() -> Self {
        let reporter = HealthReporter::new();
        reporter.set_service_status("", ServingStatus::NotServing).await;
        Self { reporter }
    }

    /// Says that the service does its job now.
    pub async fn ready(&self) {
        self.reporter.set_service_status("", ServingStatus::Serving).await;
        tracing::info!("ready");
    }

    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }
}

/// Asks the service that listens on `socket` whether it is ready, for at most two seconds.
///
/// # Errors
/// If it is not, or does not answer.
pub async fn check(socket: &Path) -> Result {
    let mut client = HealthClient::new(weft_proto::client::channel(socket));
    let answer = tokio::time::timeout(Duration::from_secs(2), client.check(HealthCheckRequest::default()))
        .await
        .with_context(|| format!("the service on {} did not answer within 2 s", socket.display()))?
        .with_context(|| format!("the service on {} did not answer", socket.display()))?;
    match answer.into_inner().status() {
        Reported::Serving => Ok(()),
        Reported::NotServing | Reported::Unknown | Reported::ServiceUnknown => {
            bail!("the service on {} is not ready yet", socket.display())
        }
    }
}
