//! Control messages as the mesh understands them, and their form on the wire.
//!
//! [`ControlMessage::decode`] is the boundary: whatever leaves it is well-formed and within limits.

use std::net::SocketAddr;

use bytes::Bytes;
use prost::Message as _;
pub use weft_proto::mesh::v1::SessionMessage;
use weft_proto::{convert::InvalidMessage, mesh::v1 as pb};
use weft_types::PeerName;

use crate::gossip::{self, Delta, DeltaEntry, OriginVersion, limits};

/// Largest encoded control message, in bytes. Longer ones are refused unread.
///
/// The largest are parts of a delta ([`limits::PART_LENGTH`] and one more entry) and version vectors
/// ([`limits::ORIGINS`]).
pub const MAX_MESSAGE_LENGTH: usize = 512 * 1024;

/// Largest payload of a message to another peer's services, in bytes.
pub const MAX_PAYLOAD_LENGTH: usize = 64 * 1024;

/// Largest message of the data key agreement, in bytes (Noise specification, section 3).
pub const MAX_NOISE_LENGTH: usize = 65_535;

/// Largest datagram that travels as a control message, in bytes: what UDP carries over IPv4.
pub const MAX_DATAGRAM_LENGTH: usize = 65_507;

/// How many hops a message to another peer may take.
pub const MAX_HOPS: u32 = 16;

/// Longest sentence that a goodbye carries, in bytes; the rest is cut off.
const MAX_SENTENCE_LENGTH: usize = 1024;

/// The bytes or the order of messages do not follow the protocol. Costs the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The bytes are no message of protobuf.
    #[error("the message cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The message is longer than allowed.
    #[error("the message has {length} bytes, more than {MAX_MESSAGE_LENGTH}")]
    TooLong {
        /// Its length, in bytes.
        length: usize,
    },
    /// A field is missing or makes no sense.
    #[error(transparent)]
    Field(#[from] InvalidMessage),
    /// What is gossiped breaks a rule or exceeds a limit.
    #[error(transparent)]
    Gossip(#[from] gossip::GossipError),
}

/// One message of a control connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlMessage {
    /// Shows that the sender is alive.
    Heartbeat {
        /// Opaque to the receiver.
        token: u64,
        /// Whether this answers a heartbeat.
        echo: bool,
    },
    /// All that the sender has, as one number.
    Digest([u8; 32]),
    /// How far the sender knows every origin.
    Vector {
        /// One for each origin.
        origins: Vec<OriginVersion>,
        /// Whether the sender wants the receiver's vector in return.
        answer: bool,
    },
    /// Changes of one origin, or a part of them.
    Delta(Delta),
    /// A message to one peer, over others if need be.
    Routed(Routed),
    /// The sender is about to close the connection.
    Goodbye(Goodbye),
    /// A sealed or relayed datagram, for the packet path.
    Datagram(Bytes),
    /// A kind that a later version added.
    Unknown,
}

/// A message to one peer, over others if need be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Who sent it.
    pub source: PeerName,
    /// Whom it is for.
    pub destination: PeerName,
    /// How often it may still be passed on.
    pub hops_left: u32,
    /// What it carries.
    pub body: RoutedBody,
}

/// What a [`Routed`] message carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutedBody {
    /// A message of the service that owns the channel.
    Channel {
        /// The channel.
        channel: String,
        /// Opaque here.
        payload: Bytes,
    },
    /// A message of the data key agreement.
    Session(SessionMessage),
}

