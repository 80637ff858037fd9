use super::*;
use crate::{Given, Needs, nobody};

const LOCAL: PeerName = PeerName::from_public_key([1; 32]);
const FRIEND: PeerName = PeerName::from_public_key([2; 32]);

#[expect(clippy::disallowed_methods, reason = "tests need some moment to start from")]
fn now() -> Instant {
    Instant::now()
}

fn names() -> Names {
    Names::new(Zone::new("weft.internal", 1).expect("valid"), "10.32.0.0/12".parse().expect("valid"))
}

fn id(text: &str) -> ContainerId {
    text.parse().expect("valid")
}

fn record(name: &str) -> NameRecord {
    let zone = Zone::new("weft.internal", 1).expect("valid");
    zone.record(&[name.to_owned()], &[[10, 32, 0, 1].into()], true).expect("valid")
}

fn peers<const N: usize>(peers: [PeerName; N]) -> BTreeMap<PeerName, Peer> {
    peers.map(|peer| (peer, Peer { name: peer.to_string(), nickname: "host".to_owned() })).into()
}

fn snapshot(own: &[&str], reachable: BTreeMap<PeerName, Peer>) -> Snapshot {
    let own = own.iter().map(|name| (id(name), record(&name.replace(":", "-")))).collect();
    Snapshot { local: LOCAL, origins: BTreeMap::from([(LOCAL, own)]), reachable }
}

fn published(names: &mut Names) -> Option<(bool, Vec<(String, bool)>)> {
    let publication = names.poll_publication()?;
    let entries = publication.entries.iter().map(|(container, record)| (container.to_string(), record.is_some()));
    Some((publication.complete, entries.collect()))
}

#[test]
fn nothing_is_published_before_the_subscription_and_changes_after_it() {
    let mut names = names();
    names.register(id("a"), record("a")).expect("room");
    assert_eq!(published(&mut names), None);
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    assert_eq!(published(&mut names), Some((true, vec![("a".to_owned(), true)])));
    assert_eq!(published(&mut names), None);

    names.register(id("b"), record("b")).expect("room");
    names.deregister(&id("a"), &[]);
    assert_eq!(published(&mut names), Some((false, vec![("a".to_owned(), false), ("b".to_owned(), true)])));

    names.register(id("b"), record("b")).expect("room");
    names.deregister(&id("a"), &[]);
    assert_eq!(published(&mut names), None, "what changes nothing is not published");

    names.handle_unpublished();
    assert_eq!(published(&mut names), Some((true, vec![("b".to_owned(), true)])));
}

#[test]
fn a_restarted_dns_adopts_what_its_forerunner_published() {
    let mut names = names();
    names.handle_snapshot(snapshot(&["a", "weft:extern"], peers([LOCAL])), now());
    let kept = vec![("a".to_owned(), true), ("weft:extern".to_owned(), true)];
    assert_eq!(published(&mut names), Some((true, kept)));
}

#[test]
fn registrations_outweigh_what_a_forerunner_published() {
    let mut names = names();
    names.register(id("a"), record("new")).expect("room");
    names.handle_snapshot(snapshot(&["a"], peers([LOCAL])), now());
    assert_eq!(names.records().get(Origin::Local, &id("a")), Some(&record("new")));

    // Later snapshots and echoes of our own changes do not bring anything back.
    names.handle_change(LOCAL, true, vec![(id("ghost"), Some(record("ghost")))]);
    names.handle_snapshot(snapshot(&["ghost"], peers([LOCAL])), now());
    assert_eq!(names.records().len(), 1);
}

#[test]
fn one_of_several_names_can_be_taken_away() {
    let mut names = names();
    let zone = names.zone().clone();
    let both = zone.record(&["a".to_owned(), "b".to_owned()], &[], true).expect("valid");
    names.register(id("c"), both).expect("room");
    names.deregister(&id("c"), &[zone.name("A").expect("valid")]);
    assert_eq!(names.views().next().map(|view| view.record.names().len()), Some(1));
    names.deregister(&id("c"), &[zone.name("b").expect("valid")]);
    assert!(names.records().is_empty());
}

#[test]
fn unreachable_peers_are_suspended_and_come_back() {
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL, FRIEND])), now());
    names.handle_change(FRIEND, true, vec![(id("f"), Some(record("f")))]);
    assert!(!names.is_suspended(Origin::Peer(FRIEND)));
    names.handle_reachable(peers([LOCAL]));
    assert!(names.is_suspended(Origin::Peer(FRIEND)));
    let view = names.views().next().expect("still there");
    assert_eq!((view.suspended, view.peer.nickname.as_str()), (true, "host"), "its name is remembered");
    names.handle_reachable(peers([LOCAL, FRIEND]));
    assert!(!names.is_suspended(Origin::Peer(FRIEND)));
}

