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
    copies(from, to, address, &format!("head -c {BYTES} /dev/urandom"), limit).await
}

/// Copies what a command prints in one container to another by TCP, and compares what arrived.
///
/// # Errors
/// As [`transfers`].
pub async fn copies(
    from: &Container,
    to: &Container,
    address: IpAddr,
    prints: &str,
    limit: Duration,
) -> anyhow::Result<()> {
    // nc ends the connection when its stdin ends.
    let receive = "sleep 600 | nc -l -p 9 > /tmp/got";
    to.host.docker(&["exec", "--detach", &to.name, "sh", "-c", receive]).await?;
    let make = format!("{prints} > /tmp/sent; md5sum < /tmp/sent");
    let sent = from.exec(&["sh", "-c", &make]).await?;
    listens(to).await?;
    let send = format!("nc {address} 9 < /tmp/sent");
    from.host.docker_command(["exec", &from.name, "sh", "-c", &send]).limit(limit).text().await?;
    eventually("all has arrived", SOON, async || {
        let got = to.exec(&["sh", "-c", "md5sum < /tmp/got"]).await?;
        ensure!(got == sent, "what arrived is not what was sent: {got}, not {sent}");
        Ok(())
    })
    .await
}

/// A megabyte a second by TCP from one container to another, until it is told to end, of which everything is compared.
#[derive(Debug)]
pub struct Flow {
    from: Container,
    to: Container,
}

impl Flow {
    /// Starts to send.
    ///
    /// # Errors
    /// If the other side does not listen.
    pub async fn start(from: &Container, to: &Container) -> anyhow::Result<Self> {
        // nc ends the connection when its stdin ends.
        let receive = "sleep 600 | nc -l -p 9 | sh -c 'cat > /tmp/all; md5sum < /tmp/all > /tmp/sum'";
        to.host.docker(&["exec", "--detach", &to.name, "sh", "-c", receive]).await?;
        listens(to).await?;
        let send = format!(
            "touch /tmp/on; while test -e /tmp/on; do head -c 100000 /dev/urandom; sleep 0.1; done | tee /tmp/all | \
             nc {} 9",
            to.ipv4
        );
        from.host.docker(&["exec", "--detach", &from.name, "sh", "-c", &send]).await?;
        Ok(Self { from: from.clone(), to: to.clone() })
    }

    /// Ends it and compares what arrived with what was sent.
    ///
    /// # Errors
    /// If the connection broke, or not all of it arrives soon.
    pub async fn ends(self) -> anyhow::Result<()> {
        self.from.exec(&["rm", "/tmp/on"]).await?;
        eventually("all has arrived", 3 * SOON, async || {
            let sent = self.from.exec(&["sh", "-c", "md5sum < /tmp/all"]).await?;
            let got = self.to.exec(&["cat", "/tmp/sum"]).await?;
            ensure!(sent == got, "what arrived is not what was sent: {got}, not {sent}");
            Ok(())
        })
        .await
    }
}

async fn listens(to: &Container) -> anyhow::Result<()> {
    let listens = "netstat -ltn | grep -q ':9 '";
    eventually("the other side listens", SOON, async || to.exec(&["sh", "-c", listens]).await.map(drop)).await
}
