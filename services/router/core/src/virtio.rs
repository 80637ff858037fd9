//! The header that stands before each frame of a TAP device with `IFF_VNET_HDR` (virtio 1.2, section 5.1.6).
//!
//! The legacy form of ten bytes, in the host's byte order.

use crate::datagram::{Batch, Checksum};

/// Length of the header, in bytes.
pub const HEADER: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Congestion was signalled: only the first segment keeps CWR, which cutting sees to for every batch.
const GSO_ECN: u8 = 0x80;

/// What is still to be done to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// The checksum, if not done.
    pub checksum: Checksum,
    /// How to cut, and the payload of each segment in bytes, if the frame is a batch.
    pub batch: Option<(Batch, u16)>,
}

impl Offload {
    /// Reads a header, unless it asks for something that was never offered.
    #[must_use]
    pub fn decode(header: &[u8; HEADER]) -> Option<Self> {
        let [flags, gso, _, _, a, b, c, d, e, f] = *header;
        let start = u16::from_ne_bytes([c, d]);
        let offset = u8::try_from(u16::from_ne_bytes([e, f])).ok()?;
        let needs = flags & NEEDS_CHECKSUM != 0;
        let checksum = if needs { Checksum { start, offset } } else { Checksum::default() };
        let batch = match gso & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 => Some(Batch::Tcp4),
            GSO_TCP6 => Some(Batch::Tcp6),
            GSO_UDP => Some(Batch::Udp),
            _ => return None,
        };
        if batch.is_some_and(|batch| !needs || batch.checksum_offset() != offset) {
            return None;
        }
        Some(Self { checksum, batch: batch.map(|batch| (batch, u16::from_ne_bytes([a, b]))) })
    }

    /// Writes the header of a frame whose headers have `headers` bytes in all.
    #[must_use]
    pub const fn encode(self, headers: u16) -> [u8; HEADER] {
        if self.checksum.start == 0 {
            return [0; HEADER];
        }
        let (gso, size) = match self.batch {
            None => (GSO_NONE, 0),
            Some((Batch::Tcp4, size)) => (GSO_TCP4, size),
            Some((Batch::Tcp6, size)) => (GSO_TCP6, size),
            Some((Batch::Udp, size)) => (GSO_UDP, size),
        };
        let [a, b] = headers.to_ne_bytes();
        let [c, d] = size.to_ne_bytes();
        let [e, f] = self.checksum.start.to_ne_bytes();
        let [g, h] = (self.checksum.offset as u16).to_ne_bytes();
        [NEEDS_CHECKSUM, gso, a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        let checksum = Checksum { start: 34, offset: 16 };
        let udp = Checksum { start: 54, offset: 6 };
        for offload in [
            Offload { checksum: Checksum::default(), batch: None },
            Offload { checksum, batch: None },
            Offload { checksum, batch: Some((Batch::Tcp4, 1348)) },
            Offload { checksum, batch: Some((Batch::Tcp6, 1328)) },
            Offload { checksum: udp, batch: Some((Batch::Udp, 1200)) },
        ] {
            assert_eq!(Offload::decode(&offload.encode(66)), Some(offload));
        }
    }

    #[test]
    fn batches_whose_checksum_is_elsewhere_are_refused() {
        let offload = Offload { checksum: Checksum { start: 34, offset: 6 }, batch: Some((Batch::Tcp4, 1348)) };
        assert_eq!(Offload::decode(&offload.encode(66)), None);
        assert_eq!(Offload::decode(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
