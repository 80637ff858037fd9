//! Keys that are let in no more, and passwords that let nobody new in.

use super::*;
use crate::mesh::revocation::MAX_REVOCATIONS;

const FIRST: PasswordMark = PasswordMark(1);
const SECOND: PasswordMark = PasswordMark(2);

fn with(number: usize, marks: &[PasswordMark]) -> MeshConfig {
    MeshConfig { password_marks: marks.to_vec(), ..config(number) }
}

/// Returns what a host starts with again, a life later.
fn again(lab: &Lab, number: usize, marks: &[PasswordMark]) -> MeshConfig {
    let host = &lab.hosts[number];
    MeshConfig {
        instance: number as u64 + 500,
        generation: 2,
        revocations: host.revocations(),
        told: host.told().cloned(),
        known_peers: host.known_peers(),
        ..with(number, marks)
    }
}

/// Hosts that were members before.
fn member(number: usize, marks: &[PasswordMark]) -> MeshConfig {
    MeshConfig { known_peers: (0..4).map(peer).collect(), ..with(number, marks) }
}

fn full(configs: impl IntoIterator<Item = MeshConfig>) -> Lab {
    let mut lab = Lab::new(configs);
    for from in 0..lab.hosts.len() {
        for to in from + 1..lab.hosts.len() {
            lab.connect(from, to);
        }
    }
    lab.pass(Duration::from_secs(1));
    lab.closed.clear();
    lab
}

fn revoke(lab: &mut Lab, by: usize, whom: usize) {
    let name = format!("peer{whom}");
    lab.hosts[by].revoke(&[name], lab.now).expect("known");
    lab.settle();
}

fn state(lab: &Lab, host: usize, of: usize) -> PeerState {
    let peers = lab.hosts[host].peers();
    peers.into_iter().find(|view| view.identity.peer == peer(of)).expect("listed").state
}

fn problems(lab: &Lab, host: usize) -> Vec<(&'static str, String)> {
    lab.hosts[host].problems().into_iter().map(|problem| (problem.reason, problem.message)).collect()
}

#[test]
fn a_revoked_peer_is_out_everywhere_at_once_and_for_good() {
    let mut lab = full((0..4).map(|number| with(number, &[FIRST])));
    lab.publish(3, "name", Some("before"));
    lab.settle();
    lab.events.iter_mut().for_each(Vec::clear);
    revoke(&mut lab, 0, 3);
    assert!(lab.connections(3).is_empty());
    assert_eq!(lab.reasons(), [GoodbyeReason::Revoked; 3]);
    for host in 0..3 {
        assert_eq!(state(&lab, host, 3), PeerState::Revoked);
        assert!(!lab.hosts[host].is_reachable(peer(3)) && lab.connections(host).len() == 2);
        assert!(lab.events[host].contains(&Event::PeerRevoked { peer: peer(3) }));
        assert!(lab.events[host].contains(&Event::RevocationsChanged));
        assert_eq!(lab.sees(host, 3), [("name".into(), "before".into())], "suspended, not gone");
        let lost = problems(&lab, host).into_iter().any(|(reason, _)| reason == "peer_unreachable");
        assert!(!lost, "nobody misses it");
    }
    // It says so itself, after a restart too, and is refused with one sentence on both sides.
    for host in [3, 4] {
        let said = problems(&lab, host);
        let sentence = "the key of peer3(host3) was revoked by peer0(host0), and no host lets it in";
        assert!(said.iter().any(|(word, text)| *word == "revoked" && text.contains(sentence)), "{host}: {said:?}");
        if host == 3 {
            let restarted = again(&lab, 3, &[FIRST]);
            lab.hosts.push(Mesh::new(restarted, Vec::new(), lab.now));
            lab.marks.push(vec![FIRST]);
            lab.events.push(Vec::new());
        }
    }
    lab.closed.clear();
    lab.connect(4, 1);
    assert_eq!(lab.reasons(), [GoodbyeReason::Revoked]);
    assert!(lab.connections(1).len() == 2 && lab.hosts[1].refusals(lab.now).is_empty(), "nothing to be mended");
    // Those who let it in no more still do not after a restart, and know nothing of it.
    let restarted = again(&lab, 1, &[FIRST]);
    let mut later = Lab::new([restarted, again(&lab, 3, &[FIRST])]);
    later.connect(1, 0);
    assert!(later.connections(0).is_empty() && later.reasons() == [GoodbyeReason::Revoked]);
    assert_eq!(state(&later, 0, 3), PeerState::Revoked);
}

