//! `publish`, `unpublish`, `import`, `unimport`, and the list of what is passed on.

use std::future::Future;

use tonic::{Response, Status, transport::Channel};
use weft_proto::{
    client::Service,
    router::v1::{
        self as pb, ImportServiceRequest, ListImportedRequest, ListPublishedRequest, PublishPortRequest,
        UnimportServiceRequest, UnpublishPortRequest, publish_service_client::PublishServiceClient,
    },
};

use crate::{
    Outcome,
    cli::{HostPort, Import, Protocol, Publish, Unpublish},
    output::Output,
    report::{ImportedServices, PassedOn, PublishedPorts},
    services::{ServiceError, Services},
};

/// Has a port of the host lead to containers.
pub(super) async fn publish(what: Publish, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let request = PublishPortRequest {
        host_port: Some(host_port(what.port, Some(what.protocol.given().unwrap_or(Protocol::Tcp)))),
        target: what.target.host,
        target_port: what.target.port.into(),
        proxy_protocol: what.proxy_protocol,
    };
    let answer = router(services, |mut client| async move { client.publish_port(request).await }).await?;
    output.print(&PublishedPorts::published(answer.published.as_slice()))?;
    Ok(Outcome::Done)
}

/// Takes a port of the host back.
pub(super) async fn unpublish(
    what: Unpublish,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let request = UnpublishPortRequest { host_port: Some(host_port(what.port, what.protocol.given())) };
    let answer = router(services, |mut client| async move { client.unpublish_port(request).await }).await?;
    if answer.removed.is_empty() {
        output.complain("weft: no such port is published; `weft status services` lists those that are");
    }
    output.print(&PublishedPorts::removed(&answer.removed))?;
    Ok(Outcome::Done)
}

/// Gives a service outside a name inside.
pub(super) async fn import(what: Import, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let request = ImportServiceRequest {
        name: what.name,
        protocol: message(Some(what.protocol.given().unwrap_or(Protocol::Tcp))).into(),
        host: what.service.host,
        port: what.service.port.into(),
    };
    let answer = router(services, |mut client| async move { client.import_service(request).await }).await?;
    output.print(&ImportedServices::imported(answer.imported.as_slice()))?;
    Ok(Outcome::Done)
}

/// Takes a service outside away.
pub(super) async fn unimport(name: String, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let request = UnimportServiceRequest { name };
    let answer = router(services, |mut client| async move { client.unimport_service(request).await }).await?;
    if answer.removed.is_empty() {
        output.complain("weft: no service of that name is imported; `weft status services` lists those that are");
    }
    output.print(&ImportedServices::removed(&answer.removed))?;
    Ok(Outcome::Done)
}

/// Returns all that is passed on.
pub(super) async fn list(services: &Services) -> Result<PassedOn, ServiceError> {
    let (published, imported) = listed(services).await?;
    Ok(PassedOn::new(&published, &imported))
}

/// Takes back all that is passed on, if a router runs to say what that is: its addresses would be somebody else's in a moment.
pub(super) async fn take_all_back(services: &Services) -> Result<(), ServiceError> {
    let (published, imported) = match listed(services).await {
        Err(error) if error.is_gone() => return Ok(()),
        listed => listed?,
    };
    for pb::Published { host_port, .. } in published {
        let request = UnpublishPortRequest { host_port };
        router(services, |mut client| async move { client.unpublish_port(request).await }).await?;
    }
    for pb::Imported { name, .. } in imported {
        let request = UnimportServiceRequest { name };
        router(services, |mut client| async move { client.unimport_service(request).await }).await?;
    }
    Ok(())
}

async fn listed(services: &Services) -> Result<(Vec<pb::Published>, Vec<pb::Imported>), ServiceError> {
    let (published, imported) = tokio::try_join!(
        router(services, |mut client| async move { client.list_published(ListPublishedRequest {}).await }),
        router(services, |mut client| async move { client.list_imported(ListImportedRequest {}).await }),
    )?;
    Ok((published.published, imported.imported))
}

fn host_port(port: HostPort, protocol: Option<Protocol>) -> pb::HostPort {
    let address = port.address.map(Into::into);
    pb::HostPort { protocol: message(protocol).into(), address, port: port.port.into() }
}

const fn message(protocol: Option<Protocol>) -> pb::Protocol {
    match protocol {
        None => pb::Protocol::Unspecified,
        Some(Protocol::Tcp) => pb::Protocol::Tcp,
        Some(Protocol::Udp) => pb::Protocol::Udp,
    }
}

/// Asks the router about ports. It may have to ask dns and ipam.
async fn router<T, F>(
    services: &Services,
    call: impl FnOnce(PublishServiceClient<Channel>) -> F,
) -> Result<T, ServiceError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    services.ask_patiently(Service::Router, |channel| call(PublishServiceClient::new(channel))).await
}
