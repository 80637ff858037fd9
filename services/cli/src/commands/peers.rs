//! `connect`, `forget`, `forget --revoke`, `reload-password`.

use weft_proto::{
    client::Service,
    router::v1::{
        AddTargetsRequest, ReloadPasswordRequest, RemoveTargetsRequest, RevokePeersRequest,
        peer_service_client::PeerServiceClient,
    },
};

use crate::{
    Outcome,
    output::Output,
    report::{Changed, PasswordReload},
    services::Services,
};

pub(super) async fn connect(
    replace: bool,
    targets: Vec<String>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let request = AddTargetsRequest { targets: targets.clone(), replace };
    services
        .ask(Service::Router, |channel| async { PeerServiceClient::new(channel).add_targets(request).await })
        .await?;
    output.print(&Changed::new("added", targets))?;
    Ok(Outcome::Done)
}

pub(super) async fn forget(
    targets: Vec<String>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let request = RemoveTargetsRequest { targets: targets.clone() };
    let removed = services
        .ask(Service::Router, |channel| async { PeerServiceClient::new(channel).remove_targets(request).await })
        .await?;
    for unknown in &removed.unknown {
        output.complain(&format!("weft: {unknown} was no target; `weft status targets` lists them"));
    }
    let forgotten = targets.into_iter().filter(|target| !removed.unknown.contains(target)).collect();
    output.print(&Changed::new("removed", forgotten))?;
    Ok(Outcome::Done)
}

pub(super) async fn revoke(
    peers: Vec<String>,
    services: &Services,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    let request = RevokePeersRequest { peers };
    let answer = services
        .ask(Service::Router, |channel| async { PeerServiceClient::new(channel).revoke_peers(request).await })
        .await?;
    if !answer.next.is_empty() {
        output.complain(&format!("weft: {}", answer.next));
    }
    let revoked = answer.revoked.into_iter().map(|identity| identity.name).collect();
    output.print(&Changed::new("revoked", revoked))?;
    Ok(Outcome::Done)
}

pub(super) async fn reload_password(services: &Services, output: &mut Output<'_>) -> anyhow::Result<Outcome> {
    let request = ReloadPasswordRequest {};
    let answer = services
        .ask(Service::Router, |channel| async { PeerServiceClient::new(channel).reload_password(request).await })
        .await?;
    output.print(&PasswordReload { changed: answer.changed })?;
    Ok(Outcome::Done)
}
