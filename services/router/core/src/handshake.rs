//! Control handshake: how two processes that share a password become peers, and how they talk from then on.
//!
//! SPAKE2 turns the password into a key that only this connection has, and Noise `XXpsk0` authenticates the long-term keys
//! with it. Whoever listens learns nothing to try passwords on, and whoever takes part has one guess for each connection.
//! `docs/wire-protocol.md`, section 1, defines every byte; `docs/security.md` says what follows from it.
//!
//! [`Handshake`] is fed with what the TCP connection delivers; it ends with [`Established`], whose [`Sealer`] and
//! [`Opener`] carry control messages.

mod channel;
mod entropy;
mod hello;
mod noise;
mod static_key;

use std::collections::VecDeque;

pub use channel::{ChannelError, MAX_MESSAGE, Opener, Sealer};
pub(crate) use entropy::{Entropy, Seed};
use hello::{Hello, Refusal};
pub(crate) use noise::Resolver;
use noise::{Pake, Pattern};
use prost::Message;
pub use static_key::{ChangeUnderWay, Password, PasswordAge, PasswordMark, PasswordPair, Passwords, StaticKey};
use weft_proto::mesh::v1 as pb;
use weft_types::PeerName;

use crate::mesh::Introduction;

/// Protocol versions that this build speaks, both inclusive.
pub const PROTOCOL_VERSIONS: (u16, u16) = (1, 1);

/// Largest body of a record before the handshake is done, in bytes. The introduction is the largest part.
const MAX_RECORD: usize = 4096;
/// First byte of each record before the handshake is done.
mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const NOISE: u8 = 2;
    pub(super) const REFUSAL: u8 = 3;
}

/// What a handshake needs to know about our side.
#[derive(Debug, Clone)]
pub struct HandshakeConfig {
    /// Our long-term key.
    pub key: StaticKey,
    /// The mesh's password; `None` admits everyone.
    pub passwords: Option<Passwords>,
    /// What we say about ourselves, once the other side has proved that it knows the password.
    pub introduction: Introduction,
}

/// Why no session came about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Both have a password, and not the same.
    #[error("the password differs")]
    WrongPassword,
    /// We have a password, the other side runs without.
    #[error("the other side has no password")]
    PasswordMissingThere,
    /// The other side has a password, we run without.
    #[error("the other side has a password")]
    PasswordMissingHere,
    /// No protocol version is spoken by both.
    #[error("the other side speaks protocol versions {min} to {max}")]
    ProtocolVersion {
        /// Lowest version of the other side.
        min: u16,
        /// Highest version of the other side.
        max: u16,
    },
    /// What arrived is not weft's protocol.
    #[error("the other side is no weft router")]
    NotWeft,
    /// The other side does not take connections now.
    #[error("the other side is busy")]
    Busy,
    /// Bytes that make no sense, or were changed on the way.
    #[error("the handshake is damaged: {what}")]
    Damaged {
        /// Which part.
        what: &'static str,
    },
}

impl HandshakeError {
    /// Returns the stable word for programs.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong_password",
            Self::PasswordMissingThere | Self::PasswordMissingHere => "password_mismatch",
            Self::ProtocolVersion { .. } => "protocol_version",
            Self::NotWeft => "not_weft",
            Self::Busy => "busy",
            Self::Damaged { .. } => "damaged_handshake",
        }
    }

    /// Returns the sentence for people, `remote` being the other side as they know it.
    #[must_use]
    pub fn sentence(&self, remote: &str) -> String {
        let (low, high) = PROTOCOL_VERSIONS;
        match self {
            Self::WrongPassword => {
                format!("the password differs from that of {remote}: set the same WEFT_PASSWORD on both hosts")
            }
            Self::PasswordMissingThere => format!(
                "{remote} runs without a password, this host with one: set the same WEFT_PASSWORD on both hosts"
            ),
            Self::PasswordMissingHere => {
                format!("{remote} runs with a password, this host without: set the same WEFT_PASSWORD on both hosts")
            }
            Self::ProtocolVersion { min, max } => format!(
                "{remote} speaks the protocol versions {min} to {max}, this host {low} to {high}: update the older one"
            ),
            Self::NotWeft => format!("what answers at {remote} is no weft router: check the address and the port"),
            Self::Busy => format!("{remote} takes no more connections at the moment: it is tried again"),
            Self::Damaged { what } => format!(
                "the handshake with {remote} failed ({what}): something between the hosts changes the traffic, or the \
                 versions do not fit"
            ),
        }
    }
}

/// What a finished handshake leaves.
#[derive(Debug)]
pub struct Established {
    /// Who is there, proved by possession of the private key.
    pub peer: PeerName,
    /// What it says about itself.
    pub introduction: Introduction,
    /// Mark of the password that it has proved to know, as both sides had it when the handshake began; nothing without one.
    pub password: Option<PasswordMark>,
    /// Seals what we send.
    pub sealer: Sealer,
    /// Opens what we receive; has already got whatever arrived after the handshake.
    pub opener: Opener,
}

