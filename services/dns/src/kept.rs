//! Names of the host's own addresses, which the router keeps over restarts of all services.

use std::{net::IpAddr, time::Duration};

use anyhow::Context;
use ipnet::IpNet;
use tokio::time::timeout;
use tonic::{Code, transport::Channel};
use weft_dns_core::nobody;
use weft_proto::router::v1::{Exposed, ListExposedRequest, host_service_client::HostServiceClient};
use weft_service::Result;

use crate::state::State;

/// How long the router may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gives the names again that the host's own addresses have. What is there stays.
///
/// # Errors
/// If the router does not say which they are. One that knows of none has none.
pub(crate) async fn restore(state: &State, router: Channel) -> Result {
    let mut client = HostServiceClient::new(router);
    let answer = timeout(PATIENCE, client.list_exposed(ListExposedRequest {})).await;
    let exposed = match answer.context("the router did not say within 5 s which addresses the host has")? {
        Ok(answer) => answer.into_inner().exposed,
        Err(status) if status.code() == Code::Unimplemented => return Ok(()),
        Err(status) => return Err(anyhow::anyhow!("{} ({:?})", status.message(), status.code())),
    };
    for address in exposed.iter().filter(|exposed| !exposed.names.is_empty()) {
        if let Err(error) = add(state, address) {
            tracing::warn!(names = ?address.names, error = %format_args!("{error:#}"), "a name of the host cannot be given");
        }
    }
    Ok(())
}

fn add(state: &State, exposed: &Exposed) -> Result {
    let nets = [&exposed.address, &exposed.twin].into_iter().flatten();
    let addresses = nets.map(|net| Ok(IpNet::try_from(net)?.addr())).collect::<Result<Vec<IpAddr>>>()?;
    state.write(|names| {
        let given = names.zone().record(&exposed.names, &addresses, true)?;
        Ok(names.add_by_hand(&nobody(), &given)?)
    })
}
