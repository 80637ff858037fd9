//! The services on their sockets, and why one cannot be asked.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::UnixStream, time::timeout};
use tonic::{Code, Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_proto::client::{Service, channel};

/// How long a service may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long attaching may take: it waits for an address, at most a minute.
const LONG_PATIENCE: Duration = Duration::from_secs(65);

/// The services of this host.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    folder: PathBuf,
}

/// A service did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// It cannot be asked.
    #[error("{message}")]
    Away {
        /// A stable word for programs.
        reason: &'static str,
        message: String,
    },
    /// It said no, and why.
    #[error("{0}")]
    Refused(String),
}

impl ServiceError {
    /// Returns the stable word for what happened.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Away { reason, .. } => reason,
            Self::Refused(_) => "refused",
        }
    }
}

impl Services {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
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
        let socket = service.socket(&self.folder);
        let asked = async {
            // Only here the kernel's own reason is to be had.
            let connected = UnixStream::connect(&socket).await;
            let last_words = || service.read_last_words(&self.folder);
            drop(connected.map_err(|error| away(service, &socket, &error, last_words().as_deref()))?);
            let answer = call(channel(&socket)).await;
            answer.map(Response::into_inner).map_err(|status| refused(service, &status))
        };
        timeout(patience, asked).await.unwrap_or_else(|_| {
            let name = service.name();
            let message = format!(
                "{name} did not answer within {} s: `docker compose logs {name}` may say why",
                patience.as_secs()
            );
            Err(ServiceError::Away { reason: "no_answer", message })
        })
    }
}

fn away(service: Service, socket: &Path, error: &io::Error, last_words: Option<&str>) -> ServiceError {
    let (name, path) = (service.name(), socket.display());
    let kind = error.kind();
    let gone = matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
    let (reason, message) = if let Some(words) = last_words.filter(|_| gone) {
        ("failed", format!("{name} ended: {words}"))
    } else if kind == io::ErrorKind::NotFound {
        let remedy = "`weft launch` starts weft, or `docker compose up -d` in the folder of its compose.yaml";
        ("not_running", format!("{name} is not running here, there is no socket {path}: {remedy}"))
    } else if kind == io::ErrorKind::ConnectionRefused {
        let remedy = format!("`docker compose logs {name}` says why it ended");
        ("not_running", format!("{name} is not running, nobody serves {path}: {remedy}"))
    } else if kind == io::ErrorKind::PermissionDenied {
        let remedy = "add yourself to the socket's group, as for Docker (`sudo usermod -aG docker $USER`, then log in \
                      again), or use sudo";
        ("not_permitted", format!("this user may not open {path}: {remedy}"))
    } else {
        ("not_reachable", format!("{name} cannot be reached on {path}: {error}"))
    };
    ServiceError::Away { reason, message }
}

fn refused(service: Service, status: &Status) -> ServiceError {
    let name = service.name();
    let text = status.message();
    if status.code() == Code::Unimplemented {
        let message =
            format!("{name} is of another version and does not know this: install the command of its version");
        return ServiceError::Refused(message);
    }
    if text.is_empty() {
        return ServiceError::Refused(format!("{name} failed without a reason ({:?})", status.code()));
    }
    ServiceError::Refused(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root nothing is forbidden, so the kernel's answer is made up here.
    #[test]
    fn who_may_not_open_a_socket_learns_how_to() {
        let forbidden = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = away(Service::Router, Path::new("/run/weft/router.sock"), &forbidden, Some("x"));
        assert_eq!(error.reason(), "not_permitted");
        let text = error.to_string();
        for part in ["may not open /run/weft/router.sock", "usermod -aG docker", "sudo"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
