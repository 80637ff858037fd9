//! `rmpeer`, and what `reset` does about the addresses that this host owns.

use std::fmt;

use serde::Serialize;
use weft_proto::{
    client::Service,
    ipam::v1::{HandOverRequest, TakeOverRequest, address_service_client::AddressServiceClient},
};

use crate::{
    Outcome,
    output::Output,
    services::{ServiceError, Services},
};

/// Addresses that have another owner.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Moved {
    /// Who had them, or who has them.
    pub(super) peer: String,
    /// How many.
    pub(super) addresses: u64,
}

#[derive(Debug, Serialize)]
struct TakenOver {
    taken_over: Vec<Moved>,
}

pub(super) async fn rmpeer(
    peers: Vec<String>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let mut done = TakenOver { taken_over: Vec::new() };
    let mut failed = None;
    for peer in peers {
        match take_over(peer, services).await {
            Ok(moved) => done.taken_over.push(moved),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    // What was done is said also where something failed.
    if failed.is_none() || !done.taken_over.is_empty() {
        output.print(&done)?;
    }
    failed.map_or(Ok(Outcome::Done), |error| Err(error.into()))
}

async fn take_over(peer: String, services: &Services) -> Result<Moved, ServiceError> {
    let request = TakeOverRequest { peer };
    let answer = services
        .ask(Service::Ipam, |channel| async { AddressServiceClient::new(channel).take_over(request).await })
        .await?;
    Ok(Moved { peer: answer.name, addresses: answer.addresses })
}

/// Gives the addresses of this host to another; nothing where there is no other.
pub(super) async fn hand_over(services: &Services) -> Result<Option<Moved>, ServiceError> {
    let answer = services
        .ask_patiently(Service::Ipam, |channel| async {
            AddressServiceClient::new(channel).hand_over(HandOverRequest {}).await
        })
        .await?;
    Ok((!answer.name.is_empty()).then_some(Moved { peer: answer.name, addresses: answer.addresses }))
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.taken_over
            .iter()
            .try_for_each(|Moved { peer, addresses }| writeln!(f, "{addresses} addresses taken over from {peer}"))
    }
}
