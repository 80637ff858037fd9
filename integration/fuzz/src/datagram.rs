//! What comes by UDP once it is opened, and around it.

use weft_router_core::{
    datagram::{Checksum, Content, Header, Relayed, SegmentHeader},
    fit::{Joiner, LEAST_PART, PartHeader, Parts},
    forward::flow_of,
    segment::{Join, complete_checksum},
    session::SessionIndex,
};

use crate::{
    Bounds, Target,
    input::{Input, pause, piece, start},
};

/// Datagrams' headers and contents, one after the other, joined as the packet path joins them.
pub(crate) const CONTENTS: Target = Target {
    name: "contents",
    bounds: Bounds { memory_bytes: 1 << 20, allocations: 4096 },
    run: contents,
    seeds: content_seeds,
};

/// Parts of contents, from several sessions, over time.
pub(crate) const PARTS: Target = Target {
    name: "parts",
    bounds: Bounds { memory_bytes: 5 << 20, allocations: 20_000 },
    run: parts,
    seeds: part_seeds,
};

fn contents(input: &[u8]) {
    let mut input = Input::new(input);
    let (mut joining, mut joiner) = (None, Joiner::default());
    while !input.is_empty() {
        let mut bytes = input.piece().to_vec();
        if let Some(header) = Header::decode(&bytes) {
            assert_eq!(header.encode()[..], bytes[..header.encode().len()]);
        }
        if let Some(relayed) = Relayed::decode(&bytes) {
            let again = [&relayed.encode()[..], &bytes[relayed.encode().len()..]].concat();
            assert_eq!(Relayed::decode(&again), Some(relayed));
            assert!(relayed.next_hop().is_none_or(|next| next.hop_limit < relayed.hop_limit));
        }
        match Content::decode(&mut bytes) {
            Some(Content::Frame(checksum, frame)) => read_frame(checksum, frame),
            Some(Content::Segment(header, slice)) => join(&mut joining, header, slice),
            Some(Content::Fragment(part)) => {
                finish(joining.take());
                take_part(&mut joiner, part);
            }
            Some(Content::Probe(_)) | None => {}
        }
    }
    finish(joining);
}

fn read_frame(checksum: Checksum, frame: &mut [u8]) {
    let _ = (complete_checksum(checksum, frame), flow_of(frame));
}

fn join(joining: &mut Option<(Join, usize)>, header: SegmentHeader, slice: &[u8]) {
    if let Some((join, payload)) = joining
        && join.push(header, slice)
    {
        *payload += slice.len() - join.payload_offset();
    } else if let Some(join) = Join::new(header, slice) {
        let payload = slice.len() - join.payload_offset();
        finish(joining.replace((join, payload)));
    }
}

/// Joins parts of one session, and reads the frame that becomes whole; a part in parts is none.
fn take_part(joiner: &mut Joiner, content: &[u8]) {
    let Some((header, part)) = PartHeader::decode(content) else { return };
    let Ok(Some(mut whole)) = joiner.handle_part(SessionIndex(1), header, part, start()) else { return };
    assert_eq!(whole.len(), usize::from(header.length));
    if let Some(Content::Frame(checksum, frame)) = Content::decode(&mut whole) {
        read_frame(checksum, frame);
    }
}

fn finish(joining: Option<(Join, usize)>) {
    let Some((mut join, payload)) = joining else { return };
    let (headers, joined) = join.finish();
    assert_eq!(headers.len(), usize::from(joined.headers));
    assert!(headers.len() + payload <= 65_535 + 22, "an IP packet with an Ethernet header and two tags");
}

fn content_seeds() -> Vec<Vec<u8>> {
    let frame = [&Checksum { start: 34, offset: 16 }.encode()[..], &[0; 70]].concat();
    let relayed = [&[0x12, 9, 0, 0][..], &[1; 16], &[0x11; 40]].concat();
    let probe = [&[4, 0][..], &[7; 60]].concat();
    let answer = [&[4, 1][..], &[7; 58]].concat();
    vec![
        piece(&frame),
        piece(&[0x11; 40]),
        piece(&relayed),
        piece(&probe),
        piece(&answer),
        slices(2),
        slices(0),
        frame_in_parts(false),
        frame_in_parts(true),
    ]
}

/// Two slices of one batch of TCP over IPv4, or of UDP.
fn slices(last: u8) -> Vec<u8> {
    let slice = |index: u8| {
        let mut slice = vec![2, 1 | (last * 64 * index), 0, 1, 0, index, 0, 8, 34];
        slice.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 48, 0, index, 0x40, 0, 64, 6, 0, 0]);
        slice.extend([10, 32, 0, 1, 10, 32, 0, 2, 0, 80, 0, 80, 0, 0, 0, index * 8, 0, 0, 0, 0, 0x50, 16, 1, 0]);
        slice.extend([0; 12]);
        slice
    };
    [piece(&slice(0)), piece(&slice(1))].concat()
}

/// A frame in parts, in order or with the last part first.
fn frame_in_parts(reversed: bool) -> Vec<u8> {
    let head = Checksum { start: 34, offset: 16 }.encode();
    let parts = Parts::new(&head, &[0; 900], 7, 600).expect("they fit");
    let part = |index| {
        let mut content = vec![0; parts.length(index)];
        parts.write(index, &mut content);
        piece(&content)
    };
    let mut pieces: Vec<Vec<u8>> = (0..parts.count()).map(part).collect();
    if reversed {
        pieces.reverse();
    }
    pieces.concat()
}

fn parts(input: &[u8]) {
    let mut input = Input::new(input);
    let (mut joiner, mut now) = (Joiner::default(), start());
    while !input.is_empty() {
        let [session, time, number, repeat] = input.array();
        now += pause(time % 4);
        // Parts carry as many bytes as they say, which an input has no room for.
        let mut header = PartHeader { number: number.into(), length: input.word(), offset: input.word() };
        let bytes = vec![number; usize::from(input.word()).min(2048)];
        for _ in 0..=repeat % 16 {
            let session = SessionIndex(u32::from(session % 32));
            if let Ok(Some(content)) = joiner.handle_part(session, header, &bytes, now) {
                assert_eq!(content.len(), usize::from(header.length));
            }
            header.number += 256;
        }
        let raw = input.byte();
        if let Some((header, part)) = PartHeader::decode(&[&[3, raw], &bytes[..]].concat()) {
            let _ = joiner.handle_part(SessionIndex(77), header, part, now);
        }
        if let Some(parts) = Parts::new(&[1; 4], &bytes, 7, usize::from(header.offset)) {
            let lengths = (0..parts.count()).map(|index| parts.length(index));
            assert!(lengths.max().is_some_and(|length| length <= usize::from(header.offset)));
        }
    }
    now += pause(4);
    joiner.handle_timeout(now);
    assert_eq!(joiner.poll_timeout(), None, "everything is forgotten");
}

fn part_seeds() -> Vec<Vec<u8>> {
    let part = |number: u8, length: u16, offset: u16, bytes: u16| {
        let words = [length, offset, bytes].map(u16::to_be_bytes);
        [&[1, 0, number, 0][..], words.as_flattened(), &[0]].concat()
    };
    let least = LEAST_PART as u16;
    vec![
        [part(1, 700, 0, 350), part(1, 700, 350, 350)].concat(),
        [part(1, 900, 600, 300), part(2, 900, 0, least), part(1, 900, 0, 300), part(1, 900, 300, 300)].concat(),
        part(1, 65_535, 0, least),
    ]
}
