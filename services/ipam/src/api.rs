//! gRPC: handlers translate, the driver decides.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status, service::Routes};
use weft_ipam_core::{DualAddress, PeerInfo, Problem, Refusal, Remedy, RingState, Status as RingStatus};
use weft_proto::{
    common::v1 as common,
    convert::InvalidMessage,
    ipam::v1::{
        self as pb,
        address_service_server::{AddressService, AddressServiceServer},
    },
};
use weft_types::ContainerId;

use crate::driver::Command;

/// Metadata key of the stable word that says which case an error is.
const REASON: &str = "weft-reason";
const DEFAULT_TIMEOUT: u32 = 5000;
const LONGEST_TIMEOUT: u32 = 60_000;

/// Returns the routes of the service.
pub(crate) fn routes(commands: mpsc::Sender<Command>) -> Routes {
    Routes::new(AddressServiceServer::new(Api { commands }))
}

#[derive(Debug)]
struct Api {
    commands: mpsc::Sender<Command>,
}

impl Api {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let stopping = || refused(Status::unavailable("ipam is not ready or stops: try again"), "not_ready");
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

#[tonic::async_trait]
impl AddressService for Api {
    async fn allocate(&self, request: Request<pb::AllocateRequest>) -> Result<Response<pb::AllocateResponse>, Status> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let subnet = request.subnet.as_ref().map(Ipv4Net::try_from).transpose()?;
        let timeout = timeout(request.timeout_millis)?;
        let answer = self.ask(|reply| Command::Allocate { container, subnet, timeout, reply }).await?;
        let address = Some(dual(answer.map_err(status)?));
        Ok(Response::new(pb::AllocateResponse { address }))
    }

    async fn claim(&self, request: Request<pb::ClaimRequest>) -> Result<Response<pb::ClaimResponse>, Status> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let address = request.address.as_ref().ok_or(InvalidMessage::missing("ClaimRequest.address"))?.try_into()?;
        let timeout = timeout(request.timeout_millis)?;
        let answer = self.ask(|reply| Command::Claim { container, address, timeout, reply }).await?;
        let address = Some(dual(answer.map_err(status)?));
        Ok(Response::new(pb::ClaimResponse { address }))
    }

    async fn free(&self, request: Request<pb::FreeRequest>) -> Result<Response<pb::FreeResponse>, Status> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let mut addresses = Vec::with_capacity(request.addresses.len());
        for address in &request.addresses {
            // Twins go with their addresses.
            if let IpNet::V4(address) = IpNet::try_from(address)? {
                addresses.push(address.addr());
            }
        }
        if addresses.is_empty() && !request.addresses.is_empty() {
            return Ok(Response::new(pb::FreeResponse::default()));
        }
        let freed = self.ask(|reply| Command::Free { container, addresses, reply }).await?;
        Ok(Response::new(pb::FreeResponse { freed: freed.into_iter().map(dual).collect() }))
    }

    async fn lookup(&self, request: Request<pb::LookupRequest>) -> Result<Response<pb::LookupResponse>, Status> {
        let container = container(&request.into_inner().container_id)?;
        let addresses = self.ask(|reply| Command::Lookup { container, reply }).await?;
        Ok(Response::new(pb::LookupResponse { addresses: addresses.into_iter().map(dual).collect() }))
    }

    async fn list_allocations(
        &self,
        _: Request<pb::ListAllocationsRequest>,
    ) -> Result<Response<pb::ListAllocationsResponse>, Status> {
        let all = self.ask(|reply| Command::List { reply }).await?;
        let allocations = all.into_iter().map(|(container, addresses)| pb::Allocation {
            container_id: container.to_string(),
            addresses: addresses.into_iter().map(dual).collect(),
        });
        Ok(Response::new(pb::ListAllocationsResponse { allocations: allocations.collect() }))
    }

    async fn take_over(&self, request: Request<pb::TakeOverRequest>) -> Result<Response<pb::TakeOverResponse>, Status> {
        let peer = request.into_inner().peer;
        let moved = self.ask(|reply| Command::TakeOver { peer, reply }).await?.map_err(status)?;
        let (peer_name, name, nickname) = identity(moved.peer);
        Ok(Response::new(pb::TakeOverResponse { name, addresses: moved.addresses, peer_name, nickname }))
    }

    async fn hand_over(&self, _: Request<pb::HandOverRequest>) -> Result<Response<pb::HandOverResponse>, Status> {
        let moved = self.ask(|reply| Command::HandOver { reply }).await?.map_err(status)?;
        let (peer_name, name, nickname) = identity(moved.peer);
        Ok(Response::new(pb::HandOverResponse { name, addresses: moved.addresses, peer_name, nickname }))
    }

    async fn get_status(&self, _: Request<pb::GetStatusRequest>) -> Result<Response<pb::GetStatusResponse>, Status> {
        let answer = match self.ask(|reply| Command::Status { reply }).await? {
            Some(status) => ring_status(status),
            None => pb::GetStatusResponse {
                version: weft_service::VERSION.into(),
                state: pb::RingState::WaitingForPeers.into(),
                problems: vec![common::Problem {
                    reason: "router_away".into(),
                    message: "the router of this host has not been reached yet: see its log".into(),
                    age_seconds: 0,
                }],
                ..pb::GetStatusResponse::default()
            },
        };
        Ok(Response::new(answer))
    }
}

