//! Bytes that have to arrive as they were sent.

use std::{net::IpAddr, time::Duration};

use anyhow::ensure;
use weft_lab::eventually;

use crate::{Container, SOON};

/// How many bytes a transfer has.
const BYTES: &str = "4000000";

/// Copies random bytes from one container to another by TCP over IPv4, and compares what arrived.
///
/// # Errors
/// If they do not arrive within `limit`, or other ones do.
pub async fn transfers(from: &Container, to: &Container, limit: Duration) -> anyhow::Result<()> {
    transfers_to(from, to, to.ipv4.into(), limit).await
}

/// The same, to one of the addresses of the other container.
///
/// # Errors
/// As [`transfers`].
pub async fn transfers_to(from: &Container, to: &Container, address: IpAddr, limit: Duration) -> anyhow::Result<()> {
    // nc ends the connection when its stdin ends.
    let receive = "sleep 600 | nc -l -p 9 > /tmp/got";
    to.host.docker(&["exec", "--detach", &to.name, "sh", "-c", receive]).await?;
    let make = format!("head -c {BYTES} /dev/urandom > /tmp/sent; md5sum < /tmp/sent");
    let sent = from.exec(&["sh", "-c", &make]).await?;
    let listens = "netstat -ltn | grep -q ':9 '";
    eventually("the other side listens", SOON, async || to.exec(&["sh", "-c", listens]).await.map(drop)).await?;
    let send = format!("nc {address} 9 < /tmp/sent");
    from.host.docker_command(["exec", &from.name, "sh", "-c", &send]).limit(limit).text().await?;
    eventually("all has arrived", SOON, async || {
        let got = to.exec(&["sh", "-c", "md5sum < /tmp/got"]).await?;
        ensure!(got == sent, "what arrived is not what was sent: {got}, not {sent}");
        Ok(())
    })
    .await
}
