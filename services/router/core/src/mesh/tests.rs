mod absurd;
mod lab;
mod revocation;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{
    message::{Routed, RoutedBody},
    *,
};
use crate::{
    gossip::{Delta, DeltaEntry, Entry, Position, limits},
    handshake::PasswordMark,
};
use lab::{Lab, address, config, peer};

#[test]
fn what_cannot_be_together_is_refused_with_one_sentence_on_both_sides() {
    let ring = |number| Some([number; 16]);
    type Change = fn(&mut MeshConfig);
    let other_range: Change = |config| config.address_range = "10.64.0.0/12".parse().expect("a range");
    let same_key: Change = |config| config.local = peer(0);
    let same_instance: Change = |config| (config.local, config.instance) = (peer(0), 100);
    let same_name: Change = |config| config.name = "peer0".to_owned();
    let cases = [
        ("range", other_range, [None; 2], GoodbyeReason::AddressRange),
        ("name", same_name, [None; 2], GoodbyeReason::SameName),
        ("key", same_key, [None; 2], GoodbyeReason::SameKey),
        ("ring", |_| (), [ring(1), ring(2)], GoodbyeReason::RingId),
        ("self", same_instance, [None; 2], GoodbyeReason::SelfConnection),
    ];
    for (case, change, rings, reason) in cases {
        let mut other = config(1);
        change(&mut other);
        let mut lab = Lab::new([config(0), other]);
        for (host, ring) in lab.hosts.iter_mut().zip(rings) {
            host.set_ring_id(ring, lab.now);
        }
        lab.connect(0, 1);
        assert_eq!(lab.reasons(), [reason; 2], "{case}");
        for host in 0..2 {
            assert!(lab.connections(host).is_empty(), "{case}");
            assert!(!lab.closed[host].3.is_empty(), "{case}");
            let refusals = lab.hosts[host].refusals(lab.now);
            let expected = usize::from(reason != GoodbyeReason::SelfConnection);
            assert_eq!(refusals.len(), expected, "{case}: {refusals:?}");
        }
    }
}

#[test]
fn rings_that_are_equal_or_not_there_yet_do_not_part_peers() {
    for rings in [[None, None], [Some([1; 16]), None], [Some([1; 16]), Some([1; 16])]] {
        let mut lab = Lab::new((0..2).map(config));
        for (host, ring) in lab.hosts.iter_mut().zip(rings) {
            host.set_ring_id(ring, lab.now);
        }
        lab.connect(0, 1);
        assert_eq!((lab.connections(0).len(), lab.connections(1).len()), (1, 1));
    }
}

#[test]
fn rings_that_turn_out_to_differ_part_peers_that_are_connected_already() {
    let ring = |number| Some([number; 16]);
    // Who has a ring when they meet, and who gets one later.
    for (first, late) in [([None, None], [0, 1]), ([ring(1), None], [1, 1]), ([None, ring(2)], [0, 0])] {
        let mut lab = Lab::new((0..2).map(config));
        for (host, ring) in lab.hosts.iter_mut().zip(first) {
            host.set_ring_id(ring, lab.now);
        }
        lab.connect(0, 1);
        lab.pass(Duration::from_secs(1));
        for host in late {
            lab.hosts[host].set_ring_id(ring(host as u8 + 1), lab.now);
            lab.settle();
        }
        assert!(lab.connections(0).is_empty() && lab.connections(1).is_empty(), "{first:?}");
        assert!(lab.reasons().contains(&GoodbyeReason::RingId), "{first:?}");
        for host in 0..2 {
            let refusals = lab.hosts[host].refusals(lab.now);
            let [refusal] = refusals.as_slice() else { panic!("{first:?}: one problem: {refusals:?}") };
            let message = &refusal.problem.message;
            assert!(refusal.problem.is_final && message.contains("peer0") && message.contains("peer1"), "{message}");
        }
    }
}

#[test]
fn a_peer_that_left_its_ring_with_a_restart_is_not_taken_for_the_one_before() {
    let again = MeshConfig { instance: 999, generation: 2, ..config(1) };
    let mut lab = Lab::new([config(0), config(1), again, config(3)]);
    lab.hosts[1].set_ring_id(Some([2; 16]), lab.now);
    let first = lab.connect(3, 1);
    lab.pass(Duration::from_secs(1));
    lab.disconnect(first, 3);
    lab.hosts[0].set_ring_id(Some([1; 16]), lab.now);
    // Gossip tells the first of the ring that the second had; the second has none any more.
    lab.connect(0, 2);
    lab.connect(0, 3);
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.reasons(), []);
    assert_eq!(lab.hosts[0].problems(), []);
    assert_eq!(lab.connections(0).len(), 2);
}

