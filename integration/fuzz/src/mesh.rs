//! Control messages of a connected peer, whatever it says.

use std::{collections::BTreeSet, time::Instant};

use weft_router_core::{
    handshake::PROTOCOL_VERSIONS,
    mesh::{
        ConnectionId, ControlMessage, Goodbye, GoodbyeReason, Introduced, Introduction, Mesh, MeshConfig,
        config::Timing,
        message::{Routed, RoutedBody},
    },
};

use crate::{
    Bounds, Target, gossip,
    input::{Input, pause, peer, piece, start},
};

/// Messages of two neighbours, in any order, as the mesh takes them in and answers them.
pub(crate) const CONTROL: Target =
    Target { name: "control", bounds: Bounds { memory_bytes: 4 << 20, allocations: 200_000 }, run: control, seeds };

/// Messages that the mesh may have to say in one step at most.
const MOST_MESSAGES: usize = 4096;

fn control(input: &[u8]) {
    let mut input = Input::new(input);
    let mut now = start();
    let mut mesh = Mesh::new(config(1), Vec::new(), now);
    for number in [2, 3] {
        mesh.handle_connected(ConnectionId(number.into()), introduced(number), now);
    }
    drain(&mut mesh);
    while !input.is_empty() {
        let [from, time] = input.array();
        let connection = ConnectionId(u64::from(2 + from % 2));
        now += pause(time);
        match ControlMessage::decode(input.piece()) {
            Ok(message) => {
                let again = ControlMessage::decode(&message.encode()).expect("what was decoded is well-formed");
                assert_eq!(again, message);
                // The connection is closed by that.
                let _ = mesh.handle_message(connection, message, now);
            }
            Err(error) => mesh.handle_protocol_error(connection, &error, now),
        }
        drain(&mut mesh);
        settle(&mut mesh, now);
    }
}

fn settle(mesh: &mut Mesh, now: Instant) {
    mesh.handle_timeout(now);
    drain(mesh);
}

fn drain(mesh: &mut Mesh) {
    let mut said = 0;
    while let Some(transmit) = mesh.poll_transmit() {
        let encoded = transmit.message.encode();
        let decoded = ControlMessage::decode(&encoded).expect("what is sent is well-formed");
        assert_eq!(decoded, transmit.message);
        mesh.handle_transmitted(transmit.connection, start());
        said += 1;
        assert!(said < MOST_MESSAGES, "the mesh never stops talking");
    }
    while mesh.poll_event().is_some() {}
}

fn config(number: u8) -> MeshConfig {
    MeshConfig {
        local: peer(number),
        name: format!("peer{number}"),
        nickname: String::new(),
        version: String::new(),
        instance: u64::from(number),
        generation: 1,
        listen_port: 6783,
        address_range: "10.32.0.0/12".parse().expect("a range"),
        discovery: true,
        connection_limit: 20,
        known_channels: BTreeSet::new(),
        password_marks: Vec::new(),
        revocations: Vec::new(),
        told: None,
        known_peers: BTreeSet::new(),
        trusted_subnets: Vec::new(),
        seed: 7,
        timing: Timing::default(),
    }
}

fn introduced(number: u8) -> Introduced {
    Introduced {
        peer: peer(number),
        introduction: introduction(number),
        local_random: u64::from(number),
        remote: ([192, 0, 2, number], 6783).into(),
        dial: None,
        password: None,
    }
}

/// Returns what a peer says about itself.
pub(crate) fn introduction(number: u8) -> Introduction {
    Introduction {
        protocol_min: PROTOCOL_VERSIONS.0.into(),
        protocol_max: PROTOCOL_VERSIONS.1.into(),
        name: format!("peer{number}"),
        nickname: String::new(),
        instance: u64::from(number),
        connection: 1,
        address_range: "10.32.0.0/12".parse().expect("a range"),
        ring_id: None,
        data_port: 6783,
        listen_port: 6783,
        observed: None,
        trusted_subnets: Vec::new(),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let said = |messages: &[ControlMessage]| {
        messages.iter().flat_map(|message| [vec![0, 1], piece(&message.encode())].concat()).collect::<Vec<u8>>()
    };
    let routed = |destination, body| {
        ControlMessage::Routed(Routed { source: peer(2), destination: peer(destination), hops_left: 16, body })
    };
    let channel = RoutedBody::Channel { channel: "ring".to_owned(), payload: b"payload".as_slice().into() };
    let mut seeds: Vec<Vec<u8>> =
        gossip::deltas().into_iter().map(|delta| said(&[ControlMessage::Delta(delta)])).collect();
    // What a mesh of the same kind says by itself.
    let mut other = Mesh::new(config(2), Vec::new(), start());
    other.handle_connected(ConnectionId(2), introduced(1), start());
    settle(&mut other, start() + pause(1));
    let spoken: Vec<ControlMessage> = std::iter::from_fn(|| other.poll_transmit()).map(|said| said.message).collect();
    seeds.extend([
        said(&spoken),
        said(&[ControlMessage::Heartbeat { token: 7, echo: false }, ControlMessage::Digest([7; 32])]),
        said(&[routed(1, channel.clone()), routed(3, channel)]),
        said(&[ControlMessage::Goodbye(Goodbye { reason: GoodbyeReason::Stopping, message: "bye".to_owned() })]),
        said(&[ControlMessage::Datagram(vec![0x11; 40].into()), ControlMessage::Unknown]),
    ]);
    seeds
}
