//! Containers with NET_RAW and NET_ADMIN pretend to be others, and speak where they are no members: nobody gets any of it, on
//! this host or another, and it is counted. docs/security.md has what stops each.

#[allow(dead_code, reason = "the router's own tests use the rest")]
#[path = "../../../services/router/tests/common/raw.rs"]
mod raw;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, ensure};
use raw::{ALL_NODES, BROADCAST, Mac, Raw, UNKNOWN_KIND, arp, frame, icmp6, neighbour_advertisement, tag, udp4, udp6};
use weft_integration_tests::{Container, Mesh, SOON};
use weft_lab::{Host, eventually};

/// The other subnet.
const APART: &str = "WEFT_CIDR=net:10.44.0.0/24";
/// Number of the frame that says that all have been sent.
const LAST: u16 = u16::MAX;
/// How long what went another way may come after it.
const AFTER: Duration = Duration::from_millis(200);
/// All nodes of the link.
const EVERYBODY: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A container and what it would have to know to send frames itself.
struct Station {
    container: Container,
    mac: Mac,
    socket: Raw,
}

impl Station {
    async fn start(mesh: &Mesh, host: usize, name: &str, options: &[&str]) -> anyhow::Result<Self> {
        let container = mesh.container(host, name, options).await?;
        let mac = mac(&container.exec(&["cat", "/sys/class/net/ethwe/address"]).await?)?;
        let socket = container.host.open_in_network_of(name, || Ok(Raw::open()?)).await?;
        Ok(Self { container, mac, socket })
    }
}

fn mac(text: &str) -> anyhow::Result<Mac> {
    let octets: Result<Vec<u8>, _> = text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    octets?.try_into().ok().with_context(|| format!("{text} is no MAC"))
}

/// A frame by the number that it is told apart by, and what it is for people.
type Try<'a> = (&'static str, Box<dyn Fn(u16) -> Vec<u8> + 'a>);

/// Sends all, then from `fair` a frame that may pass, and returns those of which `victim` saw a frame.
fn passed(
    attacker: &mut Station,
    fair: Option<&mut Station>,
    victim: &mut Station,
    tries: &[Try<'_>],
) -> anyhow::Result<Vec<&'static str>> {
    for (number, (_, frame)) in (0..).zip(tries) {
        attacker.socket.send(&frame(number))?;
    }
    let fair = fair.unwrap_or(attacker);
    fair.socket.send(&frame(victim.mac, fair.mac, UNKNOWN_KIND, &tag(LAST)))?;
    let mut seen = victim.socket.seen(LAST, SOON)?;
    ensure!(seen.remove(&LAST), "{} does not get what it may get", victim.container.name);
    seen.extend(victim.socket.seen(LAST, AFTER)?);
    Ok((0..).zip(tries).filter(|(number, _)| seen.contains(number)).map(|(_, (name, _))| *name).collect())
}

/// What a container may not say to `victim`, which is in its subnet, in its own name or in that of a third.
fn lies(own: &Container, mac: Mac, victim: &Container, to: Mac, third: &Container, foreign: Mac) -> Vec<Try<'static>> {
    let (own4, own6, victim4, victim6) = (own.ipv4, own.ipv6, victim.ipv4, victim.ipv6);
    let (third4, third6) = (third.ipv4, third.ipv6);
    let advertisement = [134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
    let link_local =
        |[a, b, c, d, e, f]: Mac| Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let (own_local, foreign_local) = (link_local(mac), link_local(foreign));
    vec![
        ("foreign MAC", Box::new(move |n| frame(to, foreign, UNKNOWN_KIND, &tag(n)))),
        ("foreign MAC and IPv4", Box::new(move |n| frame(to, foreign, 0x0800, &udp4(third4, victim4, (1, 2), n)))),
        ("foreign IPv4", Box::new(move |n| frame(to, mac, 0x0800, &udp4(third4, victim4, (1, 2), n)))),
        ("IPv4 of nobody", Box::new(move |n| frame(to, mac, 0x0800, &udp4([10, 47, 9, 9].into(), victim4, (1, 2), n)))),
        ("foreign IPv6", Box::new(move |n| frame(to, mac, 0x86dd, &udp6(third6, victim6, (1, 2), n)))),
        (
            "foreign link-local IPv6",
            Box::new(move |n| frame(to, mac, 0x86dd, &udp6(foreign_local, victim6, (1, 2), n))),
        ),
        ("ARP answer", Box::new(move |n| frame(to, mac, 0x0806, &arp(2, mac, third4, victim4, n)))),
        ("ARP announcement", Box::new(move |n| frame(BROADCAST, mac, 0x0806, &arp(1, mac, third4, third4, n)))),
        ("ARP for another MAC", Box::new(move |n| frame(to, mac, 0x0806, &arp(2, foreign, own4, victim4, n)))),
        (
            "neighbour advertisement",
            Box::new(move |n| frame(to, mac, 0x86dd, &neighbour_advertisement(own6, victim6, third6, n))),
        ),
        (
            "neighbour advertisement to all",
            Box::new(move |n| frame(ALL_NODES, mac, 0x86dd, &neighbour_advertisement(own6, EVERYBODY, third6, n))),
        ),
        (
            "router advertisement",
            Box::new(move |n| frame(ALL_NODES, mac, 0x86dd, &icmp6(own_local, EVERYBODY, &advertisement, n))),
        ),
        ("DHCP offer", Box::new(move |n| frame(BROADCAST, mac, 0x0800, &udp4(own4, Ipv4Addr::BROADCAST, (67, 68), n)))),
        ("DHCPv6 reply", Box::new(move |n| frame(to, mac, 0x86dd, &udp6(own6, victim6, (547, 546), n)))),
        (
            "VLAN tag",
            Box::new(move |n| frame(to, mac, 0x8100, &[&[0, 0, 8, 0][..], &udp4(own4, victim4, (1, 2), n)].concat())),
        ),
    ]
}