#[test]
fn rings_that_differ_beyond_another_peer_are_a_problem_that_names_both() {
    let mut lab = Lab::new((0..3).map(config));
    lab.connect(0, 1);
    lab.connect(1, 2);
    for (host, ring) in [(0, 7), (2, 9)] {
        lab.hosts[host].set_ring_id(Some([ring; 16]), lab.now);
    }
    lab.pass(Duration::from_secs(1));
    for host in [0, 2] {
        let problems = lab.hosts[host].problems();
        let [problem] = problems.as_slice() else { panic!("one problem: {problems:?}") };
        assert_eq!(problem.reason, "ring_id");
        for part in ["peer0", "peer2", "07070707", "09090909"] {
            assert!(problem.message.contains(part), "{part}: {}", problem.message);
        }
    }
    assert_eq!(lab.hosts[1].problems(), []);
}

#[test]
fn a_name_that_two_hosts_have_is_a_problem_wherever_gossip_reveals_it() {
    let named = |number, name: &str| MeshConfig { name: name.to_owned(), ..config(number) };
    let mut lab = Lab::new([named(0, "twin"), config(1), config(2), named(3, "twin")]);
    lab.connect(0, 1);
    lab.connect(2, 3);
    let bridge = lab.connect(1, 2);
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.reasons(), [], "nobody with that name meets another");
    for host in &lab.hosts {
        let problems = host.problems();
        let [problem] = problems.as_slice() else { panic!("one problem: {problems:?}") };
        assert_eq!(problem.reason, "same_name");
        for part in ["twin", "host0", "host3", "WEFT_NAME"] {
            assert!(problem.message.contains(part), "{part}: {}", problem.message);
        }
    }
    lab.disconnect(bridge, 1);
    lab.hosts[1].handle_disconnected(bridge, None, lab.now);
    lab.pass(Duration::from_secs(1));
    assert!(
        lab.hosts[0].problems().iter().all(|problem| problem.reason == "peer_unreachable"),
        "a lost peer's name is free"
    );
}

#[test]
fn peers_beyond_what_there_is_room_for_are_left_out_and_cost_no_connection() {
    let mut lab = Lab::new((0..2).map(config));
    let connection = lab.connect(0, 1);
    let origin = |number: usize| {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        PeerName::from_public_key(key)
    };
    let delta = |number: usize| Delta {
        origin: origin(number),
        at: Position { generation: 1 << 16, version: 1 },
        base_version: 0,
        complete: true,
        entries: Vec::new(),
        part: 0,
        parts: 1,
    };
    for number in 0..limits::ORIGINS + 5 {
        lab.hosts[0].handle_message(connection, ControlMessage::Delta(delta(number)), lab.now).expect("no breach");
    }
    lab.pass(Duration::from_secs(20));
    assert_eq!((lab.connections(0).len(), lab.connections(1).len()), (1, 1));
    let problems = lab.hosts[0].problems();
    let problem = problems.iter().find(|problem| problem.reason == "gossip_limit").expect("it is said");
    assert!(problem.message.contains("1024 hosts") && problem.message.contains(" and 4 more"), "{}", problem.message);
    lab.publish(1, "a", Some("1"));
    lab.pass(Duration::from_secs(1));
    assert_eq!(lab.sees(0, 1).len(), 1, "who is known goes on");
}

#[test]
fn another_protocol_version_is_refused() {
    let mut lab = Lab::new((0..2).map(config));
    let mut introduction = lab.hosts[1].introduction(1, address(0));
    (introduction.protocol_min, introduction.protocol_max) = (900, 901);
    let introduced =
        Introduced { peer: peer(1), introduction, local_random: 2, remote: address(1), dial: None, password: None };
    lab.hosts[0].handle_connected(ConnectionId(1), introduced, lab.now);
    lab.settle();
    assert_eq!(lab.reasons(), [GoodbyeReason::ProtocolVersion]);
}

