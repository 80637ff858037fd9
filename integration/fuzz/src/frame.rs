//! Frames, as containers send them and as peers hand them over.

use std::{net::IpAddr, sync::Arc};

use weft_router_core::{
    datagram::{Checksum, FRAME_HEADER, SEGMENT_HEADER},
    fit::{Fit, Fitter, Joiner, Limits, PartHeader, Parts, clamp_mss},
    forward::{ForwardingTable, Switch, flow_of},
    session::SessionIndex,
    virtio::Offload,
};
use weft_types::MacAddress;

use crate::{
    Bounds, Target,
    input::{Input, peer, start},
};

/// Frames in both directions: who may send them, where they go, and how they are made to fit.
pub(crate) const FRAMES: Target =
    Target { name: "frames", bounds: Bounds { memory_bytes: 1 << 20, allocations: 4096 }, run: frames, seeds };

fn frames(input: &[u8]) {
    let mut input = Input::new(input);
    let header: [u8; 10] = input.array();
    let (largest, proven) = (usize::from(input.word()), input.byte() & 1 == 1);
    let mut frame = input.rest().to_vec();
    let switch = switch();
    let mut answer = Vec::new();
    let _ = (switch.outbound(&frame, &mut answer), switch.inbound(&peer(2), &frame), flow_of(&frame));
    let Some(offload) = Offload::decode(&header) else { return };
    if offload.checksum.start != 0 {
        assert_eq!(Offload::decode(&offload.encode(54)), Some(offload));
    }
    let limits = Limits::new(largest.max(600), proven);
    let length = frame.len();
    clamp_mss(&mut frame, offload.checksum, limits.packet());
    assert_eq!(frame.len(), length);
    let Ok(decision) = Fitter::default().decide(limits, offload, &frame, start(), &mut answer) else { return };
    assert!(!decision.answered || answer.len() <= 14 + 1280);
    match decision.fit {
        Fit::Frame => assert!(FRAME_HEADER + frame.len() <= limits.content()),
        Fit::FrameInParts => in_parts(limits, offload.checksum, &frame),
        Fit::Slices(cut) | Fit::SlicesInParts(cut) => {
            for index in 0..cut.count() {
                let mut slice = vec![0; cut.slice_length(index)];
                cut.write(index, &mut slice);
                if matches!(decision.fit, Fit::Slices(_)) {
                    assert!(SEGMENT_HEADER + slice.len() <= limits.content());
                } else {
                    in_parts(limits, offload.checksum, &slice);
                }
            }
        }
        Fit::Refused => assert!(decision.answered),
    }
}

/// Cuts a frame and joins it again, the last part first.
fn in_parts(limits: Limits, checksum: Checksum, frame: &[u8]) {
    let head = checksum.encode();
    let parts = Parts::new(&head, frame, 1, limits.content()).expect("the room is large enough");
    let mut joiner = Joiner::default();
    let mut joined = None;
    for index in (0..parts.count()).rev() {
        let mut content = vec![0; parts.length(index)];
        parts.write(index, &mut content);
        assert!(content.len() <= limits.content() && joined.is_none());
        joined = match PartHeader::decode(&content) {
            None => Some(content),
            Some((header, part)) => {
                joiner.handle_part(SessionIndex(1), header, part, start()).expect("nothing overlaps")
            }
        };
    }
    assert_eq!(joined, Some([&head, frame].concat()));
}

/// Container 1 is on this host, container 2 at peer 2.
fn switch() -> Switch {
    let mac = |number| MacAddress::new([2, 0, 0, 0, 0, number]);
    let addresses = |number: u8| -> [IpAddr; 2] {
        [[10, 32, 0, number].into(), [0xfd10, 0, 0, 0, 0, 0, 0, u16::from(number)].into()]
    };
    Switch::new(Arc::new(ForwardingTable {
        macs: [(mac(2), peer(2))].into(),
        addresses: addresses(2).map(|address| (address, mac(2))).into(),
        subnets: [1, 2].map(|number| (mac(number), ["10.32.0.0/12".parse().expect("a subnet")].into())).into(),
        local_macs: [mac(1)].into(),
        local_addresses: addresses(1).into(),
        routers: [mac(2)].into(),
        allowed: [(mac(2), "10.32.0.100".parse().expect("an address"))].into(),
    }))
}

fn seeds() -> Vec<Vec<u8>> {
    let [one, two] = [1, 2].map(|number| [2, 0, 0, 0, 0, number]);
    let seed = |offload: [u8; 10], frame: &[&[u8]]| {
        let path = [1056u16.to_be_bytes().as_slice(), &[1]].concat();
        [&offload[..], &path, &frame.concat()].concat()
    };
    let tcp = |flags: u8, length: usize| {
        let [a, b] = (48 + length as u16).to_be_bytes();
        let header = [0x45, 0, a, b, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 0, 1, 10, 32, 0, 2];
        let transport = [0, 80, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x70, flags, 1, 0, 0, 0, 0, 0];
        [&header[..], &transport, &[2, 4, 5, 0xb4, 1, 3, 3, 7], &vec![0; length]].concat()
    };
    let udp6 = |from: u8, to: u8, length: usize| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 17, 64, 0xfd, 0x10];
        packet[4..6].copy_from_slice(&(8 + length as u16).to_be_bytes());
        packet
            .extend([0; 13].into_iter().chain([from, 0xfd, 0x10]).chain([0; 13]).chain([to, 0, 80, 0, 80, 0, 8, 0, 0]));
        packet.extend(vec![0; length]);
        packet
    };
    let arp = |operation: u8, mac: [u8; 6], from: u8, to: u8| {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        [&head[..], &mac, &[10, 32, 0, from], &[0; 6], &[10, 32, 0, to]].concat()
    };
    let solicitation: &[u8] = &[
        &[0x60, 0, 0, 0, 0, 32, 58, 255, 0xfd, 0x10][..],
        &[0; 13],
        &[1, 0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 2, 135, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0x10],
        &[0; 13],
        &[2, 1, 1, 2, 0, 0, 0, 0, 1],
    ]
    .concat();
    let batch = [1, 1, 54, 0, 0x44, 5, 34, 0, 16, 0];
    let broadcast = [0xff; 6];
    vec![
        seed([0; 10], &[&two, &one, &[8, 0], &tcp(2, 0)]),
        seed([0; 10], &[&one, &two, &[8, 0], &tcp(0x12, 0)]),
        seed([0; 10], &[&two, &one, &[8, 0], &tcp(0x10, 1340)]),
        seed([1, 0, 0, 0, 0, 0, 34, 0, 16, 0], &[&two, &one, &[8, 0], &tcp(0x18, 1340)]),
        seed(batch, &[&two, &one, &[8, 0], &tcp(0x18, 3000)]),
        seed([0; 10], &[&two, &one, &[0x86, 0xdd], &udp6(1, 2, 1300)]),
        seed([0; 10], &[&one, &two, &[0x86, 0xdd], &udp6(2, 1, 20)]),
        seed([0; 10], &[&broadcast, &one, &[8, 6], &arp(1, one, 1, 2)]),
        seed([0; 10], &[&one, &two, &[8, 6], &arp(2, two, 2, 1)]),
        seed([0; 10], &[&[0x33, 0x33, 0xff, 0, 0, 2], &one, &[0x86, 0xdd], solicitation]),
    ]
}
