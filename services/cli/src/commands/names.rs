//! `dns-lookup`, `dns-args`, `dns-add`, `dns-remove`.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail};
use ipnet::IpNet;
use weft_proto::{
    client::Service,
    common::v1::IpAddress,
    dns::v1::{AddNamesRequest, LookupRequest, RemoveNamesRequest, name_service_client::NameServiceClient},
    proxy::v1::Container,
};

use super::{containers, status};
use crate::{
    Outcome,
    cli::NameArguments,
    output::Output,
    report::{ChangedNames, Lines, ResolverOptions, address},
    services::Services,
};

pub(super) async fn dns_lookup(name: String, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let request = LookupRequest { name };
    let found =
        services.ask(Service::Dns, |channel| async { NameServiceClient::new(channel).lookup(request).await }).await?;
    // Weave Net's scripts know no IPv6.
    let known =
        |address: &&IpAddress| !output.is_weave() || IpAddr::try_from(*address).is_ok_and(|address| address.is_ipv4());
    let addresses = found.addresses.iter().filter(known).map(address).collect();
    output.print(&Lines::new("addresses", addresses))?;
    Ok(Outcome::Done)
}

pub(super) async fn dns_args(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let status = status::dns(services).await?;
    let resolver = status.address.as_ref().and_then(|address| SocketAddr::try_from(address).ok());
    let resolver = resolver.context("dns does not say at which address containers ask: try again")?;
    output.print(&ResolverOptions::new(resolver.ip(), &status.zone))?;
    Ok(Outcome::Done)
}

pub(super) async fn dns_add(
    what: NameArguments,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let container = find(what.container.as_deref(), services).await?;
    let mut names: Vec<_> = what.name.as_deref().map(absolute).into_iter().collect();
    let mut addresses: Vec<IpAddress> = what.addresses.into_iter().map(Into::into).collect();
    let mut container_id = String::new();
    if let Some(container) = container {
        if addresses.is_empty() {
            let nets = container.addresses.iter().filter_map(|net| IpNet::try_from(net).ok());
            addresses = nets.map(|net| net.addr().into()).collect();
        }
        if addresses.is_empty() {
            bail!("the container {} has no address yet: `weft ps` says why", container.name);
        }
        if names.is_empty() {
            names = container.dns_names;
        }
        if names.is_empty() {
            bail!("the container {} has no name of its own in the domain of dns: give one with -h", container.name);
        }
        container_id = container.container_id;
    }
    let request = AddNamesRequest { container_id, names, addresses };
    let changed = ChangedNames::added(&request);
    services.ask(Service::Dns, |channel| async { NameServiceClient::new(channel).add_names(request).await }).await?;
    output.print(&changed)?;
    Ok(Outcome::Done)
}

pub(super) async fn dns_remove(
    what: NameArguments,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let container = find(what.container.as_deref(), services).await?;
    let request = RemoveNamesRequest {
        container_id: container.map(|container| container.container_id).unwrap_or_default(),
        names: what.name.as_deref().map(absolute).into_iter().collect(),
        addresses: what.addresses.into_iter().map(Into::into).collect(),
    };
    let asked = request.clone();
    let answer = services
        .ask(Service::Dns, |channel| async { NameServiceClient::new(channel).remove_names(asked).await })
        .await?;
    if answer.removed == 0 {
        output.complain("weft: nothing of that kind was added here; `weft status dns` lists all names");
    }
    output.print(&ChangedNames::removed(&request, answer.removed))?;
    Ok(Outcome::Done)
}

/// Reads a name as users mean it: one word is relative to the domain, several are absolute.
pub(super) fn absolute(name: &str) -> String {
    if name.contains('.') && !name.ends_with('.') { format!("{name}.") } else { name.to_owned() }
}

/// Finds a container among those that docker-proxy knows: by its name, its id, or a unique start of its id.
async fn find(wanted: Option<&str>, services: &Services) -> anyhow::Result<Option<Container>> {
    let Some(wanted) = wanted else { return Ok(None) };
    let mut containers = containers::list(services).await?;
    let exact = |container: &Container| container.name == wanted || container.container_id == wanted;
    if let Some(found) = containers.iter().position(exact) {
        return Ok(Some(containers.swap_remove(found)));
    }
    containers.retain(|container| container.container_id.starts_with(wanted));
    match containers.len() {
        1 => Ok(containers.pop()),
        0 => bail!(
            "no container {wanted} is attached here: `weft ps` lists those that are, and `weft attach {wanted}` attaches it"
        ),
        count => bail!("the ids of {count} containers start with {wanted}: give more of it"),
    }
}
