//! Performs the workflow's steps by calling the other services.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::time::{sleep, timeout};
use tonic::{Code, Request, Response, Status, transport::Channel};
use weft_docker_proxy_core::{Container, Outcome, Step, eligibility, workflow::DualAddress};
use weft_proto::{
    client::{self, Service},
    convert::InvalidMessage,
    dns::v1::{
        DeregisterRequest, ListRecordsRequest, RegisterRequest, Registration, name_service_client::NameServiceClient,
    },
    ipam::v1::{
        self as ipam, AllocateRequest, ClaimRequest, ClaimResponse, FreeRequest,
        GetStatusRequest as GetIpamStatusRequest, ListAllocationsRequest, LookupRequest,
        address_service_client::AddressServiceClient,
    },
    router::v1::{
        AttachRequest, DetachRequest, GetStatusRequest, HostsFile, ListAttachmentsRequest,
        attachment_service_client::AttachmentServiceClient, peer_service_client::PeerServiceClient,
    },
};
use weft_service::trace::Traced;
use weft_types::ContainerId;

use crate::chosen::Choices;

/// Longest time that a call may take for which nobody waits.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How long a service that broke a connection may take to say why it ended.
const LAST_WORDS_DEADLINE: Duration = Duration::from_millis(500);

/// How often its reason is looked for.
const LAST_WORDS_INTERVAL: Duration = Duration::from_millis(20);

/// Pause before an address is asked for again that somebody else has.
const HELD_PAUSE: Duration = Duration::from_millis(50);

/// How often.
const HELD_TRIES: u32 = 10;

/// Largest answer that is read, in bytes: the names of a whole mesh.
const LARGEST_ANSWER: usize = 64 << 20;

/// Clients of the other services; clones share the connections.
#[derive(Debug, Clone)]
pub struct Services {
    addresses: AddressServiceClient<Traced<Channel>>,
    attachments: AttachmentServiceClient<Traced<Channel>>,
    names: NameServiceClient<Traced<Channel>>,
    peers: PeerServiceClient<Traced<Channel>>,
    options: Options,
    folder: PathBuf,
}

/// How containers are attached.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long ipam may wait for space.
    pub address_timeout: Duration,
    /// How long a step may take: longer than ipam waits, and short enough for its failure to be told in time.
    pub step_timeout: Duration,
    /// Route multicast to the overlay.
    pub multicast_route: bool,
    /// Write overlay addresses into the containers' /etc/hosts.
    pub rewrite_hosts: bool,
}

impl Services {
    /// Makes clients of the services whose sockets are in `folder`; nothing is opened yet.
    #[must_use]
    pub fn new(folder: &Path, options: Options) -> Self {
        let channel = |service: Service| Traced::new(client::channel(&service.socket(folder)));
        let router = channel(Service::Router);
        Self {
            addresses: AddressServiceClient::new(channel(Service::Ipam)).max_decoding_message_size(LARGEST_ANSWER),
            attachments: AttachmentServiceClient::new(router.clone()).max_decoding_message_size(LARGEST_ANSWER),
            names: NameServiceClient::new(channel(Service::Dns)).max_decoding_message_size(LARGEST_ANSWER),
            peers: PeerServiceClient::new(router).max_decoding_message_size(LARGEST_ANSWER),
            options,
            folder: folder.to_owned(),
        }
    }

    /// Performs a step for a container, in the way that was chosen for it.
    pub async fn perform(mut self, container: Container, choices: Choices, step: Step) -> Outcome {
        let service = performer(&step);
        match self.call(&container, choices, step).await {
            Ok(outcome) => outcome,
            Err(status) => {
                let last_words = self.last_words(service, &status).await;
                failed(service, &status, last_words.as_deref())
            }
        }
    }

    /// Returns the containers that the router says are attached.
    ///
    /// # Errors
    /// If the router does not answer.
    pub async fn attached(&mut self) -> Result<BTreeSet<ContainerId>, Status> {
        let answer = self.attachments.list_attachments(within(CALL_DEADLINE, ListAttachmentsRequest {})).await?;
        Ok(answer.into_inner().attachments.iter().filter_map(|found| found.container_id.parse().ok()).collect())
    }

    /// Returns the containers that hold addresses.
    ///
    /// # Errors
    /// If ipam does not answer.
    pub async fn allocated(&mut self) -> Result<BTreeSet<ContainerId>, Status> {
        let answer = self.addresses.list_allocations(within(CALL_DEADLINE, ListAllocationsRequest {})).await?;
        Ok(answer.into_inner().allocations.iter().filter_map(|found| found.container_id.parse().ok()).collect())
    }

    /// Returns the addresses that a container holds.
    ///
    /// # Errors
    /// If ipam does not answer.
    pub async fn held(&mut self, container: &ContainerId) -> Result<Vec<Ipv4Net>, Status> {
        let request = LookupRequest { container_id: container.to_string() };
        let answer = self.addresses.lookup(within(CALL_DEADLINE, request)).await?;
        Ok(v4_addresses(&answer.into_inner().addresses))
    }