/// Why a connection is closed, for the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goodbye {
    /// For programs.
    pub reason: GoodbyeReason,
    /// One sentence for people.
    pub message: String,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GoodbyeReason {
    /// A reason that a later version added, or none.
    Unspecified,
    /// The sender stops.
    Stopping,
    /// The same two peers have another connection.
    DuplicateConnection,
    /// Both ends are one peer.
    SelfConnection,
    /// Two hosts use one key.
    SameKey,
    /// Two peers use one printed name.
    SameName,
    /// No protocol version is known to both.
    ProtocolVersion,
    /// The address ranges differ.
    AddressRange,
    /// The address rings differ.
    RingId,
    /// The sender has as many connections as it may have.
    ConnectionLimit,
    /// The sender heard nothing for too long.
    Silence,
    /// The sender heard something that breaks the protocol.
    ProtocolError,
    /// The receiver's key was revoked.
    Revoked,
    /// The receiver's key is new, and the password that it knows lets nobody new in.
    UnknownKey,
}

impl GoodbyeReason {
    /// Returns the stable word for status and programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "closed",
            Self::Stopping => "stopping",
            Self::DuplicateConnection => "duplicate_connection",
            Self::SelfConnection => "self",
            Self::SameKey => "same_key",
            Self::SameName => "same_name",
            Self::ProtocolVersion => "protocol_version",
            Self::AddressRange => "address_range",
            Self::RingId => "ring_id",
            Self::ConnectionLimit => "connection_limit",
            Self::Silence => "silence",
            Self::ProtocolError => "protocol_error",
            Self::Revoked => "revoked",
            Self::UnknownKey => "unknown_key",
        }
    }

    /// Tells whether trying again is useless until somebody changes something.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::SelfConnection
            | Self::SameKey
            | Self::SameName
            | Self::ProtocolVersion
            | Self::AddressRange
            | Self::RingId
            | Self::Revoked
            | Self::UnknownKey => true,
            Self::Unspecified
            | Self::Stopping
            | Self::DuplicateConnection
            | Self::ConnectionLimit
            | Self::Silence
            | Self::ProtocolError => false,
        }
    }
}

impl From<GoodbyeReason> for pb::GoodbyeReason {
    fn from(reason: GoodbyeReason) -> Self {
        match reason {
            GoodbyeReason::Unspecified => Self::Unspecified,
            GoodbyeReason::Stopping => Self::Stopping,
            GoodbyeReason::DuplicateConnection => Self::DuplicateConnection,
            GoodbyeReason::SelfConnection => Self::Self_,
            GoodbyeReason::SameKey => Self::SameKey,
            GoodbyeReason::SameName => Self::SameName,
            GoodbyeReason::ProtocolVersion => Self::ProtocolVersion,
            GoodbyeReason::AddressRange => Self::AddressRange,
            GoodbyeReason::RingId => Self::RingId,
            GoodbyeReason::ConnectionLimit => Self::ConnectionLimit,
            GoodbyeReason::Silence => Self::Silence,
            GoodbyeReason::ProtocolError => Self::ProtocolError,
            GoodbyeReason::Revoked => Self::Revoked,
            GoodbyeReason::UnknownKey => Self::UnknownKey,
        }
    }
}

impl From<pb::GoodbyeReason> for GoodbyeReason {
    fn from(reason: pb::GoodbyeReason) -> Self {
        match reason {
            pb::GoodbyeReason::Unspecified => Self::Unspecified,
            pb::GoodbyeReason::Stopping => Self::Stopping,
            pb::GoodbyeReason::DuplicateConnection => Self::DuplicateConnection,
            pb::GoodbyeReason::Self_ => Self::SelfConnection,
            pb::GoodbyeReason::SameKey => Self::SameKey,
            pb::GoodbyeReason::SameName => Self::SameName,
            pb::GoodbyeReason::ProtocolVersion => Self::ProtocolVersion,
            pb::GoodbyeReason::AddressRange => Self::AddressRange,
            pb::GoodbyeReason::RingId => Self::RingId,
            pb::GoodbyeReason::ConnectionLimit => Self::ConnectionLimit,
            pb::GoodbyeReason::Silence => Self::Silence,
            pb::GoodbyeReason::ProtocolError => Self::ProtocolError,
            pb::GoodbyeReason::Revoked => Self::Revoked,
            pb::GoodbyeReason::UnknownKey => Self::UnknownKey,
        }
    }
}

