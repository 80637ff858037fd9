use proptest::prelude::*;

use super::*;
use crate::fit::testing::{TCP, frame, is_valid, tcp, undo_checksum};

const ACK: u8 = 0x10;
const DONE: Checksum = Checksum { start: 0, offset: 0 };
/// 1460, in the order in which Linux sends its options.
const OPTIONS: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

fn offered(frame: &[u8], at: usize) -> u16 {
    word(frame, at).expect("an option")
}

#[test]
fn offers_are_lowered_to_what_fits() {
    for (ipv6, at, limit) in [(false, 34, 965), (true, 54, 945)] {
        for flags in [SYN, SYN | ACK] {
            let mut frame = frame(ipv6, TCP, &[], &tcp(flags, OPTIONS));
            assert!(clamp_mss(&mut frame, DONE, 1005));
            assert_eq!(offered(&frame, at + 22), limit);
            assert!(is_valid(&frame, TCP, at));
            assert!(!clamp_mss(&mut frame, DONE, 1005), "once is enough");
        }
    }
}

#[test]
fn a_checksum_that_is_undone_stays_so() {
    let mut whole = frame(false, TCP, &[], &tcp(SYN, OPTIONS));
    undo_checksum(&mut whole, TCP, 34);
    let before = offered(&whole, 50);
    assert!(clamp_mss(&mut whole, Checksum { start: 34, offset: 16 }, 1005));
    assert_eq!((offered(&whole, 56), offered(&whole, 50)), (965, before));
}

#[test]
fn extension_headers_are_looked_through() {
    // Destination options of 16 bytes, then a fragment header of a packet that is whole.
    let extensions = [44, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, TCP, 0, 0, 0, 9, 9, 9, 9];
    let mut frame = frame(true, TCP, &extensions, &tcp(SYN, OPTIONS));
    assert!(clamp_mss(&mut frame, DONE, 1005));
    assert_eq!(offered(&frame, 54 + 24 + 22), 945);
    assert!(is_valid(&frame, TCP, 54 + 24));
}

#[test]
fn what_is_no_offer_stays() {
    let others = [
        ("smaller", frame(false, TCP, &[], &tcp(SYN, &[2, 4, 3, 0, 1, 1, 1, 1]))),
        ("no option", frame(false, TCP, &[], &tcp(SYN, &[1, 1, 1, 0]))),
        ("behind the end", frame(false, TCP, &[], &tcp(SYN, &[0, 0, 0, 0, 2, 4, 5, 0xb4]))),
        ("no SYN", frame(false, TCP, &[], &tcp(ACK, OPTIONS))),
        ("another protocol", frame(false, 132, &[], &tcp(SYN, OPTIONS))),
        ("a length of zero", frame(false, TCP, &[], &tcp(SYN, &[2, 4, 5, 0xb4, 8, 0, 1, 1]))),
        ("a length beyond the end", frame(false, TCP, &[], &tcp(SYN, &[2, 4, 5, 0xb4, 8, 10, 1, 1]))),
        ("a length missing", frame(false, TCP, &[], &tcp(SYN, &[2, 4, 5, 0xb4, 1, 1, 1, 8]))),
        ("another length", frame(false, TCP, &[], &tcp(SYN, &[2, 6, 5, 0xb4, 1, 1, 1, 1]))),
        ("a header beyond the end", frame(false, TCP, &[], &tcp(SYN, OPTIONS)[..30])),
    ];
    for (what, frame) in others {
        let mut after = frame.clone();
        assert!(!clamp_mss(&mut after, DONE, 1005), "{what}");
        assert_eq!(after, frame, "{what}");
    }
    let mut later_fragment = frame(false, TCP, &[], &tcp(SYN, OPTIONS));
    later_fragment[21] = 8;
    assert!(!clamp_mss(&mut later_fragment, DONE, 1005));
}

proptest! {
    #[test]
    fn checksums_stay_right(
        ipv6: bool,
        padding in 0..=15usize,
        values in prop::collection::vec(any::<u16>(), 1..4),
        payload in prop::collection::vec(any::<u8>(), 0..100),
        largest in 0..70_000usize,
    ) {
        let mut options = vec![NO_OPERATION; padding];
        for value in values {
            options.extend([SEGMENT_SIZE, 4]);
            options.extend(value.to_be_bytes());
            options.push(NO_OPERATION);
        }
        options.resize(options.len().next_multiple_of(4), END);
        let mut frame = frame(ipv6, TCP, &[], &[tcp(SYN, &options), payload].concat());
        let before = frame.clone();
        let at = if ipv6 { 54 } else { 34 };
        let lowered = clamp_mss(&mut frame, DONE, largest);
        prop_assert!(is_valid(&frame, TCP, at));
        prop_assert_eq!(lowered, frame != before);
        let mut undone = before.clone();
        undo_checksum(&mut undone, TCP, at);
        clamp_mss(&mut undone, Checksum { start: at as u16, offset: 16 }, largest);
        prop_assert_eq!(&undone[at + 20..], &frame[at + 20..]);
        undo_checksum(&mut frame, TCP, at);
        prop_assert_eq!(undone, frame);
    }

    #[test]
    fn no_bytes_panic(ipv6: bool, bytes in prop::collection::vec(any::<u8>(), 0..120), flags: u8, cut in 0..140usize) {
        let mut whole = frame(ipv6, TCP, &[], &[&tcp(flags | SYN, &[]), &bytes[..]].concat());
        whole[if ipv6 { 66 } else { 46 }] = 0xf0;
        whole.truncate(cut);
        clamp_mss(&mut whole, DONE, 600);
        clamp_mss(&mut bytes.clone(), DONE, 600);
    }
}
