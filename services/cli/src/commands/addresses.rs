//! `rmpeer`, and what `reset` does about the addresses that this host owns.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::{
    client::Service,
    common::v1::PeerName as PeerNameMessage,
    ipam::v1::{HandOverRequest, TakeOverRequest, address_service_client::AddressServiceClient},
    router::v1::{DetachRequest, ListAttachmentsRequest, attachment_service_client::AttachmentServiceClient},
};
use weft_types::PeerName;

use super::{expose, status};
use crate::{
    Outcome,
    output::Output,
    report::{Identity, Lines, unnamed_owner},
    services::{ServiceError, Services},
};

/// Addresses that have another owner.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Moved {
    /// Who had them, or who has them.
    pub(super) peer: Identity,
    /// How many.
    pub(super) addresses: u64,
}

/// Addresses that this host has now, as `rmpeer` left them.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct TakenOver {
    /// One for each peer that was named.
    taken_over: Vec<Moved>,
}

pub(super) async fn rmpeer(
    peers: Vec<String>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let mut done = TakenOver { taken_over: Vec::new() };
    let mut lines = Vec::new();
    let mut failed = None;
    for peer in peers {
        match take_over(peer.clone(), services).await {
            Ok(moved) => {
                lines.push(format!("{} IPs taken over from {peer}", moved.addresses));
                done.taken_over.push(moved);
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    // What was done is said also where something failed.
    if failed.is_none() || !done.taken_over.is_empty() {
        if output.is_weave() {
            output.print(&Lines::new("taken_over", lines))?;
        } else {
            output.print(&done)?;
        }
    }
    failed.map_or(Ok(Outcome::Done), |error| Err(error.into()))
}

async fn take_over(peer: String, services: &Services) -> Result<Moved, ServiceError> {
    let (ipam, router) = tokio::join!(status::ipam(services), status::router(services));
    let key = ipam.ok().zip(router.ok()).and_then(|(ipam, router)| unnamed_owner(&peer, &ipam, &router));
    let request = TakeOverRequest { peer: key.unwrap_or(peer) };
    let answer = services
        .ask(Service::Ipam, |channel| async { AddressServiceClient::new(channel).take_over(request).await })
        .await?;
    let peer = identity(answer.peer_name.as_ref(), answer.name, answer.nickname);
    Ok(Moved { peer, addresses: answer.addresses })
}

/// Gives the addresses of this host to another; nothing where there is no other.
pub(super) async fn hand_over(services: &Services) -> Result<Option<Moved>, ServiceError> {
    let answer = services
        .ask_patiently(Service::Ipam, |channel| async {
            AddressServiceClient::new(channel).hand_over(HandOverRequest {}).await
        })
        .await?;
    let addresses = answer.addresses;
    Ok(answer
        .peer_name
        .as_ref()
        .map(|peer| Moved { peer: identity(Some(peer), answer.name, answer.nickname), addresses }))
}

/// Takes their interfaces away from all containers of this host, and its addresses from the host itself: what they have is somebody
/// else's in a moment. Where no router runs nobody can.
pub(super) async fn detach_all(services: &Services) -> Result<(), ServiceError> {
    expose::hide_all(services).await?;
    let listed = services
        .ask(Service::Router, |channel| async {
            AttachmentServiceClient::new(channel).list_attachments(ListAttachmentsRequest {}).await
        })
        .await;
    let attachments = match listed {
        Ok(listed) => listed.attachments,
        Err(error) if error.is_gone() => Vec::new(),
        Err(error) => return Err(error),
    };
    for attachment in attachments {
        let request = DetachRequest { container_id: attachment.container_id, addresses: Vec::new() };
        services
            .ask_patiently(Service::Router, |channel| async {
                AttachmentServiceClient::new(channel).detach(request).await
            })
            .await?;
    }
    Ok(())
}

/// Returns this host's key, if its router runs.
pub(super) async fn own_key(services: &Services) -> Option<String> {
    let router = status::router(services).await.ok()?;
    Some(key(router.peer_name.as_ref())).filter(|key| !key.is_empty())
}

/// Says how somebody else comes by the addresses of a host that has gone, whose key may not be known.
pub(super) fn remedy(key: Option<&str>) -> String {
    match key {
        Some(key) => format!(
            "once this host is gone, `weft rmpeer {key}` on one other host takes over what `weft status ipam` still lists for it \
             there"
        ),
        None => "once this host is gone, `weft rmpeer` on one other host takes over what `weft status ipam` still lists for it \
                 there"
            .to_owned(),
    }
}

fn key(peer: Option<&PeerNameMessage>) -> String {
    peer.and_then(|peer| PeerName::try_from(peer).ok()).map(|peer| peer.to_hex()).unwrap_or_default()
}

fn identity(peer: Option<&PeerNameMessage>, name: String, nickname: String) -> Identity {
    Identity { key: key(peer), name, nickname }
}

impl fmt::Display for TakenOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.taken_over
            .iter()
            .try_for_each(|Moved { peer, addresses }| writeln!(f, "{addresses} addresses taken over from {peer}"))
    }
}
