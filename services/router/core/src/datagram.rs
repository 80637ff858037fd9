//! Sealed datagrams between peers: header, AEAD, kinds of content. Format: `docs/wire-protocol.md`, section 4.

mod content;
mod relayed;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{
    replay::ReplayWindow,
    session::{Cipher, SessionIndex, SessionKey},
};

pub use self::{
    content::{
        Batch, Checksum, Content, FRAME_HEADER, PROBE_ANSWER, PROBE_QUESTION, Probe, SEGMENT_HEADER, SegmentHeader,
    },
    relayed::{HOP_LIMIT, RELAYED, RELAYED_TYPE, Relayed, ShortName},
};

/// Length of the header before the ciphertext, in bytes.
pub const HEADER: usize = 12;
/// Length of the tag after the ciphertext, in bytes.
pub const TAG: usize = 16;
/// Datagrams after which a session should be replaced.
pub const REKEY_AFTER: u64 = 1 << 30;
/// Datagrams after which a session seals no more.
pub const SEAL_LIMIT: u64 = 1 << 32;

/// Length of the smallest sealed datagram: one byte of content.
pub const SMALLEST: usize = HEADER + 1 + TAG;

/// First byte of a sealed datagram: version 1 in the high, type 1 in the low four bits.
const SEALED: u8 = 0x11;

/// Why a datagram was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its counter was received before, or is too old to tell.
    #[error("the datagram was received before or is too old to tell")]
    Replayed,
    /// It was forged, damaged, or sealed with other keys.
    #[error("the datagram is not authentic")]
    NotAuthentic,
}

/// The keys have sealed as much as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has sealed as many datagrams as its key allows")]
pub struct Exhausted;

/// Header of a sealed datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Session, as its receiver named it.
    pub receiver: SessionIndex,
    /// Number of the datagram in its session, from 0.
    pub counter: u64,
}

impl Header {
    /// Writes the header.
    #[must_use]
    pub const fn encode(self) -> [u8; HEADER] {
        let [_, a, b, c] = self.receiver.0.to_be_bytes();
        let [d, e, f, g, h, i, j, k] = self.counter.to_be_bytes();
        [SEALED, a, b, c, d, e, f, g, h, i, j, k]
    }

    /// Reads the header of a datagram, unless it is too short, of another type or of another version.
    #[must_use]
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < SMALLEST {
            return None;
        }
        let [SEALED, a, b, c, counter @ ..] = datagram.first_chunk::<HEADER>()? else { return None };
        Some(Self {
            receiver: SessionIndex(u32::from_be_bytes([0, *a, *b, *c])),
            counter: u64::from_be_bytes(*counter),
        })
    }
}

/// Seals datagrams of one direction of a session; never uses a counter twice.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    receiver: SessionIndex,
    next: u64,
}

impl Sealer {
    /// Makes the sealer of a new session, whose datagrams name it `receiver`.
    #[must_use]
    pub fn new(cipher: Cipher, key: &SessionKey, receiver: SessionIndex) -> Self {
        Self { key: expand(cipher, key), receiver, next: 0 }
    }

    /// Returns how many datagrams were sealed.
    #[must_use]
    pub const fn sealed(&self) -> u64 {
        self.next
    }

    /// Seals a datagram in place: `slot` holds room for the header, then the content, then room for the tag.
    ///
    /// # Errors
    /// [`Exhausted`] after [`SEAL_LIMIT`] datagrams.
    ///
    /// # Panics
    /// If `slot` has not even room for header and tag.
    pub fn seal(&mut self, slot: &mut [u8]) -> Result<(), Exhausted> {
        if self.next >= SEAL_LIMIT {
            return Err(Exhausted);
        }
        let header = Header { receiver: self.receiver, counter: self.next }.encode();
        self.next += 1;
        let end = slot.len() - TAG;
        slot[..HEADER].copy_from_slice(&header);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(&header), Aad::from(header), &mut slot[HEADER..end])
            .map_err(|_| Exhausted)?;
        slot[end..].copy_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens datagrams of one direction of a session, each once.
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    window: ReplayWindow,
}

/// A datagram that was opened.
#[derive(Debug)]
pub struct Opened<'a> {
    /// The content that was sealed.
    pub content: &'a mut [u8],
    /// Whether no datagram that was sealed later came before.
    pub newest: bool,
}

impl Opener {
    /// Makes the opener of a new session.
    #[must_use]
    pub fn new(cipher: Cipher, key: &SessionKey) -> Self {
        Self { key: expand(cipher, key), window: ReplayWindow::default() }
    }

    /// Opens a datagram in place.
    ///
    /// # Errors
    /// [`OpenError`]; the datagram's bytes are then undefined.
    pub fn open<'a>(&mut self, header: Header, datagram: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
        if !self.window.permits(header.counter) {
            return Err(OpenError::Replayed);
        }
        let (head, sealed) = datagram.split_first_chunk_mut::<HEADER>().ok_or(OpenError::NotAuthentic)?;
        let content =
            self.key.open_in_place(nonce(head), Aad::from(*head), sealed).map_err(|_| OpenError::NotAuthentic)?;
        let newest = self.window.is_newest(header.counter);
        self.window.accept(header.counter);
        Ok(Opened { content, newest })
    }
}

fn expand(cipher: Cipher, key: &SessionKey) -> LessSafeKey {
    let algorithm = match cipher {
        Cipher::Aes256Gcm => &AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    LessSafeKey::new(UnboundKey::new(algorithm, &key.0).expect("both ciphers take keys of 32 bytes"))
}

/// The nonce is the counter, in the last eight bytes.
fn nonce(header: &[u8; HEADER]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&header[4..]);
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests;