fn container(id: &str) -> Result<ContainerId, InvalidMessage> {
    id.parse().map_err(|error| InvalidMessage::invalid("container_id", error))
}

fn timeout(millis: u32) -> Result<Duration, InvalidMessage> {
    match millis {
        0 => Ok(Duration::from_millis(DEFAULT_TIMEOUT.into())),
        1..=LONGEST_TIMEOUT => Ok(Duration::from_millis(millis.into())),
        _ => Err(InvalidMessage::invalid("timeout_millis", format!("{millis} is more than {LONGEST_TIMEOUT}"))),
    }
}

fn dual(address: DualAddress) -> pb::DualAddress {
    pb::DualAddress { v4: Some(address.v4.into()), v6: address.v6.map(Into::into) }
}

/// Returns a peer as messages name it; nothing if there is none.
fn identity(peer: Option<PeerInfo>) -> (Option<common::PeerName>, String, String) {
    peer.map(|info| (Some(info.peer.into()), info.name, info.nickname)).unwrap_or_default()
}

fn status(refusal: Refusal) -> Status {
    let text = refusal.to_string();
    let status = match refusal.remedy() {
        Remedy::Retry => Status::unavailable(text),
        Remedy::FixFirst => Status::failed_precondition(text),
        Remedy::FreeFirst => Status::resource_exhausted(text),
        Remedy::AskOtherwise => Status::invalid_argument(text),
    };
    refused(status, refusal.reason())
}

fn refused(mut status: Status, reason: &'static str) -> Status {
    status.metadata_mut().insert(REASON, tonic::metadata::MetadataValue::from_static(reason));
    status
}

fn ring_status(status: RingStatus) -> pb::GetStatusResponse {
    let state = match status.state {
        RingState::Electing => pb::RingState::Electing,
        RingState::Ready => pb::RingState::Ready,
        RingState::WaitingForPeers => pb::RingState::WaitingForPeers,
    };
    let ula = status.ring.map(|ring| {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&ring.ula.octets());
        common::IpPrefix { address: Some(std::net::IpAddr::from(octets).into()), length: 48 }
    });
    let shares = status.shares.into_iter().map(|share| pb::PeerShare {
        peer_name: Some(share.peer.peer.into()),
        name: share.peer.name,
        nickname: share.peer.nickname,
        owned: share.owned,
        free: share.free,
        reachable: share.reachable,
    });
    let pending = status.pending.into_iter().map(|(container, subnet, waited, refusal)| pb::PendingRequest {
        container_id: container.to_string(),
        subnet: Some(subnet.into()),
        problem: Some(common::Problem {
            reason: refusal.reason().into(),
            message: refusal.to_string(),
            age_seconds: waited.as_secs(),
        }),
    });
    let problem = |problem: Problem| common::Problem {
        reason: problem.reason.into(),
        message: problem.message,
        age_seconds: problem.age.as_secs(),
    };
    pb::GetStatusResponse {
        version: weft_service::VERSION.into(),
        state: state.into(),
        range: Some(status.range.into()),
        default_subnet: Some(status.default_subnet.into()),
        ring_id: status.ring.map(|ring| ring.id.0.to_vec()).unwrap_or_default(),
        ula_prefix: ula,
        shares: shares.collect(),
        pending: pending.collect(),
        allocated: status.allocated as u64,
        problems: status.problems.into_iter().map(problem).collect(),
        voters: status.voters,
        voters_heard: status.voters_heard,
    }
}
