//! Ways between hosts where UDP, or anything, does not pass: over other hosts, inside the control connection, through narrow
//! underlays.
//!
//! Needs root, for network namespaces; no other network is touched.

#[path = "paths/capture.rs"]
mod capture;
#[path = "common/files.rs"]
mod files;
#[path = "mesh/lab.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod lab;
#[path = "common/traffic.rs"]
mod traffic;

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use capture::Capture;
use lab::{DEADLINE, Host, Lab, Namespace};
use traffic::{block, goes, pass, transfer, unblock, way};
use weft_proto::router::v1::{GetStatusResponse, PathKind};

const SECRET: &[&str] = &["--password", "open sesame"];
/// How long after UDP passes again data may go another way.
const BACK: Duration = Duration::from_secs(10);

/// Starts the router of a host with those that it dials.
fn start(host: &mut Host, peers: &[&Host]) {
    let peers: Vec<String> = peers.iter().map(|peer| peer.address()).collect();
    let options: Vec<&str> =
        SECRET.iter().copied().chain(peers.iter().flat_map(|peer| ["--peers", peer.as_str()])).collect();
    host.start(&options);
}

/// Tells whether a datagram of this length arrives whole.
fn carries(from: &Namespace, to: &Namespace, address: Ipv4Addr, length: usize) -> bool {
    let receiver = to.run(move || UdpSocket::bind((address, 7002)).expect("a bound socket"));
    receiver.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out");
    from.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        // The container learns by and by what fits; then its kernel cuts datagrams.
        let _ = socket.send_to(&vec![7; length], (address, 7002));
    });
    receiver.recv(&mut vec![0; length + 1]).is_ok_and(|received| received == length)
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_cannot_reach_each_other_exchange_frames_over_one_between_who_sees_ciphertext_only() {
    let mut lab = Lab::new();
    let (mut a, mut b, mut c) = (lab.host(), lab.host(), lab.host());
    block(&a, &format!("ip saddr {}", c.address()));
    block(&c, &format!("ip saddr {}", a.address()));
    start(&mut b, &[]);
    start(&mut a, &[&b]);
    start(&mut c, &[&b]);
    let (one, three) = (Namespace::new(), Namespace::new());
    a.until("it answers", |_| true).await;
    c.until("it answers", |_| true).await;
    a.attach(&one, "one", "10.32.0.1/12").await;
    c.attach(&three, "three", "10.32.0.3/12").await;
    let address = Ipv4Addr::new(10, 32, 0, 3);
    pass(&one, &three, address).await;

    let capture = Capture::start(&b.namespace);
    pass(&one, &three, address).await;
    tokio::task::block_in_place(|| transfer(&one, &three, address, 2 << 20));
    let status = a.until("data goes over host2", |status| goes(status, "host3", PathKind::Relay)).await;
    let relay = way(&status, "host3").expect("a way").relay.clone();
    assert!(status.peers.iter().any(|peer| peer.name == relay && peer.nickname == "host2"), "{relay}");
    c.until("data goes over host2", |status| goes(status, "host1", PathKind::Relay)).await;
    let relayed = b.status().await.expect("it answers").data_plane.expect("data plane").relayed_bytes;
    assert!(relayed > 4 << 20, "{relayed} bytes were handed on");
    capture.assert_sealed();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_does_not_pass_data_goes_inside_the_control_connection_until_it_does() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (lab.host(), lab.host());
    block(&b, "udp dport 6783");
    start(&mut a, &[]);
    start(&mut b, &[&a]);
    for (host, other) in [(&a, "host2"), (&b, "host1")] {
        host.until("data goes inside the connection", |status| goes(status, other, PathKind::Stream)).await;
    }
    let (one, two) = (Namespace::new(), Namespace::new());
    a.attach(&one, "one", "10.32.0.1/12").await;
    b.attach(&two, "two", "10.32.0.2/12").await;
    let address = Ipv4Addr::new(10, 32, 0, 2);
    pass(&one, &two, address).await;
    tokio::task::block_in_place(|| transfer(&one, &two, address, 2 << 20));
    // The port of the other's datagrams, not the one that its connection happens to come from.
    let words = ["inside the control connection", "UDP port 6783"];
    let told = |status: &GetStatusResponse| {
        let mut problems = status.problems.iter().filter(|problem| problem.reason == "no_udp_path");
        problems.any(|problem| words.iter().all(|word| problem.message.contains(word)))
    };
    a.until("the reason is told", told).await;

    unblock(&b);
    let back = async {
        for (host, other) in [(&a, "host2"), (&b, "host1")] {
            host.until("data goes by UDP", |status| goes(status, other, PathKind::DirectUdp)).await;
        }
    };
    tokio::time::timeout(BACK, back).await.expect("back on UDP in time");
    pass(&one, &two, address).await;

    block(&b, "udp dport 6783");
    a.until("it is noticed", |status| goes(status, "host2", PathKind::Stream)).await;
    pass(&one, &two, address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn narrow_underlays_carry_everything() {
    for mtu in [1280, 1124] {
        let mut lab = Lab::new();
        let (mut a, mut b) = (lab.host(), lab.host());
        for host in [&a, &b] {
            host.namespace.ip(&format!("link set eth0 mtu {mtu}"));
        }
        start(&mut a, &[]);
        start(&mut b, &[&a]);
        let (one, two) = (Namespace::new(), Namespace::new());
        for host in [&a, &b] {
            host.until("it answers", |_| true).await;
        }
        a.attach(&one, "one", "10.32.0.1/12").await;
        b.attach(&two, "two", "10.32.0.2/12").await;
        let address = Ipv4Addr::new(10, 32, 0, 2);
        pass(&one, &two, address).await;
        tokio::task::block_in_place(|| transfer(&one, &two, address, 2 << 20));
        for length in [1200, 1372, 4000] {
            let arrives = async { while !tokio::task::block_in_place(|| carries(&one, &two, address, length)) {} };
            tokio::time::timeout(DEADLINE, arrives).await.expect("a datagram arrives");
        }
        let status = a.until("data goes by UDP", |status| goes(status, "host2", PathKind::DirectUdp)).await;
        let largest = way(&status, "host2").expect("a way").largest_bytes;
        assert!(largest <= mtu - 28, "{largest} bytes do not fit {mtu}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_underlay_that_drops_large_packets_silently_carries_everything() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (lab.host(), lab.host());
    start(&mut a, &[]);
    start(&mut b, &[&a]);
    let (one, two) = (Namespace::new(), Namespace::new());
    for host in [&a, &b] {
        host.until("it answers", |_| true).await;
    }
    a.attach(&one, "one", "10.32.0.1/12").await;
    b.attach(&two, "two", "10.32.0.2/12").await;
    let address = Ipv4Addr::new(10, 32, 0, 2);
    pass(&one, &two, address).await;
    tokio::task::block_in_place(|| transfer(&one, &two, address, 2 << 20));
    // In the middle of all: what was proven passes no more, and no batch does.
    for host in [&a, &b] {
        block(host, "udp dport 6783 meta length > 1300");
    }
    pass(&one, &two, address).await;
    tokio::task::block_in_place(|| transfer(&one, &two, address, 2 << 20));
}

/// Starts two hosts behind routers of their own, and one outside that both dial, with containers at the two.
async fn behind_nat(lab: &mut Lab, flags: &str) -> ([(Namespace, Host); 2], Host, [Namespace; 2]) {
    let mut outside = lab.host();
    start(&mut outside, &[]);
    let mut inside = [lab.host_behind_nat(flags), lab.host_behind_nat(flags)];
    for (_, host) in &mut inside {
        start(host, &[&outside]);
    }
    let containers = [Namespace::new(), Namespace::new()];
    for (number, ((_, host), container)) in inside.iter().zip(&containers).enumerate() {
        host.until("it answers", |_| true).await;
        host.attach(container, ["one", "two"][number], ["10.32.0.1/12", "10.32.0.2/12"][number]).await;
    }
    (inside, outside, containers)
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_behind_nats_that_keep_ports_reach_each_other_directly() {
    let mut lab = Lab::new();
    let ([(_first, a), (_second, b)], outside, [one, two]) = behind_nat(&mut lab, "").await;
    pass(&one, &two, Ipv4Addr::new(10, 32, 0, 2)).await;
    a.until("straight by UDP", |status| goes(status, "host3", PathKind::DirectUdp)).await;
    b.until("straight by UDP", |status| goes(status, "host2", PathKind::DirectUdp)).await;
    let relayed = async || outside.status().await.expect("it answers").data_plane.expect("data plane").relayed_bytes;
    let before = relayed().await;
    tokio::task::block_in_place(|| transfer(&one, &two, Ipv4Addr::new(10, 32, 0, 2), 2 << 20));
    let after = relayed().await;
    assert!(after - before < 100_000, "{} bytes went over the third host", after - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_behind_nats_that_change_ports_reach_each_other_over_one_outside() {
    let mut lab = Lab::new();
    let ([(_first, a), (_second, b)], _outside, [one, two]) = behind_nat(&mut lab, "random,fully-random").await;
    pass(&one, &two, Ipv4Addr::new(10, 32, 0, 2)).await;
    a.until("over the third", |status| goes(status, "host3", PathKind::Relay)).await;
    b.until("over the third", |status| goes(status, "host2", PathKind::Relay)).await;
    tokio::task::block_in_place(|| transfer(&one, &two, Ipv4Addr::new(10, 32, 0, 2), 2 << 20));
}
