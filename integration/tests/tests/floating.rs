//! A floating address, as keepalived's: containers of two hosts that are allowed it have it in turn, and clients on both hosts reach
//! whoever has it now. From others it is dropped.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket, sockopt,
};
use weft_integration_tests::{Container, Mesh, PASSWORD, SOON, goes, hosts_with_images, subnets};
use weft_lab::{Host, Launch, Weft, eventually};
use weft_proto::router::v1::PathKind;

/// The address, which ipam could give to a container.
const FLOAT: &str = "10.40.0.100";
/// How soon clients reach the new holder.
const MOVED: Duration = Duration::from_secs(2);
/// What lets containers change their own addresses.
const ADMIN: [&str; 2] = ["--cap-add", "NET_ADMIN"];

/// Starts a container that tells its name on port 80.
async fn tells(mesh: &Mesh, host: usize, name: &str, options: &[&str]) -> anyhow::Result<Container> {
    let container = mesh.container(host, name, &[&ADMIN, options].concat()).await?;
    let script = format!("mkdir /www; echo {name} > /www/index.html; httpd -h /www");
    container.exec(&["sh", "-ec", &script]).await?;
    Ok(container)
}

/// Has a container use an IPv4 address, and say so to all.
async fn takes(container: &Container, address: &str) -> anyhow::Result<()> {
    let script = format!("ip addr add {address}/12 dev ethwe; arping -q -U -c 1 -I ethwe {address} || true");
    container.exec(&["sh", "-ec", &script]).await.map(drop)
}

async fn leaves(container: &Container, address: &str) -> anyhow::Result<()> {
    container.exec(&["ip", "addr", "del", address, "dev", "ethwe"]).await.map(drop)
}

/// Who answers a client at an address.
async fn answers(client: &Container, address: &str) -> anyhow::Result<String> {
    let page = format!("http://{address}/");
    client.exec(&["timeout", "1", "wget", "-q", "-O", "-", &page]).await
}

/// Returns when all clients reach `holder` at an address.
async fn is_reached(clients: &[&Container], holder: &Container, address: &str) -> anyhow::Result<()> {
    let reaches = clients.iter().map(|client| async move {
        let what = format!("{} reaches {} at {address}", client.name, holder.name);
        eventually(&what, MOVED, async || {
            let answer = answers(client, address).await?;
            ensure!(answer.trim() == holder.name, "{answer} answers");
            Ok(())
        })
        .await
    });
    try_join_all(reaches).await.map(drop)
}

/// Has an address go from one container to the other and back.
async fn moves(clients: &[&Container], one: &Container, two: &Container) -> anyhow::Result<()> {
    takes(one, FLOAT).await?;
    is_reached(clients, one, FLOAT).await?;
    for (from, to) in [(one, two), (two, one)] {
        leaves(from, &format!("{FLOAT}/12")).await?;
        takes(to, FLOAT).await?;
        is_reached(clients, to, FLOAT).await?;
    }
    leaves(one, &format!("{FLOAT}/12")).await
}

/// Tells a station by an unsolicited neighbour advertisement (RFC 4861, section 7.2.6) that an address is `mac`'s.
fn advertise(to: Ipv6Addr, address: Ipv6Addr, mac: [u8; 6]) -> anyhow::Result<()> {
    const OVERRIDE: u8 = 0x20;
    let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6)?;
    setsockopt(&socket, sockopt::Ipv6Ttl, &255)?;
    let message = [&[136, 0, 0, 0, OVERRIDE, 0, 0, 0][..], &address.octets(), &[2, 1], &mac].concat();
    let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
    sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty())?;
    Ok(())
}

async fn mac(container: &Container) -> anyhow::Result<[u8; 6]> {
    let text = container.exec(&["cat", "/sys/class/net/ethwe/address"]).await?;
    let octets: Result<Vec<u8>, _> = text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    octets?.try_into().ok().context("it has six bytes")
}

/// Has an IPv6 address go from one container to the other.
async fn moves6(clients: &[&Container], one: &Container, two: &Container, address: Ipv6Addr) -> anyhow::Result<()> {
    let page = format!("[{address}]");
    let net = format!("{address}/108");
    one.exec(&["ip", "addr", "add", &net, "dev", "ethwe"]).await?;
    is_reached(clients, one, &page).await?;
    leaves(one, &net).await?;
    two.exec(&["ip", "addr", "add", &net, "dev", "ethwe"]).await?;
    let mac = mac(two).await?;
    let told: Vec<Ipv6Addr> = clients.iter().map(|client| client.ipv6).collect();
    let tell = move || told.into_iter().try_for_each(|to| advertise(to, address, mac));
    two.host.open_in_network_of(&two.name, tell).await?;
    is_reached(clients, two, &page).await?;
    leaves(two, &net).await
}

