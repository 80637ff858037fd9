//! Records of control connections: from the first byte of a stranger to sealed messages.

use std::collections::VecDeque;

use weft_router_core::handshake::{
    Established, Handshake, HandshakeConfig, Password, PasswordPair, Passwords, StaticKey,
};

use crate::{
    Bounds, Target,
    input::{Input, piece},
    mesh::introduction,
};

/// A handshake in which one record is another than it should be, whoever sends it, and what follows if both sides take it.
pub(crate) const HANDSHAKE: Target =
    Target { name: "handshake", bounds: Bounds { memory_bytes: 4 << 20, allocations: 20_000 }, run: handshake, seeds };

/// Most bytes that a side says at once: what its largest message takes.
const MOST_OUTPUT: usize = 8192;

fn handshake(input: &[u8]) {
    let mut input = Input::new(input);
    let [flags, step, how] = input.array();
    let other = input.piece();
    let mut sides = [
        Handshake::initiator(config(1, flags), PasswordPair::FIRST, [1; 32]),
        Handshake::responder(config(2, flags >> 2), [2; 32]),
    ];
    let mut results = [Ok(()), Ok(())];
    let (mut number, mut from, mut quiet) = (0, 0, 0);
    while quiet < 2 {
        let output: Vec<Vec<u8>> = std::iter::from_fn(|| sides[from].poll_output()).collect();
        quiet = if output.is_empty() { quiet + 1 } else { 0 };
        for mut record in output {
            if number == step % 6 {
                change(&mut record, how, other);
            }
            number += 1;
            assert!(record.len() <= MOST_OUTPUT);
            if results[1 - from].is_ok() {
                results[1 - from] = sides[1 - from].handle_input(&record);
            }
        }
        from = 1 - from;
    }
    if let [Some(mut one), Some(mut two)] = sides.map(|mut side| side.poll_established()) {
        assert_eq!((one.peer, two.peer), (config(2, 0).key.name(), config(1, 0).key.name()));
        talk(&mut one, &mut two, input.rest(), how % 4 == LONGER);
    }
}

/// A record is changed by bytes after it, which count as sealed where it was the last one.
const LONGER: u8 = 3;

/// Makes a record another one: what is given instead, some of its bits turned, cut, or longer.
fn change(record: &mut Vec<u8>, how: u8, other: &[u8]) {
    match how % 4 {
        0 => *record = other.to_vec(),
        1 => record.iter_mut().zip(other).for_each(|(byte, turned)| *byte ^= turned),
        2 => record.truncate(other.len()),
        _ => record.extend_from_slice(other),
    }
}

/// Says a message, then bytes that nobody sealed.
fn talk(from: &mut Established, to: &mut Established, bytes: &[u8], disturbed: bool) {
    let mut sealed = Vec::new();
    from.sealer.seal(bytes, &mut sealed).expect("short enough");
    let mut waiting: VecDeque<&[u8]> = sealed.chunks(7).collect();
    let mut heard = None;
    while let Some(chunk) = waiting.pop_front() {
        to.opener.handle_input(chunk);
        let polled = to.opener.poll_message();
        assert!(polled.is_ok() || disturbed, "nothing was changed");
        heard = polled.ok().flatten();
        assert!(heard.is_none() || waiting.is_empty());
    }
    assert!(heard.as_deref() == Some(bytes) || disturbed);
    to.opener.handle_input(bytes);
    while let Ok(Some(_)) = to.opener.poll_message() {}
}

fn config(number: u8, flags: u8) -> HandshakeConfig {
    let current = Password::new(if flags & 1 == 0 { b"right" } else { b"wrong" });
    let old = (flags & 4 != 0).then(|| Password::new(b"right"));
    HandshakeConfig {
        key: StaticKey::from_private([number; 32]),
        passwords: (flags & 2 == 0).then(|| Passwords::new(current, old)),
        introduction: introduction(number),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let seed = |head: [u8; 3], other: &[u8]| [&head[..], &piece(other), b"a message"].concat();
    let hello = [&[0, 43, 1][..], b"weft", &[0, 1, 0, 1, 1, 65], &[3; 32]].concat();
    let refusal = [0, 2, 3, 1];
    vec![
        seed([0, 5, 1], &[]),
        seed([0b1010, 5, 1], &[]),
        seed([0b0001, 5, 1], &[]),
        seed([0b0101, 5, 1], &[]),
        seed([0, 0, 0], &hello),
        seed([0, 1, 0], &hello),
        seed([0, 1, 0], &refusal),
        seed([0, 2, 1], &[0, 0, 0, 1]),
        seed([0, 3, 1], &[0, 0, 0, 0, 0, 0, 0, 1]),
        seed([0, 4, 2], &[0; 40]),
        seed([0, 3, 3], &[0; 40]),
    ]
}
