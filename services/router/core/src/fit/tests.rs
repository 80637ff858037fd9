use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    fit::testing::{ICMP, ICMPV6, RECEIVER, SENDER, TCP, UDP, frame, is_valid, tcp, udp, undo_checksum},
    segment::{fold, sum},
};

const ACK: u8 = 0x10;
/// What passes everywhere, before anything is proven: packets of 1005 bytes.
const BASE: usize = 1056;
const NARROW: Limits = Limits::new(BASE, true);
const WHOLE: Offload = Offload { checksum: Checksum { start: 0, offset: 0 }, batch: None };

#[expect(clippy::disallowed_methods, reason = "a start to count from")]
fn start() -> Instant {
    Instant::now()
}

/// Decides anew, as if nobody had ever been told anything.
fn decide<'a>(limits: Limits, offload: Offload, frame: &'a [u8]) -> (Fit<'a>, Option<Vec<u8>>) {
    let mut answer = Vec::new();
    let decision = Fitter::default().decide(limits, offload, frame, start(), &mut answer).expect("headers that agree");
    (decision.fit, decision.answered.then_some(answer))
}

fn segment(ipv6: bool, payload: usize) -> Vec<u8> {
    frame(ipv6, TCP, &[], &[tcp(ACK, &[]), vec![7; payload]].concat())
}

fn undone(ipv6: bool, payload: usize, size: Option<u16>) -> (Vec<u8>, Offload) {
    let mut frame = segment(ipv6, payload);
    let start = if ipv6 { 54 } else { 34 };
    undo_checksum(&mut frame, TCP, start.into());
    let batch = if ipv6 { Batch::Tcp6 } else { Batch::Tcp4 };
    (frame, Offload { checksum: Checksum { start, offset: 16 }, batch: size.map(|size| (batch, size)) })
}

#[test]
fn what_fits_is_sent_as_it_is() {
    assert_eq!((NARROW.content(), NARROW.packet()), (1028, 1005));
    let largest = frame(false, UDP, &[], &udp(1005 - 28));
    assert!(matches!(decide(NARROW, WHOLE, &largest), (Fit::Frame, None)));
    let (batch, offload) = undone(true, 30_000, Some(1005 - 60));
    let (Fit::Slices(cut), None) = decide(NARROW, offload, &batch) else { panic!("no slices") };
    assert_eq!(SEGMENT_HEADER + cut.slice_length(0), NARROW.content());
}

#[test]
fn tcp_goes_on_in_smaller_segments_and_is_told_nothing() {
    for (ipv6, headers) in [(false, 54), (true, 74)] {
        for (payload, size) in [(60_000, Some(1348)), (1348, None)] {
            let (frame, offload) = undone(ipv6, payload, size);
            let (Fit::Slices(cut), None) = decide(NARROW, offload, &frame) else { panic!("no slices") };
            assert_eq!(cut.slice_length(0) + SEGMENT_HEADER, NARROW.content());
            let mut stream = Vec::new();
            for index in 0..cut.count() {
                let mut slice = vec![0; cut.slice_length(index)];
                cut.write(index, &mut slice);
                assert!(crate::segment::complete_checksum(offload.checksum, &mut slice));
                assert!(is_valid(&slice, TCP, offload.checksum.start.into()));
                stream.extend_from_slice(&slice[headers..]);
            }
            assert_eq!(stream, vec![7; payload]);
        }
    }
}

#[test]
fn tcp_whose_checksum_is_done_goes_on_in_parts_and_is_told() {
    for ipv6 in [false, true] {
        let frame = segment(ipv6, if ipv6 { 1340 } else { 1360 });
        assert!(matches!(decide(NARROW, WHOLE, &frame), (Fit::FrameInParts, Some(_))));
        assert!(matches!(decide(Limits::new(BASE, false), WHOLE, &frame), (Fit::FrameInParts, None)), "not proven");
    }
}

#[test]
fn segments_that_mean_something_by_their_ends_are_not_cut() {
    for flags in [packet::SYN, packet::RST, packet::URG] {
        let (mut frame, offload) = undone(false, 1348, None);
        frame[47] |= flags;
        assert!(matches!(decide(NARROW, offload, &frame), (Fit::FrameInParts, Some(_))), "{flags}");
    }
    let (mut fragment, offload) = undone(false, 1348, None);
    fragment[20] |= 0x20;
    assert!(matches!(decide(NARROW, offload, &fragment).0, Fit::FrameInParts));
}

