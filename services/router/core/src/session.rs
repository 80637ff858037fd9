//! Data sessions: keys between two peers, end to end.

pub mod agreement;

use std::time::Duration;

use weft_types::PeerName;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// How long a session's keys are kept at most. They are replaced every two minutes; this is reached only while peers whose
/// datagrams still pass cannot agree on new ones.
pub const AGE_LIMIT: Duration = Duration::from_secs(10 * 60);

/// AEAD of a data session; both have 16-byte tags and 12-byte nonces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D), for CPUs with AES instructions.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Cipher {
    /// Returns the name that people read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }
}

/// Names a session in the datagrams that its receiver gets; chosen by the receiver, unique there, at most
/// [`SessionIndex::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIndex(pub u32);

impl SessionIndex {
    /// The largest index: the header of a datagram has 24 bits for it.
    pub const MAX: u32 = (1 << 24) - 1;
}

/// Key of one direction of a data session.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKey(pub [u8; 32]);

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(hidden)")
    }
}

/// What a finished key agreement leaves: all that the data plane needs to seal to and open from one peer.
#[derive(Debug, Clone)]
pub struct EstablishedSession {
    /// Who holds the other end.
    pub peer: PeerName,
    /// Index in datagrams that we receive.
    pub local_index: SessionIndex,
    /// Index in datagrams that we send.
    pub remote_index: SessionIndex,
    /// Cipher that both agreed on.
    pub cipher: Cipher,
    /// Key that we seal with.
    pub send_key: SessionKey,
    /// Key that we open with.
    pub receive_key: SessionKey,
    /// Whether we asked for the session. The initiator may use it at once; the responder sends with the session before
    /// it until the first datagram of the new one has been opened, which proves that the initiator has the keys.
    pub initiator: bool,
}