/// One side of one control handshake.
#[derive(Debug)]
pub struct Handshake {
    config: HandshakeConfig,
    initiator: bool,
    seed: Seed,
    input: Vec<u8>,
    output: VecDeque<Vec<u8>>,
    pair: PasswordPair,
    /// Whether the other side has an old password too, once it has said so.
    theirs_old: bool,
    state: State,
}

/// Our hello, and what comes of theirs.
#[derive(Debug)]
struct Greeting {
    hello: Vec<u8>,
    pake: Option<Box<Pake>>,
}

#[derive(Debug)]
enum State {
    /// A responder greets when it knows which password it is asked for.
    Hello {
        ours: Option<Greeting>,
    },
    Noise {
        pattern: Box<Pattern>,
    },
    Done {
        established: Option<Box<Established>>,
    },
    Failed,
}

impl Handshake {
    /// Starts the side that opened the TCP connection, with one pair of passwords: [`PasswordPair::FIRST`], or what
    /// [`next_pair`](Self::next_pair) said of the handshake before. `seed` must be fresh and secret.
    #[must_use]
    pub fn initiator(config: HandshakeConfig, pair: PasswordPair, seed: [u8; 32]) -> Self {
        let mut handshake = Self::new(config, true, pair, Seed::new(seed));
        let greeting = handshake.greet();
        handshake.output.push_back(record(kind::HELLO, &greeting.hello));
        handshake.state = State::Hello { ours: Some(greeting) };
        handshake
    }

    /// Starts the side that accepted the TCP connection. `seed` must be fresh and secret.
    #[must_use]
    pub fn responder(config: HandshakeConfig, seed: [u8; 32]) -> Self {
        Self::new(config, false, PasswordPair::FIRST, Seed::new(seed))
    }

    /// Returns the bytes that tell an initiator to try again later, for a responder that takes nobody at the moment.
    #[must_use]
    pub fn busy() -> Vec<u8> {
        record(kind::REFUSAL, &[Refusal::Busy.code()])
    }

    /// Returns with which passwords another connection may go better after [`HandshakeError::WrongPassword`]: those that an
    /// initiator is to try next; or those that a responder has not been asked for yet, so that the other side may well try
    /// again.
    #[must_use]
    pub fn next_pair(&self) -> Option<PasswordPair> {
        let has_old = self.config.passwords.as_ref()?.has_old();
        if self.initiator {
            return self.pair.after(has_old, self.theirs_old);
        }
        let unasked = has_old && self.pair.ours == PasswordAge::Current;
        unasked.then_some(PasswordPair { ours: PasswordAge::Old, ..self.pair })
    }

    fn new(config: HandshakeConfig, initiator: bool, pair: PasswordPair, seed: Seed) -> Self {
        Self {
            config,
            initiator,
            seed,
            input: Vec::new(),
            output: VecDeque::new(),
            pair,
            theirs_old: false,
            state: State::Hello { ours: None },
        }
    }

    /// Begins the key exchange with the password that `pair` names.
    fn greet(&mut self) -> Greeting {
        let mut entropy = Entropy::new(&self.seed, b"pake");
        let passwords = self.config.passwords.as_ref();
        let pake = passwords.map(|passwords| {
            let (password, age) = passwords.pick(self.pair.ours);
            self.pair.ours = age;
            Box::new(Pake::start(password, self.initiator, &mut entropy))
        });
        let hello = Hello {
            versions: PROTOCOL_VERSIONS,
            pake: pake.as_ref().map(|pake| pake.message()),
            has_old: passwords.is_some_and(Passwords::has_old),
            use_old: self.pair.theirs == PasswordAge::Old,
        };
        Greeting { hello: hello.encode(), pake }
    }

