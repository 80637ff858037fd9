use proptest::prelude::*;

use super::*;

fn config(private: u8, password: Option<&str>) -> HandshakeConfig {
    HandshakeConfig {
        key: StaticKey::from_private([private; 32]),
        passwords: password.map(|text| Passwords::new(Password::new(text.as_bytes()), None)),
        introduction: Introduction {
            protocol_min: 1,
            protocol_max: 1,
            name: format!("peer-{private}"),
            nickname: String::new(),
            instance: private.into(),
            connection: 0,
            address_range: "10.32.0.0/12".parse().expect("valid"),
            ring_id: None,
            data_port: 6783,
            listen_port: 6783,
            observed: None,
            trusted_subnets: Vec::new(),
        },
    }
}

/// What both sides came to.
type Outcome = (Result<Option<Established>, HandshakeError>, Result<Option<Established>, HandshakeError>);

/// Runs both sides against each other; `tamper` sees each record on the wire, numbered, and may change it.
fn run(a: HandshakeConfig, b: HandshakeConfig, mut tamper: impl FnMut(usize, &mut Vec<u8>)) -> Outcome {
    let mut initiator = Handshake::initiator(a, PasswordPair::FIRST, [11; 32]);
    let mut responder = Handshake::responder(b, [22; 32]);
    let (mut left, mut right) = (Ok(()), Ok(()));
    let mut number = 0;
    loop {
        let mut quiet = true;
        while let Some(mut bytes) = initiator.poll_output() {
            quiet = false;
            tamper(number, &mut bytes);
            number += 1;
            // In single bytes, so that every cut is seen.
            for byte in &bytes {
                right = right.and_then(|()| responder.handle_input(&[*byte]));
            }
        }
        while let Some(mut bytes) = responder.poll_output() {
            quiet = false;
            tamper(number, &mut bytes);
            number += 1;
            left = left.and_then(|()| initiator.handle_input(&bytes));
        }
        if quiet {
            return (left.map(|()| initiator.poll_established()), right.map(|()| responder.poll_established()));
        }
    }
}

fn established(outcome: Outcome) -> (Established, Established) {
    match outcome {
        (Ok(Some(a)), Ok(Some(b))) => (a, b),
        other => panic!("no session: {other:?}"),
    }
}

#[test]
fn who_shares_the_password_learns_who_the_other_is() {
    for password in [Some("secret"), None] {
        let (a, b) = established(run(config(1, password), config(2, password), |_, _| {}));
        assert_eq!(a.peer, StaticKey::from_private([2; 32]).name());
        assert_eq!(b.peer, StaticKey::from_private([1; 32]).name());
        assert_eq!(a.introduction.name, "peer-2");
        assert_eq!(b.introduction.name, "peer-1");
    }
}

#[test]
fn messages_pass_both_ways_also_when_long_and_over_many_keys() {
    let (mut a, mut b) = established(run(config(1, Some("x")), config(2, Some("x")), |_, _| {}));
    let long: Vec<u8> = (0..MAX_MESSAGE).map(|index| index.to_le_bytes()[0]).collect();
    let mut wire = Vec::new();
    for message in [b"".as_slice(), b"one", &long] {
        a.sealer.seal(message, &mut wire).expect("within the limit");
    }
    for chunk in wire.chunks(1000) {
        b.opener.handle_input(chunk);
    }
    for message in [b"".as_slice(), b"one", &long] {
        assert_eq!(b.opener.poll_message().expect("opens").as_deref(), Some(message));
    }
    for number in 0..150_000_u32 {
        wire.clear();
        b.sealer.seal(&number.to_be_bytes(), &mut wire).expect("within the limit");
        a.opener.handle_input(&wire);
        assert_eq!(a.opener.poll_message().expect("opens"), Some(number.to_be_bytes().to_vec()));
    }
    assert!(matches!(a.sealer.seal(&vec![0; MAX_MESSAGE + 1], &mut wire), Err(ChannelError::TooLong { .. })));
}