#[test]
fn gossip_and_messages_of_a_revoked_peer_pass_nobody_who_has_heard() {
    // 0 - 1 - 2, and the lost one at 2.
    let mut lab = Lab::new((0..4).map(config));
    lab.connect(0, 1);
    let bridge = lab.connect(1, 2);
    lab.connect(2, 3);
    lab.pass(Duration::from_secs(1));
    assert!(lab.hosts[0].is_reachable(peer(3)));
    lab.cut.insert(bridge);
    revoke(&mut lab, 0, 3);
    assert!(lab.hosts[1].is_revoked(peer(3)) && !lab.hosts[2].is_revoked(peer(3)));
    lab.publish(3, "name", Some("later"));
    lab.settle();
    assert_eq!(lab.sees(2, 3).len(), 1, "who has not heard takes it");
    for host in [0, 1] {
        assert!(lab.sees(host, 3).is_empty());
    }
    let body = RoutedBody::Channel { channel: "names".to_owned(), payload: Bytes::new() };
    for (source, destination) in [(3, 1), (2, 3)] {
        let routed = Routed { source: peer(source), destination: peer(destination), hops_left: 3, body: body.clone() };
        lab.inject(1, bridge, ControlMessage::Routed(routed));
    }
    let heard = |event: &Event| matches!(event, Event::IncomingMessage { .. });
    assert!(!lab.events[1].iter().any(heard));
    // As soon as the last one hears of it, the lost one has nobody left.
    lab.cut.clear();
    lab.pass(Duration::from_secs(5));
    assert!(lab.connections(3).is_empty() && lab.hosts[2].is_revoked(peer(3)));
    assert_eq!(lab.connections(2), [bridge]);
}

#[test]
fn who_was_away_hears_of_it_from_anybody() {
    let mut lab = full((0..4).map(config));
    let away: Vec<ConnectionId> = lab.connections(2);
    lab.cut.extend(&away);
    lab.pass(Duration::from_secs(4));
    revoke(&mut lab, 0, 3);
    // The one who revoked is gone for good.
    for connection in lab.connections(0) {
        lab.cut.insert(connection);
    }
    lab.pass(Duration::from_secs(4));
    let back = lab.connect(2, 1);
    lab.pass(Duration::from_secs(1));
    assert!(lab.hosts[2].is_revoked(peer(3)));
    assert!(lab.connections(2).contains(&back));
    let by: Vec<PeerName> = lab.hosts[2].revocations().into_iter().map(|revocation| revocation.by).collect();
    assert_eq!(by, [peer(0)]);
}

#[test]
fn of_two_that_revoke_each_other_both_are_out() {
    for first in [0, 1] {
        let mut lab = full((0..4).map(config));
        // Each is heard by one of the others, before the news meet.
        let between = |lab: &Lab, a: usize, b: usize| {
            let mut pipes = lab.pipes.iter();
            pipes.find(|(_, ends)| ends.contains(&a) && ends.contains(&b)).map(|(id, _)| *id).expect("joined")
        };
        let cuts = [(0, 1), (0, 3), (1, 2), (2, 3)].map(|(a, b)| between(&lab, a, b));
        lab.cut.extend(cuts);
        revoke(&mut lab, first, 1 - first);
        revoke(&mut lab, 1 - first, first);
        assert!(lab.hosts[2].is_revoked(peer(1)) && !lab.hosts[2].is_revoked(peer(0)));
        assert!(lab.hosts[3].is_revoked(peer(0)) && !lab.hosts[3].is_revoked(peer(1)));
        lab.cut.remove(&cuts[3]);
        lab.pass(Duration::from_secs(8));
        for host in [2, 3] {
            for out in [0, 1] {
                assert_eq!(state(&lab, host, out), PeerState::Revoked, "{host} {out}");
            }
            assert_eq!(lab.connections(host).len(), 1);
        }
    }
}

