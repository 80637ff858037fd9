//! Asks the other services, and says why one did not do what it was asked.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use http::StatusCode;
use tokio::{net::UnixStream, time::timeout};
use tonic::{Code, Response, Status, transport::Channel};
use weft_proto::{
    client::{Service, channel},
    dns::v1::{self as dns, name_service_client::NameServiceClient},
    ipam::v1::{self as ipam, address_service_client::AddressServiceClient},
    router::v1::{
        self as router, peer_service_client::PeerServiceClient, publish_service_client::PublishServiceClient,
    },
};
use weft_report::{PassedOn, ServiceError};

use super::reply::Reply;

/// How long a service may take for an answer, as for the command.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long addresses may be waited for, as by the command, and a moment for the way.
pub(super) const LONG_PATIENCE: Duration = Duration::from_secs(65);

/// Largest answer that is read, in bytes: the names of a whole mesh.
pub(super) const LARGEST_ANSWER: usize = 64 << 20;

/// The other services of this host.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    folder: PathBuf,
}

/// Why a service did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// It cannot be asked.
    Away(ServiceError),
    /// It said no.
    Refused(Service, Status),
}

impl Failure {
    /// Returns the sentence for people.
    pub(super) fn into_error(self) -> ServiceError {
        match self {
            Self::Away(error) => error,
            Self::Refused(service, status) => ServiceError::refused(service, &status),
        }
    }

    fn status(&self) -> StatusCode {
        let code = match self {
            Self::Away(_) => return StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused(_, status) => status.code(),
        };
        match code {
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Code::Internal | Code::Unknown | Code::DataLoss | Code::Unimplemented => StatusCode::INTERNAL_SERVER_ERROR,
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::ResourceExhausted => StatusCode::BAD_REQUEST,
        }
    }

    /// Makes an answer that begins with what failed, as in "Unable to claim: ".
    pub(super) fn of(self, what: &str) -> Reply {
        let status = self.status();
        Reply::refused(status, &format!("{what}{}", self.into_error()))
    }
}

impl From<Failure> for Reply {
    fn from(failure: Failure) -> Self {
        failure.of("")
    }
}

impl Clients {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Asks a service: `call` is given a channel to it.
    pub(super) async fn ask<T, F>(
        &self,
        service: Service,
        patience: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let socket = service.socket(&self.folder);
        let asked = async {
            // Only here the kernel's own reason is to be had.
            if let Err(error) = UnixStream::connect(&socket).await {
                let last_words = service.read_last_words(&self.folder);
                return Err(Failure::Away(ServiceError::away(service, &socket, &error, last_words.as_deref())));
            }
            let answer = call(channel(&socket)).await;
            answer.map(Response::into_inner).map_err(|status| Failure::Refused(service, status))
        };
        let answer = timeout(patience, asked).await;
        answer.unwrap_or_else(|_| Err(Failure::Away(ServiceError::no_answer(service, patience))))
    }

    pub(super) async fn router(&self) -> Result<router::GetStatusResponse, Failure> {
        let call = |channel| async move {
            let mut client = PeerServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
            client.get_status(router::GetStatusRequest {}).await
        };
        self.ask(Service::Router, PATIENCE, call).await
    }

    /// Asks the router for what it passes on.
    pub(super) async fn passed_on(&self) -> Result<PassedOn, Failure> {
        let published = |channel| async {
            PublishServiceClient::new(channel).list_published(router::ListPublishedRequest {}).await
        };
        let imported =
            |channel| async { PublishServiceClient::new(channel).list_imported(router::ListImportedRequest {}).await };
        let (published, imported) = tokio::try_join!(
            self.ask(Service::Router, PATIENCE, published),
            self.ask(Service::Router, PATIENCE, imported)
        )?;
        Ok(PassedOn::new(&published.published, &imported.imported))
    }

    pub(super) async fn ipam(&self) -> Result<ipam::GetStatusResponse, Failure> {
        let call = |channel| async { AddressServiceClient::new(channel).get_status(ipam::GetStatusRequest {}).await };
        self.ask(Service::Ipam, PATIENCE, call).await
    }

    pub(super) async fn dns(&self) -> Result<dns::GetStatusResponse, Failure> {
        let call = |channel| async { NameServiceClient::new(channel).get_status(dns::GetStatusRequest {}).await };
        self.ask(Service::Dns, PATIENCE, call).await
    }

    pub(super) async fn records(&self) -> Result<Vec<dns::Record>, Failure> {
        let call = |channel| async move {
            let mut client = NameServiceClient::new(channel).max_decoding_message_size(LARGEST_ANSWER);
            client.list_records(dns::ListRecordsRequest {}).await
        };
        self.ask(Service::Dns, PATIENCE, call).await.map(|listed| listed.records)
    }
}