#[test]
fn other_packets_that_must_not_be_fragmented_are_refused() {
    let echo = [[8, 0, 0, 0, 0, 1, 0, 1].as_slice(), &[0; 1300]].concat();
    for frame in [
        frame(false, UDP, &[], &udp(1300)),
        frame(true, UDP, &[], &udp(1300)),
        frame(false, ICMP, &[], &echo),
        frame(false, 132, &[], &[0; 1300]),
    ] {
        assert!(matches!(decide(NARROW, WHOLE, &frame), (Fit::Refused, Some(_))));
        assert!(matches!(decide(Limits::new(BASE, false), WHOLE, &frame), (Fit::FrameInParts, None)), "not proven");
    }
    let mut batch = frame(false, UDP, &[], &udp(30_000));
    undo_checksum(&mut batch, UDP, 34);
    let offload = Offload { checksum: Checksum { start: 34, offset: 6 }, batch: Some((Batch::Udp, 1300)) };
    let (Fit::Refused, Some(answer)) = decide(NARROW, offload, &batch) else { panic!("not refused") };
    assert_eq!(packet::word(&answer, 42 + 2), Some(1328), "one datagram of the batch is quoted, not all");
    let (Fit::SlicesInParts(cut), None) = decide(Limits::new(BASE, false), offload, &batch) else { panic!("not cut") };
    assert_eq!(cut.slice_length(0), 14 + 28 + 1300);
}

#[test]
fn what_nobody_can_be_told_about_goes_in_parts() {
    let large = frame(false, UDP, &[], &udp(1300));
    let large6 = frame(true, UDP, &[], &udp(1300));
    let change = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let error = |ipv6: bool, kind: u8| frame(ipv6, if ipv6 { ICMPV6 } else { ICMP }, &[], &[kind; 1300]);
    let later6 = [UDP, 0, 0, 9, 0, 0, 0, 0];
    for (what, frame) in [
        ("DF is not set", change(&large, 20, &[0])),
        ("a later fragment", change(&large, 20, &[0x40, 9])),
        ("a later IPv6 fragment", change(&frame(true, UDP, &later6, &udp(1300)), 20, &[44])),
        ("broadcast MAC", change(&large, 0, &[0xff; 6])),
        ("broadcast address", change(&large, 30, &[255; 4])),
        ("multicast address", change(&large, 30, &[239, 1, 1, 1])),
        ("unspecified source", change(&large, 26, &[0; 4])),
        ("loopback source", change(&large, 26, &[127, 0, 0, 1])),
        ("multicast source", change(&large, 26, &[224, 0, 0, 1])),
        ("reserved source", change(&large, 26, &[240, 0, 0, 1])),
        ("source MAC of many", change(&large, 6, &[3])),
        ("unspecified IPv6 source", change(&large6, 22, &[0; 16])),
        ("multicast IPv6 source", change(&large6, 22, &[0xff])),
        ("ICMP error", error(false, 3)),
        ("ICMP redirect", error(false, 5)),
        ("ICMPv6 error", error(true, 1)),
        ("ICMPv6 redirect", error(true, 137)),
        ("IPv6 of 1280 bytes", frame(true, UDP, &[], &udp(1280 - 48))),
        ("no IP", change(&large, 12, &[0x88, 0xb5])),
        ("a length beyond the end", change(&large, 16, &[0xff])),
    ] {
        assert!(matches!(decide(NARROW, WHOLE, &frame), (Fit::FrameInParts, None)), "{what}");
    }
    let tiny = frame(false, UDP, &[], &udp(576 - 28));
    assert!(matches!(decide(Limits::new(600, true), WHOLE, &tiny), (Fit::FrameInParts, None)), "IPv4 of 576 bytes");
}

#[test]
fn ipv4_is_told_as_by_a_router() {
    let frame = frame(false, UDP, &[], &udp(1300));
    let (_, Some(answer)) = decide(NARROW, WHOLE, &frame) else { panic!("no answer") };
    assert_eq!(answer[..14], [&SENDER[..], &RECEIVER, &[8, 0]].concat());
    assert_eq!(answer[26..34], [10, 32, 0, 2, 10, 32, 0, 1]);
    assert_eq!(answer.len(), 14 + 576, "as much is quoted as RFC 1812 permits");
    assert_eq!(packet::word(&answer, 16), Some(576));
    assert_eq!(fold(sum(&answer[14..34])), 0xffff);
    assert_eq!(fold(sum(&answer[34..])), 0xffff);
    assert_eq!((answer[34..36].to_vec(), packet::word(&answer, 40)), (vec![3, 4], Some(1005)));
    assert_eq!(answer[42..], frame[14..14 + 576 - 28]);
    let (_, Some(answer)) = decide(Limits::new(600, true), WHOLE, &frame) else { panic!("no answer") };
    assert_eq!(packet::word(&answer, 40), Some(576), "never less");
}

