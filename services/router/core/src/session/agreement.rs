//! How two peers agree on the keys of a data session, and when they do it again.
//!
//! Noise `KK` between the long-term keys, end to end: the two messages travel as routed session messages, and a relay can
//! neither read nor change them. `docs/wire-protocol.md`, section 3.
//!
//! The peer with the lower name initiates; the other one does when it has waited long enough. A session that somebody makes
//! us respond to replaces nothing: the data plane goes on sealing with the one before until a datagram of the new one has
//! opened, which takes the initiator's fresh key. A recorded first message that is played again therefore leaves a session
//! that nobody ever uses, and how many of those there can be is bounded.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use hkdf::Hkdf;
use prost::Message;
use sha2::Sha256;
use snow::{Builder, HandshakeState};
use weft_proto::mesh::v1::{
    Cipher as CipherMessage, SessionInit, SessionMessage, SessionOffer, SessionResponse, session_message::Kind,
};
use weft_types::PeerName;

use super::{Cipher, EstablishedSession, SessionIndex, SessionKey};
use crate::handshake::{Entropy, Resolver, Seed, StaticKey};

const PATTERN: &str = "Noise_KK_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"weft session v1";
/// Largest message of the agreement, in bytes.
const MAX_NOISE: usize = 4096;
/// How many endpoints of an offer are sent, and read.
const MAX_ENDPOINTS: usize = 16;

/// How long a session is used before the initiator replaces it.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(120);
/// How long the responder of a session waits beyond its lifetime before it initiates itself.
const RESPONDER_PATIENCE: Duration = Duration::from_secs(10);
/// After how long an unanswered first message is followed by a new one.
const RETRY: Duration = Duration::from_secs(1);
/// How long the peer with the higher name waits for the other one to initiate.
const HIGHER_NAME_WAITS: Duration = Duration::from_secs(3);
/// Unanswered first messages of ours that are remembered for each peer: an answer may be slow.
const MAX_PENDING: usize = 3;
/// First messages of a peer that are answered within [`ANSWER_WINDOW`]; more are dropped.
const MAX_ANSWERS: usize = 5;
const ANSWER_WINDOW: Duration = Duration::from_secs(5);

/// What our side brings to every agreement.
#[derive(Debug, Clone)]
pub struct AgreementConfig {
    /// Our long-term key.
    pub key: StaticKey,
    /// Ciphers that this host does well, best first; not empty.
    pub ciphers: Vec<Cipher>,
    /// What our data plane understands; `docs/wire-protocol.md` lists the bits.
    pub capabilities: u64,
}

/// What came of an agreement.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// For the data plane.
    pub session: EstablishedSession,
    /// Where the peer says it is reached by UDP, best first.
    pub endpoints: Vec<SocketAddr>,
    /// What the peer's data plane understands.
    pub capabilities: u64,
}

/// Why a message of the agreement was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AgreementError {
    /// It cannot be read, or was not sealed by the peer it is said to come from.
    #[error("it does not open with the peer's key")]
    Damaged,
    /// It answers nothing that we have asked.
    #[error("it answers nothing that was asked")]
    Unexpected,
    /// The peer asks too often.
    #[error("the peer asks too often")]
    TooOften,
    /// There is no cipher that both do.
    #[error("there is no common cipher")]
    NoCommonCipher,
    /// The peer names a session by a number that no datagram can carry.
    #[error("it names a session by a number beyond 24 bits")]
    IndexTooLarge,
}

fn index(number: u32) -> Result<SessionIndex, AgreementError> {
    if number <= SessionIndex::MAX { Ok(SessionIndex(number)) } else { Err(AgreementError::IndexTooLarge) }
}

/// All key agreements of a peer.
#[derive(Debug)]
pub struct Agreement {
    config: AgreementConfig,
    endpoints: Vec<SocketAddr>,
    entropy: Entropy,
    partners: BTreeMap<PeerName, Partner>,
    /// Indexes given out and not released: of pending and of established sessions.
    indexes: BTreeMap<SessionIndex, PeerName>,
    transmits: VecDeque<(PeerName, SessionMessage)>,
    agreed: VecDeque<Agreed>,
}

