//! What stands before a sealed datagram that neighbours hand on.

use sha2::{Digest as _, Sha256};
use weft_types::PeerName;

use super::SMALLEST;

/// Length of what stands before the sealed datagram, in bytes.
pub const RELAYED: usize = 20;
/// First byte of a relayed datagram: version 1 in the high, type 2 in the low four bits.
pub const RELAYED_TYPE: u8 = 0x12;
/// The highest hop limit.
pub const HOP_LIMIT: u8 = 16;

/// Where the hop limit stands, which alone changes on the way.
const HOP_LIMIT_OFFSET: usize = 1;

/// Names a peer in relayed datagrams: the first eight bytes of SHA-256 of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShortName(pub [u8; 8]);

impl From<PeerName> for ShortName {
    fn from(name: PeerName) -> Self {
        let hash: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        Self([a, b, c, d, e, f, g, h])
    }
}

/// Header of a relayed datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// How many links the datagram may still cross; at most [`HOP_LIMIT`].
    pub hop_limit: u8,
    /// Who opens what is inside.
    pub destination: ShortName,
    /// Who sealed what is inside, as it says.
    pub source: ShortName,
}

impl Relayed {
    /// Writes the header.
    #[must_use]
    pub fn encode(self) -> [u8; RELAYED] {
        let mut header = [0; RELAYED];
        header[0] = RELAYED_TYPE;
        header[HOP_LIMIT_OFFSET] = self.hop_limit;
        header[4..12].copy_from_slice(&self.destination.0);
        header[12..].copy_from_slice(&self.source.0);
        header
    }

    /// Reads the header of a datagram, unless that is too short, of another type or of another version. A hop limit beyond
    /// the highest counts as the highest.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < RELAYED + SMALLEST {
            return None;
        }
        let ([RELAYED_TYPE, hop_limit, _, _], rest) = datagram.split_first_chunk::<4>()? else { return None };
        let (destination, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            hop_limit: (*hop_limit).min(HOP_LIMIT),
            destination: ShortName(*destination),
            source: ShortName(*rest.first_chunk::<8>()?),
        })
    }

    /// Takes one hop from the limit, or nothing if the datagram may go no further.
    #[must_use]
    pub fn next_hop(self) -> Option<Self> {
        let hop_limit = self.hop_limit.checked_sub(1).filter(|left| *left > 0)?;
        Some(Self { hop_limit, ..self })
    }
}
