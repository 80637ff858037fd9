//! The services on their sockets, and why one cannot be asked.

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::UnixStream, time::timeout};
use tonic::{Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_proto::client::{Service, channel};
pub(crate) use weft_report::ServiceError;

use crate::progress::Progress;

/// How long a service may take for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long attaching may take: it waits for an address, at most a minute.
const LONG_PATIENCE: Duration = Duration::from_secs(65);

/// The services of this host.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    folder: PathBuf,
    progress: Progress,
}

impl Services {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), progress: Progress::default() }
    }

    /// Has it said which service is waited for.
    pub(crate) fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// Asks a service: `call` is given a channel to it.
    pub(crate) async fn ask<T, F>(&self, service: Service, call: impl FnOnce(Channel) -> F) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_within(PATIENCE, service, call).await
    }

    /// Asks a service for something that may take a minute.
    pub(crate) async fn ask_patiently<T, F>(
        &self,
        service: Service,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_within(LONG_PATIENCE, service, call).await
    }

    /// Asks a service whether it does its job.
    pub(crate) async fn ready(&self, service: Service) -> Result<bool, ServiceError> {
        let call = |channel| async { HealthClient::new(channel).check(HealthCheckRequest::default()).await };
        self.ask(service, call).await.map(|answer| answer.status() == ServingStatus::Serving)
    }

    async fn ask_within<T, F>(
        &self,
        patience: Duration,
        service: Service,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let _wait = self.progress.wait(format!("waiting for {}", service.name()));
        let socket = service.socket(&self.folder);
        let asked = async {
            // Only here the kernel's own reason is to be had.
            let connected = UnixStream::connect(&socket).await;
            let last_words = || service.read_last_words(&self.folder);
            drop(connected.map_err(|error| ServiceError::away(service, &socket, &error, last_words().as_deref()))?);
            let answer = call(channel(&socket)).await;
            answer.map(Response::into_inner).map_err(|status| ServiceError::refused(service, &status))
        };
        timeout(patience, asked).await.unwrap_or_else(|_| Err(ServiceError::no_answer(service, patience)))
    }
}
