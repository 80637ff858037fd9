use proptest::prelude::*;

use super::*;

const BOTH: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the starting point of the tests' clock")]
    Instant::now()
}

/// Two agreements, the lower name first.
fn pair(ciphers: [&[Cipher]; 2]) -> [Agreement; 2] {
    let mut keys = [1, 2].map(|byte| StaticKey::from_private([byte; 32]));
    keys.sort_by_key(StaticKey::name);
    let [low, high] = keys;
    [(low, ciphers[0], 3), (high, ciphers[1], 4)].map(|(key, ciphers, seed)| {
        Agreement::new(AgreementConfig { key, ciphers: ciphers.to_vec(), capabilities: seed }, [seed as u8; 32])
    })
}

fn name(agreement: &Agreement) -> PeerName {
    agreement.config.key.name()
}

/// Delivers all that is under way and returns what was agreed on at both sides.
fn deliver(pair: &mut [Agreement; 2], now: Instant) -> [Vec<Agreed>; 2] {
    let names = [name(&pair[0]), name(&pair[1])];
    let mut moved = true;
    while moved {
        moved = false;
        for side in [0, 1] {
            while let Some((to, message)) = pair[side].poll_transmit() {
                assert_eq!(to, names[1 - side]);
                pair[1 - side].handle_message(names[side], &message, now).expect("a good message");
                moved = true;
            }
        }
    }
    [0, 1].map(|side| std::iter::from_fn(|| pair[side].poll_agreed()).collect())
}

fn assert_fit(a: &EstablishedSession, b: &EstablishedSession) {
    assert_eq!(a.send_key.0, b.receive_key.0);
    assert_eq!(a.receive_key.0, b.send_key.0);
    assert_ne!(a.send_key.0, a.receive_key.0);
    assert_eq!((a.local_index, a.remote_index), (b.remote_index, b.local_index));
    assert_eq!(a.cipher, b.cipher);
    assert_ne!(a.initiator, b.initiator);
}

#[test]
fn the_lower_name_initiates_and_both_get_the_same_keys() {
    let now = now();
    let mut pair = pair([&BOTH, &BOTH]);
    let [low, high] = [name(&pair[0]), name(&pair[1])];
    pair[0].set_endpoints(vec!["192.0.2.1:6783".parse().expect("valid")]);
    pair[1].add_peer(low, now);
    assert!(pair[1].poll_transmit().is_none(), "the higher name waits");
    pair[0].add_peer(high, now);
    let [at_low, at_high] = deliver(&mut pair, now);
    assert_eq!((at_low.len(), at_high.len()), (1, 1));
    assert_fit(&at_low[0].session, &at_high[0].session);
    assert!(at_low[0].session.initiator);
    assert_eq!(at_low[0].session.cipher, Cipher::Aes256Gcm);
    assert_eq!(at_high[0].endpoints, ["192.0.2.1:6783".parse().expect("valid")]);
    assert_eq!((at_low[0].capabilities, at_high[0].capabilities), (4, 3));
}

#[test]
fn the_cipher_is_one_that_both_do_well() {
    let now = now();
    let slow: &[Cipher] = &[Cipher::ChaCha20Poly1305];
    for ciphers in [[&BOTH, slow], [slow, &BOTH]] {
        let mut pair = pair(ciphers);
        let high = name(&pair[1]);
        pair[0].add_peer(high, now);
        let [at_low, at_high] = deliver(&mut pair, now);
        assert_fit(&at_low[0].session, &at_high[0].session);
        assert_eq!(at_low[0].session.cipher, Cipher::ChaCha20Poly1305);
    }
}

#[test]
fn lost_messages_are_followed_by_new_ones_and_late_answers_still_count() {
    let now = now();
    let mut pair = pair([&BOTH, &BOTH]);
    let [low, high] = [name(&pair[0]), name(&pair[1])];
    pair[0].add_peer(high, now);
    let (_, first) = pair[0].poll_transmit().expect("the first message");
    assert_eq!(pair[0].poll_timeout(), Some(now + RETRY));
    pair[0].handle_timeout(now + RETRY);
    assert!(pair[0].poll_transmit().is_some(), "a second one, which is lost");
    pair[1].handle_message(low, &first, now + RETRY).expect("a good message");
    let [at_low, at_high] = deliver(&mut pair, now + RETRY);
    assert_fit(&at_low[0].session, &at_high[0].session);
    assert_eq!(pair[0].indexes.len(), 1, "the index of the lost message is free again");
}

