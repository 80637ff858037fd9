//! `dns-lookup`, `dns-args`.

use std::net::SocketAddr;

use anyhow::Context;
use weft_proto::{
    client::Service,
    dns::v1::{GetStatusRequest, LookupRequest, name_service_client::NameServiceClient},
};

use crate::{
    Outcome,
    output::Output,
    report::{Lines, ResolverOptions, address},
    services::Services,
};

pub(super) async fn dns_lookup(name: String, services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let request = LookupRequest { name };
    let found =
        services.ask(Service::Dns, |channel| async { NameServiceClient::new(channel).lookup(request).await }).await?;
    output.print(&Lines::new("addresses", found.addresses.iter().map(address).collect()))?;
    Ok(Outcome::Done)
}

pub(super) async fn dns_args(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let status = services
        .ask(Service::Dns, |channel| async { NameServiceClient::new(channel).get_status(GetStatusRequest {}).await })
        .await?;
    let resolver = status.address.as_ref().and_then(|address| SocketAddr::try_from(address).ok());
    let resolver = resolver.context("dns does not say at which address containers ask: try again")?;
    output.print(&ResolverOptions::new(resolver.ip(), &status.zone))?;
    Ok(Outcome::Done)
}