#[test]
fn a_restarted_router_gets_time_to_reach_its_peers_again() {
    let start = now();
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL, FRIEND])), start);
    names.handle_change(FRIEND, true, vec![(id("f"), Some(record("f")))]);
    names.handle_unsubscribed();
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), start);
    assert!(!names.is_suspended(Origin::Peer(FRIEND)));
    assert_eq!(names.records().len(), 1);

    let (until, _) = names.poll_timeout().expect("held");
    names.handle_timeout(until);
    assert!(names.is_suspended(Origin::Peer(FRIEND)));
    assert!(names.records().is_empty());
    assert_eq!(names.poll_timeout(), None);
}

#[test]
fn what_a_restarted_router_has_again_counts_at_once() {
    let start = now();
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL, FRIEND])), start);
    names.handle_change(FRIEND, true, vec![(id("f"), Some(record("f"))), (id("g"), Some(record("g")))]);
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), start);
    names.handle_reachable(peers([LOCAL, FRIEND]));
    assert_eq!(names.records().len(), 2, "met again, but its names have not come yet");
    names.handle_change(FRIEND, true, vec![(id("g"), Some(record("g")))]);
    names.handle_timeout(start + 2 * HOLD);
    assert_eq!(names.records().len(), 1);
    assert!(!names.is_suspended(Origin::Peer(FRIEND)));
}

#[test]
fn no_origin_fills_the_memory() {
    let mut names = names();
    let many = (0..MAX_RECORDS_PER_ORIGIN + 10).map(|i| (id(&format!("c{i}")), Some(record("x"))));
    names.handle_change(FRIEND, false, many.collect());
    names.handle_change(FRIEND, false, vec![(id("more"), Some(record("x")))]);
    assert_eq!(names.records().len(), MAX_RECORDS_PER_ORIGIN);
    names.handle_change(FRIEND, false, vec![(id("c1"), Some(record("y"))), (id("c2"), None)]);
    assert_eq!(names.records().len(), MAX_RECORDS_PER_ORIGIN - 1);
}

fn given(names: &[&str], addresses: &[[u8; 4]]) -> NameRecord {
    let zone = Zone::new("weft.internal", 1).expect("valid");
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let addresses: Vec<_> = addresses.iter().map(|address| IpAddr::from(*address)).collect();
    zone.record(&names, &addresses, true).expect("valid")
}

/// Returns who has what by hand, one line for each record.
fn by_hand(names: &Names) -> Vec<String> {
    let views = names.views().filter(|view| view.holder.by_hand);
    let shown = views.map(|view| {
        let names: Vec<_> = view.record.names().iter().map(ToString::to_string).collect();
        format!("{} {:?} {}", view.holder.id, view.record.addresses(), names.join(" "))
    });
    shown.collect()
}

#[test]
fn names_by_hand_stand_beside_what_is_registered() {
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    names.register(id("c"), record("db")).expect("room");
    names.add_by_hand(&id("c"), &given(&["a"], &[[10, 32, 0, 1]])).expect("room");
    names.add_by_hand(&id("c"), &given(&["b"], &[[10, 32, 0, 1], [10, 32, 0, 2]])).expect("room");
    names.add_by_hand(&nobody(), &given(&["a"], &[[192, 0, 2, 1]])).expect("room");
    let all = [
        "c [10.32.0.1] a.weft.internal. b.weft.internal.",
        "c [10.32.0.2] b.weft.internal.",
        "weft:extern [192.0.2.1] a.weft.internal.",
    ];
    assert_eq!(by_hand(&names), all);

    // The proxy registers the container anew, under another name, and takes one of its own names away.
    names.register(id("c"), record("renamed")).expect("room");
    names.deregister(&id("c"), &[names.zone().name("a").expect("valid")]);
    assert_eq!(by_hand(&names), all);
    assert_eq!(names.records().get(Origin::Local, &id("c")), Some(&record("renamed")));

    while names.poll_publication().is_some() {}
    names.add_by_hand(&id("c"), &given(&["a"], &[[10, 32, 0, 1]])).expect("there already");
    assert_eq!(names.poll_publication(), None, "what changes nothing is not published");
}

#[test]
fn names_by_hand_are_as_well_as_their_container() {
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    names.register(id("c"), record("db").with_health(false)).expect("room");
    names.add_by_hand(&id("c"), &given(&["a"], &[[10, 32, 0, 1]])).expect("room");
    let healthy = |names: &Names| names.views().find(|view| view.holder.by_hand).map(|view| view.record.is_healthy());
    assert_eq!(healthy(&names), Some(false));
    names.register(id("c"), record("db")).expect("room");
    assert_eq!(healthy(&names), Some(true));
}