#[test]
fn what_a_revoked_peer_revokes_later_does_not_count() {
    let mut lab = full((0..3).map(config));
    let lost: Vec<ConnectionId> = lab.connections(2);
    lab.cut.extend(&lost);
    revoke(&mut lab, 0, 2);
    // It has not heard, and hits back.
    revoke(&mut lab, 2, 0);
    lab.pass(Duration::from_secs(4));
    lab.cut.clear();
    lab.connect(2, 1);
    lab.pass(Duration::from_secs(2));
    assert!(!lab.hosts[1].is_revoked(peer(0)) && lab.connections(0).len() == 1);
    // By now it has, and its router does not even try.
    let error = lab.hosts[2].revoke(&["peer1".to_owned()], lab.now).expect_err("refused");
    assert_eq!(error, RevokeError::Revoked);
}

#[test]
fn who_is_meant_has_to_be_clear() {
    let twin = MeshConfig { nickname: "host1".to_owned(), ..config(2) };
    let mut lab = full([config(0), config(1), twin]);
    let mut ask = |name: &str| lab.hosts[0].revoke(&[name.to_owned()], lab.now);
    let said = |error: Result<_, RevokeError>| error.map(|_: Vec<PeerIdentity>| ()).expect_err("refused").to_string();
    assert!(said(ask("nobody")).contains("no peer nobody is known: `weft status peers` lists them"));
    assert!(said(ask("")).contains("no peer  is known"));
    for own in ["peer0".to_owned(), "host0".to_owned(), peer(0).to_hex()] {
        assert!(said(ask(&own)).contains("cannot revoke itself"));
    }
    let ambiguous = said(ask("host1"));
    assert!(ambiguous.contains(&peer(1).to_hex()) && ambiguous.contains(&peer(2).to_hex()), "{ambiguous}");
    let both = ["peer1".to_owned(), "nobody".to_owned()];
    assert!(lab.hosts[0].revoke(&both, lab.now).is_err() && lab.hosts[0].revocations().is_empty(), "all or nothing");
    // By key also whoever is not listed any more; twice is once.
    for name in [peer(2).to_hex(), peer(2).to_hex(), "peer2".to_owned(), peer(77).to_hex()] {
        lab.hosts[0].revoke(&[name], lab.now).expect("done");
    }
    assert_eq!(lab.hosts[0].revocations().len(), 2);
    lab.hosts[0].revoke(&["host1".to_owned()], lab.now).expect_err("the other one had it too");
}