    /// Returns the subnet that `net:default` means.
    ///
    /// # Errors
    /// If ipam does not answer.
    pub async fn default_subnet(&mut self) -> Result<Option<Ipv4Net>, Status> {
        let answer = self.addresses.get_status(within(CALL_DEADLINE, GetIpamStatusRequest {})).await?;
        Ok(answer.into_inner().default_subnet.as_ref().and_then(|subnet| subnet.try_into().ok()))
    }

    /// Returns the containers of this host that have names.
    ///
    /// # Errors
    /// If router or dns do not answer.
    pub async fn registered(&mut self) -> Result<BTreeSet<ContainerId>, Status> {
        let local = self.peers.get_status(within(CALL_DEADLINE, GetStatusRequest {})).await?.into_inner().peer_name;
        let answer = self.names.list_records(within(CALL_DEADLINE, ListRecordsRequest {})).await?;
        let ours = answer.into_inner().records.into_iter().filter(|record| record.origin == local);
        Ok(ours.filter_map(|record| record.container_id.parse().ok()).collect())
    }

    /// Returns why a service ended that broke the connection, or that is not there.
    async fn last_words(&self, service: Service, status: &Status) -> Option<String> {
        std::error::Error::source(status)?;
        let said = async {
            loop {
                if let Some(words) = service.read_last_words(&self.folder) {
                    return words;
                }
                sleep(LAST_WORDS_INTERVAL).await;
            }
        };
        timeout(LAST_WORDS_DEADLINE, said).await.ok()
    }

    async fn call(&mut self, container: &Container, choices: Choices, step: Step) -> Result<Outcome, Status> {
        let id = &container.id;
        let container_id = id.to_string();
        match step {
            Step::Lookup => {
                let answer =
                    self.addresses.lookup(within(self.options.step_timeout, LookupRequest { container_id })).await?;
                let held = answer.into_inner().addresses.iter().map(dual_address).collect::<Result<_, _>>()?;
                Ok(Outcome::Held(held))
            }
            Step::Allocate { subnet } => self.allocate(id, subnet).await.map(Outcome::Given),
            Step::Claim { address } => {
                let timeout_millis = self.timeout_millis();
                let request = ClaimRequest { container_id, address: Some(address.into()), timeout_millis };
                let answer = self.claim(request).await?;
                given(answer.address.as_ref())
            }
            Step::Attach { pid, addresses } => {
                let request = self.attach_request(container, choices, pid, &addresses)?;
                let answer = self.attachments.attach(within(self.options.step_timeout, request)).await?.into_inner();
                let attachment = answer.attachment.ok_or(InvalidMessage::missing("AttachResponse.attachment"))?;
                let configured = attachment.addresses.iter().map(IpNet::try_from).collect::<Result<_, _>>()?;
                Ok(Outcome::Attached(configured))
            }
            Step::Register { names, addresses, unhealthy } => {
                let addresses = addresses.into_iter().map(Into::into).collect();
                let registration = Some(Registration { container_id, names, addresses, unhealthy });
                self.names.register(within(self.options.step_timeout, RegisterRequest { registration })).await?;
                Ok(Outcome::Done)
            }
            Step::Deregister => {
                let request = DeregisterRequest { container_id, names: Vec::new() };
                self.names.deregister(within(self.options.step_timeout, request)).await?;
                Ok(Outcome::Done)
            }
            Step::Detach { addresses } => {
                let addresses = addresses.into_iter().map(Into::into).collect();
                self.attachments
                    .detach(within(self.options.step_timeout, DetachRequest { container_id, addresses }))
                    .await?;
                Ok(Outcome::Done)
            }
            Step::Free { addresses } => {
                let addresses = addresses.into_iter().map(Into::into).collect();
                self.addresses.free(within(self.options.step_timeout, FreeRequest { container_id, addresses })).await?;
                Ok(Outcome::Done)
            }
        }
    }

    fn attach_request(
        &self,
        container: &Container,
        choices: Choices,
        pid: u32,
        addresses: &[IpNet],
    ) -> Result<AttachRequest, Status> {
        let rewrites = choices.rewrite_hosts.unwrap_or(self.options.rewrite_hosts);
        let hosts_file = (rewrites && !container.hosts_path.is_empty()).then(|| HostsFile {
            path: container.hosts_path.clone(),
            hostname: container.hostname.clone(),
            domainname: container.domainname.clone(),
            extra_hosts: [&container.extra_hosts[..], &choices.extra_hosts].concat(),
        });
        let allowed = match choices.allowed {
            Some(allowed) => allowed,
            None => eligibility::allowed_addresses(container).map_err(Status::invalid_argument)?,
        };
        Ok(AttachRequest {
            container_id: container.id.to_string(),
            pid,
            addresses: addresses.iter().copied().map(Into::into).collect(),
            multicast_route: choices.multicast_route.unwrap_or(self.options.multicast_route),
            hosts_file,
            allowed: allowed.iter().map(Into::into).collect(),
        })
    }

