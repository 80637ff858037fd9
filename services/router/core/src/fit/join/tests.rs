use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::fit::part::{PART_HEADER, Parts};

const SESSION: SessionIndex = SessionIndex(7);

#[expect(clippy::disallowed_methods, reason = "a start to count from")]
fn start() -> Instant {
    Instant::now()
}

fn content(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 11) as u8).collect()
}

fn cut(content: &[u8], head: usize, number: u32, room: usize) -> Vec<Vec<u8>> {
    let (head, body) = content.split_at(head.min(content.len()));
    let parts = Parts::new(head, body, number, room).expect("room enough");
    let write = |index| {
        let mut bytes = vec![0; parts.length(index)];
        parts.write(index, &mut bytes);
        bytes
    };
    (0..parts.count()).map(write).collect()
}

fn join(joiner: &mut Joiner, session: SessionIndex, bytes: &[u8], now: Instant) -> Result<Option<Vec<u8>>, JoinError> {
    let (header, part) = PartHeader::decode(bytes).expect("a part");
    joiner.handle_part(session, header, part, now)
}

#[test]
fn what_fits_is_not_cut() {
    let content = content(1000, 1);
    assert_eq!(cut(&content, 4, 1, 1000), std::slice::from_ref(&content));
    let parts = cut(&content, 4, 1, 999);
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [510, 510]);
    assert!(Parts::new(&[], &content, 1, 2 * LEAST_PART + PART_HEADER - 1).is_none());
    assert!(Parts::new(&[0; 4], &[0; 65_532], 1, 1400).is_none(), "lengths have 16 bits");
}

#[test]
fn parts_that_make_no_sense_are_dropped() {
    let (mut joiner, now) = (Joiner::default(), start());
    let mut part = |length, offset, bytes: usize| {
        joiner.handle_part(SESSION, PartHeader { number: 1, length, offset }, &vec![1; bytes], now)
    };
    assert_eq!(part(1000, 0, 0), Err(JoinError::Misfit), "empty");
    assert_eq!(part(1000, 500, 501), Err(JoinError::Misfit), "beyond the end");
    assert_eq!(part(0, 0, 1), Err(JoinError::Misfit), "beyond nothing");
    assert_eq!(part(1000, 0, LEAST_PART - 1), Err(JoinError::Misfit), "tiny");
    assert_eq!(part(1000, 300, 300), Ok(None));
    assert_eq!(part(1000, 300, 300), Err(JoinError::Overlap), "again");
    assert_eq!(part(1000, 40, 261), Err(JoinError::Overlap), "one byte from below");
    assert_eq!(part(1000, 599, 401), Err(JoinError::Overlap), "one byte from above");
    assert_eq!(part(1000, 0, 1000), Err(JoinError::Overlap), "all around");
    assert_eq!(part(1001, 600, 401), Err(JoinError::Contradiction));
    assert_eq!(part(1000, 0, 300), Ok(None));
    assert_eq!(part(1000, 600, 400), Ok(Some(vec![1; 1000])), "nothing of that did harm");
}

#[test]
fn sessions_do_not_mix() {
    let (mut joiner, now) = (Joiner::default(), start());
    let parts = cut(&content(1400, 1), 4, 1, 1028);
    assert_eq!(join(&mut joiner, SESSION, &parts[0], now), Ok(None));
    assert_eq!(join(&mut joiner, SessionIndex(8), &parts[1], now), Ok(None));
    assert_eq!(join(&mut joiner, SESSION, &parts[1], now), Ok(Some(content(1400, 1))));
}

#[test]
fn parts_are_forgotten_after_a_second() {
    let (mut joiner, start) = (Joiner::default(), start());
    let parts = cut(&content(1400, 1), 4, 1, 1028);
    assert_eq!(join(&mut joiner, SESSION, &parts[0], start), Ok(None));
    assert_eq!(joiner.poll_timeout(), Some(start + PATIENCE));
    assert_eq!(join(&mut joiner, SESSION, &parts[1], start + PATIENCE), Ok(None));
    assert_eq!(joiner.take_given_up(), 1);
    joiner.handle_timeout(start + 2 * PATIENCE);
    assert_eq!((joiner.poll_timeout(), joiner.bytes, joiner.take_given_up()), (None, 0, 1));
}

