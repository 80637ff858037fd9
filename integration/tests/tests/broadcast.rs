//! Broadcast and multicast reach every container of the subnet, on all hosts, once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use tokio::time::timeout;
use weft_integration_tests::{Container, Mesh, SOON};

/// Where all listen.
const PORT: u16 = 4711;

/// Broadcast address of the default range.
const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 47, 255, 255);

/// A group of organisations' own use.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);

/// The same for IPv6: transient, of a site.
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x4711);

/// How many datagrams each sends.
const COUNT: u8 = 5;

/// Opens what a program in the container would, which listens to broadcasts and to the groups.
async fn socket(container: &Container, v6: bool) -> anyhow::Result<tokio::net::UdpSocket> {
    let own = container.ipv4;
    let open = move || {
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, PORT))?;
        if v6 {
            // The route decides about the interface.
            socket.join_multicast_v6(&GROUP_V6, 0).context("failed to join the IPv6 group")?;
            socket.set_multicast_loop_v6(false)?;
        } else {
            socket.set_broadcast(true)?;
            socket.join_multicast_v4(&GROUP, &own).context("failed to join the IPv4 group")?;
            socket.set_multicast_loop_v4(false)?;
        }
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    Ok(tokio::net::UdpSocket::from_std(container.host.open_in_network_of(&container.name, open).await?)?)
}

/// Sends to `target` from each in turn, and expects that each other gets every datagram once.
async fn reaches_all(
    containers: &[Container],
    sockets: &[tokio::net::UdpSocket],
    target: IpAddr,
) -> anyhow::Result<()> {
    for (from, sender) in containers.iter().zip(sockets) {
        for number in 0..COUNT {
            sender.send_to(&[number], SocketAddr::new(target, PORT)).await.context("failed to send")?;
        }
        let own: IpAddr = if target.is_ipv4() { from.ipv4.into() } else { from.ipv6.into() };
        for (to, receiver) in containers.iter().zip(sockets) {
            // A broadcast comes back to its own sender, by the kernel; a multicast does not, as it was asked.
            if to.name == from.name && target != IpAddr::V4(BROADCAST) {
                continue;
            }
            for number in 0..COUNT {
                let mut bytes = [0; 16];
                let (length, source) = timeout(SOON, receiver.recv_from(&mut bytes))
                    .await
                    .with_context(|| format!("{} to {target}: {} misses {number}", from.name, to.name))??;
                let got = (&bytes[..length], source.ip());
                ensure!(got == (&[number], own), "{} got {got:?}, not {number} of {} once", to.name, from.name);
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn broadcast_and_multicast_reach_all_once() -> anyhow::Result<()> {
    let mesh = Mesh::start(3).await?;
    let places = [(1, "one"), (1, "beside"), (2, "two"), (3, "three")];
    let containers = try_join_all(places.map(|(host, name)| {
        let mesh = &mesh;
        async move { mesh.container(host, name, &[]).await }
    }))
    .await?;
    for from in &containers {
        for to in &containers {
            from.pings(&to.ipv4.to_string()).await?;
        }
    }
    let sockets = try_join_all(containers.iter().map(|container| socket(container, false))).await?;
    reaches_all(&containers, &sockets, BROADCAST.into()).await?;
    reaches_all(&containers, &sockets, GROUP.into()).await?;
    // A socket of both families would share the port.
    drop(sockets);
    let sockets = try_join_all(containers.iter().map(|container| socket(container, true))).await?;
    reaches_all(&containers, &sockets, GROUP_V6.into()).await?;
    mesh.stop().await
}
