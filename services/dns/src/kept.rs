//! Names of the host's own addresses and of services outside, which the router keeps over restarts of all services.

use std::{net::IpAddr, time::Duration};

use anyhow::Context;
use ipnet::IpNet;
use tokio::time::timeout;
use tonic::{Code, Response, Status, transport::Channel};
use weft_dns_core::nobody;
use weft_proto::{
    common::v1::IpPrefix,
    router::v1::{
        ListExposedRequest, ListImportedRequest, host_service_client::HostServiceClient,
        publish_service_client::PublishServiceClient,
    },
};
use weft_service::Result;

use crate::state::State;

/// How long the router may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gives the names again that the host's own addresses have, and those of imported services. What is there stays.
///
/// # Errors
/// If the router does not say which they are. One that knows of none has none.
pub(crate) async fn restore(state: &State, router: Channel) -> Result {
    let (mut host, mut services) = (HostServiceClient::new(router.clone()), PublishServiceClient::new(router));
    let asked = timeout(PATIENCE, async {
        let exposed = known(host.list_exposed(ListExposedRequest {}).await)?.unwrap_or_default().exposed;
        let imported = known(services.list_imported(ListImportedRequest {}).await)?.unwrap_or_default().imported;
        Ok::<_, anyhow::Error>((exposed, imported))
    });
    let (exposed, imported) =
        asked.await.context("the router did not say within 5 s which addresses the host has")??;
    for exposed in exposed.iter().filter(|exposed| !exposed.names.is_empty()) {
        let nets: Vec<_> = [&exposed.address, &exposed.twin].into_iter().flatten().collect();
        give(state, &exposed.names, &nets);
    }
    for imported in imported.iter().filter(|imported| !imported.addresses.is_empty()) {
        give(state, std::slice::from_ref(&imported.name), &imported.addresses.iter().collect::<Vec<_>>());
    }
    Ok(())
}

/// Returns what the router says; nothing where it is of a version that has no such thing.
fn known<T>(answer: Result<Response<T>, Status>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(anyhow::anyhow!("{} ({:?})", status.message(), status.code())),
    }
}

fn give(state: &State, names: &[String], nets: &[&IpPrefix]) {
    if let Err(error) = add(state, names, nets) {
        tracing::warn!(?names, error = %format_args!("{error:#}"), "a name of the host cannot be given");
    }
}

fn add(state: &State, names: &[String], nets: &[&IpPrefix]) -> Result {
    let addresses = nets.iter().map(|net| Ok(IpNet::try_from(*net)?.addr())).collect::<Result<Vec<IpAddr>>>()?;
    state.write(|known| {
        let given = known.zone().record(names, &addresses, true)?;
        Ok(known.add_by_hand(&nobody(), &given)?)
    })
}
