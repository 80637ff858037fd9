use std::collections::BTreeMap;

use super::*;

mod network;
mod properties;

use network::{SECOND, Way, World, endpoint, relay};

fn up(world: &World) -> Option<Via> {
    world.paths.choice().map(|choice| choice.via)
}

fn why(world: &World, via: Via) -> String {
    let found = world.paths.candidates().find(|candidate| candidate.via == via).expect("it is a way");
    found.unused.map_or("in use".to_owned(), |(unused, _)| unused.to_string())
}

#[test]
fn the_way_that_answers_is_used_and_probed_sparingly() {
    let mut world = World::new(&[(endpoint(2), Way::millis(1))]);
    world.paths.set_endpoints(&[address(1), address(2)], world.now);
    world.run(SECOND);
    assert_eq!(world.events, [PathEvent::Up { via: endpoint(2), round_trip: Duration::from_millis(1) }]);
    assert_eq!(why(&world, endpoint(1)), "no answer to UDP probes");
    world.run(20 * SECOND);
    (world.probes, world.events) = (0, Vec::new());
    world.run(60 * SECOND);
    assert_eq!(world.events, []);
    assert!(world.probes <= 75, "{} probes in a minute", world.probes);
}

#[test]
fn many_endpoints_that_never_answer_are_asked_seldom() {
    let mut world = World::new(&[(endpoint(1), Way::millis(1))]);
    let all: Vec<SocketAddr> = (1..100).map(address).collect();
    world.paths.set_endpoints(&all, world.now);
    world.run(30 * SECOND);
    assert_eq!(world.paths.candidates().count(), ENDPOINTS);
    world.probes = 0;
    world.run(60 * SECOND);
    assert!(world.probes <= 60 + 65, "{} probes in a minute", world.probes);
}

#[test]
fn nobody_answering_is_reported_once() {
    let mut world = World::new(&[]);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.run(60 * SECOND);
    assert_eq!(world.events, [PathEvent::Down { via: Some(endpoint(1)) }]);
    world.set(endpoint(1), Way::millis(1));
    world.run(2 * SECOND);
    assert_eq!(up(&world), Some(endpoint(1)));
}

#[test]
fn a_way_that_dies_is_replaced_and_comes_back_within_ten_seconds() {
    for busy in [false, true] {
        for outage in [1, 7, 20, 100] {
            let mut world = World::new(&[(endpoint(1), Way::millis(2)), (relay(7), Way::millis(9))]);
            world.paths.set_busy(busy);
            world.paths.set_endpoints(&[address(1)], world.now);
            world.paths.set_relays(&[(peer(7), 2)], world.now);
            world.run(30 * SECOND);
            assert_eq!(up(&world), Some(endpoint(1)));
            assert_eq!(why(&world, relay(7)), "slower: 9.0 ms instead of 2.0 ms");
            for _ in 0..4 {
                let cut = world.now;
                world.remove(endpoint(1));
                assert!(world.run_until(3 * SECOND, |world| up(world) == Some(relay(7))), "replaced within 3 s");
                assert!(!world.events.iter().any(|event| matches!(event, PathEvent::Down { .. })));
                world.run((outage * SECOND).saturating_sub(world.now - cut));
                world.set(endpoint(1), Way::millis(2));
                assert!(world.run_until(10 * SECOND, |world| up(world) == Some(endpoint(1))), "back within 10 s");
                world.run(2 * SECOND);
            }
        }
    }
}

#[test]
fn what_has_died_at_the_same_time_does_not_take_over() {
    let ways = [(endpoint(1), Way::millis(2)), (relay(7), Way::millis(9)), (relay(8), Way::millis(90))];
    for busy in [false, true] {
        for wait in 0..10 {
            let mut world = World::new(&ways);
            world.paths.set_busy(busy);
            world.paths.set_endpoints(&[address(1)], world.now);
            world.paths.set_relays(&[(peer(7), 2), (peer(8), 2)], world.now);
            world.run(30 * SECOND + wait * SECOND / 9);
            world.remove(endpoint(1));
            world.remove(relay(7));
            assert!(world.run_until(3 * SECOND, |world| up(world) != Some(endpoint(1))));
            assert_eq!(up(&world), Some(relay(8)));
        }
    }
}

