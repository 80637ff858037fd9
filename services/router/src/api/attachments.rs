//! `AttachmentService`: containers' interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use tokio::sync::Mutex;
use tonic::{Code, Request, Response, Status};
use weft_proto::{
    common::v1::{IpAddress, IpPrefix},
    convert::InvalidMessage,
    router::v1::{
        AttachRequest, AttachResponse, Attachment as AttachmentMessage, DetachRequest, DetachResponse,
        HostsFile as HostsFileMessage, ListAttachmentsRequest, ListAttachmentsResponse, ListLocationsRequest,
        ListLocationsResponse, Location, attachment_service_server::AttachmentService,
    },
};
use weft_service::trace::{Kind, Span};
use weft_types::{AllowedAddresses, ContainerId, MacAddress};

use super::failed;
use crate::{
    driver::{Attachment, Command, DriverHandle},
    kernel::{AttachError, AttachSpec, HostsFile, Kernel},
};

/// Attaches and detaches.
#[derive(Debug)]
pub struct Attachments {
    driver: DriverHandle,
    kernel: Kernel,
    /// What the kernel was told and what is remembered of it change together. The kernel's owner does one thing after the
    /// other anyway.
    changing: Mutex<()>,
}

impl Attachments {
    /// Makes the service.
    #[must_use]
    pub fn new(driver: DriverHandle, kernel: Kernel) -> Self {
        Self { driver, kernel, changing: Mutex::new(()) }
    }
}

#[tonic::async_trait]
impl AttachmentService for Attachments {
    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<AttachResponse>, Status> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let spec = AttachSpec {
            mac: MacAddress::of_container(&container),
            container: container.clone(),
            pid: request.pid,
            addresses: prefixes(&request.addresses)?,
            allowed: allowed(&request.allowed)?,
            multicast_route: request.multicast_route,
            hosts_file: request.hosts_file.map(hosts_file),
            dns: true,
        };
        if spec.addresses.is_empty() {
            return Err(InvalidMessage::missing("AttachRequest.addresses").into());
        }
        let (mac, allowed) = (spec.mac, spec.allowed.clone());
        let _changing = self.changing.lock().await;
        let span = Span::part(Kind::Internal, "set up ethwe");
        let attached = span.run(self.kernel.attach(spec)).await.map_err(|error| match error {
            AttachError::NoProcess { .. } | AttachError::ForeignProcess { .. } => Status::not_found(error.to_string()),
            AttachError::HostNetwork { .. }
            | AttachError::ForeignInterface { .. }
            | AttachError::SharedNetwork { .. } => Status::failed_precondition(error.to_string()),
            AttachError::NoAddress { .. } => Status::invalid_argument(error.to_string()),
            AttachError::Failed { .. } => Status::internal(error.to_string()),
        })?;
        drop(span);
        let host_interface = attached.host_interface;
        let attachment = Attachment { container, mac, addresses: attached.addresses, allowed, host_interface };
        let remembered = attachment.clone();
        self.driver.ask(|reply| Command::Attach { attachment: remembered, reply }).await?;
        Ok(Response::new(AttachResponse { attachment: Some(message(attachment)) }))
    }

    async fn detach(&self, request: Request<DetachRequest>) -> Result<Response<DetachResponse>, Status> {
        let request = request.into_inner();
        let container = container(&request.container_id)?;
        let addresses = prefixes(&request.addresses)?;
        let _changing = self.changing.lock().await;
        let span = Span::part(Kind::Internal, "take down ethwe");
        let detaching = span.run(self.kernel.detach(container.clone(), addresses.clone()));
        let mut removed = detaching.await.map_err(|error| failed(Code::Internal, &error))?;
        drop(span);
        removed.extend(self.driver.ask(|reply| Command::Detach { container, addresses, reply }).await?);
        removed.sort();
        removed.dedup();
        Ok(Response::new(DetachResponse { removed: removed.into_iter().map(Into::into).collect() }))
    }

    async fn list_attachments(
        &self,
        _request: Request<ListAttachmentsRequest>,
    ) -> Result<Response<ListAttachmentsResponse>, Status> {
        let attachments = self.driver.ask(Command::Attachments).await?;
        Ok(Response::new(ListAttachmentsResponse { attachments: attachments.into_iter().map(message).collect() }))
    }

    async fn list_locations(
        &self,
        _request: Request<ListLocationsRequest>,
    ) -> Result<Response<ListLocationsResponse>, Status> {
        let located = self.driver.ask(Command::Locations).await?;
        let locations = located.into_iter().map(|located| Location {
            peer_name: Some(located.peer.peer.into()),
            name: located.peer.name,
            container_id: located.attachment.container.to_string(),
            mac: Some(located.attachment.mac.into()),
            addresses: located.attachment.addresses.into_iter().map(Into::into).collect(),
            reachable: located.reachable,
        });
        Ok(Response::new(ListLocationsResponse { locations: locations.collect() }))
    }
}

fn container(text: &str) -> Result<ContainerId, InvalidMessage> {
    text.parse().map_err(|error| InvalidMessage::invalid("container_id", error))
}

fn prefixes(prefixes: &[IpPrefix]) -> Result<Vec<IpNet>, InvalidMessage> {
    prefixes.iter().map(IpNet::try_from).collect()
}

fn allowed(addresses: &[IpAddress]) -> Result<AllowedAddresses, InvalidMessage> {
    let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::try_from).collect::<Result<_, _>>()?;
    AllowedAddresses::new(addresses).map_err(|error| InvalidMessage::invalid("AttachRequest.allowed", error))
}

fn hosts_file(file: HostsFileMessage) -> HostsFile {
    HostsFile {
        path: file.path.into(),
        hostname: file.hostname,
        domainname: file.domainname,
        extra_hosts: file.extra_hosts,
    }
}

fn message(attachment: Attachment) -> AttachmentMessage {
    AttachmentMessage {
        container_id: attachment.container.to_string(),
        mac: Some(attachment.mac.into()),
        addresses: attachment.addresses.into_iter().map(Into::into).collect(),
        host_interface: attachment.host_interface,
        allowed: attachment.allowed.iter().map(Into::into).collect(),
    }
}