#[test]
fn names_by_hand_go_with_their_container_and_others_stay() {
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    for holder in [id("c"), id("d"), nobody()] {
        names.add_by_hand(&holder, &given(&["a"], &[[192, 0, 2, 1]])).expect("room");
    }
    names.deregister(&id("c"), &[]);
    assert_eq!(by_hand(&names), ["d [192.0.2.1] a.weft.internal.", "weft:extern [192.0.2.1] a.weft.internal."]);
}

#[test]
fn names_by_hand_go_with_the_address_that_their_container_loses() {
    for own in [&["db"][..], &[]] {
        let mut names = names();
        names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
        names.register(id("c"), given(own, &[[10, 32, 0, 1], [10, 32, 0, 2]])).expect("room");
        names.add_by_hand(&id("c"), &given(&["a"], &[[10, 32, 0, 1], [10, 32, 0, 2], [192, 0, 2, 1]])).expect("room");
        names.add_by_hand(&nobody(), &given(&["a"], &[[10, 32, 0, 2]])).expect("room");
        while names.poll_publication().is_some() {}
        names.register(id("c"), given(own, &[[10, 32, 0, 1]])).expect("room");
        let left = [
            "c [10.32.0.1] a.weft.internal.",
            "c [192.0.2.1] a.weft.internal.",
            "weft:extern [10.32.0.2] a.weft.internal.",
        ];
        assert_eq!(by_hand(&names), left, "{own:?}");
        let told = [("c".to_owned(), true), ("weft:name:c:10.32.0.2".to_owned(), false)];
        assert_eq!(published(&mut names), Some((false, told.to_vec())), "{own:?}");
    }
}

#[test]
fn a_restarted_dns_leaves_names_by_hand_of_addresses_that_were_lost_meanwhile() {
    let mut names = names();
    names.register(id("c"), given(&["db"], &[[10, 32, 0, 1]])).expect("room");
    let key = |address: [u8; 4]| by_hand::key(&id("c"), address.into()).expect("fits");
    let own = vec![
        (id("c"), given(&["db"], &[[10, 32, 0, 1], [10, 32, 0, 2]])),
        (key([10, 32, 0, 1]), given(&["a"], &[[10, 32, 0, 1]])),
        (key([10, 32, 0, 2]), given(&["a"], &[[10, 32, 0, 2]])),
    ];
    let origins = BTreeMap::from([(LOCAL, own)]);
    names.handle_snapshot(Snapshot { local: LOCAL, origins, reachable: peers([LOCAL]) }, now());
    assert_eq!(by_hand(&names), ["c [10.32.0.1] a.weft.internal."]);
}

#[test]
fn a_container_without_names_of_its_own_keeps_those_by_hand() {
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    names.add_by_hand(&id("c"), &given(&["a"], &[[10, 32, 0, 1]])).expect("room");
    names.register(id("c"), given(&[], &[[10, 32, 0, 1]])).expect("room");
    assert_eq!(by_hand(&names), ["c [10.32.0.1] a.weft.internal."]);
    assert_eq!(names.views().filter(|view| !view.record.names().is_empty()).count(), 1);
}

#[test]
fn names_by_hand_are_removed_by_what_is_given_of_them() {
    let zone = Zone::new("weft.internal", 1).expect("valid");
    let (a, b) = (zone.name("a").expect("valid"), zone.name("b").expect("valid"));
    let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
    for (given_names, given_addresses, removed, left) in [
        (vec![], vec![], 4, vec![]),
        (vec![a.clone()], vec![], 2, vec!["[192.0.2.1] b", "[192.0.2.2] b"]),
        (vec![], vec![two], 2, vec!["[192.0.2.1] a b"]),
        (vec![b], vec![one], 1, vec!["[192.0.2.1] a", "[192.0.2.2] a b"]),
        (vec![zone.name("other").expect("valid")], vec![], 0, vec!["[192.0.2.1] a b", "[192.0.2.2] a b"]),
    ] {
        let mut names = names();
        names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
        names.register(id("c"), given(&["a"], &[[192, 0, 2, 1]])).expect("room");
        names.add_by_hand(&id("c"), &given(&["a", "b"], &[[192, 0, 2, 1], [192, 0, 2, 2]])).expect("room");
        assert_eq!(names.remove_by_hand(&id("c"), &given_names, &given_addresses), Ok(removed));
        let shown = by_hand(&names).into_iter().map(|line| line.replace(".weft.internal.", "").replace("c ", ""));
        assert_eq!(shown.collect::<Vec<_>>(), left);
        assert!(names.records().get(Origin::Local, &id("c")).is_some(), "what was registered stays");
    }
}