#[test]
fn a_changed_repeated_or_missing_record_ends_the_channel() {
    let channel = || established(run(config(1, Some("x")), config(2, Some("x")), |_, _| {}));
    let seal = |a: &mut Established, text: &[u8]| {
        let mut wire = Vec::new();
        a.sealer.seal(text, &mut wire).expect("within the limit");
        wire
    };
    let (mut a, mut b) = channel();
    let mut wire = seal(&mut a, b"hello");
    *wire.last_mut().expect("not empty") ^= 1;
    b.opener.handle_input(&wire);
    assert_eq!(b.opener.poll_message(), Err(ChannelError::Damaged));

    let (mut a, mut b) = channel();
    let wire = seal(&mut a, b"hello");
    b.opener.handle_input(&wire);
    b.opener.handle_input(&wire);
    assert!(b.opener.poll_message().expect("the first opens").is_some());
    assert_eq!(b.opener.poll_message(), Err(ChannelError::Damaged));

    let (mut a, mut b) = channel();
    seal(&mut a, b"lost");
    b.opener.handle_input(&seal(&mut a, b"kept"));
    assert_eq!(b.opener.poll_message(), Err(ChannelError::Damaged));
}

#[test]
fn both_sides_say_what_is_wrong_with_the_password() {
    let fails = |a: Option<&str>, b: Option<&str>| {
        let (left, right) = run(config(1, a), config(2, b), |_, _| {});
        (left.expect_err("no session"), right.expect_err("no session"))
    };
    assert_eq!(fails(Some("x"), Some("y")), (HandshakeError::WrongPassword, HandshakeError::WrongPassword));
    assert_eq!(fails(Some("x"), None), (HandshakeError::PasswordMissingThere, HandshakeError::PasswordMissingHere));
    assert_eq!(fails(None, Some("x")), (HandshakeError::PasswordMissingHere, HandshakeError::PasswordMissingThere));
    assert_eq!(
        HandshakeError::WrongPassword.sentence("192.0.2.1"),
        "the password differs from that of 192.0.2.1: set the same WEFT_PASSWORD on both hosts"
    );
}

#[test]
fn other_protocols_and_versions_are_named() {
    let mut responder = Handshake::responder(config(1, None), [0; 32]);
    assert_eq!(responder.handle_input(b"GET / HTTP/1.1\r\n\r\n"), Err(HandshakeError::NotWeft));
    assert_eq!(responder.handle_input(b"more"), Ok(()), "what follows a failure is ignored");

    let hello = Hello { versions: (7, 9), pake: None, has_old: false, use_old: false }.encode();
    let mut responder = Handshake::responder(config(1, None), [0; 32]);
    let error = responder.handle_input(&record(kind::HELLO, &hello)).expect_err("a version of the future");
    assert_eq!(error, HandshakeError::ProtocolVersion { min: 7, max: 9 });
    assert!(responder.poll_output().is_some(), "the other side is told our versions");
    let mut initiator = Handshake::initiator(config(1, None), PasswordPair::FIRST, [0; 32]);
    assert_eq!(initiator.handle_input(&Handshake::busy()), Err(HandshakeError::Busy));
}

#[test]
fn a_reflected_handshake_fails() {
    let mut initiator = Handshake::initiator(config(1, Some("x")), PasswordPair::FIRST, [0; 32]);
    let hello = initiator.poll_output().expect("the hello");
    assert!(initiator.handle_input(&hello).is_err());
}

#[test]
fn who_sits_in_the_middle_with_another_password_gets_nowhere() {
    let (left, right) = run(config(1, Some("x")), config(9, Some("guess")), |_, _| {});
    assert_eq!(
        (left.expect_err("refused"), right.expect_err("refused")),
        (HandshakeError::WrongPassword, HandshakeError::WrongPassword)
    );
    let (left, right) = run(config(9, Some("guess")), config(2, Some("x")), |_, _| {});
    assert!(left.is_err() && right.is_err());
}

#[test]
fn a_recorded_initiator_cannot_be_played_again() {
    let mut recorded = Vec::new();
    let mut count = 0;
    established(run(config(1, Some("x")), config(2, Some("x")), |_, bytes| {
        if count % 2 == 0 {
            recorded.push(bytes.clone());
        }
        count += 1;
    }));
    let mut responder = Handshake::responder(config(2, Some("x")), [99; 32]);
    let mut outcome = Ok(());
    for bytes in recorded {
        outcome = outcome.and_then(|()| responder.handle_input(&bytes));
    }
    assert_eq!(outcome, Err(HandshakeError::WrongPassword));
    assert!(responder.poll_established().is_none());
}

