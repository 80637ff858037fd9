//! Frames that prove the way to a trusted peer (`docs/wire-protocol.md`, section 5).
//!
//! They go to an address that bridges hand to their own host and never on (IEEE 802.1Q-2018, table 8-1), so containers see none.

use crate::{
    datagram::{Batch, Checksum},
    segment::{fold, sum},
    virtio::{self, Offload},
};

/// Kind of the frames (IEEE 802-2014, section 9.2.4: local experiments).
pub const ETHERTYPE: u16 = 0x88b5;
/// Kind of the frames of a batch.
pub const BATCH_ETHERTYPE: u16 = 0x0800;

const ETHERNET: usize = 14;
const DESTINATION: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0f];
const SOURCE: [u8; 6] = [0x02, 0x77, 0x65, 0x66, 0x74, 0x00];
const MAGIC: [u8; 4] = *b"weft";
const QUESTION: u8 = 0;
const ANSWER: u8 = 1;
/// Magic, kind, reserved, length, token.
const HEADER: usize = 4 + 1 + 1 + 2 + 16;
/// The shortest frame, in bytes.
pub const SMALL: usize = ETHERNET + HEADER;

/// Segments of a batch at most; fewer where they are so large that an IP packet has no room for them.
const SEGMENTS: usize = 8;
/// Bytes of an IPv4 packet at most (RFC 791, section 3.1).
const LARGEST_PACKET: usize = 65_535;
/// Token and number of a segment, with which its payload begins.
const SEGMENT_HEADER: usize = 17;
const IPV4: usize = 20;
const TCP: usize = 20;
const HEADERS: usize = ETHERNET + IPV4 + TCP;
/// What the kernel does about the checksum of a frame that it hands over: it vouches for it, or it is not done yet.
const NEEDS_CHECKSUM: u8 = 1;
const CHECKED: u8 = 2;
const PROTOCOL_TCP: u8 = 6;
/// Of no host (RFC 7600): no packet of a batch goes any further.
const ADDRESS: [u8; 4] = [192, 0, 0, 8];
const PORT: [u8; 2] = 6784u16.to_be_bytes();

/// A probe, as far as it came in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Asks for a frame of the same length back.
    Question {
        /// To return.
        token: [u8; 16],
        /// Of the frame, in bytes.
        length: usize,
    },
    /// Answers a question or a batch.
    Answer {
        /// The question's.
        token: [u8; 16],
    },
}

/// Returns the length of the frame that a full packet of so many bytes makes.
#[must_use]
pub const fn full(mtu: u16) -> usize {
    ETHERNET + mtu as usize
}

impl Probe {
    /// Writes the frame, `length` bytes long, at least [`SMALL`].
    #[must_use]
    pub fn encode(self, length: usize) -> Vec<u8> {
        let length = length.clamp(SMALL, usize::from(u16::MAX));
        let (kind, token) = match self {
            Self::Question { token, .. } => (QUESTION, token),
            Self::Answer { token } => (ANSWER, token),
        };
        let mut frame = ethernet(ETHERTYPE).to_vec();
        frame.extend(MAGIC);
        frame.extend([kind, 0]);
        frame.extend((length as u16).to_be_bytes());
        frame.extend(token);
        frame.resize(length, 0);
        frame
    }

    /// Reads a frame; nothing if it is no probe, or not whole.
    #[must_use]
    pub fn decode(frame: &[u8]) -> Option<Self> {
        let (ethernet_header, content) = frame.split_at_checked(ETHERNET)?;
        let (header, _) = content.split_at_checked(HEADER)?;
        let length = usize::from(u16::from_be_bytes([header[6], header[7]]));
        // A device may have padded a short one to its own shortest (IEEE 802.3: 60 bytes).
        let whole = length == frame.len() || ((SMALL..frame.len()).contains(&length) && frame.len() <= 60);
        if ethernet_header != ethernet(ETHERTYPE) || header[..4] != MAGIC || !whole {
            return None;
        }
        let token = *header[8..].first_chunk()?;
        match header[4] {
            QUESTION => Some(Self::Question { token, length }),
            ANSWER => Some(Self::Answer { token }),
            _ => None,
        }
    }
}