#[test]
fn without_another_way_the_end_is_noticed_within_three_seconds() {
    for busy in [false, true] {
        for wait in 0..10 {
            let mut world = World::new(&[(Via::Stream, Way::millis(2))]);
            world.paths.set_busy(busy);
            world.paths.set_stream(true, world.now);
            world.run(10 * SECOND + wait * SECOND / 9);
            world.remove(Via::Stream);
            assert!(world.run_until(3 * SECOND, |world| up(world).is_none()));
            assert_eq!(world.events.last(), Some(&PathEvent::Down { via: Some(Via::Stream) }));
        }
    }
}

#[test]
fn a_way_that_flaps_waits_longer_each_time() {
    let mut world = World::new(&[(endpoint(1), Way::millis(2)), (relay(7), Way::millis(30))]);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.paths.set_relays(&[(peer(7), 2)], world.now);
    world.run(20 * SECOND);
    let mut changes = Vec::new();
    for _ in 0..8 {
        let before = world.events.len();
        world.remove(endpoint(1));
        world.run(4 * SECOND);
        world.set(endpoint(1), Way::millis(2));
        world.run(5 * SECOND);
        changes.push(world.events[before..].iter().filter(|event| matches!(event, PathEvent::Up { .. })).count());
    }
    assert_eq!(changes[..2], [2, 2]);
    assert_eq!(changes[5..], [0, 0, 0], "it is not trusted any more: {changes:?}");
    assert_eq!(up(&world), Some(relay(7)));
    assert_eq!(why(&world, endpoint(1)), "was lost 7 times in the last minute");
}

#[test]
fn a_better_way_takes_over_only_when_it_is_better_by_the_margin() {
    let mut world = World::new(&[(endpoint(1), Way::millis(20)), (endpoint(2), Way::millis(17))]);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.run(SECOND);
    world.paths.set_endpoints(&[address(1), address(2)], world.now);
    world.run(30 * SECOND);
    assert_eq!(up(&world), Some(endpoint(1)));
    assert_eq!(why(&world, endpoint(2)), "not better by enough to be worth a change");
    world.set(endpoint(2), Way::millis(12));
    assert!(world.run_until(8 * SECOND, |world| up(world) == Some(endpoint(2))));
    assert_eq!(why(&world, endpoint(1)), "slower: 20 ms instead of 12 ms");
}

#[test]
fn data_that_gets_lost_moves_within_five_seconds_though_probes_pass() {
    for percent in [6, 12, 60] {
        let mut world = World::new(&[(endpoint(1), Way::millis(2)), (relay(7), Way::millis(40))]);
        world.paths.set_busy(true);
        world.paths.set_endpoints(&[address(1)], world.now);
        world.paths.set_relays(&[(peer(7), 3)], world.now);
        world.rate = 200;
        world.run(20 * SECOND);
        assert_eq!(up(&world), Some(endpoint(1)));
        world.set(endpoint(1), Way { data_loss: percent, ..Way::millis(2) });
        assert!(world.run_until(5 * SECOND, |world| up(world) == Some(relay(7))), "{percent} %");
        assert!(why(&world, endpoint(1)).starts_with("loses "), "{}", why(&world, endpoint(1)));
        world.set(endpoint(1), Way::millis(2));
        assert!(world.run_until(10 * SECOND, |world| up(world) == Some(endpoint(1))), "{percent} %");
    }
}

