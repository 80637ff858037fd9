//! The clear messages of the control handshake.

use super::HandshakeError;

/// First bytes of every hello.
const MAGIC: &[u8; 4] = b"weft";
/// Bit of the flags: a SPAKE2 message follows.
const PASSWORD: u8 = 1;
/// Bit of the flags: the sender has an old password too.
const HAS_OLD: u8 = 2;
/// Bit of the flags: the initiator asks the responder to use its old password.
const USE_OLD: u8 = 4;

/// The first message of each side.
///
/// `"weft" ‖ lowest version (2) ‖ highest version (2) ‖ flags (1) ‖ SPAKE2 message (33, if flag 1)`; whatever follows is
/// ignored, and covered by the transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    /// Versions spoken, both inclusive.
    pub(super) versions: (u16, u16),
    /// Side byte and element; absent without a password.
    pub(super) pake: Option<[u8; 33]>,
    /// Whether the sender has an old password too.
    pub(super) has_old: bool,
    /// Whether the responder is asked to use its old password.
    pub(super) use_old: bool,
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.versions.0.to_be_bytes());
        bytes.extend_from_slice(&self.versions.1.to_be_bytes());
        let flags = [(self.pake.is_some(), PASSWORD), (self.has_old, HAS_OLD), (self.use_old, USE_OLD)];
        bytes.push(flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
        bytes.extend(self.pake.iter().flatten());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HandshakeError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(HandshakeError::NotWeft)?;
        let (&[a, b, c, d, flags], rest) =
            rest.split_first_chunk::<5>().ok_or(HandshakeError::Damaged { what: "the hello is too short" })?;
        let pake = if flags & PASSWORD == 0 {
            None
        } else {
            let message = rest.first_chunk::<33>().ok_or(HandshakeError::Damaged { what: "the hello is too short" })?;
            Some(*message)
        };
        Ok(Self {
            versions: (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            pake,
            has_old: flags & HAS_OLD != 0,
            use_old: flags & USE_OLD != 0,
        })
    }
}

/// Why a responder sends an initiator away, said in clear because there is no key to seal it with. Whoever forges one can
/// only do what cutting the connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    WrongPassword,
    Busy,
}

impl Refusal {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::WrongPassword => 1,
            Self::Busy => 2,
        }
    }

    pub(super) fn decode(body: &[u8]) -> HandshakeError {
        match body.first() {
            Some(1) => HandshakeError::WrongPassword,
            Some(2) => HandshakeError::Busy,
            Some(_) | None => HandshakeError::Damaged { what: "refused for an unknown reason" },
        }
    }
}