#[test]
fn a_name_that_a_reachable_peer_has_is_refused_and_a_lost_peers_name_is_free() {
    let named = |number, name: &str| MeshConfig { name: name.to_owned(), ..config(number) };
    let mut lab = Lab::new([config(0), config(1), named(2, "peer1")]);
    let first = lab.connect(0, 1);
    lab.connect(0, 2);
    assert_eq!(lab.reasons(), [GoodbyeReason::SameName]);
    let (_, host, _, sentence) = &lab.closed[0];
    assert!(*host == 0 && sentence.contains("host1") && sentence.contains("host2"), "{sentence}");
    lab.cut.insert(first);
    lab.pass(Duration::from_secs(4));
    lab.closed.clear();
    lab.connect(0, 2);
    assert_eq!((lab.reasons(), lab.connections(0).len()), (vec![], 1));
}

#[test]
fn beyond_the_limit_further_peers_are_refused() {
    let mut lab = Lab::new([MeshConfig { connection_limit: 1, ..config(0) }, config(1), config(2)]);
    lab.connect(0, 1);
    lab.connect(2, 0);
    assert_eq!((lab.reasons(), lab.connections(0).len()), (vec![GoodbyeReason::ConnectionLimit], 1));
}

#[test]
fn without_discovery_only_what_the_operator_names_is_dialled() {
    for discovery in [true, false] {
        let mut lab = Lab::new([MeshConfig { discovery, ..config(0) }, config(1), config(2)]);
        lab.connect(0, 1);
        lab.connect(2, 1);
        lab.pass(Duration::from_secs(10));
        assert!(lab.hosts[0].is_reachable(peer(2)));
        let named = "192.0.2.77".parse().expect("an address");
        lab.hosts[0].add_targets(vec![named], false, lab.now);
        lab.settle();
        let dials = lab.events[0].iter().filter_map(|event| {
            let Event::Dial { address, expected, .. } = event else { return None };
            Some((address.to_string(), expected.is_some()))
        });
        let dials: BTreeSet<(String, bool)> = dials.collect();
        assert!(dials.contains(&("192.0.2.77:6783".to_owned(), false)));
        assert_eq!(dials.iter().any(|(_, discovered)| *discovered), discovery, "{dials:?}");
    }
}

#[test]
fn of_dials_that_cross_one_connection_stays_at_both_ends() {
    for (first, second) in [(5, 9), (9, 5)] {
        let mut lab = Lab::new((0..2).map(config));
        let connections = [lab.open(0, 1, first), lab.open(1, 0, second)];
        lab.settle();
        let expected = [if first < second { connections[0] } else { connections[1] }];
        assert_eq!((lab.connections(0), lab.connections(1)), (expected.to_vec(), expected.to_vec()));
        let lost = |events: &[Event]| events.iter().any(|event| matches!(event, Event::PeerDisconnected { .. }));
        assert!(!lost(&lab.events[0]) && !lost(&lab.events[1]), "the peers stay together");
    }
}

#[test]
fn a_second_host_with_the_same_key_is_refused_while_the_first_lives() {
    let copy = MeshConfig { local: peer(1), name: "copy".to_owned(), nickname: "copy".to_owned(), ..config(2) };
    let mut lab = Lab::new([config(0), config(1), copy]);
    let first = lab.connect(0, 1);
    lab.connect(0, 2);
    lab.pass(Duration::from_secs(5));
    assert_eq!(lab.connections(0), [first]);
    assert_eq!(lab.reasons(), [GoodbyeReason::SameKey]);
    let refusals = lab.hosts[0].refusals(lab.now);
    assert!(refusals[0].problem.message.contains("host1 and copy"), "{refusals:?}");
    assert_eq!(lab.hosts[2].refusals(lab.now).len(), 1, "the copy knows too");
}

#[test]
fn a_restarted_peer_takes_the_place_of_its_dead_connection() {
    for closed in [true, false] {
        let restarted = MeshConfig { instance: 999, generation: 2, ..config(1) };
        let mut lab = Lab::new([config(0), config(1), restarted]);
        let first = lab.connect(0, 1);
        lab.cut.insert(first);
        let second = lab.connect(2, 0);
        assert_eq!(lab.connections(0), [first], "the first may live");
        if closed {
            lab.hosts[0].handle_disconnected(first, None, lab.now);
            lab.settle();
        } else {
            lab.pass(Duration::from_secs(3));
        }
        assert_eq!(lab.connections(0), [second], "{closed}");
        lab.pass(Duration::from_millis(500));
        assert_eq!(lab.connections(2), [second], "{closed}");
    }
}

