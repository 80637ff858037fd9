//! Cuts a batch that the kernel hands over as one frame of up to 64 KiB into segments, and joins neighbours again.
//!
//! A slice is a complete frame whose checksum is undone, so a lost one costs one segment only. Checksums stay undone on
//! the whole way: the field holds the sum of the pseudo-header, as the kernel left it, adjusted to the new length.

use crate::datagram::{Batch, Checksum, SegmentHeader};

/// The longest headers of a slice: transport header from offset 255, of at most 60 bytes.
pub const MAX_HEADERS: usize = 255 + 60;

const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const FIN: u8 = 0x01;
const PUSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The frame's headers do not agree with what its offload header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the headers of the batch do not agree with its offload header")]
pub struct MalformedBatch;

impl Batch {
    /// Returns the offset of the checksum in the transport header, in bytes.
    #[must_use]
    pub const fn checksum_offset(self) -> u8 {
        match self {
            Self::Tcp4 | Self::Tcp6 => 16,
            Self::Udp => 6,
        }
    }
}

/// Where the headers of a frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    batch: Batch,
    ipv6: bool,
    network: usize,
    transport: usize,
    payload: usize,
}

impl Layout {
    fn parse(batch: Batch, transport: usize, frame: &[u8]) -> Option<Self> {
        let mut network = ETHERNET;
        let mut ethertype = word(frame, 12)?;
        while ETHERTYPE_VLAN.contains(&ethertype) && network < ETHERNET + 8 {
            ethertype = word(frame, network + 2)?;
            network += 4;
        }
        let version = frame.get(network)? >> 4;
        let ipv6 = match (ethertype, version, batch) {
            (ETHERTYPE_IPV4, 4, Batch::Tcp4 | Batch::Udp) => false,
            (ETHERTYPE_IPV6, 6, Batch::Tcp6 | Batch::Udp) => true,
            _ => return None,
        };
        if ipv6 {
            if transport < network + IPV6 {
                return None;
            }
        } else {
            let length = usize::from(frame[network] & 0x0f) * 4;
            let protocol = if batch == Batch::Udp { PROTOCOL_UDP } else { PROTOCOL_TCP };
            if length < 20 || network + length != transport || *frame.get(network + 9)? != protocol {
                return None;
            }
        }
        let payload = match batch {
            Batch::Udp => transport + 8,
            Batch::Tcp4 | Batch::Tcp6 => {
                let length = usize::from(frame.get(transport + 12)? >> 4) * 4;
                if length < 20 {
                    return None;
                }
                transport + length
            }
        };
        (payload < frame.len() && payload <= MAX_HEADERS && transport <= 255).then_some(Self {
            batch,
            ipv6,
            network,
            transport,
            payload,
        })
    }

    /// Returns the length that the network header claims for all after itself (IPv6) or all from itself (IPv4).
    fn claimed_end(&self, frame: &[u8]) -> Option<usize> {
        Some(if self.ipv6 {
            self.network + IPV6 + usize::from(word(frame, self.network + 4)?)
        } else {
            self.network + usize::from(word(frame, self.network + 2)?)
        })
    }

    /// Makes all length fields, and the checksums that cover them, right for a payload of `length` bytes.
    fn set_payload(&self, headers: &mut [u8], length: usize) {
        let end = self.payload + length;
        let transport_length = (end - self.transport) as u16;
        let old_transport_length;
        if self.ipv6 {
            let old = word(headers, self.network + 4).unwrap_or(0);
            old_transport_length = old.wrapping_sub((self.transport - self.network - IPV6) as u16);
            put(headers, self.network + 4, (end - self.network - IPV6) as u16);
        } else {
            let old = word(headers, self.network + 2).unwrap_or(0);
            old_transport_length = old.wrapping_sub((self.transport - self.network) as u16);
            put(headers, self.network + 2, (end - self.network) as u16);
            self.complete_network(headers);
        }
        if self.batch == Batch::Udp {
            put(headers, self.transport + 4, transport_length);
        }
        let field = self.transport + usize::from(self.batch.checksum_offset());
        let sum = u32::from(word(headers, field).unwrap_or(0)) + u32::from(!old_transport_length);
        put(headers, field, fold(u64::from(sum + u32::from(transport_length))));
    }