fn ethernet(kind: u16) -> [u8; ETHERNET] {
    let mut header = [0; ETHERNET];
    header[..6].copy_from_slice(&DESTINATION);
    header[6..12].copy_from_slice(&SOURCE);
    header[12..].copy_from_slice(&kind.to_be_bytes());
    header
}

/// Returns how many segments of so many bytes of payload a batch has; nothing for those that no batch has.
fn segments(size: usize) -> Option<usize> {
    let most = (LARGEST_PACKET - IPV4 - TCP) / size.max(SEGMENT_HEADER);
    (size >= SEGMENT_HEADER && most > 0).then_some(most.min(SEGMENTS))
}

/// Writes a batch of full packets as one frame of TCP that the kernel cuts, and the header that tells it how. Nothing where so
/// small an MTU, in bytes, has no room for it.
#[must_use]
pub fn batch(token: [u8; 16], mtu: u16) -> Option<(Offload, Vec<u8>)> {
    let size = usize::from(mtu).checked_sub(IPV4 + TCP)?;
    let count = segments(size)?;
    let mut frame = ethernet(BATCH_ETHERTYPE).to_vec();
    let total = (IPV4 + TCP + count * size) as u16;
    let mut ip = [0; IPV4];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    // Not to be cut in fragments; one hop.
    ip[6] = 0x40;
    ip[8] = 1;
    ip[9] = PROTOCOL_TCP;
    ip[12..16].copy_from_slice(&ADDRESS);
    ip[16..].copy_from_slice(&ADDRESS);
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(ip);
    let mut tcp = [0; TCP];
    tcp[..2].copy_from_slice(&PORT);
    tcp[2..4].copy_from_slice(&PORT);
    tcp[12] = 5 << 4;
    // Acknowledges: only such segments are joined again on their way.
    tcp[13] = 0x10;
    // What the checksum still lacks is the rest of the segment (virtio 1.2, section 5.1.6.2).
    let pseudo = fold(pseudo_sum(total - IPV4 as u16));
    tcp[16..18].copy_from_slice(&pseudo.to_be_bytes());
    frame.extend(tcp);
    for index in 0..count {
        frame.extend(segment(token, index, size));
    }
    let checksum = Checksum { start: (ETHERNET + IPV4) as u16, offset: 16 };
    Some((Offload { checksum, batch: Some((Batch::Tcp4, size as u16)) }, frame))
}

/// Length of the headers before the payload of a batch, in bytes.
pub const BATCH_HEADERS: u16 = HEADERS as u16;

fn pseudo_sum(length: u16) -> u64 {
    let [high, low] = length.to_be_bytes();
    sum(&[&ADDRESS[..], &ADDRESS, &[0, PROTOCOL_TCP, high, low]].concat())
}

/// The payload of one segment: token, its number, and bytes that are others in each segment.
fn segment(token: [u8; 16], index: usize, size: usize) -> Vec<u8> {
    let mut payload = token.to_vec();
    payload.push(index as u8);
    let filling = (payload.len()..size).map(|at| (at as u8) ^ token[at % token.len()].wrapping_add(index as u8));
    payload.extend(filling.collect::<Vec<_>>());
    payload.truncate(size);
    payload
}

/// What has come of a batch. Of several, the one that came last counts.
#[derive(Debug, Default)]
pub struct Batches {
    token: [u8; 16],
    /// Payload of a segment, in bytes: that of the sender's MTU.
    size: usize,
    seen: u32,
}