    /// Takes bytes from the connection, cut anyhow.
    ///
    /// # Errors
    /// Why there will be no session. [`poll_output`](Self::poll_output) may still hold a refusal for the other side, to be
    /// sent before the connection is closed.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        self.input.extend_from_slice(bytes);
        while let Some(record) = self.next_record()? {
            if let Err(error) = self.handle_record(&record) {
                self.state = State::Failed;
                return Err(error);
            }
        }
        if let State::Done { established: Some(established) } = &mut self.state {
            established.opener.handle_input(&std::mem::take(&mut self.input));
        }
        Ok(())
    }

    /// Returns the next bytes for the connection.
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        self.output.pop_front()
    }

    /// Returns the session, once, when all bytes of [`poll_output`](Self::poll_output) have been taken.
    pub fn poll_established(&mut self) -> Option<Established> {
        match &mut self.state {
            State::Done { established } if self.output.is_empty() => established.take().map(|boxed| *boxed),
            State::Done { .. } | State::Hello { .. } | State::Noise { .. } | State::Failed => None,
        }
    }

    /// Returns the next whole record, kind first, as long as the handshake goes on.
    fn next_record(&mut self) -> Result<Option<Vec<u8>>, HandshakeError> {
        match self.state {
            State::Hello { .. } | State::Noise { .. } => {}
            State::Done { .. } => return Ok(None),
            State::Failed => {
                self.input.clear();
                return Ok(None);
            }
        }
        let Some((prefix, rest)) = self.input.split_first_chunk::<2>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length == 0 || length > MAX_RECORD {
            self.state = State::Failed;
            return Err(HandshakeError::NotWeft);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let body = body.to_vec();
        self.input.drain(..2 + length);
        Ok(Some(body))
    }

    fn handle_record(&mut self, record: &[u8]) -> Result<(), HandshakeError> {
        let (record_kind, body) = record.split_first().ok_or(HandshakeError::NotWeft)?;
        match (*record_kind, std::mem::replace(&mut self.state, State::Failed)) {
            (kind::REFUSAL, _) => Err(Refusal::decode(body)),
            (kind::HELLO, State::Hello { ours }) => self.handle_hello(ours, body),
            (kind::NOISE, State::Noise { pattern }) => self.handle_noise(*pattern, body),
            (_, State::Hello { .. }) => Err(HandshakeError::NotWeft),
            (_, State::Noise { .. } | State::Done { .. } | State::Failed) => {
                Err(HandshakeError::Damaged { what: "a message out of order" })
            }
        }
    }

    fn handle_hello(&mut self, ours: Option<Greeting>, body: &[u8]) -> Result<(), HandshakeError> {
        let theirs = Hello::decode(body)?;
        self.theirs_old = theirs.has_old;
        let Greeting { hello: ours, pake } = ours.unwrap_or_else(|| {
            if theirs.use_old {
                self.pair.ours = PasswordAge::Old;
            }
            let greeting = self.greet();
            // Also when the two do not fit: the initiator says then why, as this side does.
            self.output.push_back(record(kind::HELLO, &greeting.hello));
            greeting
        });
        let ours = ours.as_slice();
        let (low, high) = theirs.versions;
        if high < PROTOCOL_VERSIONS.0 || PROTOCOL_VERSIONS.1 < low {
            return Err(HandshakeError::ProtocolVersion { min: low, max: high });
        }
        let key = match (pake, theirs.pake) {
            (Some(pake), Some(message)) => Some(pake.finish(&message)?),
            (None, None) => None,
            (Some(_), None) => return Err(HandshakeError::PasswordMissingThere),
            (None, Some(_)) => return Err(HandshakeError::PasswordMissingHere),
        };
        let (first, second) = if self.initiator { (ours, body) } else { (body, ours) };
        let mut pattern = Pattern::new(&self.config.key, self.initiator, key.as_ref(), [first, second], &self.seed)?;
        if self.initiator {
            self.output.push_back(record(kind::NOISE, &pattern.write(&[])?));
        }
        self.state = State::Noise { pattern: Box::new(pattern) };
        Ok(())
    }

    fn handle_noise(&mut self, mut pattern: Pattern, body: &[u8]) -> Result<(), HandshakeError> {
        let first = pattern.position() == 0;
        let payload = match pattern.read(body) {
            Ok(payload) => payload,
            Err(_) if first && self.config.passwords.is_some() => {
                // The first sealed message opens with the key of the password alone.
                self.output.push_back(record(kind::REFUSAL, &[Refusal::WrongPassword.code()]));
                return Err(HandshakeError::WrongPassword);
            }
            Err(error) => return Err(error),
        };
        let introduction = pb::Introduction::from(&self.config.introduction).encode_to_vec();
        if first {
            self.output.push_back(record(kind::NOISE, &pattern.write(&introduction)?));
            self.state = State::Noise { pattern: Box::new(pattern) };
            return Ok(());
        }
        if self.initiator {
            self.output.push_back(record(kind::NOISE, &pattern.write(&introduction)?));
        }
        let introduction = pb::Introduction::decode(payload.as_slice())
            .ok()
            .and_then(|introduction| Introduction::try_from(introduction).ok())
            .ok_or(HandshakeError::Damaged { what: "the introduction cannot be read" })?;
        let (peer, sealer, opener) = pattern.finish()?;
        let password = self.config.passwords.as_ref().map(|passwords| passwords.pick(self.pair.ours).0.mark());
        let established = Established { peer, introduction, password, sealer, opener };
        self.state = State::Done { established: Some(Box::new(established)) };
        Ok(())
    }
}

/// Returns a record: length of what follows (2 bytes), kind, body.
fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 1).expect("handshake messages are far below 64 KiB");
    let mut record = Vec::with_capacity(body.len() + 3);
    record.extend_from_slice(&length.to_be_bytes());
    record.push(kind);
    record.extend_from_slice(body);
    record
}

#[cfg(test)]
mod tests;