proptest! {
    #[test]
    fn any_change_on_the_way_prevents_the_session(number in 0_usize..5, position in 0_usize..400, bit in 0_u8..8) {
        let mut changed = false;
        let (left, right) = run(config(1, Some("x")), config(2, Some("x")), |index, bytes| {
            // Behind the length, which only delays: a side that waits for more bytes runs into its deadline.
            if index == number && bytes.len() > 2 {
                let position = 2 + position % (bytes.len() - 2);
                bytes[position] ^= 1 << bit;
                changed = true;
            }
        });
        prop_assert!(changed);
        // The last message is the initiator's, which can be done then; the responder is not.
        let both = matches!(left, Ok(Some(_))) && matches!(right, Ok(Some(_)));
        prop_assert!(!both, "{left:?} {right:?}");
    }

    #[test]
    fn garbage_never_panics(initiator in any::<bool>(), chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let mut handshake = if initiator {
            Handshake::initiator(config(1, Some("x")), PasswordPair::FIRST, [0; 32])
        } else {
            Handshake::responder(config(1, Some("x")), [0; 32])
        };
        for chunk in chunks {
            let _ = handshake.handle_input(&chunk);
            prop_assert!(handshake.input.len() <= MAX_RECORD + 2);
        }
        prop_assert!(handshake.poll_established().is_none());
    }

    #[test]
    fn garbage_in_well_formed_records_never_panics(records in prop::collection::vec((0_u8..4, prop::collection::vec(any::<u8>(), 0..200)), 0..6)) {
        let mut responder = Handshake::responder(config(1, Some("x")), [0; 32]);
        let hello = Handshake::initiator(config(2, Some("x")), PasswordPair::FIRST, [1; 32]).poll_output().expect("the hello");
        responder.handle_input(&hello).expect("a good hello");
        for (kind, body) in records {
            let _ = responder.handle_input(&record(kind, &body));
        }
        prop_assert!(responder.poll_established().is_none());
    }

    #[test]
    fn garbage_never_opens(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut opener = Opener::new(zeroize::Zeroizing::new([7; 32]));
        opener.handle_input(&bytes);
        while let Ok(Some(_)) = opener.poll_message() {
            prop_assert!(false, "a record opened");
        }
    }
}

fn with_old(private: u8, current: &str, old: &str) -> HandshakeConfig {
    let [current, old] = [current, old].map(|text| Password::new(text.as_bytes()));
    HandshakeConfig { passwords: Some(Passwords::new(current, Some(old))), ..config(private, None) }
}

/// Tries one pair of passwords after the other, as a dial does. Returns how many connections that took, and with which password
/// they came together.
fn dial(a: &HandshakeConfig, b: &HandshakeConfig) -> (usize, Option<PasswordMark>) {
    let mut pair = PasswordPair::FIRST;
    for count in 1.. {
        let mut initiator = Handshake::initiator(a.clone(), pair, [count as u8; 32]);
        let mut responder = Handshake::responder(b.clone(), [count as u8 + 100; 32]);
        let (mut left, mut right) = (Ok(()), Ok(()));
        for _ in 0..3 {
            while let Some(bytes) = initiator.poll_output() {
                right = right.and_then(|()| responder.handle_input(&bytes));
            }
            while let Some(bytes) = responder.poll_output() {
                left = left.and_then(|()| initiator.handle_input(&bytes));
            }
        }
        if let (Some(left), Some(right)) = (initiator.poll_established(), responder.poll_established()) {
            assert_eq!(left.password, right.password);
            return (count, left.password);
        }
        assert_eq!((left, right), (Err(HandshakeError::WrongPassword), Err(HandshakeError::WrongPassword)));
        let asked_for_old = pair.theirs == PasswordAge::Old;
        let unasked = b.passwords.as_ref().is_some_and(Passwords::has_old) && !asked_for_old;
        assert_eq!(responder.next_pair().is_some(), unasked);
        match initiator.next_pair() {
            Some(next) => pair = next,
            None => return (count, None),
        }
    }
    unreachable!("there are four pairs")
}

