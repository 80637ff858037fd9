//! The packet path between two containers on two hosts, through real TAP devices and sockets. Needs root.

#[path = "dataplane/lab.rs"]
mod lab;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use lab::{DEADLINE, Lab, addresses, endpoint, mac, peer, session, table, wait_for};
use weft_router::{
    dataplane::{Command, Event, Facility, FacilityState},
    direction::Direction,
};
use weft_router_core::{forward::DropReason, path::Via};
use weft_types::MacAddress;

/// Bytes of a bulk transfer: some hundred full batches.
const BULK: usize = 24 << 20;

fn pattern(offset: usize) -> u8 {
    (offset.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Sends a stream from container 1 to container 2 and checks every byte.
fn transfer(lab: &Lab, ipv6: bool, length: usize) {
    let address = SocketAddr::new(addresses(2)[usize::from(ipv6)], 7);
    let listener = lab.host(2).container.enter(|| TcpListener::bind(address).expect("listen"));
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
            let mut buffer = vec![0; 1 << 16];
            let mut offset = 0;
            loop {
                let count = stream.read(&mut buffer).expect("receive");
                if count == 0 {
                    break;
                }
                for (index, byte) in buffer[..count].iter().enumerate() {
                    assert_eq!(*byte, pattern(offset + index), "byte {}", offset + index);
                }
                offset += count;
            }
            assert_eq!(offset, length);
            stream.write_all(b"done").expect("answer");
        });
        lab.host(1).container.enter(|| {
            let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
            stream.set_read_timeout(Some(2 * DEADLINE)).expect("set a deadline");
            let data: Vec<u8> = (0..length).map(pattern).collect();
            stream.write_all(&data).expect("send");
            stream.shutdown(std::net::Shutdown::Write).expect("end");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).expect("receive the answer");
            assert_eq!(answer, b"done");
        });
    });
}

/// Nothing that a healthy path drops.
fn assert_clean(lab: &Lab) {
    for number in [1, 2] {
        let statistics = lab.statistics(number);
        for reason in [
            DropReason::MalformedFrame,
            DropReason::MalformedDatagram,
            DropReason::NotAuthentic,
            DropReason::Replayed,
            DropReason::UnknownContent,
            DropReason::Oversized,
            DropReason::SpoofedAddress,
            DropReason::TapFull,
        ] {
            assert_eq!(statistics.dropped(reason), 0, "{reason} on host {number}");
        }
    }
}

#[test]
fn containers_reach_each_other_over_either_underlay() {
    for underlay in [false, true] {
        let lab = Lab::new(&[], underlay);
        for ipv6 in [false, true] {
            lab.ping(ipv6, "-c 3 -i 0.01 -W 5");
            lab.ping(ipv6, "-c 3 -i 0.01 -W 5 -s 1300");
            transfer(&lab, ipv6, BULK);
        }
        assert!(lab.statistics(1).neighbour_answers >= 2, "questions are answered from the table");
        assert!(lab.statistics(1).facilities.values().all(|state| *state == FacilityState::InUse));
        assert_clean(&lab);
        let statistics = lab.statistics(1);
        let sent = statistics.peers[&peer(2)].sent;
        assert!(sent.datagrams > 10 * sent.frames, "frames cross the TAP in batches: {sent:?}");
    }
}

#[test]
fn what_is_dropped_does_not_count_as_sent() {
    let lab = Lab::new(&[], false);
    lab.ping(false, "-c 1 -W 5");
    let host = lab.host(1);
    host.container.ip("link set ethwe mtu 3000");
    for link in ["vethwe", "weft", "weft-tap"] {
        host.namespace.ip(&format!("link set {link} mtu 3000"));
    }
    let before = lab.statistics(1).peers[&peer(2)].sent.frames;
    let ping = format!("-n -M do -c 50 -i 0.01 -W 1 -s 2500 {}", addresses(2)[0]);
    assert!(!host.container.program("ping", &ping).output().expect("run ping").status.success());
    wait_for("the drops are counted", || lab.statistics(1).drops[&(Direction::Sent, DropReason::Oversized)] >= 50);
    // The container's own multicast, as every interface sends it, is all that leaves.
    let sent = lab.statistics(1).peers[&peer(2)].sent.frames - before;
    assert!(sent < 25, "{sent} frames are said to have left");
}