#[test]
fn probes_that_get_lost_move_an_idle_peer_and_a_trial_brings_it_back() {
    let mut world = World::new(&[(endpoint(1), Way::millis(2)), (relay(7), Way::millis(40))]);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.paths.set_relays(&[(peer(7), 3)], world.now);
    world.run(20 * SECOND);
    world.set(endpoint(1), Way { every: 4, ..Way::millis(2) });
    assert!(world.run_until(5 * SECOND, |world| up(world) == Some(relay(7))));
    world.run(30 * SECOND);
    assert_eq!(up(&world), Some(relay(7)), "it still loses every fourth");
    world.set(endpoint(1), Way::millis(2));
    assert!(world.run_until(10 * SECOND, |world| up(world) == Some(endpoint(1))));
}

#[test]
fn a_way_that_loses_much_is_used_where_there_is_no_other() {
    let mut world = World::new(&[(endpoint(1), Way { every: 3, ..Way::millis(2) })]);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.run(60 * SECOND);
    assert_eq!(up(&world), Some(endpoint(1)));
    assert_eq!(world.events.len(), 1, "{:?}", world.events);
}

#[test]
fn the_largest_datagram_is_found_watched_and_cut_to_what_passes() {
    let mut world = World::new(&[(endpoint(1), Way { largest: 1300, ..Way::millis(2) })]);
    world.paths.set_wanted(1451);
    world.paths.set_busy(true);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.run(Duration::from_millis(50));
    let first = world.paths.choice().expect("up");
    assert_eq!((first.largest, first.proven), (BASE_SIZE, false), "what every way carries is used at once");
    world.run(6 * SECOND);
    let found = world.paths.choice().expect("up");
    assert_eq!((found.largest, found.proven, found.batched), (1296, true, true));
    world.set(endpoint(1), Way { largest: 1200, ..Way::millis(2) });
    assert!(world.run_until(5 * SECOND, |world| world.paths.choice().is_some_and(|choice| choice.largest <= 1200)));
    assert!(world.changes > 0);
    world.run(6 * SECOND);
    assert_eq!(world.paths.choice().map(|choice| (choice.largest, choice.proven)), Some((1200, true)));
    world.set(endpoint(1), Way::millis(2));
    world.run(70 * SECOND);
    assert_eq!(world.paths.choice().map(|choice| choice.largest), Some(1451));
    world.paths.handle_refused(endpoint(1), 1400);
    assert_eq!(world.paths.choice().map(|choice| (choice.largest, choice.proven)), Some((BASE_SIZE, false)));
}

#[test]
fn batches_that_break_are_given_up_and_tried_again() {
    let mut world = World::new(&[(endpoint(1), Way::millis(2))]);
    world.paths.set_busy(true);
    world.paths.set_endpoints(&[address(1)], world.now);
    let batched = |world: &World| world.paths.choice().is_some_and(|choice| choice.batched);
    assert!(world.run_until(SECOND, batched));
    world.set(endpoint(1), Way { batches: false, ..Way::millis(2) });
    assert!(world.run_until(5 * SECOND, |world| !batched(world)));
    world.run(2 * SECOND);
    world.set(endpoint(1), Way::millis(2));
    world.run(50 * SECOND);
    assert!(!batched(&world));
    assert!(world.run_until(15 * SECOND, batched));
    world.paths.handle_batch_refused(endpoint(1), world.now);
    assert!(!batched(&world));
}

#[test]
fn batches_that_a_way_suddenly_breaks_cost_a_second_of_data_at_most() {
    for wait in 0..10 {
        let mut world = World::new(&[(relay(7), Way::millis(150))]);
        world.paths.set_busy(true);
        world.rate = 200;
        world.paths.set_relays(&[(peer(7), 2)], world.now);
        world.run(20 * SECOND + wait * SECOND / 9);
        assert!(world.paths.choice().is_some_and(|choice| choice.batched));
        world.set(relay(7), Way { batches: false, ..Way::millis(150) });
        assert!(world.run_until(SECOND, |world| world.paths.choice().is_some_and(|choice| !choice.batched)));
        world.run(30 * SECOND);
        assert_eq!(world.paths.choice().map(|choice| choice.batched), Some(false));
    }
}