#[test]
fn while_the_password_changes_each_pair_is_one_connection_and_the_newest_in_common_is_found() {
    let one = |private, text| config(private, Some(text));
    let cases = [
        (one(1, "new"), with_old(2, "new", "old"), 1, Some("new")),
        (with_old(1, "new", "old"), one(2, "new"), 1, Some("new")),
        (with_old(1, "new", "old"), with_old(2, "new", "old"), 1, Some("new")),
        (one(1, "old"), with_old(2, "new", "old"), 2, Some("old")),
        (with_old(1, "new", "old"), one(2, "old"), 2, Some("old")),
        (with_old(1, "c", "b"), with_old(2, "b", "a"), 3, Some("b")),
        (with_old(1, "c", "a"), with_old(2, "b", "a"), 4, Some("a")),
        (with_old(1, "d", "c"), with_old(2, "b", "a"), 4, None),
        (one(1, "x"), with_old(2, "b", "a"), 2, None),
        (with_old(1, "b", "a"), one(2, "x"), 2, None),
        (one(1, "x"), one(2, "y"), 1, None),
    ];
    for (number, (a, b, connections, password)) in cases.into_iter().enumerate() {
        assert_eq!(
            dial(&a, &b),
            (connections, password.map(|text: &str| Password::new(text.as_bytes()).mark())),
            "case {number}"
        );
    }
}

#[test]
fn a_guess_is_tried_against_the_one_password_that_it_asks_for() {
    // Whoever guesses the old one and does not say so is told that it is wrong, and the other way round.
    let (left, right) = run(config(9, Some("old")), with_old(2, "new", "old"), |_, _| {});
    assert_eq!(left.expect_err("refused"), HandshakeError::WrongPassword);
    assert_eq!(right.expect_err("refused"), HandshakeError::WrongPassword);
    let asks = PasswordPair { theirs: PasswordAge::Old, ..PasswordPair::FIRST };
    let mut initiator = Handshake::initiator(config(9, Some("new")), asks, [1; 32]);
    let mut responder = Handshake::responder(with_old(2, "new", "old"), [2; 32]);
    let mut outcome = Ok(());
    for _ in 0..2 {
        while let Some(bytes) = initiator.poll_output() {
            outcome = outcome.and_then(|()| responder.handle_input(&bytes));
        }
        while let Some(bytes) = responder.poll_output() {
            let _ = initiator.handle_input(&bytes);
        }
    }
    assert_eq!(outcome, Err(HandshakeError::WrongPassword));
}

#[test]
fn marks_tell_passwords_apart_and_an_old_password_that_is_no_other_is_none() {
    let [a, b] = ["a", "b"].map(|text| Password::new(text.as_bytes()));
    assert_ne!(a.mark(), b.mark());
    assert_eq!(Passwords::new(a.clone(), Some(a.clone())).marks(), [a.mark()]);
    assert_eq!(Passwords::new(a.clone(), Some(b.clone())).marks(), [a.mark(), b.mark()]);
}

#[test]
fn a_new_password_leaves_the_one_before_beside_it() {
    let passwords = |current: &str, old: &str| {
        let password = |text: &str| Password::new(text.as_bytes());
        Passwords::new(password(current), (!old.is_empty()).then(|| password(old)))
    };
    let cases = [
        // In force, given, and in force then.
        (("a", ""), ("b", ""), Ok(("b", "a"))),
        (("a", ""), ("a", ""), Ok(("a", ""))),
        (("b", "a"), ("b", ""), Ok(("b", "a"))),
        // Back again.
        (("b", "a"), ("a", ""), Ok(("a", "b"))),
        // The hosts without the new one have `a`: that must not be lost by a slip, unless somebody says so.
        (("b", "a"), ("c", ""), Err(ChangeUnderWay)),
        (("b", "a"), ("c", "b"), Ok(("c", "b"))),
        (("b", "a"), ("c", "a"), Ok(("c", "a"))),
        (("a", ""), ("b", "c"), Ok(("b", "c"))),
    ];
    for (present, given, expected) in cases {
        let next = passwords(present.0, present.1).followed_by(passwords(given.0, given.1));
        assert_eq!(next, expected.map(|(current, old)| passwords(current, old)), "{present:?} and then {given:?}");
    }
    assert_eq!(passwords("b", "a").without_old(), passwords("b", ""));
}

#[test]
fn secrets_do_not_show() {
    let handshake = Handshake::initiator(config(1, Some("x")), PasswordPair::FIRST, [77; 32]);
    assert!(format!("{handshake:?}").contains("seed: Seed(hidden)"), "{handshake:?}");
}
