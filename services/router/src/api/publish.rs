//! `PublishService`: ports of the host that lead to containers, and names inside that lead to services outside.

use std::{collections::BTreeSet, net::IpAddr};

use tonic::{Request, Response, Status};
use weft_proto::{
    convert::InvalidMessage,
    router::v1::{
        self as pb, Backend, ClientSeen, ImportServiceRequest, ImportServiceResponse, ListImportedRequest,
        ListImportedResponse, ListPublishedRequest, ListPublishedResponse, PublishPortRequest, PublishPortResponse,
        UnimportServiceRequest, UnimportServiceResponse, UnpublishPortRequest, UnpublishPortResponse,
        publish_service_server::PublishService,
    },
};
use weft_router_core::mesh::Problem;

use crate::{
    kernel::Kernel,
    published::{HostPort, Import, Protocol, Target, Terms},
    publisher::{ImportView, PublisherHandle, Refused, View, Which},
};

/// Longest target, in bytes: a name (RFC 1035, section 2.3.4).
const LONGEST_TARGET: usize = 255;

/// Publishes ports.
#[derive(Debug)]
pub struct Publishing {
    publisher: PublisherHandle,
    kernel: Kernel,
}

impl Publishing {
    /// Makes the service.
    #[must_use]
    pub const fn new(publisher: PublisherHandle, kernel: Kernel) -> Self {
        Self { publisher, kernel }
    }

    fn messages(&self, views: &[View]) -> Vec<pb::Published> {
        let direct = self.kernel.direct();
        views.iter().map(|view| message(view, &direct)).collect()
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::Invalid(_) => Self::invalid_argument(text),
            Refused::NotNow(_) => Self::failed_precondition(text),
            Refused::Failed(_) => Self::unavailable(text),
        }
    }
}

#[tonic::async_trait]
impl PublishService for Publishing {
    async fn publish_port(
        &self,
        request: Request<PublishPortRequest>,
    ) -> Result<Response<PublishPortResponse>, Status> {
        let PublishPortRequest { host_port, target, target_port, proxy_protocol } = request.into_inner();
        let asked = read(host_port.as_ref())?;
        let protocol = asked.protocol.ok_or_else(|| invalid("HostPort.protocol", "it is neither TCP nor UDP"))?;
        if target.is_empty() || target.len() > LONGEST_TARGET {
            return Err(invalid("PublishPortRequest.target", "it is not a name or an address").into());
        }
        let terms = Terms {
            target: target
                .parse()
                .map_or(Target::Name(target), |address: IpAddr| Target::Address(address.to_canonical())),
            port: port("PublishPortRequest.target_port", target_port)?,
            proxy_protocol,
            backends: BTreeSet::new(),
            subnets: BTreeSet::new(),
        };
        let host_port = HostPort { port: asked.port, protocol, address: asked.address };
        let view = self.publisher.publish(host_port, terms).await?;
        Ok(Response::new(PublishPortResponse { published: self.messages(&[view]).pop() }))
    }

    async fn unpublish_port(
        &self,
        request: Request<UnpublishPortRequest>,
    ) -> Result<Response<UnpublishPortResponse>, Status> {
        let which = read(request.into_inner().host_port.as_ref())?;
        let removed = self.publisher.unpublish(which).await?;
        Ok(Response::new(UnpublishPortResponse { removed: self.messages(&removed) }))
    }

    async fn list_published(
        &self,
        _: Request<ListPublishedRequest>,
    ) -> Result<Response<ListPublishedResponse>, Status> {
        let views = self.publisher.list().await?;
        Ok(Response::new(ListPublishedResponse { published: self.messages(&views) }))
    }