#[test]
fn questions_that_got_lost_before_a_way_came_back_say_nothing_about_it() {
    for outage in 0..10 {
        let mut world = World::new(&[(endpoint(1), Way::millis(600))]);
        world.paths.set_endpoints(&[address(1)], world.now);
        world.run(5 * SECOND);
        world.remove(endpoint(1));
        world.run(5 * SECOND + outage * SECOND / 13);
        assert_eq!(up(&world), None);
        world.set(endpoint(1), Way::millis(600));
        assert!(world.run_until(2 * SECOND, |world| up(world).is_some()));
        world.run(SECOND);
        assert_eq!(world.paths.candidates().map(|candidate| candidate.loss).max(), Some(0));
    }
}

#[test]
fn searching_for_what_passes_is_no_loss() {
    for rate in [2, 10, 40] {
        let narrow = Way { largest: 1300, batches: false, ..Way::millis(2) };
        let mut world = World::new(&[(endpoint(1), narrow), (Via::Stream, Way::millis(2))]);
        world.paths.set_wanted(1451);
        world.paths.set_endpoints(&[address(1)], world.now);
        world.paths.set_stream(true, world.now);
        world.paths.set_busy(true);
        world.rate = rate;
        world.run(20 * SECOND);
        assert_eq!(up(&world), Some(endpoint(1)));
        let (probes, events) = (world.probes, world.events.len());
        world.run(200 * SECOND);
        assert_eq!(world.events.len(), events, "{rate} a second: {:?}", world.events);
        assert!(world.probes - probes > 600 + 3 * 3 * 3, "it was searched again");
    }
}

/// Has the way in use lose nearly all data within half a second after a standstill, in which nothing was asked.
fn lose_after_standstill(world: &mut World, standstill: Duration) {
    world.now += standstill;
    let received = world.received[&endpoint(1)];
    for (sent, received) in [(0, received + 1), (1000, received + 2)] {
        world.now += SECOND / 2;
        world.paths.handle_sent(endpoint(1), sent);
        while let Some(probe) = world.paths.poll_probe(world.now) {
            if probe.via == endpoint(1) {
                world.paths.handle_answer(probe.token, received, world.now);
            }
        }
    }
}

#[test]
fn a_way_that_was_not_heard_of_for_long_takes_over_only_when_it_answers() {
    for (standstill, taken) in [(SECOND, relay(7)), (20 * SECOND, endpoint(1))] {
        let mut world = World::new(&[(endpoint(1), Way::millis(2)), (relay(7), Way::millis(40))]);
        world.paths.set_busy(true);
        world.paths.set_endpoints(&[address(1)], world.now);
        world.paths.set_relays(&[(peer(7), 2)], world.now);
        world.run(20 * SECOND);
        lose_after_standstill(&mut world, standstill);
        assert_eq!(up(&world), Some(taken), "after {standstill:?}");
        world.run(SECOND);
        assert_eq!(up(&world), Some(relay(7)), "it answers");
    }
}

#[test]
fn a_relay_that_no_route_offers_any_more_serves_until_another_answers() {
    let mut world = World::new(&[(relay(7), Way::millis(5)), (relay(8), Way::millis(50))]);
    world.paths.set_relays(&[(peer(7), 2)], world.now);
    world.run(SECOND);
    world.paths.set_relays(&[], world.now);
    assert_eq!(up(&world), Some(relay(7)));
    world.paths.set_relays(&[(peer(8), 3)], world.now);
    assert_eq!(up(&world), Some(relay(7)), "make before break");
    world.run(SECOND);
    assert_eq!(up(&world), Some(relay(8)));
    assert_eq!(world.paths.candidates().count(), 1);
}

