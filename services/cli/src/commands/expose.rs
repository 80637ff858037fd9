//! `expose`, `hide`.

use std::future::Future;

use anyhow::bail;
use ipnet::IpNet;
use tonic::{Response, Status, transport::Channel};
use weft_docker_proxy_core::address::AddressArgument;
use weft_proto::{
    client::Service,
    common::v1::{IpAddress, IpPrefix},
    dns::v1::{AddNamesRequest, RemoveNamesRequest, name_service_client::NameServiceClient},
    ipam::v1::{
        AllocateRequest, ClaimRequest, DualAddress, FreeRequest, GetStatusRequest, LookupRequest,
        address_service_client::AddressServiceClient,
    },
    proxy::v1::{Container, ContainerState},
    router::v1::{
        Attachment, ExposeRequest, Exposed, HideRequest, ListExposedRequest, host_service_client::HostServiceClient,
    },
};

use super::names::absolute;
use crate::{
    Outcome,
    cli::{Expose, Hide},
    output::Output,
    report::{HostAddresses, net},
    services::{ServiceError, Services},
};

/// Holder of the host's own addresses.
const HOLDER: &str = "weft:expose";

/// Gives the host addresses, and names if they are asked for: all, or none of those that it did not have.
pub(super) async fn expose(what: Expose, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let before = list(services).await?;
    let arguments = or_default(what.addresses);
    let mut taken = Vec::new();
    let outcome = give(&arguments, &what.name, !what.without_masquerade, &mut taken, services).await;
    match outcome {
        Ok(mut exposed) => {
            in_known_words(&mut exposed, output);
            output.print(&HostAddresses::exposed(&exposed))?;
            Ok(Outcome::Done)
        }
        Err(error) => {
            if let Err(left) = take_back(taken, &before, services).await {
                output.complain(&format!("weft: what was taken for the host could not be given back: {left:#}"));
            }
            Err(error)
        }
    }
}

/// Takes back what was taken in vain: addresses that the host did not have before, and of others the names.
async fn take_back(mut taken: Vec<Exposed>, before: &[Exposed], services: &Services) -> anyhow::Result<()> {
    for old in before {
        for kept in taken.iter_mut().filter(|new| new.address == old.address) {
            kept.names.retain(|name| !old.names.contains(name));
            remove_names(kept, services).await?;
        }
    }
    taken.retain(|new| before.iter().all(|old| old.address != new.address));
    release(&taken, services).await
}

/// Takes addresses for the host, notes them in `taken`, and has dns and router give what they are for.
async fn give(
    arguments: &[AddressArgument],
    name: &Option<String>,
    masquerade: bool,
    taken: &mut Vec<Exposed>,
    services: &Services,
) -> anyhow::Result<Vec<Exposed>> {
    let names: Vec<String> = name.as_deref().map(absolute).into_iter().collect();
    for argument in arguments {
        let DualAddress { v4, v6 } = take(*argument, services).await?;
        let exposed = Exposed { address: v4, twin: v6, masquerade, names: Vec::new() };
        if !taken.contains(&exposed) {
            taken.push(exposed);
        }
    }
    if !names.is_empty() {
        let names = names.clone();
        let request = AddNamesRequest { container_id: String::new(), names, addresses: addresses(taken) };
        services
            .ask(Service::Dns, |channel| async { NameServiceClient::new(channel).add_names(request).await })
            .await?;
    }
    // From here on there are names to take back.
    taken.iter_mut().for_each(|exposed| exposed.names.clone_from(&names));
    let request = ExposeRequest { exposed: taken.clone() };
    let answer = router(services, |mut client| async move { client.expose(request).await }).await?;
    Ok(answer.exposed)
}

/// Takes addresses from the host, with all that came with them.
pub(super) async fn hide(what: Hide, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let arguments = or_default(what.addresses);
    let mut exposed = list(services).await?;
    let held = held(services).await;
    // What an earlier attempt did not come to give back.
    let unused = held.iter().flatten().filter(|held| exposed.iter().all(|exposed| exposed.address != held.address));
    exposed.extend(unused.cloned().collect::<Vec<_>>());
    let mut hidden = Vec::new();
    for argument in arguments {
        let wanted = match argument {
            AddressArgument::Given(address) => IpNet::V4(address),
            AddressArgument::Subnet(subnet) => IpNet::V4(subnet),
            AddressArgument::Default => default_subnet(services).await?,
        };
        let is_meant = |exposed: &&Exposed| {
            let address = net(exposed.address.as_ref());
            address.is_some_and(|address| {
                address == wanted || (argument_is_subnet(&argument) && address.trunc() == wanted)
            })
        };
        hidden.extend(exposed.iter().filter(is_meant).cloned());
    }
    hidden.dedup();
    if hidden.is_empty() {
        held?;
        output.complain("weft: the host has no such address; `weft ps weft:expose` lists those that it has");
    }
    release(&hidden, services).await?;
    in_known_words(&mut hidden, output);
    output.print(&HostAddresses::removed(&hidden))?;
    Ok(Outcome::Done)
}

/// Leaves out what Weave Net's scripts do not know: IPv6.
fn in_known_words(exposed: &mut [Exposed], output: &Output<'_>) {
    if output.is_weave() {
        exposed.iter_mut().for_each(|exposed| exposed.twin = None);
    }
}

fn argument_is_subnet(argument: &AddressArgument) -> bool {
    !matches!(argument, AddressArgument::Given(_))
}