    async fn import_service(
        &self,
        request: Request<ImportServiceRequest>,
    ) -> Result<Response<ImportServiceResponse>, Status> {
        let request = request.into_inner();
        let protocol = read_protocol(request.protocol());
        let protocol = protocol.ok_or_else(|| invalid("ImportServiceRequest.protocol", "it is neither TCP nor UDP"))?;
        let ImportServiceRequest { name, host, port: number, .. } = request;
        if host.is_empty() || host.len() > LONGEST_TARGET {
            return Err(invalid("ImportServiceRequest.host", "it is not a name or an address").into());
        }
        let import = Import::new(host, protocol, port("ImportServiceRequest.port", number)?);
        let view = self.publisher.import(name, import).await?;
        Ok(Response::new(ImportServiceResponse { imported: Some(import_message(&view)) }))
    }

    async fn unimport_service(
        &self,
        request: Request<UnimportServiceRequest>,
    ) -> Result<Response<UnimportServiceResponse>, Status> {
        let removed = self.publisher.unimport(request.into_inner().name).await?;
        Ok(Response::new(UnimportServiceResponse { removed: removed.iter().map(import_message).collect() }))
    }

    async fn list_imported(&self, _: Request<ListImportedRequest>) -> Result<Response<ListImportedResponse>, Status> {
        let views = self.publisher.list_imports().await?;
        Ok(Response::new(ListImportedResponse { imported: views.iter().map(import_message).collect() }))
    }
}

fn invalid(field: &'static str, reason: &str) -> InvalidMessage {
    InvalidMessage::invalid(field, reason)
}

fn port(field: &'static str, number: u32) -> Result<u16, InvalidMessage> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    port.ok_or_else(|| InvalidMessage::invalid(field, format!("{number} is not between 1 and 65535")))
}

fn read(host_port: Option<&pb::HostPort>) -> Result<Which, InvalidMessage> {
    let host_port = host_port.ok_or(InvalidMessage::missing("host_port"))?;
    let protocol = read_protocol(host_port.protocol());
    let address = host_port.address.as_ref().map(IpAddr::try_from).transpose()?.map(|address| address.to_canonical());
    Ok(Which { port: port("HostPort.port", host_port.port)?, protocol, address })
}

const fn read_protocol(protocol: pb::Protocol) -> Option<Protocol> {
    match protocol {
        pb::Protocol::Unspecified => None,
        pb::Protocol::Tcp => Some(Protocol::Tcp),
        pb::Protocol::Udp => Some(Protocol::Udp),
    }
}

const fn write_protocol(protocol: Protocol) -> pb::Protocol {
    match protocol {
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
    }
}

fn write_problem(problem: &Problem) -> weft_proto::common::v1::Problem {
    weft_proto::common::v1::Problem {
        reason: problem.reason.to_owned(),
        message: problem.message.clone(),
        age_seconds: 0,
    }
}

fn import_message(ImportView { name, import, problems }: &ImportView) -> pb::Imported {
    let named = import.addresses().filter(|address| import.named.contains(&address.addr()));
    pb::Imported {
        name: name.clone(),
        protocol: write_protocol(import.protocol).into(),
        host: import.host.clone(),
        port: import.port.into(),
        addresses: named.map(Into::into).collect(),
        targets: import.targets.iter().map(|target| (*target).into()).collect(),
        problems: problems.iter().map(write_problem).collect(),
    }
}

fn message(View { port, terms, backends, problems }: &View, direct: &BTreeSet<IpAddr>) -> pb::Published {
    let backend = |address: IpAddr| {
        let client = if terms.proxy_protocol {
            ClientSeen::ProxyProtocol
        } else if direct.contains(&address)
            && port.protocol == Protocol::Tcp
            && !port.address.is_some_and(|address| address.is_loopback())
        {
            ClientSeen::Client
        } else {
            ClientSeen::Host
        };
        Backend { address: Some(address.into()), client: client.into() }
    };
    pb::Published {
        host_port: Some(pb::HostPort {
            protocol: write_protocol(port.protocol).into(),
            address: port.address.map(Into::into),
            port: port.port.into(),
        }),
        target: terms.target.to_string(),
        target_port: terms.port.into(),
        proxy_protocol: terms.proxy_protocol,
        backends: backends.iter().map(|net| backend(net.addr())).collect(),
        problems: problems.iter().map(write_problem).collect(),
    }
}