#[test]
fn ipv6_is_told_as_by_a_router() {
    let mut frame = frame(true, UDP, &[], &udp(1300));
    let limits = Limits::new(1370, true);
    let (_, Some(answer)) = decide(limits, WHOLE, &frame) else { panic!("no answer") };
    assert_eq!(answer[..14], [&SENDER[..], &RECEIVER, &[0x86, 0xdd]].concat());
    assert_eq!((&answer[22..38], &answer[38..54]), (&frame[38..54], &frame[22..38]));
    assert_eq!(answer.len(), 14 + 1280);
    assert!(is_valid(&answer, ICMPV6, 54));
    assert_eq!((answer[54..56].to_vec(), answer[58..62].to_vec()), (vec![2, 0], 1319u32.to_be_bytes().to_vec()));
    assert_eq!(answer[62..], frame[14..14 + 1280 - 48]);
    let (_, Some(answer)) = decide(NARROW, WHOLE, &frame) else { panic!("no answer") };
    assert_eq!(answer[58..62], 1280u32.to_be_bytes(), "never less");
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    frame[38..54].copy_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let (fit, Some(answer)) = decide(NARROW, WHOLE, &frame) else { panic!("no answer") };
    assert!(matches!(fit, Fit::FrameInParts), "multicast is sent all the same");
    assert_eq!((answer[6] & 1, answer[22]), (0, 0xfe), "no multicast address speaks");
    assert!(is_valid(&answer, ICMPV6, 54));
}

#[test]
fn who_is_deaf_is_served_in_parts() {
    let (mut fitter, start, mut answer) = (Fitter::default(), start(), Vec::new());
    let frame = frame(false, UDP, &[], &udp(1300));
    let mut refused = 0;
    for step in 0..600u32 {
        let now = start + Duration::from_millis(100) * step;
        let decision = fitter.decide(NARROW, WHOLE, &frame, now, &mut answer).expect("a frame");
        match decision.fit {
            Fit::Refused => refused += 1,
            Fit::FrameInParts => {}
            fit @ (Fit::Frame | Fit::Slices(_) | Fit::SlicesInParts(_)) => panic!("{fit:?}"),
        }
    }
    assert_eq!(refused, 32);
}

proptest! {
    #[test]
    fn whatever_is_decided_fits(
        ipv6: bool,
        protocol in prop_oneof![Just(TCP), Just(UDP), Just(ICMP), any::<u8>()],
        length in 0..9000usize,
        noise in prop::collection::vec((0..120usize, any::<u8>()), 0..4),
        size in prop::option::of(1..9000u16),
        largest in 600..9200usize,
        proven: bool,
        undo: bool,
    ) {
        let transport = if protocol == TCP { [tcp(ACK, &[]), vec![1; length]].concat() } else { udp(length) };
        let mut frame = frame(ipv6, protocol, &[], &transport);
        let start_of_transport = if ipv6 { 54 } else { 34 };
        let mut offload = WHOLE;
        if undo && (protocol == TCP || protocol == UDP) {
            undo_checksum(&mut frame, protocol, start_of_transport);
            let batch = match protocol {
                UDP => Batch::Udp,
                _ if ipv6 => Batch::Tcp6,
                _ => Batch::Tcp4,
            };
            offload.checksum = Checksum { start: start_of_transport as u16, offset: batch.checksum_offset() };
            offload.batch = size.map(|size| (batch, size));
        }
        for (at, byte) in noise {
            if let Some(target) = frame.get_mut(at) {
                *target = byte;
            }
        }
        let limits = Limits::new(largest, proven);
        let mut answer = Vec::new();
        let Ok(decision) = Fitter::default().decide(limits, offload, &frame, start(), &mut answer) else {
            return Ok(());
        };
        prop_assert!(proven || !decision.answered);
        prop_assert!(!decision.answered || answer.len() <= 14 + 1280);
        let fits = |bytes: &[u8]| {
            let parts = Parts::new(&[0; FRAME_HEADER], bytes, 1, limits.content()).expect("room enough");
            (0..parts.count()).all(|index| parts.length(index) <= limits.content())
        };
        match decision.fit {
            Fit::Frame => prop_assert!(FRAME_HEADER + frame.len() <= limits.content()),
            Fit::Slices(cut) => prop_assert!(SEGMENT_HEADER + cut.slice_length(0) <= limits.content()),
            Fit::FrameInParts => prop_assert!(fits(&frame)),
            Fit::SlicesInParts(cut) => {
                let mut slice = vec![0; cut.slice_length(0)];
                cut.write(0, &mut slice);
                prop_assert!(fits(&slice));
            }
            Fit::Refused => prop_assert!(decision.answered && protocol != TCP || !is_tcp(&frame)),
        }
    }
}

fn is_tcp(frame: &[u8]) -> bool {
    Packet::parse(frame).is_some_and(|packet| packet.is_tcp())
}