/// Returns how many frames with others' addresses a host has kept from leaving its containers' ports.
async fn dropped(host: &Host) -> anyhow::Result<u64> {
    let metrics = host.exec(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6782/metrics"]).await?;
    let series = "weft_router_drops_total{direction=\"sent\",reason=\"spoofed_address\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(series)).context("nothing counts it")?;
    Ok(count.parse::<f64>()? as u64)
}

#[tokio::test]
async fn an_allowed_address_moves_between_hosts_and_others_do_not_get_it() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let label = format!("weft.allowed-addresses={FLOAT}");
    let allowed = ["--label", label.as_str()];
    let (one, two, stranger, near, far) = tokio::try_join!(
        tells(&mesh, 1, "one", &allowed),
        tells(&mesh, 2, "two", &allowed),
        tells(&mesh, 2, "stranger", &[]),
        mesh.container(1, "near", &[]),
        mesh.container(2, "far", &[]),
    )?;
    let clients = [&near, &far];

    let listed = mesh.on(1).weft(&["ps", "one"]).await?;
    ensure!(listed.contains(&format!(" floating={FLOAT}")), "{listed}");
    let status = mesh.on(2).weft(&["status"]).await?;
    ensure!(status.contains("Floating: 1 permitted to 1 container"), "{status}");

    // A container that has ended holds its address, so that nobody else is given it.
    let reserve = format!("WEFT_CIDR={FLOAT}/12");
    let holder = ["run", "--name", "reserved", "--env", &reserve, weft_lab::image::BUSYBOX, "true"];
    mesh.lab.host(1).docker_via_proxy(&holder).await?;
    let taken = mesh.on(2).command(["attach", &format!("{FLOAT}/12"), "far"])?.output().await?;
    ensure!(taken.status.code() == Some(1), "it is given to another: {}", taken.all());

    let before = dropped(mesh.lab.host(2)).await?;
    takes(&stranger, FLOAT).await?;
    for client in clients {
        ensure!(answers(client, FLOAT).await.is_err(), "{} reaches who is not allowed it", client.name);
    }
    eventually("what the stranger says is counted", SOON, async || {
        ensure!(dropped(mesh.lab.host(2)).await? > before, "nothing was dropped");
        Ok(())
    })
    .await?;
    leaves(&stranger, &format!("{FLOAT}/12")).await?;

    moves(&clients, &one, &two).await?;
    mesh.on(2).kill("router").await?;
    mesh.on(2).ready().await?;
    near.pings(&far.ipv4.to_string()).await?;
    moves(&clients, &one, &two).await.context("after the router was killed")?;

    // By hand, for both families.
    let mut octets = one.ipv6.octets();
    octets[12..].copy_from_slice(&FLOAT.parse::<Ipv4Addr>()?.octets());
    let float6 = Ipv6Addr::from(octets);
    let both = format!("{FLOAT},{float6}");
    for (host, name) in [(1, "one"), (2, "stranger")] {
        mesh.on(host).weft(&["attach", "--allowed-addresses", &both, name]).await?;
    }
    moves(&clients, &one, &stranger).await.context("allowed by hand")?;
    moves6(&clients, &one, &stranger, float6).await?;

    let refused = ["create", "--label", "weft.allowed-addresses=10.40.0.100/12", weft_lab::image::BUSYBOX, "true"];
    let refused = mesh.lab.host(1).docker_via_proxy(&refused).await.err().context("it is created")?.to_string();
    ensure!(refused.contains("10.40.0.100 for the one"), "{refused}");
    mesh.stop().await
}

#[tokio::test]
async fn between_trusted_hosts_it_moves_too() -> anyhow::Result<()> {
    let lab = hosts_with_images(2).await?;
    let subnets = subnets(lab.hosts());
    let launch = |peers: &[&Host]| Launch::new(PASSWORD).peers(peers).with("WEFT_TRUSTED_SUBNETS", &subnets);
    let (first, second) = (lab.host(1).clone(), lab.host(2).clone());
    let (one, two) = tokio::try_join!(Weft::launch(&first, launch(&[])), Weft::launch(&second, launch(&[&first])))?;
    tokio::try_join!(one.joined(1), two.joined(1))?;
    tokio::try_join!(goes(&one, &second, PathKind::Kernel, SOON), goes(&two, &first, PathKind::Kernel, SOON))?;
    let mesh = Mesh { lab, weft: vec![one, two] };
    let label = format!("weft.allowed-addresses={FLOAT}");
    let allowed = ["--label", label.as_str()];
    let (one, two, near, far) = tokio::try_join!(
        tells(&mesh, 1, "one", &allowed),
        tells(&mesh, 2, "two", &allowed),
        mesh.container(1, "near", &[]),
        mesh.container(2, "far", &[]),
    )?;
    near.pings(&far.ipv4.to_string()).await?;
    moves(&[&near, &far], &one, &two).await?;
    mesh.stop().await
}