#[test]
fn every_facility_is_dispensable() {
    for facility in Facility::ALL {
        let lab = Lab::new(&[facility], false);
        assert_eq!(lab.statistics(1).facilities[&facility], FacilityState::Masked, "{facility}");
        for ipv6 in [false, true] {
            lab.ping(ipv6, "-c 2 -i 0.01 -W 5");
            transfer(&lab, ipv6, BULK / 4);
        }
        datagrams(&lab, 10);
        assert_clean(&lab);
    }
}

#[test]
fn plain_frames_and_single_datagrams_suffice() {
    let lab = Lab::new(&Facility::ALL, false);
    for ipv6 in [false, true] {
        lab.ping(ipv6, "-c 2 -i 0.01 -W 5");
        transfer(&lab, ipv6, BULK / 4);
    }
    datagrams(&lab, 10);
    assert_clean(&lab);
}

/// Sends a batch of UDP datagrams by one `UDP_SEGMENT` call from container 1 to container 2.
fn datagrams(lab: &Lab, count: usize) {
    let address = SocketAddr::new(addresses(2)[0], 9);
    let receiver = lab.host(2).container.enter(|| UdpSocket::bind(address).expect("bind"));
    receiver.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    let data: Vec<u8> = (0..count * 1000).map(pattern).collect();
    lab.host(1).container.enter(|| {
        let sender = UdpSocket::bind((IpAddr::from([0, 0, 0, 0]), 0)).expect("bind");
        let size: libc::c_int = 1000;
        // SAFETY: the kernel reads one int through the pointer, which lives on our stack.
        let set = unsafe {
            libc::setsockopt(
                sender.as_raw_fd(),
                libc::SOL_UDP,
                103,
                (&raw const size).cast(),
                size_of_val(&size) as u32,
            )
        };
        assert_eq!(set, 0, "this kernel has UDP_SEGMENT");
        assert_eq!(sender.send_to(&data, address).expect("send"), data.len());
    });
    let mut buffer = [0; 2000];
    for part in data.chunks(1000) {
        let length = receiver.recv(&mut buffer).expect("receive within the deadline");
        assert_eq!(&buffer[..length], part);
    }
}

#[test]
fn batches_of_datagrams_cross_whole() {
    let lab = Lab::new(&[], false);
    lab.ping(false, "-c 1 -W 5");
    let before = lab.statistics(1).peers[&peer(2)].sent;
    datagrams(&lab, 40);
    wait_for("the counters", || lab.statistics(1).peers[&peer(2)].sent.datagrams >= before.datagrams + 40);
    let after = lab.statistics(1).peers[&peer(2)].sent;
    assert!(after.frames - before.frames < 10, "the batch crossed the TAP as one frame");
    assert_clean(&lab);
}

#[test]
fn a_lossy_underlay_loses_segments_not_frames() {
    // Single datagrams on the wire, so that the rule drops datagrams and not batches.
    let lab = Lab::new(&[Facility::BatchedSend], false);
    lab.host(2).namespace.run("nft", "add table inet loss");
    lab.host(2).namespace.run("nft", "add chain inet loss in { type filter hook input priority 0 ; }");
    lab.host(2).namespace.run("nft", "add rule inet loss in udp dport 6783 numgen random mod 100 < 2 counter drop");
    transfer(&lab, false, BULK / 4);
    transfer(&lab, true, BULK / 4);
    assert!(!lab.host(2).namespace.run("nft", "list ruleset").contains("packets 0 "), "something was lost");
    assert_clean(&lab);
}

#[test]
fn an_underlay_without_offloads_carries_the_same() {
    let lab = Lab::new(&[], false);
    for number in [1, 2] {
        lab.host(number).namespace.run("ethtool", "-K u0 tso off gso off gro off tx-udp-segmentation off");
    }
    transfer(&lab, false, BULK);
    assert_clean(&lab);
}

#[test]
fn a_narrow_underlay_still_carries_frames() {
    let lab = Lab::new(&[], false);
    for number in [1, 2] {
        lab.host(number).namespace.ip("link set u0 mtu 1280");
    }
    transfer(&lab, false, BULK / 4);
    let candidates = lab.statistics(1).peers[&peer(2)].path.candidates.clone();
    assert!(candidates.iter().all(|candidate| candidate.largest <= 1280 - 28), "{candidates:?}");
}