/// What a container may say in its subnet, but not to `victim`, which is in another.
fn trespasses(own: &Container, mac: Mac, victim: &Container, to: Mac) -> Vec<Try<'static>> {
    let (own4, own6, victim4, victim6) = (own.ipv4, own.ipv6, victim.ipv4, victim.ipv6);
    vec![
        ("IPv4", Box::new(move |n| frame(to, mac, 0x0800, &udp4(own4, victim4, (1, 2), n)))),
        ("IPv6", Box::new(move |n| frame(to, mac, 0x86dd, &udp6(own6, victim6, (1, 2), n)))),
        ("ARP question", Box::new(move |n| frame(BROADCAST, mac, 0x0806, &arp(1, mac, own4, victim4, n)))),
        ("ARP answer", Box::new(move |n| frame(to, mac, 0x0806, &arp(2, mac, own4, victim4, n)))),
        ("unknown kind", Box::new(move |n| frame(to, mac, UNKNOWN_KIND, &tag(n)))),
        ("unknown kind to all", Box::new(move |n| frame(BROADCAST, mac, UNKNOWN_KIND, &tag(n)))),
        ("broadcast", Box::new(move |n| frame(BROADCAST, mac, 0x0800, &udp4(own4, Ipv4Addr::BROADCAST, (1, 2), n)))),
        (
            "multicast",
            Box::new(move |n| frame([1, 0, 0x5e, 1, 2, 3], mac, 0x0800, &udp4(own4, [239, 1, 2, 3].into(), (1, 2), n))),
        ),
        ("IPv6 multicast", Box::new(move |n| frame(ALL_NODES, mac, 0x86dd, &udp6(own6, EVERYBODY, (1, 2), n)))),
    ]
}

/// Fails if the container reaches the host's own ports by its overlay interface, once it has arranged all that a container with
/// NET_ADMIN can. Docker's own network is not weft's.
async fn host_is_out_of_reach(host: &Host, attacker: &Container) -> anyhow::Result<()> {
    let mac = host.exec(&["cat", "/sys/class/net/weft/address"]).await?;
    let address = host.addresses()[0].to_string();
    let arrange = format!(
        "ip route replace {address} dev ethwe && ip neigh replace {address} lladdr {} dev ethwe nud permanent",
        mac.trim()
    );
    attacker.in_network(&["sh", "-c", &arrange]).await?.text().await?;
    for port in ["6783", "6784", "6782", "12375", "22"] {
        let before = dropped_input(host).await?;
        let connect =
            attacker.in_network(&["timeout", "1", "bash", "-c", &format!("</dev/tcp/{address}/{port}")]).await?;
        ensure!(connect.text().await.is_err(), "the container reaches port {port} of the host");
        ensure!(dropped_input(host).await? > before, "nobody dropped what was for port {port}: was it sent?");
    }
    attacker.in_network(&["ip", "route", "delete", &address, "dev", "ethwe"]).await?.text().await.map(drop)
}

/// Returns how many packets from the overlay to the host itself were dropped.
async fn dropped_input(host: &Host) -> anyhow::Result<u64> {
    let rules = host.exec(&["nft", "list", "chain", "inet", "weft", "input"]).await?;
    let rule = rules.lines().find(|line| line.contains("iifname \"weft\" counter")).context("the rule is missing")?;
    let count = rule.split("packets ").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(count.context("the rule does not count")?.parse()?)
}