    fn complete_network(&self, headers: &mut [u8]) {
        put(headers, self.network + 10, 0);
        let sum = sum(&headers[self.network..self.transport]);
        put(headers, self.network + 10, !fold(sum));
    }
}

/// A batch about to be cut.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    frame: &'a [u8],
    layout: Layout,
    size: usize,
}

impl<'a> Cut<'a> {
    /// Prepares to cut `frame`, whose transport header is at `transport`, after every `size` bytes of payload. The
    /// checksum field must hold the sum of the pseudo-header.
    ///
    /// # Errors
    /// [`MalformedBatch`] if the headers do not agree with that.
    pub fn new(batch: Batch, transport: u16, size: u16, frame: &'a [u8]) -> Result<Self, MalformedBatch> {
        let layout = Layout::parse(batch, transport.into(), frame).ok_or(MalformedBatch)?;
        if size == 0 || layout.claimed_end(frame) != Some(frame.len()) {
            return Err(MalformedBatch);
        }
        Ok(Self { frame, layout, size: size.into() })
    }

    /// Returns how many slices there are, at least one.
    #[must_use]
    pub const fn count(&self) -> usize {
        (self.frame.len() - self.layout.payload).div_ceil(self.size)
    }

    /// Returns the length of the headers of every slice, in bytes.
    #[must_use]
    pub const fn headers(&self) -> usize {
        self.layout.payload
    }

    /// Cuts after every `size` bytes of payload instead, at least one. TCP may be cut anywhere; UDP may not.
    #[must_use]
    pub fn with_size(self, size: u16) -> Self {
        Self { size: usize::from(size.max(1)), ..self }
    }

    /// Returns the length of a slice, headers included.
    #[must_use]
    pub fn slice_length(&self, index: usize) -> usize {
        self.layout.payload + self.payload(index).len()
    }

    /// Returns what goes before a slice in its datagram.
    #[must_use]
    pub fn header(&self, id: u16, index: usize) -> SegmentHeader {
        SegmentHeader {
            batch: self.layout.batch,
            id,
            index: index as u16,
            size: self.size as u16,
            transport: self.layout.transport as u8,
            last: index + 1 == self.count(),
        }
    }

    /// Writes a slice to `target`, which has exactly its length.
    pub fn write(&self, index: usize, target: &mut [u8]) {
        let layout = &self.layout;
        let payload = self.payload(index);
        let (headers, rest) = target.split_at_mut(layout.payload);
        headers.copy_from_slice(&self.frame[..layout.payload]);
        rest.copy_from_slice(payload);
        if !layout.ipv6 {
            let id = word(headers, layout.network + 4).unwrap_or(0);
            put(headers, layout.network + 4, id.wrapping_add(index as u16));
        }
        if layout.batch != Batch::Udp {
            if let Some(sequence) = headers[layout.transport + 4..].first_chunk_mut::<4>() {
                *sequence = u32::from_be_bytes(*sequence).wrapping_add((index * self.size) as u32).to_be_bytes();
            }
            let flags = &mut headers[layout.transport + 13];
            if index > 0 {
                *flags &= !CWR;
            }
            if index + 1 < self.count() {
                *flags &= !(FIN | PUSH);
            }
        }
        layout.set_payload(headers, payload.len());
    }

    fn payload(&self, index: usize) -> &'a [u8] {
        let start = self.layout.payload + index * self.size;
        &self.frame[start..self.frame.len().min(start + self.size)]
    }
}