/// Changes the keys of both hosts as often as a peer keeps old ones at once: more within seconds would push out the oldest.
/// Between two changes `traffic` happens.
fn change_keys(lab: &Lab, mut traffic: impl FnMut()) {
    for generation in 2..6 {
        // Who answers a handshake has the keys first.
        let initiator = 1 + generation % 2;
        lab.send(3 - initiator, Command::InstallSession(session(3 - initiator, initiator, generation)));
        lab.settle(3 - initiator);
        lab.send(initiator, Command::InstallSession(session(initiator, initiator, generation)));
        traffic();
    }
}

/// Nothing that a change of keys may cost.
fn assert_keys_fit(lab: &Lab) {
    for (number, reason) in [1, 2].into_iter().flat_map(|number| {
        let reasons =
            [DropReason::NotAuthentic, DropReason::UnknownSession, DropReason::NoSession, DropReason::Replayed];
        reasons.map(|reason| (number, reason))
    }) {
        assert_eq!(lab.statistics(number).dropped(reason), 0, "{reason} on host {number}");
    }
}

#[test]
fn keys_change_under_traffic() {
    let lab = Lab::new(&[], false);
    std::thread::scope(|scope| {
        let lab = &lab;
        scope.spawn(|| transfer(lab, false, BULK));
        change_keys(lab, || {
            lab.ping(false, "-c 5 -i 0.01 -W 5");
        });
    });
    assert_keys_fit(&lab);
}

/// Datagrams that are under way at once at most: no more than the shortest queue between the containers takes.
const WINDOW: usize = weft_router::dataplane::TAP_QUEUE_LENGTH as usize / 2;

/// Sends numbered datagrams from container 1 to container 2 and back as fast as they return, until told to end, and checks that each
/// one returns. Counts those that did in `returned`.
fn echo_everything(lab: &Lab, on: &AtomicBool, returned: &AtomicUsize) {
    let address = SocketAddr::new(addresses(2)[0], 9);
    let server = lab.host(2).container.enter(|| UdpSocket::bind(address).expect("bind"));
    let client = lab.host(1).container.enter(|| UdpSocket::bind((addresses(1)[0], 0)).expect("bind"));
    client.connect(address).expect("connect");
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 1200];
            loop {
                let (length, from) = server.recv_from(&mut buffer).expect("receive within the deadline");
                server.send_to(&buffer[..length], from).expect("send back");
                if length == 1 {
                    break;
                }
            }
        });
        let (mut next, mut missing) = (0_usize, BTreeSet::new());
        let mut buffer = [0; 1200];
        while on.load(Relaxed) || !missing.is_empty() {
            while on.load(Relaxed) && missing.len() < WINDOW {
                buffer[..8].copy_from_slice(&next.to_be_bytes());
                client.send(&buffer).expect("send");
                missing.insert(next);
                next += 1;
            }
            let Ok(length) = client.recv(&mut buffer) else { panic!("lost: {missing:?}") };
            assert_eq!(length, buffer.len());
            let number = buffer.first_chunk().copied().map(usize::from_be_bytes).expect("long enough");
            assert!(missing.remove(&number), "{number} comes again");
            returned.fetch_add(1, Relaxed);
        }
        client.send(&[0]).expect("send");
    });
}

#[test]
fn no_frame_is_lost_when_keys_change_under_full_load() {
    let lab = Lab::new(&[], false);
    lab.ping(false, "-c 1 -W 5");
    let (on, returned) = (AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| echo_everything(&lab, &on, &returned));
        change_keys(&lab, || {
            let enough = returned.load(Relaxed) + 2000;
            wait_for("datagrams return", || returned.load(Relaxed) >= enough);
        });
        on.store(false, Relaxed);
    });
    assert_keys_fit(&lab);
    assert_clean(&lab);
}

#[test]
fn a_removed_peer_gives_its_sessions_back() {
    let mut lab = Lab::new(&[], false);
    lab.send(1, Command::RemovePeer(peer(2)));
    assert_eq!(lab.event(1), Event::SessionExpired { local_index: session(1, 1, 1).local_index });
    assert!(lab.statistics(1).peers.is_empty());
}