/// The state with one peer.
#[derive(Debug)]
struct Partner {
    next_try: Instant,
    pending: VecDeque<Pending>,
    answered: VecDeque<Instant>,
}

#[derive(Debug)]
struct Pending {
    index: SessionIndex,
    state: Box<HandshakeState>,
}

impl Agreement {
    /// Makes the state without any peer. `seed` must be fresh and secret.
    #[must_use]
    pub fn new(config: AgreementConfig, seed: [u8; 32]) -> Self {
        Self {
            config,
            endpoints: Vec::new(),
            entropy: Entropy::new(&Seed::new(seed), b"agreement"),
            partners: BTreeMap::new(),
            indexes: BTreeMap::new(),
            transmits: VecDeque::new(),
            agreed: VecDeque::new(),
        }
    }

    /// Says where we are reached by UDP, best first; later offers carry it.
    pub fn set_endpoints(&mut self, endpoints: Vec<SocketAddr>) {
        self.endpoints = endpoints;
    }

    /// Starts agreements with a peer that messages reach, and starts over with one that has restarted.
    pub fn add_peer(&mut self, peer: PeerName, now: Instant) {
        let next_try = if self.config.key.name() < peer { now } else { now + HIGHER_NAME_WAITS };
        match self.partners.get_mut(&peer) {
            Some(partner) => partner.next_try = partner.next_try.min(next_try),
            None => {
                let partner = Partner { next_try, pending: VecDeque::new(), answered: VecDeque::new() };
                self.partners.insert(peer, partner);
            }
        }
        self.handle_timeout(now);
    }

    /// Ends agreements with a peer that no message reaches. Sessions that stand are the data plane's.
    pub fn remove_peer(&mut self, peer: PeerName) {
        let pending = self.partners.remove(&peer).map(|partner| partner.pending);
        for pending in pending.into_iter().flatten() {
            self.indexes.remove(&pending.index);
        }
    }

    /// Asks for new keys at once, whichever side we are.
    pub fn rekey(&mut self, peer: PeerName, now: Instant) {
        if let Some(partner) = self.partners.get_mut(&peer) {
            // A first message that is under way gets its time.
            let soonest = if partner.pending.is_empty() { now } else { now + RETRY };
            partner.next_try = partner.next_try.min(soonest);
        }
        self.handle_timeout(now);
    }

    /// Lets an index of ours be given out again.
    pub fn release(&mut self, index: SessionIndex) {
        self.indexes.remove(&index);
    }

    /// Takes a message of the agreement that is said to come from `from`.
    ///
    /// # Errors
    /// Why it was dropped; nothing changed.
    pub fn handle_message(
        &mut self,
        from: PeerName,
        message: &SessionMessage,
        now: Instant,
    ) -> Result<(), AgreementError> {
        match &message.kind {
            Some(Kind::Init(init)) => self.handle_init(from, index(init.receiver_index)?, &init.noise, now),
            Some(Kind::Response(response)) => self.handle_response(from, response, now),
            // A kind of a later version.
            None => Ok(()),
        }
    }

