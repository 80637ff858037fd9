//! `PeerService`: the mesh and how to reach it.

use std::{path::PathBuf, pin::Pin};

use futures::{Stream, StreamExt};
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Request, Response, Status};
use weft_proto::router::v1::{
    AddTargetsRequest, AddTargetsResponse, GetStatusRequest, GetStatusResponse, PeerIdentity, ReloadPasswordRequest,
    ReloadPasswordResponse, RemoveTargetsRequest, RemoveTargetsResponse, RevokePeersRequest, RevokePeersResponse,
    WatchPeersRequest, WatchPeersResponse, peer_service_server::PeerService,
};
use weft_router_core::{mesh::RevokeError, target::Target};

use super::{
    failed,
    status::{self, Facts},
};
use crate::{
    driver::{Command, DriverHandle, Stopping},
    password,
};

/// Shows and changes the mesh.
#[derive(Debug)]
pub struct Peers {
    driver: DriverHandle,
    facts: Facts,
    password_file: Option<PathBuf>,
}

impl Peers {
    /// Makes the service. The password is read again from `password_file`.
    #[must_use]
    pub const fn new(driver: DriverHandle, facts: Facts, password_file: Option<PathBuf>) -> Self {
        Self { driver, facts, password_file }
    }
}

#[tonic::async_trait]
impl PeerService for Peers {
    type WatchPeersStream = Pin<Box<dyn Stream<Item = Result<WatchPeersResponse, Status>> + Send>>;

    async fn get_status(&self, _request: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let status = self.driver.ask(Command::Status).await?;
        Ok(Response::new(status::message(status, &self.facts)))
    }

    async fn watch_peers(
        &self,
        _request: Request<WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        let stream = WatchStream::new(self.driver.peers());
        let messages =
            stream.map(|peers| Ok(WatchPeersResponse { peers: peers.into_iter().map(status::peer).collect() }));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn add_targets(&self, request: Request<AddTargetsRequest>) -> Result<Response<AddTargetsResponse>, Status> {
        let AddTargetsRequest { targets, replace } = request.into_inner();
        let targets = targets
            .iter()
            .map(|text| text.parse())
            .collect::<Result<Vec<Target>, _>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let kept = self.driver.ask(|reply| Command::AddTargets { targets, replace, reply }).await?;
        kept.map_err(|error| failed(Code::Internal, &error))?;
        Ok(Response::new(AddTargetsResponse {}))
    }

    async fn remove_targets(
        &self,
        request: Request<RemoveTargetsRequest>,
    ) -> Result<Response<RemoveTargetsResponse>, Status> {
        let texts = request.into_inner().targets;
        let unknown = self.driver.ask(|reply| Command::RemoveTargets { texts, reply }).await?;
        let unknown = unknown.map_err(|error| failed(Code::Internal, &error))?;
        Ok(Response::new(RemoveTargetsResponse { unknown }))
    }

    async fn revoke_peers(
        &self,
        request: Request<RevokePeersRequest>,
    ) -> Result<Response<RevokePeersResponse>, Status> {
        let names = request.into_inner().peers;
        let revoked = self.driver.ask(|reply| Command::Revoke { names, reply }).await?;
        let revoked = revoked.map_err(|error| {
            let code = if error.is::<RevokeError>() { Code::FailedPrecondition } else { Code::Internal };
            failed(code, &error)
        })?;
        let identities = revoked.peers.into_iter().map(|identity| PeerIdentity {
            peer_name: Some(identity.peer.into()),
            name: identity.name,
            nickname: identity.nickname,
        });
        Ok(Response::new(RevokePeersResponse { revoked: identities.collect(), next: revoked.next }))
    }

    async fn reload_password(
        &self,
        _request: Request<ReloadPasswordRequest>,
    ) -> Result<Response<ReloadPasswordResponse>, Status> {
        let refused = |error| failed(Code::FailedPrecondition, &error);
        let file = self.password_file.clone();
        let reading = tokio::task::spawn_blocking(move || password::read_again(file.as_deref()));
        let given = reading.await.map_err(|_| Stopping)?.map_err(refused)?;
        let changed = self.driver.ask(|reply| Command::ChangePassword { given, reply }).await?.map_err(refused)?;
        Ok(Response::new(ReloadPasswordResponse { changed }))
    }
}
