//! What a sealed datagram holds: frames, slices, fragments, probes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What a sealed datagram holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// One Ethernet frame.
    Frame(Checksum, &'a mut [u8]),
    /// One slice of a batch that was cut.
    Segment(SegmentHeader, &'a mut [u8]),
    /// A part of another content, kind included; see `fit`.
    Fragment(&'a mut [u8]),
    /// A question whether a way works, or its answer.
    Probe(Probe),
}

/// Where a frame's checksum is still to be filled in: over all from `start` to the frame's end, the field at
/// `start + offset` holding the sum of the pseudo-header. A `start` of 0 means that it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Offset of the transport header in the frame, in bytes.
    pub start: u16,
    /// Offset of the field from there, in bytes.
    pub offset: u8,
}

/// Transport protocol of a batch that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Batch {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either.
    Udp,
}

/// What says which slice of which batch a segment is. The slice itself is a complete frame but for its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Transport protocol.
    pub batch: Batch,
    /// Number of the batch in its session; numbers come again after 65,536 batches.
    pub id: u16,
    /// Place of the slice in its batch, from 0.
    pub index: u16,
    /// Payload of each slice but the last, in bytes.
    pub size: u16,
    /// Offset of the transport header in the frame, in bytes.
    pub transport: u8,
    /// Whether the slice is the last of its batch.
    pub last: bool,
}

/// A question whether a way works, or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Wants an answer by the way that it came. As much padding may follow as makes the datagram as large as what is to be
    /// proven.
    Question {
        /// Chosen by who asks.
        token: [u8; 16],
    },
    /// Answers a question.
    Answer {
        /// As it came.
        token: [u8; 16],
        /// How many authentic datagrams have come by the question's way so far, the question included.
        received: u64,
        /// Where the question came from, if it came straight by UDP.
        source: Option<SocketAddr>,
    },
}

/// Length of what stands before the frame in a [`Content::Frame`].
pub const FRAME_HEADER: usize = 4;
/// Length of what stands before the slice in a [`Content::Segment`].
pub const SEGMENT_HEADER: usize = 9;
/// Length of a [`Probe::Answer`].
pub const PROBE_ANSWER: usize = 44;
/// Length of the shortest [`Probe::Question`]: as long as its answer, so that nobody is answered with more than he sent.
pub const PROBE_QUESTION: usize = PROBE_ANSWER;

const KIND_FRAME: u8 = 1;
const KIND_SEGMENT: u8 = 2;
const KIND_FRAGMENT: u8 = 3;
const KIND_PROBE: u8 = 4;
const QUESTION: u8 = 0;
const ANSWER: u8 = 1;
const LAST: u8 = 0x80;
const BATCH_MASK: u8 = 0x03;

impl Checksum {
    /// Writes what stands before a frame.
    #[must_use]
    pub const fn encode(self) -> [u8; FRAME_HEADER] {
        let [a, b] = self.start.to_be_bytes();
        [KIND_FRAME, self.offset, a, b]
    }
}

impl SegmentHeader {
    /// Writes what stands before a slice.
    #[must_use]
    pub const fn encode(self) -> [u8; SEGMENT_HEADER] {
        let batch = match self.batch {
            Batch::Tcp4 => 1,
            Batch::Tcp6 => 2,
            Batch::Udp => 3,
        };
        let [a, b] = self.id.to_be_bytes();
        let [c, d] = self.index.to_be_bytes();
        let [e, f] = self.size.to_be_bytes();
        [KIND_SEGMENT, if self.last { batch | LAST } else { batch }, a, b, c, d, e, f, self.transport]
    }
}

impl Probe {
    /// Writes the probe into `content`, padded to its end.
    ///
    /// # Panics
    /// If `content` is shorter than [`PROBE_ANSWER`].
    pub fn encode(self, content: &mut [u8]) {
        content.fill(0);
        content[0] = KIND_PROBE;
        match self {
            Self::Question { token } => {
                content[1] = QUESTION;
                content[2..18].copy_from_slice(&token);
            }
            Self::Answer { token, received, source } => {
                content[1] = ANSWER;
                content[2..18].copy_from_slice(&token);
                content[18..26].copy_from_slice(&received.to_be_bytes());
                if let Some(source) = source {
                    let ip = match source.ip() {
                        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                        IpAddr::V6(ip) => ip,
                    };
                    content[26..28].copy_from_slice(&source.port().to_be_bytes());
                    content[28..44].copy_from_slice(&ip.octets());
                }
            }
        }
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let bytes = content.first_chunk::<PROBE_ANSWER>()?;
        let (head, rest) = bytes.split_first_chunk::<18>()?;
        let [_, kind, token @ ..] = *head;
        let (received, rest) = rest.split_first_chunk::<8>()?;
        let (port, address) = rest.split_first_chunk::<2>()?;
        match kind {
            QUESTION => Some(Self::Question { token }),
            ANSWER => {
                let port = u16::from_be_bytes(*port);
                let ip = Ipv6Addr::from(*address.first_chunk::<16>()?).to_canonical();
                let source = (port != 0 && !ip.is_unspecified()).then_some(SocketAddr::new(ip, port));
                Some(Self::Answer { token, received: u64::from_be_bytes(*received), source })
            }
            _ => None,
        }
    }
}

impl<'a> Content<'a> {
    /// Reads the content of a datagram, unless it is of an unknown kind or cut short.
    #[must_use]
    pub fn decode(content: &'a mut [u8]) -> Option<Self> {
        match *content.first()? {
            KIND_FRAME => {
                let ([_, offset, a, b], frame) = content.split_first_chunk_mut::<FRAME_HEADER>()?;
                Some(Self::Frame(Checksum { start: u16::from_be_bytes([*a, *b]), offset: *offset }, frame))
            }
            KIND_SEGMENT => {
                let ([_, flags, a, b, c, d, e, f, transport], slice) =
                    content.split_first_chunk_mut::<SEGMENT_HEADER>()?;
                let batch = match *flags & BATCH_MASK {
                    1 => Batch::Tcp4,
                    2 => Batch::Tcp6,
                    3 => Batch::Udp,
                    _ => return None,
                };
                let header = SegmentHeader {
                    batch,
                    id: u16::from_be_bytes([*a, *b]),
                    index: u16::from_be_bytes([*c, *d]),
                    size: u16::from_be_bytes([*e, *f]),
                    transport: *transport,
                    last: *flags & LAST != 0,
                };
                Some(Self::Segment(header, slice))
            }
            KIND_FRAGMENT => Some(Self::Fragment(content)),
            KIND_PROBE => Probe::decode(content).map(Self::Probe),
            _ => None,
        }
    }
}