fn or_default(mut arguments: Vec<AddressArgument>) -> Vec<AddressArgument> {
    if arguments.is_empty() {
        arguments.push(AddressArgument::Default);
    }
    arguments
}

async fn list(services: &Services) -> Result<Vec<Exposed>, ServiceError> {
    router(services, |mut client| async move { client.list_exposed(ListExposedRequest {}).await })
        .await
        .map(|listed| listed.exposed)
}

/// Asks ipam for what the host holds, whether the router knows of it or not.
async fn held(services: &Services) -> Result<Vec<Exposed>, ServiceError> {
    let request = LookupRequest { container_id: HOLDER.to_owned() };
    let call = |channel| async { AddressServiceClient::new(channel).lookup(request).await };
    let held = services.ask(Service::Ipam, call).await?.addresses;
    let address = |DualAddress { v4, v6 }| Exposed { address: v4, twin: v6, masquerade: false, names: Vec::new() };
    Ok(held.into_iter().map(address).collect())
}

/// Has ipam give the host an address.
async fn take(argument: AddressArgument, services: &Services) -> anyhow::Result<DualAddress> {
    let container_id = HOLDER.to_owned();
    let address = match argument {
        AddressArgument::Given(address) => {
            let request = ClaimRequest { container_id, address: Some(address.into()), timeout_millis: 0 };
            let call = |channel| async { AddressServiceClient::new(channel).claim(request).await };
            services.ask_patiently(Service::Ipam, call).await?.address
        }
        AddressArgument::Default | AddressArgument::Subnet(_) => {
            let subnet: Option<IpPrefix> = match argument {
                AddressArgument::Subnet(subnet) => Some(subnet.into()),
                AddressArgument::Default | AddressArgument::Given(_) => None,
            };
            let request = AllocateRequest { container_id, subnet, timeout_millis: 0 };
            let call = |channel| async { AddressServiceClient::new(channel).allocate(request).await };
            services.ask_patiently(Service::Ipam, call).await?.address
        }
    };
    match address {
        Some(address) if address.v4.is_some() => Ok(address),
        _ => bail!("ipam names no address for {argument}: try again"),
    }
}

/// Takes addresses from the host in all services, in the order in which nobody relies on what is gone.
async fn release(exposed: &[Exposed], services: &Services) -> anyhow::Result<()> {
    if exposed.is_empty() {
        return Ok(());
    }
    let prefixes: Vec<IpPrefix> = exposed.iter().filter_map(|exposed| exposed.address.clone()).collect();
    for exposed in exposed {
        remove_names(exposed, services).await?;
    }
    let request = HideRequest { addresses: prefixes.clone() };
    router(services, |mut client| async move { client.hide(request).await }).await?;
    let request = FreeRequest { container_id: HOLDER.to_owned(), addresses: prefixes };
    services.ask(Service::Ipam, |channel| async { AddressServiceClient::new(channel).free(request).await }).await?;
    Ok(())
}

/// Takes the names from an address of the host.
async fn remove_names(exposed: &Exposed, services: &Services) -> Result<(), ServiceError> {
    if exposed.names.is_empty() {
        return Ok(());
    }
    let names = exposed.names.clone();
    let addresses = addresses(std::slice::from_ref(exposed));
    let request = RemoveNamesRequest { container_id: String::new(), names, addresses };
    let call = |channel| async { NameServiceClient::new(channel).remove_names(request).await };
    services.ask(Service::Dns, call).await.map(drop)
}

/// Takes all addresses from the host, if its router runs, without giving them back: whoever is about to leave the mesh hands
/// them over.
pub(super) async fn hide_all(services: &Services) -> Result<(), ServiceError> {
    let exposed = match list(services).await {
        Err(error) if error.is_gone() => return Ok(()),
        listed => listed?,
    };
    let addresses: Vec<_> = exposed.into_iter().filter_map(|exposed| exposed.address).collect();
    if addresses.is_empty() {
        return Ok(());
    }
    router(services, |mut client| async move { client.hide(HideRequest { addresses }).await }).await.map(drop)
}

async fn default_subnet(services: &Services) -> anyhow::Result<IpNet> {
    let call = |channel| async { AddressServiceClient::new(channel).get_status(GetStatusRequest {}).await };
    let status = services.ask(Service::Ipam, call).await?;
    match net(status.default_subnet.as_ref()) {
        Some(subnet) => Ok(subnet),
        None => bail!("ipam does not say which the default subnet is: name the address"),
    }
}

/// Returns the host as if it were a container, if it is exposed.
pub(super) fn host(attachments: &[Attachment]) -> Option<Container> {
    let host = attachments.iter().find(|attachment| attachment.container_id == HOLDER)?;
    Some(Container {
        container_id: HOLDER.to_owned(),
        name: HOLDER.to_owned(),
        state: ContainerState::Attached.into(),
        mac: host.mac.clone(),
        addresses: host.addresses.clone(),
        ..Container::default()
    })
}

/// Asks the router about the host's own addresses.
async fn router<T, F>(
    services: &Services,
    call: impl FnOnce(HostServiceClient<Channel>) -> F,
) -> Result<T, ServiceError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    services.ask(Service::Router, |channel| call(HostServiceClient::new(channel))).await
}

/// Returns the addresses of both families.
fn addresses(exposed: &[Exposed]) -> Vec<IpAddress> {
    let nets = exposed.iter().flat_map(|exposed| [&exposed.address, &exposed.twin]);
    nets.filter_map(|prefix| Some(net(prefix.as_ref())?.addr().into())).collect()
}