impl Batches {
    /// Takes a frame with the header that the kernel wrote before it ([`virtio`]), and returns the token when all of its batch
    /// has come intact. Frames may be joined, in whatever order.
    pub fn receive(&mut self, header: [u8; virtio::HEADER], frame: &[u8]) -> Option<[u8; 16]> {
        let [flags, joined, _, _, first, second, ..] = header;
        let payload = payload(flags, frame).filter(|payload| !payload.is_empty())?;
        // What the other end has for an MTU is not ours to know: the kernel says how large the segments that it joined were.
        let size = if joined == 0 { payload.len() } else { usize::from(u16::from_ne_bytes([first, second])) };
        let count = segments(size)?;
        for part in payload.chunks(size) {
            let token: [u8; 16] = *part.first_chunk()?;
            let index = usize::from(*part.get(token.len())?);
            if index >= count || part != segment(token, index, size) {
                return None;
            }
            if (token, size) != (self.token, self.size) {
                *self = Self { token, size, seen: 0 };
            }
            self.seen |= 1 << index;
        }
        let whole = self.seen == (1 << count) - 1;
        whole.then(|| std::mem::take(self).token)
    }
}

/// Returns the payload of a frame of a batch whose checksum is right, as far as the kernel does not vouch for it.
fn payload(flags: u8, frame: &[u8]) -> Option<&[u8]> {
    let (ethernet_header, packet) = frame.split_at_checked(ETHERNET)?;
    let (ip, rest) = packet.split_at_checked(IPV4)?;
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let ours = ethernet_header == ethernet(BATCH_ETHERTYPE)
        && (ip[0], ip[9]) == (0x45, PROTOCOL_TCP)
        && ip[12..16] == ADDRESS
        && ip[16..] == ADDRESS
        && fold(sum(ip)) == u16::MAX;
    let segment = rest.get(..total.checked_sub(IPV4)?).filter(|_| ours)?;
    let vouched = flags & (NEEDS_CHECKSUM | CHECKED) != 0;
    let right = || fold(pseudo_sum(segment.len() as u16) + sum(segment)) == u16::MAX;
    if vouched || right() { segment.get(TCP..) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::complete_checksum;

    const TOKEN: [u8; 16] = *b"sixteen bytes ok";

    /// Cuts a batch as the kernel does.
    fn cut(frame: &[u8], mtu: u16) -> Vec<Vec<u8>> {
        let size = usize::from(mtu) - IPV4 - TCP;
        frame[HEADERS..].chunks(size).map(carrying).collect()
    }

    /// Returns a frame with the headers of a batch, and this payload.
    fn carrying(payload: &[u8]) -> Vec<u8> {
        let (_, frame) = batch(TOKEN, 1400).expect("a batch");
        let mut segment = frame[..HEADERS].to_vec();
        segment.extend(payload);
        let total = (segment.len() - ETHERNET) as u16;
        segment[16..18].copy_from_slice(&total.to_be_bytes());
        segment[24..26].copy_from_slice(&[0, 0]);
        let checksum = !fold(sum(&segment[ETHERNET..ETHERNET + IPV4]));
        segment[24..26].copy_from_slice(&checksum.to_be_bytes());
        let pseudo = fold(pseudo_sum(total - IPV4 as u16));
        segment[50..52].copy_from_slice(&pseudo.to_be_bytes());
        assert!(complete_checksum(Checksum { start: 34, offset: 16 }, &mut segment));
        segment
    }

    #[test]
    fn probes_round_trip() {
        for length in [SMALL, 60, full(1400), full(8900)] {
            let question = Probe::Question { token: TOKEN, length };
            let frame = question.encode(length);
            assert_eq!((frame.len(), Probe::decode(&frame)), (length, Some(question)));
            assert_eq!(Probe::decode(&frame[..length - 1]), None, "a frame that was cut");
        }
        let answer = Probe::Answer { token: TOKEN };
        let mut padded = answer.encode(SMALL);
        padded.resize(60, 0);
        assert_eq!(Probe::decode(&padded), Some(answer));
        padded[ETHERNET + 7] = SMALL as u8 - 1;
        assert_eq!(Probe::decode(&padded), None, "it says that it is shorter than its own header");
    }

    /// What the kernel writes before a frame that it vouches for, and before one that it knows nothing of.
    const VOUCHED: [u8; virtio::HEADER] = [CHECKED, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const PLAIN: [u8; virtio::HEADER] = [0; virtio::HEADER];

    #[test]
    fn a_batch_counts_when_all_of_it_came_whatever_the_order() {
        for (mtu, count) in [(576, 8), (1400, 8), (8226, 8), (8227, 7), (8900, 7), (33_000, 1)] {
            let (offload, frame) = batch(TOKEN, mtu).expect("a batch");
            assert_eq!(offload.batch, Some((Batch::Tcp4, mtu - 40)));
            assert!(frame.len() <= ETHERNET + LARGEST_PACKET);
            let mut segments = cut(&frame, mtu);
            assert_eq!(segments.len(), count, "{mtu}");
            let bare = carrying(&[]);
            segments.reverse();
            let mut batches = Batches::default();
            for (number, segment) in segments.iter().enumerate() {
                let last = number + 1 == count;
                assert_eq!(batches.receive(PLAIN, segment), last.then_some(TOKEN), "{mtu}");
            }
            let joined = offload.encode(BATCH_HEADERS);
            assert_eq!(Batches::default().receive(joined, &frame), Some(TOKEN), "all joined again");
            // Headers alone add nothing, whatever the kernel says of how large their segments were.
            let mut batches = Batches::default();
            for segment in segments.iter().rev().take(count - 1) {
                batches.receive(PLAIN, segment);
                for mtu in [mtu, 8900, 33_000] {
                    let (offload, _) = batch(TOKEN, mtu).expect("a batch");
                    assert_eq!(batches.receive(offload.encode(BATCH_HEADERS), &bare), None, "{mtu}");
                }
            }
        }
        assert!(batch(TOKEN, 56).is_none() && batch(TOKEN, 20).is_none(), "no room");
    }

    #[test]
    fn what_a_device_broke_does_not_count() {
        let (_, frame) = batch(TOKEN, 1400).expect("a batch");
        let segments = cut(&frame, 1400);
        let mut batches = Batches::default();
        let mut wrong = segments.clone();
        // The checksum of TCP, then a byte of what is carried, whoever vouches for it.
        wrong[0][51] ^= 1;
        wrong[1][900] ^= 1;
        for (segment, header) in wrong.iter().zip([PLAIN, VOUCHED]) {
            assert_eq!(batches.receive(header, segment), None);
        }
        for segment in &segments[2..] {
            assert_eq!(batches.receive(PLAIN, segment), None, "two are missing");
        }
        assert_eq!(batches.receive(PLAIN, &segments[0]), None);
        assert_eq!(batches.receive(PLAIN, &segments[1]), Some(TOKEN));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200), header: [u8; virtio::HEADER]) {
            let _ = Probe::decode(&bytes);
            let _ = Batches::default().receive(header, &bytes);
        }

        #[test]
        fn anything_behind_a_right_header_is_read(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            header: [u8; virtio::HEADER],
            size: u16,
            token: [u8; 16],
        ) {
            let length = (ETHERNET + 8 + bytes.len()) as u16;
            let header_of = |kind| [&ethernet(ETHERTYPE)[..], &MAGIC, &[kind, 0], &length.to_be_bytes()].concat();
            for kind in 0..=2 {
                let probe = Probe::decode(&[header_of(kind), bytes.clone()].concat());
                prop_assert_eq!(probe.is_some(), kind < 2 && bytes.len() >= token.len());
            }
            let mut batches = Batches::default();
            let segment = segment(token, usize::from(bytes[0]), bytes.len());
            let [a, b] = size.to_ne_bytes();
            for header in [header, PLAIN, VOUCHED, [1, 1, 54, 0, a, b, 34, 0, 16, 0]] {
                let _ = (batches.receive(header, &carrying(&bytes)), batches.receive(header, &carrying(&segment)));
            }
        }
    }
}