#[test]
fn the_stream_is_the_last_resort_and_a_link() {
    let mut world = World::new(&[(Via::Stream, Way::millis(2)), (relay(7), Way::millis(6))]);
    world.paths.set_stream(true, world.now);
    world.run(SECOND);
    let choice = world.paths.choice().expect("up");
    assert_eq!((choice.via, choice.proven), (Via::Stream, true));
    world.paths.set_relays(&[(peer(7), 2)], world.now);
    world.run(4 * SECOND);
    assert_eq!(up(&world), Some(relay(7)));
    assert_eq!(why(&world, Via::Stream), "inside a TCP connection, which slows datagrams down");
    assert_eq!(world.paths.link_choice().map(|choice| choice.via), Some(Via::Stream));
    assert_eq!(world.paths.link(), Some(Link { direct: false, stream: true, cost: 320 }));
    world.set(endpoint(1), Way::millis(2));
    world.paths.set_endpoints(&[address(1)], world.now);
    world.run(4 * SECOND);
    assert_eq!(world.paths.link(), Some(Link { direct: true, stream: true, cost: 20 }));
    world.paths.set_stream(false, world.now);
    assert_eq!(world.paths.link().map(|link| link.stream), Some(false));
}

#[test]
fn a_peer_that_moves_is_followed_at_its_first_frame() {
    let mut world = World::new(&[(endpoint(1), Way::millis(1))]);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.run(SECOND);
    world.paths.handle_source(endpoint(9), false, world.now);
    assert_eq!(up(&world), Some(endpoint(1)), "an old or empty datagram moves nobody");
    world.paths.handle_source(endpoint(8), true, world.now);
    assert_eq!(up(&world), Some(endpoint(8)));
    world.ways = BTreeMap::from([(endpoint(8), Way::millis(1))]);
    world.run(10 * SECOND);
    assert_eq!(up(&world), Some(endpoint(8)));
}

#[test]
fn a_datagram_that_comes_directly_shows_a_way_but_moves_nobody_off_a_relay() {
    let mut world = World::new(&[(relay(7), Way::millis(9)), (endpoint(3), Way::millis(1))]);
    world.paths.set_relays(&[(peer(7), 2)], world.now);
    world.run(SECOND);
    world.paths.handle_source(endpoint(3), true, world.now);
    assert_eq!(up(&world), Some(relay(7)));
    world.run(3 * SECOND);
    assert_eq!(up(&world), Some(endpoint(3)), "it answers, and is better");
}

#[test]
fn a_path_without_keys_is_down_and_comes_back() {
    let mut world = World::new(&[(endpoint(1), Way::millis(1))]);
    world.paths.set_endpoints(&[address(1)], world.now);
    world.run(2 * SECOND);
    assert_eq!(up(&world), Some(endpoint(1)));
    world.paths.handle_keys_lost(world.now);
    assert_eq!(up(&world), None);
    world.paths.restart(world.now);
    world.run(SECOND);
    assert_eq!(world.events.len(), 3, "{:?}", world.events);
    assert_eq!(up(&world), Some(endpoint(1)));
}

#[test]
fn an_answer_counts_for_the_way_that_was_asked_and_once() {
    let mut world = World::new(&[]);
    world.paths.set_endpoints(&[address(1)], world.now);
    let old = world.paths.poll_probe(world.now).expect("due at once");
    world.paths.set_endpoints(&[address(2)], world.now);
    world.paths.set_endpoints(&[address(1), address(2)], world.now);
    world.paths.handle_answer(old.token, 0, world.now);
    assert_eq!(up(&world), None, "the way of then is gone");
    let next = world.paths.poll_probe(world.now).expect("due at once");
    let mut forged = next.token;
    forged[15] = 1;
    world.paths.handle_answer(forged, 0, world.now);
    assert_eq!(up(&world), None);
    world.paths.handle_answer(next.token, 0, world.now);
    assert_eq!(up(&world), Some(next.via));
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 6783))
}

fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}
