//! How data goes from one host to another.

use std::time::Duration;

use anyhow::{Context, ensure};
use weft_lab::{Host, Weft, eventually};
use weft_proto::router::v1::{DataPath, PathKind};

/// Returns all ways from one host to another, as they are.
async fn ways(from: &Weft, to: &Host) -> anyhow::Result<Vec<DataPath>> {
    let status = from.router_status().await?;
    let peer = status.peers.into_iter().find(|peer| peer.nickname == to.name()).context("it is unknown")?;
    Ok(peer.data_paths)
}

/// Returns how data goes from one host to another, once it goes.
///
/// # Errors
/// If it does not.
pub async fn way(from: &Weft, to: &Host) -> anyhow::Result<DataPath> {
    let ways = ways(from, to).await?;
    let used = ways.iter().find(|way| way.in_use).cloned();
    used.with_context(|| format!("no way works: {ways:?}"))
}

/// Returns when data goes from one host to another in this way.
///
/// # Errors
/// If that takes longer than `limit`.
pub async fn goes(from: &Weft, to: &Host, kind: PathKind, limit: Duration) -> anyhow::Result<()> {
    eventually(&format!("data goes from {} to {} by {kind:?}", from.host().name(), to.name()), limit, async || {
        let ways = ways(from, to).await?;
        ensure!(ways.iter().any(|way| way.in_use && way.kind() == kind), "the ways are {ways:?}");
        Ok(())
    })
    .await
}

/// Returns the addresses of hosts as subnets, as `--trusted-subnets` takes them.
pub fn subnets(hosts: &[Host]) -> String {
    let addresses = hosts.iter().flat_map(Host::addresses);
    let subnets = addresses.map(|address| format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }));
    subnets.collect::<Vec<_>>().join(",")
}