#[test]
fn revocations_are_bounded() {
    let mut lab = full((0..2).map(config));
    let key = |number: u16| {
        let mut key = [9; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        PeerName::from_public_key(key).to_hex()
    };
    let most: Vec<String> = (0..MAX_REVOCATIONS as u16).map(key).collect();
    lab.hosts[0].revoke(&most, lab.now).expect("there is room");
    lab.settle();
    assert_eq!(lab.hosts[1].revocations().len(), most.len());
    let error = lab.hosts[1].revoke(&[key(9999)], lab.now).expect_err("no room");
    assert_eq!(error, RevokeError::TooMany);
    lab.hosts[1].revoke(&[key(7)], lab.now).expect("it is there already");
}

#[test]
fn the_present_password_lets_nobody_new_in_after_a_revocation_until_it_is_changed() {
    let mut lab = full((0..3).map(|number| with(number, &[FIRST])));
    let lone = lab.connections(2);
    revoke(&mut lab, 0, 1);
    for host in [0, 2] {
        let said = problems(&lab, host);
        let [(word, sentence)] = said.as_slice() else { panic!("one problem: {said:?}") };
        assert!(*word == "password_known_to_revoked" && sentence.contains("set a new WEFT_PASSWORD"), "{sentence}");
    }
    assert!(lab.hosts[0].after_revocation().contains("set a new WEFT_PASSWORD"));
    // A stranger, a member that comes back, one with the new password.
    for (number, marks) in [(7, vec![FIRST]), (8, vec![FIRST, SECOND])] {
        lab.closed.clear();
        let mut stranger = with(number, &marks);
        stranger.instance = 700 + number as u64;
        lab.hosts.push(Mesh::new(stranger, Vec::new(), lab.now));
        lab.marks.push(marks);
        lab.events.push(Vec::new());
        let index = lab.hosts.len() - 1;
        lab.connect(index, 0);
        assert!(lab.connections(index).is_empty());
        assert_eq!(lab.reasons(), [GoodbyeReason::UnknownKey]);
        assert!(lab.closed[0].3.contains("is new to peer0") && lab.closed[0].3.contains("set a new WEFT_PASSWORD"));
        for host in [index, 0] {
            let refusals = lab.hosts[host].refusals(lab.now);
            assert!(refusals.iter().any(|refusal| refusal.problem.reason == "unknown_key"), "{refusals:?}");
        }
    }
    for connection in lone {
        lab.disconnect(connection, 2);
    }
    lab.settle();
    let restarted = again(&lab, 2, &[FIRST]);
    lab.hosts[2] = Mesh::new(restarted, Vec::new(), lab.now);
    lab.connect(2, 0);
    assert_eq!(lab.connections(2).len(), 1, "who was a member goes on");
    // The first host has another password now: what is new comes in with that one alone.
    let changed = MeshConfig { instance: 999, generation: 3, ..again(&lab, 0, &[SECOND, FIRST]) };
    let mut later = Lab::new([changed, with(8, &[SECOND]), with(9, &[FIRST]), again(&lab, 2, &[FIRST])]);
    for (host, count) in [(1, 1), (2, 0), (3, 1)] {
        later.connect(host, 0);
        assert_eq!(later.connections(host).len(), count, "host {host}");
    }
    assert_eq!(later.reasons(), [GoodbyeReason::UnknownKey]);
    assert!(later.closed[0].3.contains("with the old password: set the new WEFT_PASSWORD on it"), "{:?}", later.closed);
    later.pass(Duration::from_secs(1));
    let spent = |host| problems(&later, host).iter().any(|(word, _)| *word == "password_known_to_revoked");
    assert_eq!([0, 1, 3].map(spent), [false, false, true], "whoever has the new one is done");
    // Who knows it from the new host is a member to all.
    assert!(later.hosts[3].known_peers().contains(&peer(8)));
}

#[test]
fn a_handshake_that_began_before_the_password_was_changed_lets_nobody_new_in_after() {
    let changed = MeshConfig { known_peers: [peer(1)].into(), ..with(0, &[SECOND, FIRST]) };
    for left in [vec![SECOND, FIRST], vec![SECOND]] {
        let changed = MeshConfig { password_marks: left, ..changed.clone() };
        let mut lab = Lab::new([changed, with(1, &[FIRST]), with(2, &[FIRST])]);
        lab.marks[0] = vec![FIRST];
        lab.connect(1, 0);
        lab.connect(2, 0);
        assert_eq!([1, 2].map(|host| lab.connections(host).len()), [1, 0], "a member, and who is new");
        assert_eq!(lab.reasons(), [GoodbyeReason::UnknownKey]);
    }
}

#[test]
fn passwords_that_others_have_meanwhile_are_spent_too() {
    // While the password is changed a host is lost that has the new one already.
    let mut lab = full([member(0, &[FIRST]), member(1, &[SECOND, FIRST]), member(2, &[SECOND, FIRST])]);
    revoke(&mut lab, 0, 2);
    let marks = &lab.hosts[1].revocations()[0].marks;
    assert_eq!(*marks, [FIRST, SECOND].into());
    assert!(problems(&lab, 1).iter().any(|(word, _)| *word == "password_known_to_revoked"));
}

#[test]
fn a_change_of_the_password_says_how_far_it_has_come() {
    let mut lab = full([member(0, &[SECOND, FIRST]), member(1, &[FIRST]), member(2, &[FIRST])]);
    let of = |lab: &Lab, host| {
        let said = problems(lab, host).into_iter().find(|(word, _)| *word == "old_password");
        said.map(|(_, sentence)| sentence).unwrap_or_default()
    };
    assert!(of(&lab, 0).contains("still used by peer1(host1), peer2(host2)"), "{}", of(&lab, 0));
    assert!(of(&lab, 1).contains("set the WEFT_PASSWORD of peer0(host0) on it"), "{}", of(&lab, 1));
    for host in [1, 2] {
        for connection in lab.connections(host) {
            lab.disconnect(connection, host);
        }
        lab.settle();
        let restarted = again(&lab, host, &[SECOND, FIRST]);
        lab.marks[host].clone_from(&restarted.password_marks);
        lab.hosts[host] = Mesh::new(restarted, Vec::new(), lab.now);
    }
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        lab.connect(from, to);
    }
    lab.pass(Duration::from_secs(6));
    for host in 0..3 {
        assert!(of(&lab, host).contains("it is dropped within two minutes"), "{}", of(&lab, host));
    }
    assert_eq!(lab.reasons(), []);
}

