//! What peers publish and say about the ring of addresses.

use prost::Message as _;
use weft_ipam_core::{Allocator, Creation, Entry, Event, PeerInfo, Reachability, Record, Settings, State};
use weft_proto::ipam::v1 as pb;
use weft_types::PeerName;

use crate::{
    Bounds, Target,
    input::{Input, pause, peer, piece, start},
};

/// Entries and messages of three peers, over time, at an allocator whose containers come and go.
pub(crate) const RING: Target =
    Target { name: "ring", bounds: Bounds { memory_bytes: 4 << 20, allocations: 200_000 }, run: ring, seeds };

/// Steps of one input at most.
const STEPS: usize = 64;

fn ring(input: &[u8]) {
    let mut input = Input::new(input);
    let mut now = start();
    let mut allocator = Allocator::new(settings(), State::new(1), 7);
    allocator.handle_connected(Vec::new(), reachability(3), now);
    let mut records: Vec<Record> = State::new(1).records();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let [what, time] = input.array();
        now += pause(time);
        let from = peer(2 + what % 3);
        match what >> 5 {
            0 | 1 => {
                let (key, value) = (input.piece().to_vec(), input.piece().to_vec());
                let value = (!value.is_empty()).then_some(value);
                allocator.handle_update(from, what & 16 != 0, &[Entry { key, value }]);
            }
            2 => {
                let _ = allocator.handle_message(from, input.piece(), now);
            }
            3 => {
                let container = format!("c{}", what & 3).parse().expect("an id");
                allocator.allocate(container, None, pause(255), now);
            }
            4 => {
                allocator.free(&format!("c{}", what & 3).parse().expect("an id"), &[]);
            }
            5 => allocator.handle_reachability(reachability(what % 4), now),
            6 => {
                let address = std::net::Ipv4Addr::from(input.array::<4>());
                let container = format!("c{}", what & 3).parse().expect("an id");
                let address = ipnet::Ipv4Net::new(address, 24).expect("a length");
                allocator.claim(container, address, pause(4), now);
            }
            7 if what & 24 == 24 => {
                allocator.hand_over(pause(4), now);
            }
            7 if what & 24 == 16 => {
                allocator.take_over(&from.to_hex(), now);
            }
            _ => allocator.handle_timeout(now),
        }
        drain(&mut allocator, &mut records, now);
    }
    // What is saved can be read again.
    let kept = records.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    let state = State::from_records(kept).expect("what is saved makes sense");
    let again = Allocator::new(settings(), state, 7);
    let held = |allocator: &Allocator| -> Vec<_> {
        allocator.allocations().map(|(container, addresses)| (container.clone(), addresses)).collect()
    };
    assert_eq!(held(&again), held(&allocator));
}

fn drain(allocator: &mut Allocator, records: &mut Vec<Record>, now: std::time::Instant) {
    while let Some(commit) = allocator.poll_commit(now) {
        for (key, value) in commit.records {
            records.retain(|(known, _)| *known != key);
            records.push((key, value));
        }
        allocator.handle_saved(commit.number);
    }
    while allocator.poll_transmit().is_some() {}
    while let Some(event) = allocator.poll_event() {
        if let Event::Granted { address, .. } = event {
            assert!(allocator.allocations().any(|(_, addresses)| addresses.contains(&address)));
        }
    }
    allocator.handle_timeout(now);
}

fn settings() -> Settings {
    Settings {
        peer: peer(1),
        range: "10.32.0.0/24".parse().expect("a range"),
        default_subnet: "10.32.0.0/24".parse().expect("a range"),
        creation: Creation::Elect { voters: Some(2) },
    }
}

fn reachability(count: u8) -> Reachability {
    let info = |number: u8| PeerInfo { peer: peer(number), name: format!("peer{number}"), nickname: String::new() };
    Reachability {
        peers: (1..=1 + count).map(info).collect(),
        target_count: 1,
        targets_given: true,
        target_peers: vec![peer(2)],
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let publish = |key: &[u8], value: &[u8]| [&[0, 1][..], &piece(key), &piece(value)].concat();
    let say = |bytes: &[u8]| [&[2 << 5, 1][..], &piece(bytes)].concat();
    let start = u32::from_be_bytes([10, 32, 0, 0]);
    let owner = |peer: PeerName| Some(pb::Owner { peer: peer.as_bytes().to_vec(), store: 9 });
    let info = pb::RingInfo {
        ring_id: vec![7; 16],
        range_start: start,
        range_length: 24,
        ula_prefix: vec![0xfd, 0x10, 0, 0, 0, 0],
    };
    let run = |from: u32, to: u32, owner, version| pb::Run {
        start: start + from,
        end: u64::from(start + to),
        owner,
        epoch: 1,
        version,
    };
    let runs = [run(0, 128, owner(peer(2)), 1), run(128, 256, owner(peer(1)), 1)];
    let founded: Vec<u8> = [publish(b"ring", &info.encode_to_vec())]
        .into_iter()
        .chain(runs.iter().map(|run| publish(format!("run/{:08x}", run.start).as_bytes(), &run.encode_to_vec())))
        .flatten()
        .collect();
    let free = pb::FreeReport {
        version: 1,
        store: 9,
        spans: vec![pb::FreeSpan { start, end: u64::from(start) + 64, ..Default::default() }],
    };
    let message = |kind| pb::RingMessage { ring_id: vec![7; 16], request_id: 1, kind: Some(kind) }.encode_to_vec();
    let request = pb::ring_message::Kind::Request(pb::SpaceRequest {
        start: start + 128,
        end: u64::from(start) + 256,
        owner: owner(peer(4)),
    });
    let grant = pb::ring_message::Kind::Grant(pb::SpaceGrant { runs: vec![run(0, 64, owner(peer(1)), 2)] });
    let denial = pb::ring_message::Kind::Denial(pb::SpaceDenial { container_id: "c9".to_owned() });
    vec![
        [&founded[..], &publish(b"free", &free.encode_to_vec()), &[3 << 5, 1, 3 << 5 | 1, 1], &say(&message(grant))]
            .concat(),
        [&founded[..], &say(&message(request))].concat(),
        [&founded[..], &[3 << 5, 1], &say(&message(denial))].concat(),
        [
            &[3 << 5, 1][..],
            &publish(b"external/10.32.0.9", &pb::ExternalClaim { container_id: "c9".to_owned() }.encode_to_vec()),
        ]
        .concat(),
        vec![3 << 5, 1, 7 << 5, 40, 4 << 5, 0, 5 << 5, 9, 6 << 5, 1, 10, 32, 0, 7],
        ballots(),
    ]
}

/// What another host publishes that wants a ring too.
fn ballots() -> Vec<u8> {
    let own = Settings { peer: peer(3), ..settings() };
    let mut other = Allocator::new(own, State::new(3), 3);
    let now = start();
    other.handle_connected(Vec::new(), reachability(3), now);
    other.allocate("c1".parse().expect("an id"), None, pause(255), now);
    let mut published = Vec::new();
    for time in 0..20 {
        let now = now + pause(time);
        other.handle_timeout(now);
        while let Some(commit) = other.poll_commit(now) {
            other.handle_saved(commit.number);
        }
        while let Some(transmit) = other.poll_transmit() {
            if let weft_ipam_core::Transmit::Publish { entries, .. } = transmit {
                for entry in entries {
                    published.extend([1, time]);
                    published.extend([piece(&entry.key), piece(&entry.value.unwrap_or_default())].concat());
                }
            }
        }
    }
    published
}