#[test]
fn a_cut_path_is_reported_and_found_again() {
    let mut lab = Lab::new(&[], false);
    lab.host(1).namespace.ip("link set u0 down");
    assert_eq!(lab.event(1), Event::PathDown { peer: peer(2), via: Some(Via::Direct(endpoint(2, false))) });
    lab.host(1).namespace.ip("link set u0 up");
    assert!(matches!(lab.event(1), Event::PathUp { .. }));
    lab.ping(false, "-c 2 -i 0.01 -W 5");
}

#[test]
fn the_first_candidate_that_answers_is_used() {
    let mut lab = Lab::unconnected(&[]);
    for number in [1, 2] {
        lab.send(number, Command::InstallSession(session(number, 1, 1)));
    }
    let nobody = SocketAddr::from(([10, 9, 0, 77], 6783));
    let endpoints = vec![nobody, endpoint(2, true)];
    lab.send(1, Command::SetEndpoints { peer: peer(2), endpoints });
    assert!(matches!(lab.event(1), Event::PathUp { via, .. } if via == Via::Direct(endpoint(2, true))));
    // Host 2 was told nothing, and learns the way from what arrives.
    assert!(matches!(lab.event(2), Event::PathUp { via, .. } if via == Via::Direct(endpoint(1, true))));
    lab.ping(false, "-c 2 -i 0.01 -W 5");
}

#[test]
fn frames_of_unknown_stations_are_dropped_at_both_ends() {
    const STRANGER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 0x99]);
    let lab = Lab::new(&[], false);
    lab.host(1).container.ip(&format!("link set ethwe address {STRANGER}"));
    let fails = || {
        let ping = lab.host(1).container.program("ping", &format!("-n -c 1 -W 1 {}", addresses(2)[0])).output();
        assert!(!ping.expect("run ping").status.success());
    };
    fails();
    wait_for("the drop is counted", || lab.statistics(1).drops[&(Direction::Sent, DropReason::SpoofedSource)] > 0);

    // A host that lets its containers do so.
    let mut table = table(1);
    table.local_macs.insert(STRANGER);
    table.subnets.insert(STRANGER, table.subnets[&mac(1)].clone());
    lab.send(1, Command::SetForwarding(Arc::new(table)));
    fails();
    wait_for("the drop is counted", || lab.statistics(2).drops[&(Direction::Received, DropReason::SpoofedSource)] > 0);
}

#[test]
fn frames_with_addresses_of_nobody_are_dropped_at_the_far_end() {
    let lab = Lab::new(&[], false);
    lab.host(1).container.ip("addr add 10.32.0.99/12 dev ethwe");
    let ping =
        lab.host(1).container.program("ping", &format!("-n -c 1 -W 1 -I 10.32.0.99 {}", addresses(2)[0])).output();
    assert!(!ping.expect("run ping").status.success());
    wait_for("the drop is counted", || lab.statistics(2).dropped(DropReason::SpoofedAddress) > 0);
    lab.ping(false, "-c 1 -W 5");
}

#[test]
fn garbage_at_the_port_is_counted_and_harmless() {
    let lab = Lab::new(&[], false);
    lab.host(1).namespace.enter(|| {
        let sender = UdpSocket::bind(("0.0.0.0", 0)).expect("bind");
        for length in [0, 1, 12, 28, 29, 100, 1400] {
            let plain = vec![0; length];
            let mut sealed = vec![0x11; length];
            sender.send_to(&plain, endpoint(2, false)).expect("send");
            sender.send_to(&sealed, endpoint(2, false)).expect("send");
            if length > 4 {
                sealed[1..4].copy_from_slice(&session(2, 1, 1).local_index.0.to_be_bytes()[1..]);
                sender.send_to(&sealed, endpoint(2, false)).expect("send");
            }
        }
    });
    wait_for("all drops are counted", || {
        let statistics = lab.statistics(2);
        statistics.dropped(DropReason::MalformedDatagram) >= 8
            && statistics.dropped(DropReason::UnknownSession) >= 3
            && statistics.dropped(DropReason::NotAuthentic) >= 3
    });
    lab.ping(false, "-c 2 -i 0.01 -W 5");
}