#[test]
fn a_silent_connection_is_dead_after_three_seconds() {
    let mut lab = Lab::new((0..2).map(config));
    let connection = lab.connect(0, 1);
    lab.pass(Duration::from_secs(30));
    assert_eq!(lab.connections(0), [connection], "heartbeats keep it alive");
    lab.cut.insert(connection);
    lab.pass(Duration::from_millis(1900));
    assert!(lab.hosts[0].is_reachable(peer(1)), "a heartbeat may be lost");
    lab.pass(Duration::from_millis(1100));
    assert!(lab.connections(0).is_empty() && !lab.hosts[0].is_reachable(peer(1)));
    assert_eq!(lab.hosts[0].peers().len(), 2, "suspended, not gone");
    assert_eq!(lab.hosts[0].problems().len(), 1);
}

#[test]
fn what_breaks_the_protocol_costs_its_connection_alone() {
    let mut lab = Lab::new((0..3).map(config));
    let (bad, good) = (lab.connect(0, 1), lab.connect(0, 2));
    let delta = Delta {
        origin: peer(1),
        at: Position { generation: 1, version: 1 },
        base_version: 0,
        complete: true,
        entries: Vec::new(),
        part: 1,
        parts: 2,
    };
    assert!(lab.hosts[0].handle_message(bad, ControlMessage::Delta(delta), lab.now).is_err());
    lab.settle();
    assert_eq!((lab.reasons(), lab.connections(0)), (vec![GoodbyeReason::ProtocolError], vec![good]));
    assert!(lab.connections(1).is_empty());
}

#[test]
fn messages_cross_other_peers_and_end_where_no_way_is_left() {
    let mut lab = Lab::new((0..4).map(config));
    let cuts: Vec<ConnectionId> = (0..3).map(|host| lab.connect(host, host + 1)).collect();
    lab.pass(Duration::from_secs(1));
    let payload = Bytes::from_static(b"hello");
    lab.hosts[0].send("ring", peer(3), payload.clone(), lab.now).expect("a way over two others");
    lab.settle();
    let arrived = Event::IncomingMessage { channel: "ring".to_owned(), source: peer(0), payload: payload.clone() };
    assert!(lab.events[3].contains(&arrived));
    assert!(!lab.events[1].contains(&arrived) && !lab.events[2].contains(&arrived));
    lab.cut.insert(cuts[2]);
    lab.pass(Duration::from_secs(4));
    let refused = lab.hosts[0].send("ring", peer(3), payload.clone(), lab.now);
    assert_eq!(refused, Err(SendError::Unreachable { destination: peer(3) }));
    lab.hosts[0].send("ring", peer(0), payload, lab.now).expect("to ourselves");
    lab.settle();
    assert!(lab.events[0].contains(&arrived));
}

#[test]
fn a_message_that_took_all_its_hops_is_dropped() {
    let mut lab = Lab::new((0..3).map(config));
    let first = lab.connect(0, 1);
    lab.connect(1, 2);
    lab.pass(Duration::from_secs(1));
    for (hops_left, arrives) in [(0, false), (1, true)] {
        let body = RoutedBody::Channel { channel: "ring".to_owned(), payload: Bytes::new() };
        let routed = Routed { source: peer(0), destination: peer(2), hops_left, body };
        lab.hosts[1].handle_message(first, ControlMessage::Routed(routed), lab.now).expect("valid");
        lab.settle();
        let incoming = |event: &Event| matches!(event, Event::IncomingMessage { .. });
        assert_eq!(lab.events[2].iter().any(incoming), arrives, "{hops_left}");
    }
}

#[test]
fn a_connection_that_takes_nothing_costs_bounded_memory_and_gets_joined_news() {
    let mut lab = Lab::new((0..2).map(config));
    lab.connect(0, 1);
    let local = |lab: &mut Lab| std::iter::from_fn(|| lab.hosts[0].poll_transmit()).collect::<Vec<_>>();
    let large = |byte: u8| Entry { key: vec![byte].into(), value: Some(vec![byte; 64 * 1024].into()) };
    for round in 0..3 {
        let entries = (0..100).map(|key| large(key + round)).collect();
        lab.hosts[0].publish("names", true, entries, lab.now).expect("within limits");
    }
    let taken = local(&mut lab);
    let length: usize = taken.iter().map(|transmit| transmit.message.encode().len()).sum();
    assert!(length > MAX_IN_FLIGHT / 2 && length < MAX_IN_FLIGHT + message::MAX_MESSAGE_LENGTH, "{length}");
    assert!(local(&mut lab).is_empty(), "until something was written");
    let payload = Bytes::from_static(b"x");
    let sent = (0..1000).take_while(|_| lab.hosts[0].send("ring", peer(1), payload.clone(), lab.now).is_ok()).count();
    assert!(sent < 1000, "congestion shows");
    for transmit in &taken {
        lab.hosts[0].handle_transmitted(transmit.connection, lab.now);
        lab.carry(0, transmit);
    }
    lab.settle();
    assert_eq!(lab.sees(1, 0).len(), 100);
    assert_eq!(lab.sees(1, 0), lab.sees(0, 0));
}