#[test]
fn the_higher_name_initiates_when_nobody_else_does() {
    let now = now();
    let mut pair = pair([&BOTH, &BOTH]);
    let low = name(&pair[0]);
    pair[1].add_peer(low, now);
    pair[1].handle_timeout(now + HIGHER_NAME_WAITS);
    let [at_low, at_high] = deliver(&mut pair, now + HIGHER_NAME_WAITS);
    assert_fit(&at_low[0].session, &at_high[0].session);
    assert!(at_high[0].session.initiator);
}

#[test]
fn keys_are_renewed_by_time_and_on_demand() {
    let now = now();
    let mut pair = pair([&BOTH, &BOTH]);
    let [low, high] = [name(&pair[0]), name(&pair[1])];
    pair[0].add_peer(high, now);
    let [first, _] = deliver(&mut pair, now);
    pair[0].handle_timeout(now + SESSION_LIFETIME);
    let [second, _] = deliver(&mut pair, now + SESSION_LIFETIME);
    assert_ne!(first[0].session.send_key.0, second[0].session.send_key.0);
    pair[1].rekey(low, now + SESSION_LIFETIME);
    let [third, _] = deliver(&mut pair, now + SESSION_LIFETIME);
    assert!(!third[0].session.initiator);
    pair[0].remove_peer(high);
    assert_eq!(pair[0].poll_timeout(), None);
}

#[test]
fn a_played_back_first_message_gives_no_keys_and_is_limited() {
    let now = now();
    let mut pair = pair([&BOTH, &BOTH]);
    let [low, high] = [name(&pair[0]), name(&pair[1])];
    pair[0].add_peer(high, now);
    let (_, init) = pair[0].poll_transmit().expect("the first message");
    let mut keys = Vec::new();
    for _ in 0..MAX_ANSWERS {
        pair[1].handle_message(low, &init, now).expect("within the limit");
        keys.push(pair[1].poll_agreed().expect("a session").session.send_key.0);
    }
    assert_eq!(pair[1].handle_message(low, &init, now), Err(AgreementError::TooOften));
    keys.dedup();
    assert_eq!(keys.len(), MAX_ANSWERS, "each has its own keys");
}

#[test]
fn a_third_peer_cannot_speak_for_another() {
    let now = now();
    let mut pair = pair([&BOTH, &BOTH]);
    let high = name(&pair[1]);
    pair[0].add_peer(high, now);
    let (_, init) = pair[0].poll_transmit().expect("the first message");
    let third = StaticKey::from_private([3; 32]).name();
    assert_eq!(pair[1].handle_message(third, &init, now), Err(AgreementError::Damaged));
}

proptest! {
    #[test]
    fn any_change_on_the_way_is_found(position in 0_usize..200, bit in 0_u8..8, response in any::<bool>()) {
        let now = now();
        let mut pair = pair([&BOTH, &BOTH]);
        let [low, high] = [name(&pair[0]), name(&pair[1])];
        pair[0].add_peer(high, now);
        let (_, mut init) = pair[0].poll_transmit().expect("the first message");
        if !response {
            change(&mut init, position, bit);
            prop_assert_eq!(pair[1].handle_message(low, &init, now), Err(AgreementError::Damaged));
            return Ok(());
        }
        pair[1].handle_message(low, &init, now).expect("a good message");
        let (_, good) = pair[1].poll_transmit().expect("the answer");
        let mut bad = good.clone();
        change(&mut bad, position, bit);
        prop_assert_eq!(pair[0].handle_message(high, &bad, now), Err(AgreementError::Damaged));
        prop_assert_eq!(pair[0].handle_message(high, &good, now), Ok(()), "the true answer still counts");
    }

    #[test]
    fn garbage_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300), index in any::<u32>()) {
        let now = now();
        let mut pair = pair([&BOTH, &BOTH]);
        let high = name(&pair[1]);
        pair[0].add_peer(high, now);
        let init = SessionInit { receiver_index: index, noise: noise.clone() };
        let response = SessionResponse { answered_index: index, receiver_index: index, noise };
        for kind in [Kind::Init(init), Kind::Response(response)] {
            let outcome = pair[0].handle_message(high, &message(kind), now);
            prop_assert!(outcome.is_err());
        }
    }
}