/// Neighbouring slices on their way to become one frame. Holds the headers; the payloads stay where they are.
#[derive(Debug)]
pub struct Join {
    first: SegmentHeader,
    layout: Layout,
    headers: [u8; MAX_HEADERS],
    payload: usize,
    slices: u16,
    complete: bool,
}

/// What the kernel must be told about a joined frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The batch, if the frame has more than one slice.
    pub batch: Option<(Batch, u16)>,
    /// Length of all headers, in bytes.
    pub headers: u16,
    /// The checksum that is still to be done.
    pub checksum: Checksum,
}

impl Join {
    /// Starts with one slice and returns its payload's offset, unless the slice's headers make no sense.
    #[must_use]
    pub fn new(first: SegmentHeader, slice: &[u8]) -> Option<Self> {
        let layout = Layout::parse(first.batch, first.transport.into(), slice)?;
        let payload = slice.len() - layout.payload;
        if layout.claimed_end(slice) != Some(slice.len()) || payload > first.size.into() {
            return None;
        }
        let mut headers = [0; MAX_HEADERS];
        headers[..layout.payload].copy_from_slice(&slice[..layout.payload]);
        let complete = first.last || payload < first.size.into();
        Some(Self { first, layout, headers, payload, slices: 1, complete })
    }

    /// Returns the offset of the payload in each slice, in bytes.
    #[must_use]
    pub const fn payload_offset(&self) -> usize {
        self.layout.payload
    }

    /// Tells whether no further slice can follow.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Appends a slice if it is the next one of the same batch; says whether it did.
    #[must_use]
    pub fn push(&mut self, next: SegmentHeader, slice: &[u8]) -> bool {
        let expected =
            SegmentHeader { index: self.first.index.wrapping_add(self.slices), last: next.last, ..self.first };
        let fits = !self.complete
            && next == expected
            && slice.get(..12) == Some(&self.headers[..12])
            && Layout::parse(next.batch, next.transport.into(), slice) == Some(self.layout);
        if !fits {
            return false;
        }
        let length = slice.len() - self.layout.payload;
        let total = self.payload + length;
        if length > self.first.size.into() || self.layout.payload - self.layout.network + total > 65_535 {
            return false;
        }
        self.payload = total;
        self.slices += 1;
        self.complete = next.last || length < self.first.size.into();
        if next.batch != Batch::Udp {
            self.headers[self.layout.transport + 13] |= slice[self.layout.transport + 13] & (FIN | PUSH);
        }
        true
    }

    /// Ends the frame: returns its headers, to be followed by all payloads, and what the kernel must be told.
    pub fn finish(&mut self) -> (&[u8], Joined) {
        let headers = &mut self.headers[..self.layout.payload];
        self.layout.set_payload(headers, self.payload);
        let joined = Joined {
            batch: (self.slices > 1).then_some((self.first.batch, self.first.size)),
            headers: self.layout.payload as u16,
            checksum: Checksum { start: self.layout.transport as u16, offset: self.first.batch.checksum_offset() },
        };
        (headers, joined)
    }
}

/// Does what the kernel would do when nothing downstream does: fills in a checksum. Returns false if the frame is too
/// short for it.
#[must_use]
pub fn complete_checksum(checksum: Checksum, frame: &mut [u8]) -> bool {
    let (start, field) = (usize::from(checksum.start), usize::from(checksum.start) + usize::from(checksum.offset));
    if frame.len() < field + 2 {
        return false;
    }
    let result = !fold(sum(&frame[start..]));
    put(frame, field, if result == 0 { 0xffff } else { result });
    true
}

/// Adds 16-bit words in network order; an odd last byte is padded (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}

/// Reduces a sum to 16 bits, carries added around (RFC 1071).
pub(crate) const fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn word(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..offset + 2)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

fn put(bytes: &mut [u8], offset: usize, word: u16) {
    bytes[offset..offset + 2].copy_from_slice(&word.to_be_bytes());
}

#[cfg(test)]
mod tests;
