//! State that is gossiped per origin: what each peer publishes, and how peers find out what they lack.
//!
//! Every peer is the origin of entries, and only the origin changes them. With each change its version rises by one; when
//! it lost its memory, its generation rises. So (generation, version) tells how far somebody knows an origin, and all that
//! changed since is a [`Delta`]. The store keeps all origins; whoever has neighbours decides what to send to whom.
//! `docs/wire-protocol.md`, section 2, has the rules.

mod delta;
mod neighbour;
mod origin;
mod store;
mod surplus;

pub use delta::{Assembler, Delta, DeltaEntry};
pub use neighbour::Neighbour;
pub use store::{ChannelChange, Outcome, Store};

use bytes::Bytes;
use weft_types::PeerName;

/// Bounds on what one peer may make others hold.
pub mod limits {
    use std::time::Duration;

    /// Origins that a store knows.
    pub const ORIGINS: usize = 1024;
    /// Origins beyond what there is room for whose existence is remembered. A vector may list these too.
    pub const SURPLUS: usize = 3 * ORIGINS;
    /// After so long neighbours may say again what there was no room for.
    pub const SURPLUS_AGE: Duration = Duration::from_secs(3600);
    /// Entries of one origin, deleted ones included.
    pub const ENTRIES: usize = 65_536;
    /// Bytes of one origin's entries: channels, keys, values, and [`ENTRY_OVERHEAD`] for each.
    pub const ORIGIN_LENGTH: usize = 16 * 1024 * 1024;
    /// Bytes of all origins but the local one together, counted in the same way.
    pub const TOTAL_LENGTH: usize = 256 * 1024 * 1024;
    /// What an entry counts besides its channel, key and value, in bytes.
    pub const ENTRY_OVERHEAD: usize = 64;
    /// Characters of a channel's name.
    pub const CHANNEL_LENGTH: usize = 64;
    /// Bytes of a key.
    pub const KEY_LENGTH: usize = 256;
    /// Bytes of a value.
    pub const VALUE_LENGTH: usize = 64 * 1024;
    /// A delta is cut so that no part exceeds this by more than one entry, in bytes.
    pub const PART_LENGTH: usize = 64 * 1024;
    /// Parts of one delta: more than [`ORIGIN_LENGTH`] can need.
    pub const PARTS: u32 = 512;
    /// Deletions of one origin that are remembered. Who knows less of it gets all of its entries instead.
    pub const TOMBSTONES: usize = 1024;
    /// How long a deletion is remembered.
    pub const TOMBSTONE_AGE: Duration = Duration::from_secs(600);
    /// Generations and versions stay below this, so that raising them never overflows.
    pub const NUMBER: u64 = 1 << 62;
    /// Nobody comes this far by counting: whoever says that an origin has, is not believed by the origin itself, nor by those
    /// to whom the origin says otherwise.
    pub const PLAUSIBLE: u64 = NUMBER / 2;
}

/// One value of a channel, or that it is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Unique among the entries of its origin in its channel. At most [`limits::KEY_LENGTH`] bytes.
    pub key: Bytes,
    /// At most [`limits::VALUE_LENGTH`] bytes. Absent: deleted.
    pub value: Option<Bytes>,
}

/// How far an origin is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Position {
    /// Rises whenever the origin has lost its memory.
    pub generation: u64,
    /// Rises with each change of the origin, within one generation.
    pub version: u64,
}

impl Position {
    /// Makes a position that somebody else named.
    ///
    /// # Errors
    /// [`GossipError::NumberTooLarge`] if a number reaches [`limits::NUMBER`].
    pub const fn new(generation: u64, version: u64) -> Result<Self, GossipError> {
        if generation < limits::NUMBER && version < limits::NUMBER {
            Ok(Self { generation, version })
        } else {
            Err(GossipError::NumberTooLarge)
        }
    }
}

/// How far somebody knows one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginVersion {
    /// The origin.
    pub origin: PeerName,
    /// How far.
    pub at: Position,
}

/// What a peer gossips breaks a rule, or exceeds a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GossipError {
    /// A generation or version cannot have been reached by counting.
    #[error("a generation or version is beyond 2^62")]
    NumberTooLarge,
    /// A vector lists more origins than anybody remembers.
    #[error("more than {} origins are gossiped", limits::ORIGINS + limits::SURPLUS)]
    TooManyOrigins,
    /// An origin has too much.
    #[error("what {origin} publishes exceeds {} entries or {} bytes", limits::ENTRIES, limits::ORIGIN_LENGTH)]
    OriginTooLarge {
        /// The origin.
        origin: PeerName,
    },
    /// A channel has a name that none may have.
    #[error("a channel's name has 1 to 64 characters a-z, 0-9, '.', '-', unlike {channel:?}")]
    InvalidChannel {
        /// The name, cut if long.
        channel: String,
    },
    /// A key is too long.
    #[error("a key has {length} bytes, more than 256")]
    KeyTooLong {
        /// Its length, in bytes.
        length: usize,
    },
    /// A value is too long.
    #[error("a value has {length} bytes, more than 64 KiB")]
    ValueTooLong {
        /// Its length, in bytes.
        length: usize,
    },
    /// The fields of a delta contradict each other.
    #[error("a delta of {origin} contradicts itself: {problem}")]
    Contradiction {
        /// The origin.
        origin: PeerName,
        /// In what.
        problem: &'static str,
    },
}

/// Checks the name of a channel.
///
/// # Errors
/// [`GossipError::InvalidChannel`] unless it has 1 to 64 characters a-z, 0-9, '.', '-'.
pub fn check_channel(channel: &str) -> Result<(), GossipError> {
    let valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    if (1..=limits::CHANNEL_LENGTH).contains(&channel.len()) && channel.bytes().all(valid) {
        Ok(())
    } else {
        Err(GossipError::InvalidChannel { channel: channel.chars().take(limits::CHANNEL_LENGTH).collect() })
    }
}

/// Checks the sizes of a key and a value.
///
/// # Errors
/// [`GossipError::KeyTooLong`] or [`GossipError::ValueTooLong`].
pub fn check_entry(key: &[u8], value: Option<&[u8]>) -> Result<(), GossipError> {
    if key.len() > limits::KEY_LENGTH {
        return Err(GossipError::KeyTooLong { length: key.len() });
    }
    match value {
        Some(value) if value.len() > limits::VALUE_LENGTH => Err(GossipError::ValueTooLong { length: value.len() }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
