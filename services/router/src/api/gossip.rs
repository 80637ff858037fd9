//! `GossipService`: what other services publish and hear.

use std::pin::Pin;

use futures::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use weft_proto::{
    convert::InvalidMessage,
    router::v1::{
        ChannelSnapshot, ChannelUpdate, Entry as EntryMessage, IncomingMessage, OriginEntries as OriginEntriesMessage,
        PeerIdentity as PeerIdentityMessage, PublishRequest, PublishResponse, Reachability, SendRequest, SendResponse,
        SubscribeRequest, SubscribeResponse, gossip_service_server::GossipService, subscribe_response::Kind,
    },
};
use weft_router_core::{
    gossip::{Entry, check_channel},
    mesh::{OriginEntries, PeerIdentity, SendError},
};
use weft_types::PeerName;

use crate::driver::{Command, DriverHandle, Reachable, Update};

/// Gossip for the other services.
#[derive(Debug)]
pub struct Gossip {
    driver: DriverHandle,
}

impl Gossip {
    /// Makes the service.
    #[must_use]
    pub const fn new(driver: DriverHandle) -> Self {
        Self { driver }
    }
}

#[tonic::async_trait]
impl GossipService for Gossip {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        let PublishRequest { channel, snapshot, entries } = request.into_inner();
        let entries = entries
            .into_iter()
            .map(|entry| Entry { key: entry.key.into(), value: entry.value.map(Into::into) })
            .collect();
        self.driver
            .ask(|reply| Command::Publish { channel, snapshot, entries, reply })
            .await?
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(PublishResponse {}))
    }

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        let channel = request.into_inner().channel;
        check_channel(&channel).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let updates = self.driver.ask(|reply| Command::Subscribe { channel, reply }).await?;
        let stream = ReceiverStream::new(updates).map(|update| Ok(SubscribeResponse { kind: Some(kind(update)) }));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let SendRequest { channel, destination, payload } = request.into_inner();
        let destination = destination.as_ref().ok_or(InvalidMessage::missing("SendRequest.destination"))?;
        let destination = PeerName::try_from(destination)?;
        let sent =
            self.driver.ask(|reply| Command::Send { channel, destination, payload: payload.into(), reply }).await?;
        match sent {
            Ok(()) => Ok(Response::new(SendResponse {})),
            Err(error @ (SendError::Unreachable { .. } | SendError::Congested { .. })) => {
                Err(Status::unavailable(error.to_string()))
            }
            Err(error @ (SendError::Channel(_) | SendError::TooLong { .. })) => {
                Err(Status::invalid_argument(error.to_string()))
            }
        }
    }
}

fn kind(update: Update) -> Kind {
    match update {
        Update::Snapshot { local, origins, reachable } => {
            let Reachability { reachable, target_count, targets_given, target_peers } = reachability(reachable);
            Kind::Snapshot(ChannelSnapshot {
                local_peer: Some(local.into()),
                origins: origins.into_iter().map(origin).collect(),
                reachable,
                target_count,
                targets_given,
                target_peers,
            })
        }
        Update::Changed { origin, entries } => Kind::Update(ChannelUpdate {
            origin: Some(origin.into()),
            complete: false,
            entries: entries
                .into_iter()
                .map(|entry| EntryMessage { key: entry.key.into(), value: entry.value.map(Into::into) })
                .collect(),
        }),
        Update::Reachability(reachable) => Kind::Reachability(reachability(reachable)),
        Update::Message { source, payload } => {
            Kind::Message(IncomingMessage { source: Some(source.into()), payload: payload.into() })
        }
    }
}

fn origin(origin: OriginEntries) -> OriginEntriesMessage {
    let entries = origin.entries.into_iter();
    OriginEntriesMessage {
        origin: Some(origin.origin.into()),
        entries: entries.map(|(key, value)| EntryMessage { key: key.into(), value: Some(value.into()) }).collect(),
    }
}

fn reachability(reachable: Reachable) -> Reachability {
    Reachability {
        reachable: reachable.peers.into_iter().map(identity).collect(),
        target_count: u32::try_from(reachable.target_count).unwrap_or(u32::MAX),
        targets_given: reachable.targets_given,
        target_peers: reachable.target_peers.into_iter().map(Into::into).collect(),
    }
}

fn identity(identity: PeerIdentity) -> PeerIdentityMessage {
    PeerIdentityMessage { peer_name: Some(identity.peer.into()), name: identity.name, nickname: identity.nickname }
}
