use super::*;

fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}

fn target(text: &str) -> Target {
    text.parse().expect("a target")
}

fn endpoint(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

fn problem(is_final: bool) -> Problem {
    Problem { reason: "test", message: "it does not work".to_owned(), is_final }
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    Instant::now()
}

/// The local peer is number 5.
fn dialler() -> Dialler {
    Dialler::new(peer(5), 6783, Timing::default(), 1)
}

/// Returns how long after `now` the next dial is due, in seconds.
fn pause(dialler: &Dialler, now: Instant) -> f64 {
    dialler.next_due().expect("a dial is due").saturating_duration_since(now).as_secs_f64()
}

#[test]
fn a_target_is_dialled_at_once_and_for_ever() {
    let (mut dialler, mut now) = (dialler(), start());
    assert!(dialler.add(target("host1"), now));
    let mut expected = 1.0_f64;
    for _ in 0..30 {
        let dial = dialler.poll(now).expect("due");
        assert_eq!(dial.address, DialAddress::Name { host: "host1".to_owned(), port: 6783 });
        assert_eq!((dialler.poll(now), dialler.next_due()), (None, None), "one try at a time");
        assert_eq!(dialler.views(now)[0].state, TargetState::Connecting);
        dialler.failed(dial.id, problem(false), now);
        let waits = pause(&dialler, now);
        assert!((0.5 * expected..1.5 * expected).contains(&waits), "{waits} around {expected}");
        let view = &dialler.views(now)[0];
        assert_eq!((view.state, view.problem.clone()), (TargetState::Waiting, Some(problem(false))));
        expected = (expected * 1.5).min(60.0);
        now = dialler.next_due().expect("due");
    }
}

#[test]
fn a_final_refusal_is_tried_again_later_and_at_once_when_asked() {
    let (mut dialler, now) = (dialler(), start());
    dialler.add(target("host1"), now);
    let dial = dialler.poll(now).expect("due");
    dialler.failed(dial.id, problem(true), now);
    assert_eq!(dialler.views(now)[0].state, TargetState::Refused);
    assert!((13.5..16.5).contains(&pause(&dialler, now)));
    assert!(!dialler.add(target("host1"), now));
    assert!(dialler.poll(now).is_some());
}

#[test]
fn a_target_that_is_ourselves_is_left_alone_and_does_not_count() {
    let (mut dialler, now) = (dialler(), start());
    dialler.add(target("host1"), now);
    dialler.add(target("host2"), now);
    let dial = dialler.poll(now).expect("due");
    dialler.reached_local(dial.id, problem(true), now);
    let other = dialler.poll(now).expect("due");
    dialler.failed(other.id, problem(true), now);
    assert_eq!(dialler.target_count(), 1);
    dialler.add(target("host1"), now);
    let dials: Vec<DialAddress> =
        std::iter::from_fn(|| dialler.poll(now + Duration::from_secs(3600))).map(|dial| dial.address).collect();
    assert_eq!(dials, [other.address]);
}

#[test]
fn a_target_rests_while_its_peer_is_connected_by_whatever_way() {
    let (mut dialler, now) = (dialler(), start());
    dialler.add(target("host1"), now);
    let dial = dialler.poll(now).expect("due");
    dialler.reached(dial.id, peer(1), now);
    dialler.set_connected(BTreeSet::from([peer(1)]));
    assert_eq!((dialler.poll(now), dialler.next_due()), (None, None));
    assert_eq!(dialler.views(now)[0].state, TargetState::Connected);
    assert_eq!(dialler.target_peers(), BTreeSet::from([peer(1)]));
}

#[test]
fn a_long_lived_connection_is_dialled_again_at_once_and_a_short_one_later() {
    for (lived, at_once) in [(9, false), (10, true)] {
        let (mut dialler, now) = (dialler(), start());
        dialler.add(target("host1"), now);
        let dial = dialler.poll(now).expect("due");
        dialler.reached(dial.id, peer(1), now);
        dialler.set_connected(BTreeSet::from([peer(1)]));
        dialler.set_connected(BTreeSet::new());
        dialler.lost(peer(1), Duration::from_secs(lived), Some(problem(false)), now);
        assert_eq!(dialler.poll(now).is_some(), at_once, "{lived} s");
    }
}

#[test]
fn whoever_was_connected_is_tried_every_second_or_so_for_a_quarter_of_an_hour() {
    for lived in [1, 10] {
        let (mut dialler, start) = (dialler(), start());
        dialler.add(target("host1"), start);
        let dial = dialler.poll(start).expect("due");
        dialler.reached(dial.id, peer(1), start);
        dialler.lost(peer(1), Duration::from_secs(lived), Some(problem(false)), start);
        let mut now = dialler.next_due().expect("due").max(start);
        assert!(now < start + Duration::from_millis(1500));
        while now < start + Duration::from_secs(900) {
            let dial = dialler.poll(now).expect("due");
            dialler.failed(dial.id, problem(false), now);
            assert!((0.5..1.5).contains(&pause(&dialler, now)), "{lived} s");
            now = dialler.next_due().expect("due");
        }
        for _ in 0..20 {
            let dial = dialler.poll(now).expect("due");
            dialler.failed(dial.id, problem(false), now);
            now = dialler.next_due().expect("due");
        }
        let dial = dialler.poll(now).expect("due");
        dialler.failed(dial.id, problem(false), now);
        assert!(pause(&dialler, now) >= 30.0, "then as for anybody");
    }
}

#[test]
fn a_peer_that_breaks_each_connection_is_dialled_more_and_more_seldom() {
    let (mut dialler, mut now) = (dialler(), start());
    dialler.add(target("host1"), now);
    for _ in 0..20 {
        let dial = dialler.poll(now).expect("due");
        dialler.reached(dial.id, peer(1), now);
        dialler.lost(peer(1), Duration::from_secs(1), Some(problem(false)), now);
        now = dialler.next_due().expect("due");
    }
    let dial = dialler.poll(now).expect("due");
    dialler.reached(dial.id, peer(1), now);
    dialler.lost(peer(1), Duration::from_secs(1), Some(problem(false)), now);
    assert!(pause(&dialler, now) >= 30.0);
}

#[test]
fn a_removed_target_is_gone_though_its_dial_comes_back() {
    let (mut dialler, now) = (dialler(), start());
    dialler.add(target("host1"), now);
    let dial = dialler.poll(now).expect("due");
    assert!(dialler.remove("host1") && !dialler.remove("host1"));
    dialler.add(target("host1"), now);
    let again = dialler.poll(now).expect("due");
    dialler.failed(dial.id, problem(true), now);
    assert_eq!(dialler.views(now)[0].state, TargetState::Connecting, "the second dial's business alone");
    dialler.reached(again.id, peer(1), now);
    assert_eq!(dialler.target_peers(), BTreeSet::from([peer(1)]));
}

#[test]
fn discovered_peers_are_dialled_endpoint_after_endpoint() {
    let (mut dialler, mut now) = (dialler(), start());
    let endpoints = vec![endpoint("192.0.2.9:6783"), endpoint("[2001:db8::9]:6783")];
    dialler.set_candidates(BTreeMap::from([(peer(9), endpoints.clone())]), now);
    for number in 0..4 {
        let dial = dialler.poll(now).expect("due");
        assert_eq!(dial.expected, Some(peer(9)));
        assert_eq!(dial.address, DialAddress::Endpoint(endpoints[number % 2]));
        dialler.failed(dial.id, problem(false), now);
        now = dialler.next_due().expect("due");
    }
    dialler.set_candidates(BTreeMap::new(), now);
    assert_eq!(dialler.next_due(), None, "gossip no longer names it");
}

#[test]
fn of_a_discovered_pair_the_lower_name_dials_first() {
    let (mut dialler, now) = (dialler(), start());
    let at = |text| vec![endpoint(text)];
    let peers = BTreeMap::from([(peer(1), at("192.0.2.1:6783")), (peer(9), at("192.0.2.9:6783"))]);
    dialler.set_candidates(peers, now);
    assert_eq!(dialler.poll(now).and_then(|dial| dial.expected), Some(peer(9)));
    assert_eq!(dialler.poll(now), None);
    assert_eq!(dialler.poll(now + YIELD).and_then(|dial| dial.expected), Some(peer(1)));
}

#[test]
fn discovery_leaves_targets_connected_peers_and_a_full_house_alone() {
    let (mut dialler, now) = (dialler(), start());
    dialler.add(target("192.0.2.9"), now);
    let covered = dialler.poll(now).expect("due");
    dialler.failed(covered.id, problem(true), now);
    let peers = BTreeMap::from([
        (peer(7), vec![endpoint("192.0.2.7:6783")]),
        (peer(8), vec![endpoint("192.0.2.8:6783")]),
        (peer(9), vec![endpoint("192.0.2.9:6783")]),
    ]);
    dialler.set_connected(BTreeSet::from([peer(7)]));
    dialler.set_discovery_stopped(true);
    dialler.set_candidates(peers, now);
    assert_eq!(dialler.poll(now), None);
    dialler.set_discovery_stopped(false);
    assert_eq!(dialler.poll(now).and_then(|dial| dial.expected), Some(peer(8)));
    assert_eq!(dialler.poll(now), None);
}

#[test]
fn a_stranger_at_a_discovered_endpoint_does_not_end_the_search() {
    let (mut dialler, now) = (dialler(), start());
    let endpoints = vec![endpoint("192.0.2.9:6783"), endpoint("198.51.100.9:6783")];
    dialler.set_candidates(BTreeMap::from([(peer(9), endpoints.clone())]), now);
    let dial = dialler.poll(now).expect("due");
    dialler.reached(dial.id, peer(3), now);
    dialler.set_connected(BTreeSet::from([peer(3)]));
    let later = dialler.next_due().expect("due");
    let next = dialler.poll(later).expect("due");
    assert_eq!((next.expected, next.address), (Some(peer(9)), DialAddress::Endpoint(endpoints[1])));
}