    /// Sends first messages that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<PeerName> =
            self.partners.iter().filter(|(_, partner)| partner.next_try <= now).map(|(peer, _)| *peer).collect();
        for peer in due {
            self.initiate(peer, now);
        }
    }

    /// Returns when [`handle_timeout`](Self::handle_timeout) has to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.partners.values().map(|partner| partner.next_try).min()
    }

    /// Returns the next message and whom it is for.
    pub fn poll_transmit(&mut self) -> Option<(PeerName, SessionMessage)> {
        self.transmits.pop_front()
    }

    /// Returns the next session that was agreed on.
    pub fn poll_agreed(&mut self) -> Option<Agreed> {
        self.agreed.pop_front()
    }

    fn initiate(&mut self, peer: PeerName, now: Instant) {
        let index = self.free_index(peer);
        let offer = self.offer(&self.config.ciphers);
        let outcome = self.pattern(peer, true).and_then(|mut state| Ok((write(&mut state, &offer)?, state)));
        let Some(partner) = self.partners.get_mut(&peer) else { return };
        partner.next_try = now + RETRY;
        let Ok((noise, state)) = outcome else {
            // The peer's name is no point that a shared secret comes of: nothing to agree on.
            self.indexes.remove(&index);
            return;
        };
        partner.pending.push_back(Pending { index, state: Box::new(state) });
        if partner.pending.len() > MAX_PENDING
            && let Some(oldest) = partner.pending.pop_front()
        {
            self.indexes.remove(&oldest.index);
        }
        self.transmits.push_back((peer, message(Kind::Init(SessionInit { receiver_index: index.0, noise }))));
    }

    fn handle_init(
        &mut self,
        from: PeerName,
        remote: SessionIndex,
        noise: &[u8],
        now: Instant,
    ) -> Result<(), AgreementError> {
        let mut state = self.pattern(from, false)?;
        let theirs = read(&mut state, noise)?;
        let cipher = ciphers(&theirs)
            .find(|cipher| self.config.ciphers.contains(cipher))
            .ok_or(AgreementError::NoCommonCipher)?;
        let partner = self.partners.entry(from).or_insert_with(|| Partner {
            next_try: now,
            pending: VecDeque::new(),
            answered: VecDeque::new(),
        });
        partner.answered.retain(|answered| now.saturating_duration_since(*answered) < ANSWER_WINDOW);
        if partner.answered.len() >= MAX_ANSWERS {
            return Err(AgreementError::TooOften);
        }
        partner.answered.push_back(now);
        // The initiator renews; this side only does if that stays away.
        partner.next_try = now + SESSION_LIFETIME + RESPONDER_PATIENCE;
        let index = self.free_index(from);
        let noise = write(&mut state, &self.offer(&[cipher]))?;
        let response = SessionResponse { answered_index: remote.0, receiver_index: index.0, noise };
        self.transmits.push_back((from, message(Kind::Response(response))));
        self.establish(from, state, cipher, index, remote, &theirs, false);
        Ok(())
    }

    fn handle_response(
        &mut self,
        from: PeerName,
        response: &SessionResponse,
        now: Instant,
    ) -> Result<(), AgreementError> {
        let partner = self.partners.get_mut(&from).ok_or(AgreementError::Unexpected)?;
        let position = partner
            .pending
            .iter()
            .position(|pending| pending.index.0 == response.answered_index)
            .ok_or(AgreementError::Unexpected)?;
        let theirs = read(&mut partner.pending[position].state, &response.noise)?;
        let remote = index(response.receiver_index)?;
        let chosen = ciphers(&theirs).next().filter(|cipher| self.config.ciphers.contains(cipher));
        let cipher = chosen.ok_or(AgreementError::NoCommonCipher)?;
        // Later first messages would only be answered in vain, earlier ones have been overtaken.
        let mut pending = std::mem::take(&mut partner.pending);
        partner.next_try = now + SESSION_LIFETIME;
        let Some(done) = pending.remove(position) else { return Err(AgreementError::Unexpected) };
        for other in pending {
            self.indexes.remove(&other.index);
        }
        self.establish(from, *done.state, cipher, done.index, remote, &theirs, true);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "both ways to a session end here, with all that makes it")]
    fn establish(
        &mut self,
        peer: PeerName,
        state: HandshakeState,
        cipher: Cipher,
        local_index: SessionIndex,
        remote_index: SessionIndex,
        theirs: &SessionOffer,
        initiator: bool,
    ) {
        let indexes = if initiator { [local_index, remote_index] } else { [remote_index, local_index] };
        let [from_initiator, from_responder] = data_keys(state, cipher, indexes);
        let (send_key, receive_key) =
            if initiator { (from_initiator, from_responder) } else { (from_responder, from_initiator) };
        let session = EstablishedSession { peer, local_index, remote_index, cipher, send_key, receive_key, initiator };
        let endpoints = theirs.endpoints.iter().take(MAX_ENDPOINTS).filter_map(|endpoint| endpoint.try_into().ok());
        self.agreed.push_back(Agreed { session, endpoints: endpoints.collect(), capabilities: theirs.capabilities });
    }

    fn pattern(&mut self, peer: PeerName, initiator: bool) -> Result<HandshakeState, AgreementError> {
        let resolver = Resolver::new(Seed::new(self.entropy.bytes()));
        let build = || {
            let builder = Builder::with_resolver(PATTERN.parse()?, Box::new(resolver))
                .local_private_key(self.config.key.private())?
                .remote_public_key(peer.as_bytes())?
                .prologue(PROLOGUE)?;
            if initiator { builder.build_initiator() } else { builder.build_responder() }
        };
        build().map_err(|_: snow::Error| AgreementError::Damaged)
    }

    fn offer(&self, ciphers: &[Cipher]) -> SessionOffer {
        SessionOffer {
            ciphers: ciphers.iter().map(|cipher| to_message(*cipher).into()).collect(),
            endpoints: self.endpoints.iter().take(MAX_ENDPOINTS).map(|endpoint| (*endpoint).into()).collect(),
            capabilities: self.config.capabilities,
        }
    }

    fn free_index(&mut self, peer: PeerName) -> SessionIndex {
        loop {
            let index = SessionIndex(self.entropy.number() & SessionIndex::MAX);
            if index.0 != 0 && !self.indexes.contains_key(&index) {
                self.indexes.insert(index, peer);
                return index;
            }
        }
    }
}