#[tokio::test]
async fn nobody_gets_what_containers_may_not_say() -> anyhow::Result<()> {
    let mesh = Mesh::start(2).await?;
    let mut attacker = Station::start(&mesh, 1, "attacker", &["--cap-add", "NET_ADMIN"]).await?;
    let mut beside = Station::start(&mesh, 1, "beside", &[]).await?;
    let mut far = Station::start(&mesh, 2, "far", &[]).await?;
    let mut apart = Station::start(&mesh, 1, "apart", &["--env", APART]).await?;
    let mut far_apart = Station::start(&mesh, 2, "far-apart", &["--env", APART]).await?;
    attacker.container.pings(&beside.container.ipv4.to_string()).await?;
    attacker.container.pings(&far.container.ipv4.to_string()).await?;
    apart.container.pings(&far_apart.container.ipv4.to_string()).await?;
    let own = attacker.container.clone();

    let tries = lies(&own, attacker.mac, &beside.container, beside.mac, &far.container, far.mac);
    let none: [&str; 0] = [];
    let here = passed(&mut attacker, None, &mut beside, &tries)?;
    ensure!(here == none, "on the same host: {here:?}");
    let tries = lies(&own, attacker.mac, &far.container, far.mac, &beside.container, beside.mac);
    let there = passed(&mut attacker, None, &mut far, &tries)?;
    ensure!(there == none, "on another host: {there:?}");
    let tries = trespasses(&own, attacker.mac, &apart.container, apart.mac);
    let here = passed(&mut attacker, Some(&mut far_apart), &mut apart, &tries)?;
    ensure!(here == none, "across subnets on the same host: {here:?}");
    let tries = trespasses(&own, attacker.mac, &far_apart.container, far_apart.mac);
    let there = passed(&mut attacker, Some(&mut apart), &mut far_apart, &tries)?;
    ensure!(there == none, "across subnets on another host: {there:?}");

    host_is_out_of_reach(mesh.lab.host(1), &own).await?;
    counted(mesh.lab.host(1)).await?;
    member_of_both(&mesh, &mut attacker, &mut apart).await?;
    exposed_in_both(&mesh, &own, &apart.container).await?;
    mesh.stop().await
}

/// Waits until the metrics say that frames were dropped, for each reason that there was.
async fn counted(host: &Host) -> anyhow::Result<()> {
    eventually("the drops are counted", SOON, async || {
        let metrics = host.exec(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:6782/metrics"]).await?;
        for reason in ["spoofed_source", "spoofed_address", "forbidden_service", "vlan_tagged", "foreign_subnet"] {
            let series = format!("weft_router_drops_total{{direction=\"sent\",reason=\"{reason}\"}} ");
            let count = metrics.lines().find_map(|line| line.strip_prefix(&series));
            ensure!(count.is_some_and(|count| count != "0"), "{reason}: {count:?}");
        }
        Ok(())
    })
    .await
}

/// A container that is attached to the other subnet too talks in each, until it is detached.
async fn member_of_both(mesh: &Mesh, both: &mut Station, apart: &mut Station) -> anyhow::Result<()> {
    let (subnet, name) = ("net:10.44.0.0/24", both.container.name.clone());
    mesh.on(1).weft(&["attach", subnet, &name]).await?;
    let may = trespasses(&both.container, both.mac, &apart.container, apart.mac);
    let kinds = ["unknown kind", "unknown kind to all"];
    let got = passed(both, None, apart, &may)?;
    ensure!(kinds.iter().all(|kind| got.contains(kind)), "only {got:?} passed");
    mesh.on(1).weft(&["detach", subnet, &name]).await?;
    both.socket.send(&frame(apart.mac, both.mac, UNKNOWN_KIND, &tag(1)))?;
    let seen = apart.socket.seen(LAST, AFTER)?;
    ensure!(seen == BTreeSet::new(), "a container that was detached still speaks there");
    Ok(())
}

/// A host that is exposed in both subnets talks in each, and carries nothing from one to the other, though it routes.
async fn exposed_in_both(mesh: &Mesh, attacker: &Container, apart: &Container) -> anyhow::Result<()> {
    let host = mesh.lab.host(1);
    mesh.on(1).weft(&["expose"]).await?;
    mesh.on(1).weft(&["expose", "net:10.44.0.0/24"]).await?;
    let (own, victim) = (attacker.ipv4.to_string(), apart.ipv4.to_string());
    for member in [&own, &victim] {
        host.exec(&["busybox", "ping", "-c", "1", "-W", "5", member]).await?;
    }
    let addresses = host.exec(&["ip", "-4", "-o", "address", "show", "dev", "weft"]).await?;
    let mut addresses = addresses.lines().filter_map(|line| line.split("inet ").nth(1)?.split('/').next());
    let gateway = addresses.find(|address| !address.starts_with("10.44.")).context("the host has no address")?;
    let arrange = format!("ip route replace 10.44.0.0/24 via {gateway} dev ethwe");
    attacker.in_network(&["sh", "-c", &arrange]).await?.text().await?;
    let ping = attacker.in_network(&["busybox", "ping", "-c", "2", "-W", "1", &victim]).await?;
    ensure!(ping.text().await.is_err(), "the exposed host carries packets from one subnet to the other");
    let rules = host.exec(&["nft", "list", "chain", "inet", "weft", "forward"]).await?;
    let rule = rules.lines().find(|line| line.contains("iifname \"weft\" oifname \"weft\"") && line.contains("drop"));
    ensure!(rule.is_some_and(|rule| !rule.contains("packets 0 ")), "nobody dropped it: was it sent? {rules}");
    mesh.on(1).weft(&["hide"]).await?;
    mesh.on(1).weft(&["hide", "net:10.44.0.0/24"]).await.map(drop)
}