/// What may happen to two peers and the messages between them.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// One asks for new keys.
    Rekey(usize),
    /// One starts anew, with the same long-term key and with entropy of its own.
    Restart(usize),
    /// What is under way arrives.
    Deliver,
    /// What is under way gets lost; who recorded it may play it later.
    Lose,
    /// A recorded message comes, perhaps once more, to whom it was sent, perhaps before a restart.
    Play(usize),
    /// Seconds pass.
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..2_usize).prop_map(Step::Rekey),
        2 => (0..2_usize).prop_map(Step::Restart),
        4 => Just(Step::Deliver),
        1 => Just(Step::Lose),
        3 => any::<usize>().prop_map(Step::Play),
        2 => (0..150_u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..40)
}

/// Two peers, all messages that were sent, and all keys that were agreed on.
struct Story {
    pair: [Agreement; 2],
    now: Instant,
    recorded: Vec<(usize, SessionMessage)>,
    keys: Vec<[u8; 32]>,
    /// The seed that was drawn last.
    entropy: u8,
}

impl Story {
    fn take(&mut self, deliver: bool) {
        let names = [name(&self.pair[0]), name(&self.pair[1])];
        for side in [0, 1] {
            while let Some((_, message)) = self.pair[side].poll_transmit() {
                if deliver {
                    // Who started anew knows of no question.
                    let _ = self.pair[1 - side].handle_message(names[side], &message, self.now);
                }
                self.recorded.push((1 - side, message));
            }
        }
    }

    fn apply(&mut self, step: Step) {
        let names = [name(&self.pair[0]), name(&self.pair[1])];
        match step {
            Step::Rekey(side) => self.pair[side].rekey(names[1 - side], self.now),
            Step::Restart(side) => {
                let config = self.pair[side].config.clone();
                self.entropy += 1;
                self.pair[side] = Agreement::new(config, [self.entropy; 32]);
                self.pair[side].add_peer(names[1 - side], self.now);
            }
            Step::Deliver => {
                self.take(true);
                self.take(true);
            }
            Step::Lose => self.take(false),
            Step::Play(which) => {
                let message = self.recorded.get(which % self.recorded.len().max(1)).cloned();
                if let Some((to, message)) = message {
                    let _ = self.pair[to].handle_message(names[1 - to], &message, self.now);
                }
            }
            Step::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.pair.iter_mut().for_each(|agreement| agreement.handle_timeout(self.now));
            }
        }
        for agreement in &mut self.pair {
            self.keys.extend(std::iter::from_fn(|| agreement.poll_agreed()).map(|agreed| agreed.session.send_key.0));
        }
    }
}

proptest! {
    /// Counters begin at 0 with each session, so a key that came again would have nonces come again: never, whoever starts anew
    /// and whatever is lost, recorded and played again.
    #[test]
    fn no_key_ever_comes_again(steps in steps()) {
        let mut pair = pair([&BOTH, &BOTH]);
        let (now, names) = (now(), [name(&pair[0]), name(&pair[1])]);
        pair[0].add_peer(names[1], now);
        pair[1].add_peer(names[0], now);
        let mut story = Story { pair, now, recorded: Vec::new(), keys: Vec::new(), entropy: 9 };
        story.apply(Step::Deliver);
        prop_assert_eq!(story.keys.len(), 2);
        steps.into_iter().for_each(|step| story.apply(step));
        let all = story.keys.len();
        story.keys.sort_unstable();
        story.keys.dedup();
        prop_assert_eq!(story.keys.len(), all);
    }
}

/// Flips one bit of the sealed part.
fn change(message: &mut SessionMessage, position: usize, bit: u8) {
    let noise = match &mut message.kind {
        Some(Kind::Init(init)) => &mut init.noise,
        Some(Kind::Response(response)) => &mut response.noise,
        None => panic!("every message has a kind"),
    };
    let position = position % noise.len();
    noise[position] ^= 1 << bit;
}