/// Derives the keys of both directions, the initiator's first. The indexes go in, so that whoever changes them on the way
/// prevents a session rather than crossing two.
fn data_keys(mut state: HandshakeState, cipher: Cipher, [initiator, responder]: [SessionIndex; 2]) -> [SessionKey; 2] {
    let hash: [u8; 32] = state.get_handshake_hash().try_into().expect("SHA-256 has 32 bytes");
    let (from_initiator, from_responder) = state.dangerously_get_raw_split();
    [(from_initiator, b"initiator"), (from_responder, b"responder")].map(|(secret, direction)| {
        let secret = zeroize::Zeroizing::new(secret);
        let mut info = b"weft data v1 ".to_vec();
        info.extend_from_slice(direction);
        info.push(to_message(cipher) as u8);
        info.extend_from_slice(&initiator.0.to_be_bytes());
        info.extend_from_slice(&responder.0.to_be_bytes());
        let mut key = SessionKey([0; 32]);
        Hkdf::<Sha256>::new(Some(&hash), secret.as_slice())
            .expand(&info, &mut key.0)
            .expect("32 bytes are within the limit of HKDF-SHA256");
        key
    })
}

const fn message(kind: Kind) -> SessionMessage {
    SessionMessage { kind: Some(kind) }
}

fn write(state: &mut HandshakeState, offer: &SessionOffer) -> Result<Vec<u8>, AgreementError> {
    let mut message = vec![0; MAX_NOISE];
    let length = state.write_message(&offer.encode_to_vec(), &mut message).map_err(|_| AgreementError::Damaged)?;
    message.truncate(length);
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8]) -> Result<SessionOffer, AgreementError> {
    if message.len() > MAX_NOISE {
        return Err(AgreementError::Damaged);
    }
    let mut payload = vec![0; MAX_NOISE];
    let length = state.read_message(message, &mut payload).map_err(|_| AgreementError::Damaged)?;
    SessionOffer::decode(&payload[..length]).map_err(|_| AgreementError::Damaged)
}

/// Returns the ciphers of an offer that this version knows.
fn ciphers(offer: &SessionOffer) -> impl Iterator<Item = Cipher> + '_ {
    offer.ciphers().filter_map(|cipher| match cipher {
        CipherMessage::Aes256Gcm => Some(Cipher::Aes256Gcm),
        CipherMessage::Chacha20Poly1305 => Some(Cipher::ChaCha20Poly1305),
        CipherMessage::Unspecified => None,
    })
}

const fn to_message(cipher: Cipher) -> CipherMessage {
    match cipher {
        Cipher::Aes256Gcm => CipherMessage::Aes256Gcm,
        Cipher::ChaCha20Poly1305 => CipherMessage::Chacha20Poly1305,
    }
}

#[cfg(test)]
mod tests;