impl ControlMessage {
    /// Encodes the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        pb::ControlMessage { kind: self.to_kind() }.encode_to_vec()
    }

    /// Decodes a message and checks everything that can be checked without knowing the mesh's state.
    ///
    /// # Errors
    /// [`ProtocolError`] says what breaks the protocol. The connection should be closed.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        if bytes.len() > MAX_MESSAGE_LENGTH {
            return Err(ProtocolError::TooLong { length: bytes.len() });
        }
        let Some(kind) = pb::ControlMessage::decode(bytes)?.kind else { return Ok(Self::Unknown) };
        Self::from_kind(kind)
    }

    fn to_kind(&self) -> Option<pb::control_message::Kind> {
        use pb::control_message::Kind;
        Some(match self {
            Self::Heartbeat { token, echo } => Kind::Heartbeat(pb::Heartbeat { token: *token, echo: *echo }),
            Self::Digest(hash) => Kind::GossipDigest(pb::GossipDigest { hash: hash.to_vec() }),
            Self::Vector { origins, answer } => {
                let origins = origins
                    .iter()
                    .map(|known| pb::OriginVersion {
                        origin: Some(known.origin.into()),
                        generation: known.at.generation,
                        version: known.at.version,
                    })
                    .collect();
                Kind::GossipVector(pb::GossipVector { origins, answer: *answer })
            }
            Self::Delta(delta) => Kind::GossipDelta(delta_to_pb(delta)),
            Self::Routed(routed) => Kind::Routed(routed_to_pb(routed)),
            Self::Goodbye(goodbye) => Kind::Goodbye(pb::Goodbye {
                reason: pb::GoodbyeReason::from(goodbye.reason).into(),
                message: goodbye.message.clone(),
            }),
            Self::Datagram(datagram) => Kind::Datagram(datagram.to_vec()),
            Self::Unknown => return None,
        })
    }

    fn from_kind(kind: pb::control_message::Kind) -> Result<Self, ProtocolError> {
        use pb::control_message::Kind;
        Ok(match kind {
            Kind::Heartbeat(heartbeat) => Self::Heartbeat { token: heartbeat.token, echo: heartbeat.echo },
            Kind::GossipDigest(digest) => {
                let hash = digest.hash.as_slice().try_into();
                Self::Digest(hash.map_err(|_| InvalidMessage::invalid("GossipDigest.hash", "it has 32 bytes"))?)
            }
            Kind::GossipVector(vector) => {
                if vector.origins.len() > limits::ORIGINS + limits::SURPLUS {
                    return Err(gossip::GossipError::TooManyOrigins.into());
                }
                let origins = vector
                    .origins
                    .iter()
                    .map(|known| {
                        let origin = peer("OriginVersion.origin", known.origin.as_ref())?;
                        let at = gossip::Position::new(known.generation, known.version)?;
                        Ok(OriginVersion { origin, at })
                    })
                    .collect::<Result<_, ProtocolError>>()?;
                Self::Vector { origins, answer: vector.answer }
            }
            Kind::GossipDelta(delta) => Self::Delta(delta_from_pb(delta)?),
            Kind::Routed(routed) => match routed_from_pb(routed)? {
                Some(routed) => Self::Routed(routed),
                None => Self::Unknown,
            },
            Kind::Goodbye(goodbye) => {
                let reason = pb::GoodbyeReason::try_from(goodbye.reason).unwrap_or(pb::GoodbyeReason::Unspecified);
                Self::Goodbye(Goodbye { reason: reason.into(), message: sentence(goodbye.message) })
            }
            Kind::Datagram(datagram) => {
                if datagram.len() > MAX_DATAGRAM_LENGTH {
                    return Err(InvalidMessage::invalid("datagram", "UDP carries at most 65507 bytes").into());
                }
                Self::Datagram(datagram.into())
            }
        })
    }
}