#[test]
fn the_routers_own_channels_are_not_for_services() {
    let mut lab = Lab::new([config(0)]);
    for channel in [PEERS_CHANNEL, LINKS_CHANNEL, ATTACHMENTS_CHANNEL] {
        let refused = lab.hosts[0].publish(channel, true, Vec::new(), lab.now);
        assert_eq!(refused, Err(PublishError::Reserved { channel: channel.to_owned() }));
    }
}

#[test]
fn a_restarted_router_speaks_when_its_services_have_spoken() {
    for late in [false, true] {
        let known_channels = BTreeSet::from(["names".to_owned()]);
        let restarted = MeshConfig { instance: 999, generation: 2, known_channels, ..config(1) };
        let mut lab = Lab::new([config(0), config(1), restarted]);
        lab.publish(1, "a", Some("1"));
        lab.publish(1, "b", Some("1"));
        let first = lab.connect(0, 1);
        lab.pass(Duration::from_secs(1));
        lab.disconnect(first, 1);
        lab.connect(2, 0);
        lab.events[0].clear();
        lab.pass(Duration::from_secs(1));
        assert_eq!(lab.sees(0, 1).len(), 2, "as before the restart");
        if !late {
            let entry = Entry { key: "a".into(), value: Some("1".into()) };
            lab.hosts[2].publish("names", true, vec![entry], lab.now).expect("within limits");
            lab.pass(Duration::from_millis(100));
            assert_eq!(lab.sees(0, 1).len(), 1);
        }
        lab.pass(Duration::from_secs(3));
        assert_eq!(lab.sees(0, 1).len(), usize::from(!late));
        let changes: usize = lab.events[0]
            .iter()
            .filter_map(|event| {
                let Event::ChannelChanged { channel, entries, .. } = event else { return None };
                (channel == "names").then_some(entries.len())
            })
            .sum();
        assert_eq!(changes, if late { 2 } else { 1 }, "what was there again has never been gone");
    }
}

#[test]
fn a_channel_that_nobody_publishes_any_more_delays_one_start_only() {
    let known_channels = BTreeSet::from(["gone".to_owned(), "names".to_owned()]);
    let mut lab = Lab::new([MeshConfig { known_channels, ..config(0) }]);
    lab.publish(0, "a", Some("1"));
    lab.pass(Duration::from_millis(2900));
    assert!(!lab.events[0].iter().any(|event| matches!(event, Event::KnownChannelsChanged { .. })));
    lab.pass(Duration::from_millis(200));
    let kept = lab.events[0].iter().find_map(|event| {
        let Event::KnownChannelsChanged { channels } = event else { return None };
        Some(channels.clone())
    });
    assert_eq!(kept, Some(BTreeSet::from(["names".to_owned()])));
    // Whoever comes later is waited for at the next start again.
    lab.hosts[0].publish("gone", true, Vec::new(), lab.now).expect("within limits");
    lab.settle();
    assert!(matches!(lab.events[0].last(), Some(Event::KnownChannelsChanged { channels }) if channels.len() == 2));
}

#[test]
fn two_hosts_with_one_key_at_different_neighbours_do_not_shout_for_ever() {
    let copy = MeshConfig { local: peer(0), name: "copy".to_owned(), ..config(3) };
    let mut lab = Lab::new([config(0), config(1), config(2), copy]);
    lab.connect(0, 1);
    lab.connect(3, 2);
    lab.publish(0, "a", Some("1"));
    lab.publish(3, "a", Some("2"));
    lab.connect(1, 2);
    lab.pass(Duration::from_secs(60));
    let raised = |host: usize| {
        let raised = |event: &&Event| matches!(event, Event::GenerationRaised { .. });
        lab.events[host].iter().filter(raised).count()
    };
    let both = raised(0) + raised(3);
    assert!((2..=24).contains(&both), "{both} answers in a minute");
    let warned = |host: usize| lab.hosts[host].problems().iter().any(|problem| problem.reason == "same_key");
    assert!(warned(0) && warned(3), "both say what is wrong");
}
