//! `/connect`, `/forget`, `/peer`.

use http::StatusCode;
use weft_proto::{
    client::Service,
    ipam::v1::{HandOverRequest, TakeOverRequest, address_service_client::AddressServiceClient},
    router::v1::{
        AddTargetsRequest, ListAttachmentsRequest, RemoveTargetsRequest,
        attachment_service_client::AttachmentServiceClient, peer_service_client::PeerServiceClient,
    },
};
use weft_report::unnamed_owner;

use super::{
    WeaveApi,
    clients::{LONG_PATIENCE, PATIENCE},
    reply::Reply,
};

impl WeaveApi {
    pub(super) async fn connect(&self, targets: Vec<String>, replace: bool) -> Reply {
        let request = AddTargetsRequest { targets, replace };
        let call = |channel| async { PeerServiceClient::new(channel).add_targets(request).await };
        let added = self.clients.ask(Service::Router, PATIENCE, call).await;
        added.map_or_else(Reply::from, |_| Reply::text(String::new()))
    }

    pub(super) async fn forget(&self, targets: Vec<String>) -> Reply {
        let request = RemoveTargetsRequest { targets };
        let call = |channel| async { PeerServiceClient::new(channel).remove_targets(request).await };
        // What was no target is none afterwards.
        let removed = self.clients.ask(Service::Router, PATIENCE, call).await;
        removed.map_or_else(Reply::from, |_| Reply::text(String::new()))
    }

    /// Gives this host's addresses to another one, unless somebody has one here, who would go on with it.
    pub(super) async fn hand_over(&self) -> Reply {
        self.hand_over_if_unused().await.unwrap_or_else(|refusal| refusal)
    }

    async fn hand_over_if_unused(&self) -> Result<Reply, Reply> {
        let call =
            |channel| async { AttachmentServiceClient::new(channel).list_attachments(ListAttachmentsRequest {}).await };
        let attached = self.clients.ask(Service::Router, PATIENCE, call).await?.attachments;
        let attached = attached.iter().filter(|attached| !is_own(&attached.container_id)).count();
        let own = self.allocations().await?.iter().filter(|held| is_own(&held.container_id)).count();
        if attached + own > 0 {
            let reason = format!(
                "{attached} containers and {own} addresses of the host itself, as by `weft expose`, `weft publish` and `weft import`, \
                 would go on with what another host gives out: `weft reset` takes weft off this host and hands its addresses over"
            );
            return Err(Reply::refused(StatusCode::CONFLICT, &reason));
        }
        let call = |channel| async { AddressServiceClient::new(channel).hand_over(HandOverRequest {}).await };
        self.clients.ask(Service::Ipam, LONG_PATIENCE, call).await?;
        Ok(Reply::done())
    }

    /// Takes over what a peer owned, named by its name, its key, or the name of its host.
    pub(super) async fn take_over(&self, peer: String) -> Reply {
        // Who the nickname is may be known to the router alone.
        let (ipam, router) = tokio::join!(self.clients.ipam(), self.clients.router());
        let key = ipam.ok().zip(router.ok()).and_then(|(ipam, router)| unnamed_owner(&peer, &ipam, &router));
        let request = TakeOverRequest { peer: key.unwrap_or_else(|| peer.clone()) };
        let call = |channel| async { AddressServiceClient::new(channel).take_over(request).await };
        match self.clients.ask(Service::Ipam, PATIENCE, call).await {
            Ok(moved) => Reply::text(format!("{} IPs taken over from {peer}\n", moved.addresses)),
            Err(failure) => failure.into(),
        }
    }
}

/// Tells whether a holder of addresses is the host itself.
fn is_own(holder: &str) -> bool {
    holder.starts_with("weft:")
}
