//! SPAKE2 and Noise `XXpsk0`, joined: the key of the one is the pre-shared key of the other.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use snow::{
    Builder, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice, NoiseParams},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use spake2::{Ed25519Group, Identity, Spake2};
use weft_types::PeerName;
use zeroize::Zeroizing;

use super::{Entropy, HandshakeError, MAX_RECORD, Opener, Password, Sealer, Seed, StaticKey};

const PATTERN: &str = "Noise_XXpsk0_25519_ChaChaPoly_SHA256";
const INITIATOR: &[u8] = b"weft control v1 initiator";
const RESPONDER: &[u8] = b"weft control v1 responder";

/// One side of the password-authenticated key exchange (RFC 9382 as the `spake2` crate has it: asymmetric, Ed25519).
pub(super) struct Pake {
    state: Spake2<Ed25519Group>,
    message: [u8; 33],
}

impl std::fmt::Debug for Pake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pake(hidden)")
    }
}

impl Pake {
    pub(super) fn start(password: &Password, initiator: bool, entropy: &mut Entropy) -> Self {
        let password = spake2::Password::new(password.as_bytes());
        let (a, b) = (Identity::new(INITIATOR), Identity::new(RESPONDER));
        let (state, message) = if initiator {
            Spake2::start_a_with_rng(&password, &a, &b, entropy)
        } else {
            Spake2::start_b_with_rng(&password, &a, &b, entropy)
        };
        let message = message.try_into().expect("a side byte and one compressed point");
        Self { state, message }
    }

    pub(super) const fn message(&self) -> [u8; 33] {
        self.message
    }

    /// Returns the key, which equals the other side's exactly when the passwords do.
    pub(super) fn finish(self, theirs: &[u8; 33]) -> Result<Zeroizing<[u8; 32]>, HandshakeError> {
        let damaged = HandshakeError::Damaged { what: "the key exchange cannot be read" };
        let key = Zeroizing::new(self.state.finish(theirs).map_err(|_| damaged.clone())?);
        Ok(Zeroizing::new(key.as_slice().try_into().map_err(|_| damaged)?))
    }
}

/// The sealed part of the handshake.
#[derive(Debug)]
pub(super) struct Pattern {
    state: HandshakeState,
    initiator: bool,
    position: usize,
}

impl Pattern {
    /// Starts the pattern. `key` comes from the password; `hellos` are both clear messages, the initiator's first.
    pub(super) fn new(
        static_key: &StaticKey,
        initiator: bool,
        key: Option<&Zeroizing<[u8; 32]>>,
        hellos: [&[u8]; 2],
        seed: &Seed,
    ) -> Result<Self, HandshakeError> {
        let mut prologue = b"weft control v1".to_vec();
        for hello in hellos {
            prologue.extend_from_slice(&u32::try_from(hello.len()).unwrap_or(u32::MAX).to_be_bytes());
            prologue.extend_from_slice(hello);
        }
        let no_password = Zeroizing::new([0; 32]);
        let mut psk = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(b"weft control psk v1"), key.unwrap_or(&no_password).as_slice())
            .expand(&Sha256::digest(&prologue), psk.as_mut_slice())
            .expect("32 bytes are within the limit of HKDF-SHA256");
        let build = || {
            let params: NoiseParams = PATTERN.parse()?;
            let builder = Builder::with_resolver(params, Box::new(Resolver::new(seed.clone())))
                .local_private_key(static_key.private())?
                .prologue(&prologue)?
                .psk(0, &psk)?;
            if initiator { builder.build_initiator() } else { builder.build_responder() }
        };
        let state = build().map_err(|_: snow::Error| HandshakeError::Damaged { what: "no sealing" })?;
        Ok(Self { state, initiator, position: 0 })
    }

    /// Returns how many messages have passed.
    pub(super) const fn position(&self) -> usize {
        self.position
    }

    pub(super) fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut message = vec![0; MAX_RECORD];
        let length = self
            .state
            .write_message(payload, &mut message)
            .map_err(|_| HandshakeError::Damaged { what: "our introduction is too long" })?;
        message.truncate(length);
        self.position += 1;
        Ok(message)
    }

    pub(super) fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut payload = vec![0; MAX_RECORD];
        let length = self
            .state
            .read_message(message, &mut payload)
            .map_err(|_| HandshakeError::Damaged { what: "a sealed message does not open" })?;
        payload.truncate(length);
        self.position += 1;
        Ok(payload)
    }

    /// Returns who is there and the two directions of the channel.
    pub(super) fn finish(mut self) -> Result<(PeerName, Sealer, Opener), HandshakeError> {
        let peer = self
            .state
            .get_remote_static()
            .and_then(|key| PeerName::try_from(key).ok())
            .ok_or(HandshakeError::Damaged { what: "the other side has shown no key" })?;
        let (from_initiator, from_responder) = self.state.dangerously_get_raw_split();
        let (send, receive) =
            if self.initiator { (from_initiator, from_responder) } else { (from_responder, from_initiator) };
        Ok((peer, Sealer::new(Zeroizing::new(send)), Opener::new(Zeroizing::new(receive))))
    }
}

/// The primitives of Noise, with randomness from a seed.
pub(crate) struct Resolver {
    seed: Seed,
}

impl Resolver {
    /// Makes the primitives of one handshake; `seed` must not serve another.
    pub(crate) const fn new(seed: Seed) -> Self {
        Self { seed }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Entropy::new(&self.seed, b"noise")))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}