#[test]
fn names_by_hand_survive_a_restart_and_wait_for_it() {
    let mut names = names();
    let extern_a = given(&["a"], &[[192, 0, 2, 1]]);
    assert_eq!(names.add_by_hand(&nobody(), &extern_a), Err(RegisterError::NotKnownYet));
    assert_eq!(names.remove_by_hand(&nobody(), &[], &[]), Err(RegisterError::NotKnownYet));
    let key = by_hand::key(&nobody(), [192, 0, 2, 1].into()).expect("fits");
    let origins = BTreeMap::from([(LOCAL, vec![(key, extern_a.clone())])]);
    names.handle_snapshot(Snapshot { local: LOCAL, origins, reachable: peers([LOCAL]) }, now());
    assert_eq!(by_hand(&names), ["weft:extern [192.0.2.1] a.weft.internal."]);
}

#[test]
fn names_by_hand_have_limits() {
    let mut names = names();
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    let refused = names.add_by_hand(&id("weft:expose"), &given(&["a"], &[[192, 0, 2, 1]]));
    assert_eq!(refused, Err(RegisterError::NotAContainer("weft:expose".to_owned())));
    for i in 0..MAX_NAMES {
        names.add_by_hand(&nobody(), &given(&[&format!("n{i}")], &[[192, 0, 2, 1]])).expect("room");
    }
    let one_more = names.add_by_hand(&nobody(), &given(&["more"], &[[192, 0, 2, 2], [192, 0, 2, 1]]));
    assert_eq!(one_more, Err(InvalidName::TooManyNames { count: MAX_NAMES + 1 }.into()));
    assert_eq!(names.records().len(), 1, "nothing has changed");
    for i in 1..MAX_RECORDS_PER_ORIGIN {
        names.register(id(&format!("c{i}")), record("x")).expect("room");
    }
    let one_more = names.add_by_hand(&nobody(), &given(&["more"], &[[192, 0, 2, 2]]));
    assert_eq!(one_more, Err(RegisterError::TooManyRecords));
}

/// Restarts dns and the router: only what was kept is there.
fn restarted(before: &Names) -> Names {
    let mut names = names();
    names.restore(before.given()).expect("it was given");
    names.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    names
}

fn waiting(names: &Names) -> usize {
    names.views().filter(|view| view.waiting && view.suspended && view.holder.by_hand).count()
}

#[test]
fn names_by_hand_come_back_with_what_they_need() {
    let mut before = names();
    before.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    before.register(id("c"), given(&["db"], &[[10, 32, 0, 1], [10, 32, 0, 2]])).expect("room");
    let addresses = [[10, 32, 0, 1], [10, 32, 0, 2], [192, 0, 2, 1]];
    before.add_by_hand(&id("c"), &given(&["a", "b"], &addresses)).expect("room");
    before.add_by_hand(&id("loose"), &given(&["l"], &[[192, 0, 2, 2]])).expect("room");
    before.add_by_hand(&nobody(), &given(&["p"], &[[192, 0, 2, 3]])).expect("room");
    let needs: Vec<_> = before.given().into_iter().map(|given| given.needs).collect();
    assert_eq!(needs, [Needs::Address, Needs::Address, Needs::Container, Needs::Nothing, Needs::Nothing]);

    let mut names = restarted(&before);
    assert_eq!(names.given(), before.given(), "what waits is kept on");
    let at_once = ["loose [192.0.2.2] l.weft.internal.", "weft:extern [192.0.2.3] p.weft.internal."];
    let answered = |names: &Names| names.records().of(Origin::Local).map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!((answered(&names).len(), waiting(&names)), (2, 3));
    assert_eq!(by_hand(&names)[3..], at_once);
    names.register(id("c"), given(&["db"], &[[10, 32, 0, 2]]).with_health(false)).expect("room");
    assert_eq!(waiting(&names), 0);
    let come = ["c [10.32.0.2] a.weft.internal. b.weft.internal.", "c [192.0.2.1] a.weft.internal. b.weft.internal."];
    assert_eq!(by_hand(&names), [come, at_once].concat());
    let is_come = |view: &RecordView<'_>| view.holder.by_hand && view.holder.id == "c";
    assert!(!names.views().filter(is_come).any(|view| view.record.is_healthy()), "they are as well as their container");
    let published = published(&mut names).expect("something").1;
    assert_eq!(published.len(), 5, "{published:?}");
}