/// Tells which hosts have dropped their old password.
fn dropped(lab: &Lab) -> Vec<bool> {
    lab.events.iter().map(|events| events.contains(&Event::OldPasswordDropped)).collect()
}

#[test]
fn an_old_password_is_dropped_when_nobody_has_needed_it_for_a_while() {
    let mut lab = full([member(0, &[FIRST]), member(1, &[FIRST]), member(2, &[FIRST])]);
    let change = |lab: &mut Lab, host: usize| {
        lab.hosts[host].set_password_marks(vec![SECOND, FIRST], lab.now);
        lab.marks[host] = vec![SECOND, FIRST];
        lab.settle();
    };
    change(&mut lab, 0);
    change(&mut lab, 1);
    let said = |lab: &Lab, host| problems(lab, host).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
    assert_eq!(said(&lab, 2), ["old_password"], "it hears of it at once");
    lab.pass(Duration::from_secs(300));
    assert_eq!(dropped(&lab), [false; 3], "one host still has none but the old one");
    // Also while that one is away.
    for connection in lab.connections(2) {
        lab.cut.insert(connection);
    }
    lab.pass(Duration::from_secs(300));
    assert_eq!(dropped(&lab), [false; 3]);
    lab.cut.clear();
    lab.connect(2, 0);
    lab.connect(2, 1);
    change(&mut lab, 2);
    lab.pass(Duration::from_secs(50));
    assert_eq!(dropped(&lab), [false; 3], "too soon");
    lab.pass(Duration::from_secs(30));
    assert_eq!(dropped(&lab), [true; 3]);
    for host in 0..3 {
        assert_eq!(said(&lab, host), [""; 0], "nothing is left to do at {host}");
        assert_eq!(lab.connections(host).len(), 2, "connections stay");
    }
    let count = lab.events.iter().flatten().filter(|event| **event == Event::OldPasswordDropped).count();
    assert_eq!(count, 3, "once each");
}

#[test]
fn who_knows_of_no_other_host_keeps_the_old_password() {
    let mut lab = Lab::new([member(0, &[SECOND, FIRST])]);
    lab.pass(Duration::from_secs(300));
    assert_eq!(dropped(&lab), [false]);
    let said = problems(&lab, 0);
    assert!(said.iter().any(|(_, text)| text.contains("leave WEFT_PASSWORD_OLD out")), "{said:?}");
}
