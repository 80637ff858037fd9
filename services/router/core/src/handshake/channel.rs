//! What flows over the connection once the handshake is done: sealed records, and control messages cut over them.
//!
//! A record is `length (2) ‖ ciphertext`, a Noise transport message (Noise specification, section 5.3): ChaCha20-Poly1305
//! without associated data, nonce 0, 1, 2 …. After each 65,536 records of a direction its key is replaced by Noise's
//! REKEY (section 11.3) and the nonce goes on. A control message is `length (4) ‖ body`, over as many records as it takes.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

/// Largest control message, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Records sealed with one key.
const RECORDS_PER_KEY: u64 = 1 << 16;
const TAG: usize = 16;
/// Largest plaintext of a record, in bytes.
const MAX_PLAINTEXT: usize = u16::MAX as usize - TAG;

/// Why a control channel is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// A record was changed, left out, repeated or put in.
    #[error("a sealed record does not open")]
    Damaged,
    /// A message exceeds [`MAX_MESSAGE`].
    #[error("a control message of {length} bytes exceeds the limit of 1 MiB")]
    TooLong {
        /// Its length, in bytes.
        length: usize,
    },
}

/// Key and nonce of one direction.
struct Direction {
    key: LessSafeKey,
    nonce: u64,
}

impl Direction {
    fn new(key: &Zeroizing<[u8; 32]>) -> Self {
        Self { key: Self::cipher(key), nonce: 0 }
    }

    fn cipher(key: &Zeroizing<[u8; 32]>) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).expect("the key has 32 bytes"))
    }

    /// Returns the nonce of the next record; renews the key where one is due.
    fn next(&mut self) -> Nonce {
        if self.nonce != 0 && self.nonce.is_multiple_of(RECORDS_PER_KEY) {
            let mut block = vec![0; 32];
            self.key
                .seal_in_place_append_tag(Self::nonce(u64::MAX), Aad::empty(), &mut block)
                .expect("48 bytes are below the limit of the cipher");
            let mut key = Zeroizing::new([0; 32]);
            key.copy_from_slice(&block[..32]);
            block.zeroize();
            self.key = Self::cipher(&key);
        }
        let nonce = Self::nonce(self.nonce);
        self.nonce += 1;
        nonce
    }

    fn nonce(number: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }
}

impl std::fmt::Debug for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Direction({})", self.nonce)
    }
}

/// Seals control messages.
#[derive(Debug)]
pub struct Sealer {
    direction: Direction,
}

impl Sealer {
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self { direction: Direction::new(&key) }
    }

    /// Appends the records of one message to `output`.
    ///
    /// # Errors
    /// [`ChannelError::TooLong`]; nothing was appended.
    pub fn seal(&mut self, message: &[u8], output: &mut Vec<u8>) -> Result<(), ChannelError> {
        let length = u32::try_from(message.len()).ok().filter(|_| message.len() <= MAX_MESSAGE);
        let length = length.ok_or(ChannelError::TooLong { length: message.len() })?;
        let mut plaintext = Vec::with_capacity(4 + message.len());
        plaintext.extend_from_slice(&length.to_be_bytes());
        plaintext.extend_from_slice(message);
        for chunk in plaintext.chunks(MAX_PLAINTEXT) {
            let record = u16::try_from(chunk.len() + TAG).expect("chunks are cut to fit");
            output.extend_from_slice(&record.to_be_bytes());
            let start = output.len();
            output.extend_from_slice(chunk);
            let nonce = self.direction.next();
            let tag = self
                .direction
                .key
                .seal_in_place_separate_tag(nonce, Aad::empty(), &mut output[start..])
                .expect("a record is below the limit of the cipher");
            output.extend_from_slice(tag.as_ref());
        }
        Ok(())
    }
}

/// Opens control messages.
#[derive(Debug)]
pub struct Opener {
    direction: Direction,
    sealed: Vec<u8>,
    opened: Vec<u8>,
}

impl Opener {
    pub(super) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self { direction: Direction::new(&key), sealed: Vec::new(), opened: Vec::new() }
    }

    /// Takes bytes from the connection, cut anyhow. Before it takes more, [`poll_message`](Self::poll_message) must have
    /// returned `None`, so that what is kept stays within one message and one record.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        self.sealed.extend_from_slice(bytes);
    }

    /// Returns the next whole message, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// The channel is of no more use.
    pub fn poll_message(&mut self) -> Result<Option<Vec<u8>>, ChannelError> {
        loop {
            if let Some((prefix, rest)) = self.opened.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*prefix) as usize;
                if length > MAX_MESSAGE {
                    return Err(ChannelError::TooLong { length });
                }
                if let Some(message) = rest.get(..length) {
                    let message = message.to_vec();
                    self.opened.drain(..4 + length);
                    return Ok(Some(message));
                }
            }
            let Some((prefix, rest)) = self.sealed.split_first_chunk::<2>() else { return Ok(None) };
            let length = usize::from(u16::from_be_bytes(*prefix));
            let Some(record) = rest.get(..length) else { return Ok(None) };
            if length < TAG {
                return Err(ChannelError::Damaged);
            }
            let mut record = record.to_vec();
            self.sealed.drain(..2 + length);
            let nonce = self.direction.next();
            let plaintext = self
                .direction
                .key
                .open_in_place(nonce, Aad::empty(), &mut record)
                .map_err(|_| ChannelError::Damaged)?;
            self.opened.extend_from_slice(plaintext);
        }
    }
}
