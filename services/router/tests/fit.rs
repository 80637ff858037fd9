//! What kernels make of a path that carries less than their frames need: two of them, joined by nothing but the rules of
//! fitting. Needs root.

#[path = "fit/lab.rs"]
mod lab;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use lab::{DEADLINE, Lab, addresses, wait_for};
use weft_router::dataplane::Facility;
use weft_router_core::fit::Limits;

/// Carries frames of the MTU of containers.
const WIDE: Limits = Limits::new(1500, true);
/// Carries packets of 1319 bytes: what IPv6 may be told too.
const NARROW: Limits = Limits::new(1370, true);
/// Carries packets of 1005 bytes.
const NARROWEST: Limits = Limits::new(1056, true);
/// Bytes of a transfer.
const BULK: usize = 8 << 20;

fn pattern(offset: usize) -> u8 {
    (offset.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Sends a stream from side 1 to side 2 and checks every byte; `midway` happens after a quarter.
fn transfer(lab: &Lab, ipv6: bool, midway: impl FnOnce()) {
    let address = SocketAddr::new(addresses(2)[usize::from(ipv6)], 7);
    let listener = lab.enter(2, || TcpListener::bind(address).expect("listen"));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = lab.enter(1, || TcpStream::connect_timeout(&address, DEADLINE).expect("connect"));
            stream.set_write_timeout(Some(DEADLINE)).expect("set a deadline");
            stream.write_all(&(0..BULK).map(pattern).collect::<Vec<_>>()).expect("send");
        });
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
        let mut received = vec![0; BULK];
        let (before, after) = received.split_at_mut(BULK / 4);
        stream.read_exact(before).expect("receive while the path is wide");
        midway();
        stream.read_exact(after).expect("receive when the path has shrunk");
        let wrong = received.iter().enumerate().find(|(offset, byte)| **byte != pattern(*offset));
        assert_eq!(wrong, None);
    });
}

#[test]
fn connections_go_on_when_the_path_shrinks() {
    for masked in [&[][..], &[Facility::VirtioHeader]] {
        for ipv6 in [false, true] {
            for deaf in [false, true] {
                let lab = Lab::new(masked, WIDE);
                lab.set_deaf(deaf);
                transfer(&lab, ipv6, || lab.set_limits(NARROWEST));
                let counts = lab.counts();
                assert_eq!(counts.refused, 0, "no segment is lost");
                if masked.is_empty() {
                    assert_eq!(counts.answered, 0, "cutting smaller segments costs nothing");
                    assert_eq!(counts.parts, 0, "nor does it make parts");
                } else {
                    assert!(counts.answered > 0 && counts.parts > 0, "{counts:?}");
                }
            }
        }
    }
}

#[test]
fn new_connections_need_no_parts() {
    for masked in [&[][..], &[Facility::VirtioHeader]] {
        for ipv6 in [false, true] {
            let lab = Lab::new(masked, NARROWEST);
            transfer(&lab, ipv6, || {});
            let counts = lab.counts();
            assert_eq!((counts.refused, counts.answered, counts.parts), (0, 0, 0), "IPv6: {ipv6}");
            assert!(counts.clamped > 0);
        }
    }
}

#[test]
fn senders_believe_that_packets_are_too_big() {
    for masked in [&[][..], &[Facility::VirtioHeader]] {
        for (ipv6, limits, mtu) in
            [(false, NARROW, 1319), (true, NARROW, 1319), (false, NARROWEST, 1005), (true, NARROWEST, 1280)]
        {
            let lab = Lab::new(masked, limits);
            let [from, to] = [1, 2].map(|number| SocketAddr::new(addresses(number)[usize::from(ipv6)], 7));
            let receiver = lab.enter(2, || UdpSocket::bind(to).expect("bind"));
            let sender = lab.enter(1, || UdpSocket::bind(from).expect("bind"));
            wait_for(&lab, 1, to.ip(), mtu, || assert_eq!(sender.send_to(&[1; 1340], to).expect("send"), 1340));
            let refused = lab.counts().refused;
            assert!(refused > 0);
            sender.send_to(&[2; 1340], to).expect("send");
            receiver.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
            let mut buffer = [0; 2000];
            let length = loop {
                let length = receiver.recv(&mut buffer).expect("receive");
                if buffer[0] == 2 {
                    break length;
                }
            };
            assert_eq!(length, 1340, "the sender's kernel fragments");
            assert_eq!(lab.counts().refused, refused);
        }
    }
}

#[test]
fn senders_of_multicast_believe_it_too_and_lose_nothing() {
    let lab = Lab::new(&[], NARROW);
    let group = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x77);
    let receiver = lab.enter(2, || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 7)).expect("bind");
        socket.join_multicast_v6(&group, lab::interface()).expect("join");
        socket
    });
    receiver.set_read_timeout(Some(DEADLINE)).expect("set a deadline");
    let sender = lab.enter(1, || UdpSocket::bind((addresses(1)[1], 7)).expect("bind"));
    let mut buffer = [0; 2000];
    for number in 1..3 {
        sender.send_to(&[number; 1340], (group, 7)).expect("send");
        let length = receiver.recv(&mut buffer).expect("receive");
        assert_eq!((length, buffer[0]), (1340, number));
        wait_for(&lab, 1, IpAddr::V6(group), 1319, || {});
    }
    assert_eq!(lab.counts().refused, 0);
}
