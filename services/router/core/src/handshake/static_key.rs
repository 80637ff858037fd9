//! The secrets of a peer: its long-term key and the mesh's password.

use std::fmt;

use snow::{
    params::DHChoice,
    resolvers::{CryptoResolver, DefaultResolver},
};
use weft_types::PeerName;
use zeroize::Zeroizing;

/// A long-term X25519 key pair; the public half is the peer's name.
#[derive(Clone)]
pub struct StaticKey {
    private: Zeroizing<[u8; 32]>,
    name: PeerName,
}

impl StaticKey {
    /// Makes the pair from its private half, which may be any 32 random bytes (RFC 7748, section 5).
    #[must_use]
    pub fn from_private(private: [u8; 32]) -> Self {
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("the build includes X25519");
        dh.set(&private);
        let mut public = [0; 32];
        public.copy_from_slice(dh.pubkey());
        Self { private: Zeroizing::new(private), name: PeerName::from_public_key(public) }
    }

    /// Returns the public half.
    #[must_use]
    pub const fn name(&self) -> PeerName {
        self.name
    }

    /// Returns the private half, for the Noise patterns and for the file that keeps it.
    #[must_use]
    pub fn private(&self) -> &[u8; 32] {
        &self.private
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({})", self.name)
    }
}

/// The mesh's password.
#[derive(Clone)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Wraps the password's bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}
