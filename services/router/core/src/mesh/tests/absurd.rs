//! Gossip that is well-formed and makes no sense.

use super::*;

/// All that an origin has: one name.
fn forged(origin: usize, at: Position, value: &'static str) -> ControlMessage {
    let entry =
        DeltaEntry { channel: "names".to_owned(), key: "x".into(), version: at.version, value: Some(value.into()) };
    ControlMessage::Delta(Delta {
        origin: peer(origin),
        at,
        base_version: 0,
        complete: true,
        entries: vec![entry],
        part: 0,
        parts: 1,
    })
}

/// Returns the connection of two hosts.
fn between(lab: &Lab, from: usize, to: usize) -> ConnectionId {
    lab.pipes.iter().find(|(_, ends)| **ends == [from, to]).map(|(id, _)| *id).expect("joined")
}

fn full(count: usize) -> Lab {
    let mut lab = Lab::new((0..count).map(config));
    for from in 0..count {
        for to in from + 1..count {
            lab.connect(from, to);
        }
    }
    lab.pass(Duration::from_secs(1));
    lab
}

#[test]
fn a_million_entries_cost_the_connection_that_they_came_on() {
    let mut lab = full(3);
    let liar = between(&lab, 0, 1);
    let entry = |number: u32| DeltaEntry {
        channel: "names".to_owned(),
        key: Bytes::copy_from_slice(&number.to_be_bytes()),
        version: 1 << 20,
        value: Some(Bytes::new()),
    };
    for part in 0..100 {
        lab.inject(
            0,
            liar,
            ControlMessage::Delta(Delta {
                origin: peer(1),
                at: Position { generation: 1 << 20, version: 1 << 20 },
                base_version: 0,
                complete: true,
                entries: (part * 10_000..(part + 1) * 10_000).map(entry).collect(),
                part,
                parts: 100,
            }),
        );
    }
    assert_eq!(lab.reasons(), [GoodbyeReason::ProtocolError]);
    assert!(lab.closed[0].3.contains("exceeds 65536 entries or 16777216 bytes"), "{}", lab.closed[0].3);
    assert!(lab.sees(0, 1).is_empty());
    assert_eq!((lab.connections(0).len(), lab.connections(2).len()), (1, 2), "all others go on");
}

#[test]
fn nobody_speaks_in_the_name_of_a_peer_that_is_connected() {
    let mut lab = full(3);
    lab.publish(2, "x", Some("true"));
    lab.settle();
    let liar = between(&lab, 0, 1);
    let most = Position { generation: limits::NUMBER - 1, version: limits::NUMBER - 1 };
    for at in [Position { generation: 1 << 40, version: 7 }, most] {
        lab.inject(0, liar, forged(2, at, "false"));
        lab.inject(0, liar, forged(0, at, "false"));
        lab.pass(Duration::from_secs(12));
        assert_eq!(lab.sees(0, 2), [("x".into(), "true".into())]);
        assert!(lab.sees(0, 0).is_empty());
    }
    // Its own news pass as ever.
    lab.publish(2, "x", Some("newer"));
    lab.publish(0, "x", Some("ours"));
    lab.pass(Duration::from_secs(6));
    assert_eq!(lab.sees(0, 2), [("x".into(), "newer".into())]);
    assert_eq!(lab.sees(1, 0), [("x".into(), "ours".into())]);
}

#[test]
fn what_was_said_in_the_name_of_a_peer_beyond_all_counting_ends_when_it_connects() {
    let mut lab = Lab::new((0..3).map(config));
    let liar = lab.connect(0, 1);
    let most = Position { generation: limits::NUMBER - 1, version: limits::NUMBER - 1 };
    lab.inject(0, liar, forged(2, most, "false"));
    assert_eq!(lab.sees(0, 2), [("x".into(), "false".into())]);
    lab.publish(2, "x", Some("true"));
    lab.connect(0, 2);
    lab.pass(Duration::from_secs(12));
    assert_eq!(lab.sees(0, 2), [("x".into(), "true".into())]);
}

#[test]
fn links_that_one_peer_claims_with_everybody_lead_nowhere() {
    // 0 - 1 - 2, and 3 at 0.
    let mut lab = Lab::new((0..4).map(config));
    lab.connect(0, 1);
    lab.connect(1, 2);
    let liar = lab.connect(0, 3);
    lab.pass(Duration::from_secs(1));
    let link = |remote: usize| {
        let link = weft_proto::mesh::v1::Link { remote: Some(peer(remote).into()), ..Default::default() };
        let key = Bytes::copy_from_slice(peer(remote).as_bytes());
        let value = Some(prost::Message::encode_to_vec(&link).into());
        DeltaEntry { channel: LINKS_CHANNEL.to_owned(), key, version: 99, value }
    };
    let claims = ControlMessage::Delta(Delta {
        origin: peer(3),
        at: Position { generation: 1 << 30, version: 99 },
        base_version: 0,
        complete: true,
        entries: (0..200).map(link).collect(),
        part: 0,
        parts: 1,
    });
    lab.inject(0, liar, claims);
    assert_eq!(lab.hosts[0].next_hop(peer(2)), Some(peer(1)));
    assert_eq!(lab.hosts[0].reachable().len(), 4, "nobody is there because one says so");
}