#[test]
fn one_session_cannot_take_the_room_of_others() {
    let (mut joiner, now) = (Joiner::default(), start());
    let parts = cut(&content(1400, 1), 4, 1, 1028);
    assert_eq!(join(&mut joiner, SESSION, &parts[0], now), Ok(None));
    for number in 0..10_000 {
        let flood = cut(&content(60_000, 2), 4, number, 1028);
        assert_eq!(join(&mut joiner, SessionIndex(8), &flood[3], now), Ok(None));
    }
    assert!(joiner.bytes <= SESSION_BYTES + 1400);
    assert_eq!(join(&mut joiner, SESSION, &parts[1], now), Ok(Some(content(1400, 1))));
}

proptest! {
    #[test]
    fn a_content_comes_out_as_it_was_cut_or_not_at_all(
        lengths in prop::collection::vec((500..20_000usize, 0..10usize, 522..1500usize), 1..6),
        order in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8), 1..120),
    ) {
        let contents: Vec<_> = (0..).zip(&lengths).map(|(number, (length, ..))| content(*length, number)).collect();
        let mut parts: Vec<(u32, Vec<u8>)> = (0..)
            .zip(contents.iter().zip(&lengths))
            .flat_map(|(number, (content, (_, head, room)))| {
                cut(content, *head, number, *room).into_iter().map(move |part| (number, part))
            })
            .filter(|(_, part)| PartHeader::decode(part).is_some())
            .collect();
        let (mut joiner, now) = (Joiner::default(), start());
        let (mut whole, mut lost) = (HashMap::new(), Vec::new());
        let mut take = |joiner: &mut Joiner, (number, part): &(u32, Vec<u8>)| {
            match join(joiner, SESSION, part, now) {
                Ok(Some(joined)) => {
                    prop_assert_eq!(&joined, &contents[*number as usize]);
                    *whole.entry(*number).or_insert(0) += 1;
                }
                Ok(None) | Err(JoinError::Overlap) => {}
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            }
            Ok(())
        };
        for (index, what) in order {
            if parts.is_empty() {
                break;
            }
            let part = parts.swap_remove(index.index(parts.len()));
            match what {
                0 => lost.push(part.0),
                1 => {
                    take(&mut joiner, &part)?;
                    take(&mut joiner, &part)?;
                }
                _ => take(&mut joiner, &part)?,
            }
        }
        for part in &parts {
            take(&mut joiner, part)?;
        }
        for (number, content) in (0..).zip(&contents) {
            let was_cut = cut(content, 4, number, lengths[number as usize].2).len() > 1;
            let complete = was_cut && !lost.contains(&number);
            prop_assert_eq!(whole.contains_key(&number), complete, "content {}", number);
        }
    }

    #[test]
    fn memory_is_bounded(
        parts in prop::collection::vec(
            (0..40u32, 0..200u32, prop_oneof![Just(0), Just(900), any::<u16>()], any::<u16>(), 0..1500usize, 0..20u64),
            1..400,
        )
    ) {
        let (mut joiner, mut now) = (Joiner::default(), start());
        let bytes = [0; 1500];
        for (session, number, length, offset, part, milliseconds) in parts {
            now += Duration::from_millis(milliseconds);
            let header = PartHeader { number, length, offset };
            if let Ok(Some(joined)) = joiner.handle_part(SessionIndex(session), header, &bytes[..part], now) {
                prop_assert_eq!(joined.len(), usize::from(length));
            }
            prop_assert!(joiner.contents.len() <= CONTENTS && joiner.bytes <= BYTES);
            prop_assert_eq!(joiner.ages.len(), joiner.contents.len());
            let sum: usize = joiner.contents.values().map(|incomplete| incomplete.content.len()).sum();
            prop_assert_eq!(sum, joiner.bytes);
            for incomplete in joiner.contents.values() {
                prop_assert!(incomplete.received.len() <= 65_535 / LEAST_PART + 1);
                prop_assert!(incomplete.expires > now);
                let received: usize = incomplete.received.iter().map(|(start, end)| end - start).sum();
                prop_assert_eq!(received + incomplete.missing, incomplete.content.len());
            }
            let of_session = joiner.contents.range((SessionIndex(session), 0)..=(SessionIndex(session), u32::MAX));
            prop_assert!(of_session.clone().count() <= SESSION_CONTENTS);
            prop_assert!(of_session.map(|(_, incomplete)| incomplete.content.len()).sum::<usize>() <= SESSION_BYTES);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some((header, part)) = PartHeader::decode(&bytes) {
            prop_assert_eq!(&[&header.encode(), part].concat()[2..], &bytes[2..]);
            let _ = Joiner::default().handle_part(SESSION, header, part, start());
        }
    }
}
