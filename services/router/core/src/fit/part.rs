//! Parts of a content that does not fit one datagram.

/// Length of what stands before a part in its datagram, in bytes.
pub const PART_HEADER: usize = 10;
/// The least that a part has but the one that ends the content, in bytes.
pub const LEAST_PART: usize = 256;

const KIND_PART: u8 = 3;

/// What says which part of which content a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartHeader {
    /// Number of the content among those that its sender cut for this peer; numbers come again after 2^32.
    pub number: u32,
    /// Length of the content, in bytes.
    pub length: u16,
    /// Where in the content the part belongs.
    pub offset: u16,
}

impl PartHeader {
    /// Writes what stands before a part.
    #[must_use]
    pub const fn encode(self) -> [u8; PART_HEADER] {
        let [a, b, c, d] = self.number.to_be_bytes();
        let [e, f] = self.length.to_be_bytes();
        let [g, h] = self.offset.to_be_bytes();
        [KIND_PART, 0, a, b, c, d, e, f, g, h]
    }

    /// Reads a datagram's content, unless it is no part or cut short. Returns the part's bytes too.
    #[must_use]
    pub fn decode(content: &[u8]) -> Option<(Self, &[u8])> {
        let ([KIND_PART, _, a, b, c, d, e, f, g, h], part) = content.split_first_chunk::<PART_HEADER>()? else {
            return None;
        };
        let header = Self {
            number: u32::from_be_bytes([*a, *b, *c, *d]),
            length: u16::from_be_bytes([*e, *f]),
            offset: u16::from_be_bytes([*g, *h]),
        };
        Some((header, part))
    }
}

/// A content about to be cut into parts of nearly equal length, as few as possible. One that fits its datagram is not cut.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    head: &'a [u8],
    body: &'a [u8],
    number: u32,
    size: usize,
    whole: bool,
}

impl<'a> Parts<'a> {
    /// Prepares to cut the content that consists of `head` and `body` for datagrams whose content has at most `room` bytes.
    /// The number must be another one for each content.
    ///
    /// Returns `None` if the content is longer than 65,535 bytes, or the room too small for parts of [`LEAST_PART`].
    #[must_use]
    pub fn new(head: &'a [u8], body: &'a [u8], number: u32, room: usize) -> Option<Self> {
        let length = head.len() + body.len();
        if length <= room {
            return Some(Self { head, body, number, size: length, whole: true });
        }
        // Twice as much, so that equal parts are large enough however the length divides.
        let largest = room.checked_sub(PART_HEADER).filter(|largest| *largest >= 2 * LEAST_PART)?;
        let size = length.div_ceil(length.div_ceil(largest));
        (length <= u16::MAX.into()).then_some(Self { head, body, number, size, whole: false })
    }

    /// Returns how many datagrams there are, at least one.
    #[must_use]
    pub const fn count(&self) -> usize {
        if self.whole { 1 } else { self.total().div_ceil(self.size) }
    }

    /// Returns the length of a datagram's content, its header included.
    #[must_use]
    pub fn length(&self, index: usize) -> usize {
        if self.whole { self.total() } else { PART_HEADER + self.end(index) - index * self.size }
    }

    /// Writes a datagram's content to `target`, which has exactly its length.
    pub fn write(&self, index: usize, target: &mut [u8]) {
        let (start, end) = (index * self.size, self.end(index));
        let target = if self.whole {
            target
        } else {
            let (header, part) = target.split_at_mut(PART_HEADER);
            let (length, offset) = (self.total() as u16, start as u16);
            header.copy_from_slice(&PartHeader { number: self.number, length, offset }.encode());
            part
        };
        let split = self.head.len();
        let (head, body) = target.split_at_mut(split.clamp(start, end) - start);
        head.copy_from_slice(&self.head[start.min(split)..end.min(split)]);
        body.copy_from_slice(&self.body[start.saturating_sub(split)..end.saturating_sub(split)]);
    }

    const fn total(&self) -> usize {
        self.head.len() + self.body.len()
    }

    fn end(&self, index: usize) -> usize {
        self.total().min((index + 1) * self.size)
    }
}