#[test]
fn names_by_hand_of_a_container_that_died_meanwhile_do_not_come_back() {
    let mut before = names();
    before.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    before.register(id("c"), given(&["db"], &[[10, 32, 0, 1]])).expect("room");
    before.add_by_hand(&id("c"), &given(&["a"], &[[10, 32, 0, 1]])).expect("room");
    let mut names = restarted(&before);
    assert_eq!(published(&mut names), Some((true, vec![])));
    names.deregister(&id("c"), &[]);
    assert_eq!((names.given(), waiting(&names)), (vec![], 0));
    names.register(id("c"), given(&["db"], &[[10, 32, 0, 1]])).expect("room");
    assert_eq!(by_hand(&names), [""; 0]);
}

#[test]
fn what_was_kept_outweighs_what_a_forerunner_published() {
    let mut before = names();
    before.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    before.register(id("c"), given(&["db"], &[[10, 32, 0, 1]])).expect("room");
    before.add_by_hand(&id("c"), &given(&["a"], &[[10, 32, 0, 1]])).expect("room");
    let key = |holder: &ContainerId, address: [u8; 4]| by_hand::key(holder, address.into()).expect("fits");
    let own = vec![
        (id("c"), given(&["db"], &[[10, 32, 0, 1]])),
        (key(&id("c"), [10, 32, 0, 1]), given(&["a", "removed"], &[[10, 32, 0, 1]])),
        (key(&nobody(), [192, 0, 2, 1]), given(&["removed"], &[[192, 0, 2, 1]])),
    ];
    let mut names = names();
    names.restore(before.given()).expect("it was given");
    let origins = BTreeMap::from([(LOCAL, own)]);
    names.handle_snapshot(Snapshot { local: LOCAL, origins, reachable: peers([LOCAL]) }, now());
    assert_eq!(by_hand(&names), ["c [10.32.0.1] a.weft.internal."]);
    assert_eq!(waiting(&names), 0, "its container is there, says the router");
}

#[test]
fn what_waits_can_be_added_to_and_removed() {
    let mut before = names();
    before.handle_snapshot(snapshot(&[], peers([LOCAL])), now());
    before.register(id("c"), given(&["db"], &[[10, 32, 0, 1]])).expect("room");
    before.add_by_hand(&id("c"), &given(&["a", "b"], &[[10, 32, 0, 1], [192, 0, 2, 1]])).expect("room");
    let mut names = names();
    names.restore(before.given()).expect("it was given");
    let zone = names.zone().clone();
    let a = zone.name("a").expect("valid");
    assert_eq!(names.remove_by_hand(&id("c"), std::slice::from_ref(&a), &[]), Ok(2), "without the router, too");
    names.add_by_hand(&id("c"), &given(&["d"], &[[10, 32, 0, 1]])).expect("room");
    let now = ["c [192.0.2.1] b.weft.internal.", "c [10.32.0.1] b.weft.internal. d.weft.internal."];
    assert_eq!((by_hand(&names), waiting(&names)), (now.map(str::to_owned).to_vec(), 1));
    assert_eq!(names.remove_by_hand(&id("c"), &[], &[]), Ok(3));
    assert_eq!(names.given(), []);
}

#[test]
fn a_trial_changes_nothing() {
    let mut names = names();
    names.handle_snapshot(snapshot(&["a"], peers([LOCAL, FRIEND])), now());
    names.handle_change(FRIEND, true, vec![(id("f"), Some(record("f")))]);
    let mut trial = names.trial();
    trial.add_by_hand(&nobody(), &given(&["p"], &[[192, 0, 2, 3]])).expect("room");
    assert_eq!((trial.given().len(), trial.records().len()), (1, 2));
    assert_eq!((names.given().len(), names.records().len()), (0, 2));
}

#[test]
fn what_was_never_given_is_not_restored() {
    let good = Given { holder: id("c"), address: [10, 32, 0, 1].into(), names: vec![], needs: Needs::Nothing };
    let many = (0..=MAX_NAMES).map(|i| names().zone().name(&format!("n{i}")).expect("valid")).collect();
    let foreign = Given { holder: id("weft:expose"), ..good.clone() };
    assert_eq!(names().restore(vec![foreign]), Err(RegisterError::NotAContainer("weft:expose".to_owned())));
    let named = Given { names: many, ..good.clone() };
    assert_eq!(names().restore(vec![named]), Err(InvalidName::TooManyNames { count: MAX_NAMES + 1 }.into()));
    assert_eq!(names().restore(vec![good; MAX_RECORDS_PER_ORIGIN + 1]), Err(RegisterError::TooManyRecords));
}
