//! `ps`, `attach`, `detach`.

use ipnet::IpNet;
use weft_docker_proxy_core::address::AddressArgument;
use weft_proto::{
    client::Service,
    common::v1::IpPrefix,
    proxy::v1::{Container, DetachRequest, ListContainersRequest, container_service_client::ContainerServiceClient},
    router::v1::Attachment,
};

use super::status;
use crate::{
    Outcome,
    cli::{Addresses, Attach},
    output::Output,
    report::{Containers, Words, net, prefix},
    services::{ServiceError, Services},
};

/// Asks docker-proxy for all containers that are, or ought to be, attached.
pub(crate) async fn list(services: &Services) -> Result<Vec<Container>, ServiceError> {
    let call = |channel| async { ContainerServiceClient::new(channel).list_containers(ListContainersRequest {}).await };
    services.ask(Service::DockerProxy, call).await.map(|listed| listed.containers)
}

/// Asks for all containers, the host itself first if it is exposed, and for what they may give themselves, if there is a router
/// to say so.
pub(super) async fn listed(services: &Services) -> Result<(Vec<Container>, Option<Vec<Attachment>>), ServiceError> {
    let (containers, attachments) = tokio::join!(list(services), status::attachments(services));
    let (mut containers, attachments) = (containers?, attachments.ok());
    containers.splice(0..0, attachments.as_deref().and_then(super::expose::host));
    Ok((containers, attachments))
}

pub(super) async fn ps(wanted: &[String], services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let (mut listed, mut attachments) = listed(services).await?;
    if output.is_weave() {
        listed.iter_mut().for_each(in_weaves_words);
        attachments = None;
    }
    let shown = |container: &&Container| {
        let named = |name: &String| container.name == *name || container.container_id.starts_with(name.as_str());
        wanted.is_empty() || wanted.iter().any(named)
    };
    output.print(&shown_with(listed.iter().filter(shown), attachments.as_deref()))?;
    Ok(Outcome::Done)
}

pub(super) fn shown_with<'a>(
    containers: impl Iterator<Item = &'a Container>,
    attachments: Option<&[Attachment]>,
) -> Containers {
    let containers = Containers::new(containers);
    match attachments {
        Some(attachments) => containers.with_floating(attachments),
        None => containers,
    }
}

/// Has a container look as in Weave Net: what is no container has that one's prefix, and there are no addresses of IPv6.
fn in_weaves_words(container: &mut Container) {
    if let Some(holder) = container.container_id.strip_prefix("weft:") {
        container.container_id = format!("weave:{holder}");
        container.name.clone_from(&container.container_id);
    }
    container.addresses.retain(is_v4);
}

fn is_v4(prefix: &IpPrefix) -> bool {
    matches!(net(Some(prefix)), Some(IpNet::V4(_)))
}

pub(super) async fn attach(what: Attach, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let request = what.into_request();
    let attached = services
        .ask_patiently(Service::DockerProxy, |channel| async {
            ContainerServiceClient::new(channel).attach(request).await
        })
        .await?;
    output.print(&Words::new("addresses", hosts(attached.addresses, output)))?;
    Ok(Outcome::Done)
}

pub(super) async fn detach(what: Addresses, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let (mut addresses, container) = what.split();
    if addresses.is_empty() {
        addresses.push(AddressArgument::Default.to_string());
    }
    let request = DetachRequest { container, addresses };
    let detached = services
        .ask_patiently(Service::DockerProxy, |channel| async {
            ContainerServiceClient::new(channel).detach(request).await
        })
        .await?;
    output.print(&Words::new("removed", hosts(detached.removed, output)))?;
    Ok(Outcome::Done)
}

/// Writes addresses without their prefix lengths, as scripts expect them: those of Weave Net know no IPv6.
fn hosts(mut prefixes: Vec<IpPrefix>, output: &Output<'_>) -> Vec<String> {
    prefixes.retain(|prefix| !output.is_weave() || is_v4(prefix));
    let host = |text: String| text.split_once('/').map_or(text.clone(), |(host, _)| host.to_owned());
    prefixes.iter().map(|net| host(prefix(net))).collect()
}
