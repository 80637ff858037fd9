//! Secret randomness, expanded from a seed that the shell takes from the system.

use hkdf::Hkdf;
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// What all randomness of one handshake comes from: fresh, secret, and gone when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Seed([u8; 32]);

impl Seed {
    /// Wraps random bytes that serve nothing else.
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(hidden)")
    }
}

/// A cryptographically strong generator: ChaCha12 over a key derived from a seed and a purpose.
pub(crate) struct Entropy(StdRng);

impl Entropy {
    /// Makes the generator of one purpose; other purposes of the same seed are independent of it.
    pub(crate) fn new(seed: &Seed, purpose: &[u8]) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"weft entropy v1"), &seed.0)
            .expand(purpose, key.as_mut_slice())
            .expect("32 bytes are within the limit of HKDF-SHA256");
        Self(StdRng::from_seed(*key))
    }

    /// Returns random bytes.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes[..]);
        bytes
    }

    /// Returns a random number.
    pub(crate) fn number(&mut self) -> u32 {
        self.0.random()
    }
}

impl std::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy(hidden)")
    }
}

impl rand_core::RngCore for Entropy {
    fn next_u32(&mut self) -> u32 {
        self.0.random()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.random()
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.fill(dest);
        Ok(())
    }
}

impl rand_core::CryptoRng for Entropy {}

impl snow::types::Random for Entropy {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill(dest);
        Ok(())
    }
}
