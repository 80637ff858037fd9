//! `ps`, `attach`, `detach`.

use weft_proto::{
    client::Service,
    common::v1::IpPrefix,
    proxy::v1::{
        AttachRequest, Container, DetachRequest, ListContainersRequest,
        container_service_client::ContainerServiceClient,
    },
};

use crate::{
    Outcome,
    cli::Addresses,
    output::Output,
    report::{Containers, Words, prefix},
    services::{ServiceError, Services},
};

/// Asks docker-proxy for all containers that are, or ought to be, attached.
pub(super) async fn list(services: &Services) -> Result<Vec<Container>, ServiceError> {
    let call = |channel| async { ContainerServiceClient::new(channel).list_containers(ListContainersRequest {}).await };
    services.ask(Service::DockerProxy, call).await.map(|listed| listed.containers)
}

pub(super) async fn ps(wanted: &[String], services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let mut listed = list(services).await?;
    listed.splice(0..0, super::expose::host(services).await);
    let shown = |container: &&Container| {
        let named = |name: &String| container.name == *name || container.container_id.starts_with(name.as_str());
        wanted.is_empty() || wanted.iter().any(named)
    };
    output.print(&Containers::new(listed.iter().filter(shown)))?;
    Ok(Outcome::Done)
}

pub(super) async fn attach(what: Addresses, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let (addresses, container) = what.split();
    let request = AttachRequest { container, addresses };
    let attached = services
        .ask_patiently(Service::DockerProxy, |channel| async {
            ContainerServiceClient::new(channel).attach(request).await
        })
        .await?;
    output.print(&Words::new("addresses", hosts(&attached.addresses)))?;
    Ok(Outcome::Done)
}

pub(super) async fn detach(what: Addresses, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let (addresses, container) = what.split();
    let request = DetachRequest { container, addresses };
    let detached = services
        .ask_patiently(Service::DockerProxy, |channel| async {
            ContainerServiceClient::new(channel).detach(request).await
        })
        .await?;
    output.print(&Words::new("removed", hosts(&detached.removed)))?;
    Ok(Outcome::Done)
}

/// Writes addresses without their prefix lengths, as scripts expect them.
fn hosts(prefixes: &[IpPrefix]) -> Vec<String> {
    let host = |text: String| text.split_once('/').map_or(text.clone(), |(host, _)| host.to_owned());
    prefixes.iter().map(|net| host(prefix(net))).collect()
}