    async fn allocate(&mut self, container: &ContainerId, subnet: Option<Ipv4Net>) -> Result<DualAddress, Status> {
        let request = AllocateRequest {
            container_id: container.to_string(),
            subnet: subnet.map(Into::into),
            timeout_millis: self.timeout_millis(),
        };
        let answer = self.addresses.allocate(within(self.options.step_timeout, request)).await?;
        let address = answer.into_inner().address;
        Ok(dual_address(&address.ok_or(InvalidMessage::missing("AllocateResponse.address"))?)?)
    }

    /// Asks ipam for an address that was named. Who has it may be gone already, and its address on its way back: ipam is asked
    /// again for a moment.
    async fn claim(&mut self, request: ClaimRequest) -> Result<ClaimResponse, Status> {
        let mut tries = HELD_TRIES;
        loop {
            match self.addresses.claim(within(self.options.step_timeout, request.clone())).await {
                Err(status) if status.code() == Code::AlreadyExists && tries > 0 => sleep(HELD_PAUSE).await,
                answer => return answer.map(Response::into_inner),
            }
            tries -= 1;
        }
    }

    fn timeout_millis(&self) -> u32 {
        u32::try_from(self.options.address_timeout.as_millis()).unwrap_or(u32::MAX)
    }
}

fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn given(address: Option<&ipam::DualAddress>) -> Result<Outcome, Status> {
    let address = address.ok_or(InvalidMessage::missing("ClaimResponse.address"))?;
    Ok(Outcome::Given(dual_address(address)?))
}

fn dual_address(address: &ipam::DualAddress) -> Result<DualAddress, InvalidMessage> {
    let v4 = address.v4.as_ref().ok_or(InvalidMessage::missing("DualAddress.v4"))?;
    let v6 = address.v6.as_ref().map(v6_prefix).transpose()?;
    Ok(DualAddress { v4: v4.try_into()?, v6 })
}

fn v6_prefix(prefix: &weft_proto::common::v1::IpPrefix) -> Result<Ipv6Net, InvalidMessage> {
    match IpNet::try_from(prefix)? {
        IpNet::V6(net) => Ok(net),
        IpNet::V4(net) => Err(InvalidMessage::invalid("DualAddress.v6", format!("{net} is not an IPv6 prefix"))),
    }
}

fn v4_addresses(addresses: &[ipam::DualAddress]) -> Vec<Ipv4Net> {
    addresses.iter().filter_map(|address| Ipv4Net::try_from(address.v4.as_ref()?).ok()).collect()
}

/// Returns all addresses of a container, IPv4 before its twin.
pub(crate) fn prefixes(addresses: &[DualAddress]) -> Vec<IpNet> {
    let both = |address: &DualAddress| [Some(IpNet::V4(address.v4)), address.v6.map(IpNet::V6)];
    addresses.iter().flat_map(both).flatten().collect()
}

/// Returns the service that performs a step.
const fn performer(step: &Step) -> Service {
    match step {
        Step::Lookup | Step::Allocate { .. } | Step::Claim { .. } | Step::Free { .. } => Service::Ipam,
        Step::Attach { .. } | Step::Detach { .. } => Service::Router,
        Step::Register { .. } | Step::Deregister => Service::Dns,
    }
}

/// Says whether a failure is worth another try, and why it happened.
fn failed(service: Service, status: &Status, last_words: Option<&str>) -> Outcome {
    let permanent = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unimplemented => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => false,
    };
    // A status that did not come from the service has its cause attached, unless the service's own library made it when
    // the time was over.
    let late = matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded);
    let name = service.name();
    let reason = if let Some(words) = last_words {
        format!("weft's service {name} ended: {words}")
    } else if late || std::error::Error::source(status).is_some() {
        format!("weft's service {name} does not answer: `docker compose ps` says why")
    } else {
        status.message().to_owned()
    };
    Outcome::Failed { reason, permanent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_ended_is_quoted() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let second = Duration::from_secs(1);
        let options =
            Options { address_timeout: second, step_timeout: second, multicast_route: false, rewrite_hosts: false };
        let mut services = Services::new(folder.path(), options);
        let container = "c0ffee".repeat(10).parse().expect("an id");
        let status = services.held(&container).await.expect_err("nobody listens");
        let mut said = Vec::new();
        for words in [None, Some("there is no room\n")] {
            if let Some(words) = words {
                std::fs::write(Service::Ipam.last_words(folder.path()), words).expect("writable");
            }
            let last_words = services.last_words(Service::Ipam, &status).await;
            let Outcome::Failed { reason, permanent } = failed(Service::Ipam, &status, last_words.as_deref()) else {
                panic!("it failed")
            };
            assert!(!permanent, "it may start again");
            said.push(reason);
        }
        let silent = "weft's service ipam does not answer: `docker compose ps` says why";
        assert_eq!(said, [silent, "weft's service ipam ended: there is no room"]);
        assert_eq!(services.last_words(Service::Ipam, &Status::internal("it said this")).await, None);
    }
}
