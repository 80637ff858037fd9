//! How data goes from one host to another.

use std::time::Duration;

use anyhow::{Context, ensure};
use weft_lab::{Host, Weft, eventually};
use weft_proto::router::v1::{DataPath, PathKind};

/// Returns how data goes from one host to another, once it goes.
///
/// # Errors
/// If it does not.
pub async fn way(from: &Weft, to: &Host) -> anyhow::Result<DataPath> {
    let status = from.router_status().await?;
    let peer = status.peers.into_iter().find(|peer| peer.nickname == to.name()).context("it is unknown")?;
    let ways = peer.data_paths.clone();
    peer.data_paths.into_iter().find(|way| way.in_use).with_context(|| format!("no way works: {ways:?}"))
}

/// Returns when data goes from one host to another in this way.
///
/// # Errors
/// If that takes longer than `limit`.
pub async fn goes(from: &Weft, to: &Host, kind: PathKind, limit: Duration) -> anyhow::Result<()> {
    eventually(&format!("data goes from {} to {} by {kind:?}", from.host().name(), to.name()), limit, async || {
        let way = way(from, to).await?;
        ensure!(way.kind() == kind, "it goes by {way:?}");
        Ok(())
    })
    .await
}