fn delta_to_pb(delta: &Delta) -> pb::GossipDelta {
    let entries = delta
        .entries
        .iter()
        .map(|entry| pb::GossipEntry {
            channel: entry.channel.clone(),
            key: entry.key.to_vec(),
            version: entry.version,
            value: entry.value.as_ref().map(|value| value.to_vec()),
        })
        .collect();
    pb::GossipDelta {
        origin: Some(delta.origin.into()),
        generation: delta.at.generation,
        base_version: delta.base_version,
        version: delta.at.version,
        complete: delta.complete,
        entries,
        part: delta.part,
        parts: delta.parts,
    }
}

fn delta_from_pb(delta: pb::GossipDelta) -> Result<Delta, ProtocolError> {
    let entries = delta
        .entries
        .into_iter()
        .map(|entry| DeltaEntry {
            channel: entry.channel,
            key: entry.key.into(),
            version: entry.version,
            value: entry.value.map(Bytes::from),
        })
        .collect();
    let delta = Delta {
        origin: peer("GossipDelta.origin", delta.origin.as_ref())?,
        at: gossip::Position::new(delta.generation, delta.version)?,
        base_version: delta.base_version,
        complete: delta.complete,
        entries,
        part: delta.part,
        parts: delta.parts,
    };
    delta.check()?;
    Ok(delta)
}

fn routed_to_pb(routed: &Routed) -> pb::Routed {
    use pb::routed::Kind;
    let kind = match &routed.body {
        RoutedBody::Channel { channel, payload } => {
            Kind::ChannelMessage(pb::ChannelMessage { channel: channel.clone(), payload: payload.to_vec() })
        }
        RoutedBody::Session(message) => Kind::SessionMessage(message.clone()),
    };
    pb::Routed {
        source: Some(routed.source.into()),
        destination: Some(routed.destination.into()),
        hops_left: routed.hops_left,
        kind: Some(kind),
    }
}

/// Returns nothing for a kind of message that a later version added.
fn routed_from_pb(routed: pb::Routed) -> Result<Option<Routed>, ProtocolError> {
    use pb::{routed::Kind, session_message};
    let source = peer("Routed.source", routed.source.as_ref())?;
    let destination = peer("Routed.destination", routed.destination.as_ref())?;
    let body = match routed.kind {
        Some(Kind::ChannelMessage(message)) => {
            gossip::check_channel(&message.channel)?;
            if message.payload.len() > MAX_PAYLOAD_LENGTH {
                return Err(InvalidMessage::invalid("ChannelMessage.payload", "it is longer than 64 KiB").into());
            }
            RoutedBody::Channel { channel: message.channel, payload: message.payload.into() }
        }
        Some(Kind::SessionMessage(message)) => {
            let noise = match &message.kind {
                Some(session_message::Kind::Init(init)) => &init.noise,
                Some(session_message::Kind::Response(response)) => &response.noise,
                None => return Ok(None),
            };
            if noise.len() > MAX_NOISE_LENGTH {
                return Err(InvalidMessage::invalid("noise", "a Noise message has at most 65535 bytes").into());
            }
            RoutedBody::Session(message)
        }
        None => return Ok(None),
    };
    Ok(Some(Routed { source, destination, hops_left: routed.hops_left.min(MAX_HOPS), body }))
}

pub(super) fn peer(
    field: &'static str,
    name: Option<&weft_proto::common::v1::PeerName>,
) -> Result<PeerName, InvalidMessage> {
    name.ok_or(InvalidMessage::missing(field))?.try_into()
}

pub(super) fn endpoint(endpoint: Option<&weft_proto::common::v1::Endpoint>) -> Option<SocketAddr> {
    endpoint.and_then(|endpoint| endpoint.try_into().ok())
}

/// Makes text from outside fit for a log and a terminal: bounded, in one line, without control characters.
pub(super) fn sentence(text: String) -> String {
    printable(&text, MAX_SENTENCE_LENGTH)
}

pub(super) fn printable(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for character in text.chars().filter(|character| !character.is_control()) {
        if out.len() + character.len_utf8() > limit {
            break;
        }
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests;
