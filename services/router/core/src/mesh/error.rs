//! Why the mesh does not do what it was asked for.

use weft_types::PeerName;

use super::message;
use crate::gossip::GossipError;

/// Why something cannot be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The channel belongs to the router.
    #[error("the channel {channel:?} belongs to the router")]
    Reserved {
        /// The channel.
        channel: String,
    },
    /// A limit is exceeded, or a name is not allowed.
    #[error(transparent)]
    Gossip(#[from] GossipError),
}

/// Why a message cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No chain of links leads to the peer.
    #[error("no chain of links leads to the peer {destination}")]
    Unreachable {
        /// The peer.
        destination: PeerName,
    },
    /// The connection towards the peer takes no more for the moment.
    #[error("the connection towards the peer {destination} is congested")]
    Congested {
        /// The peer.
        destination: PeerName,
    },
    /// The channel has a name that none may have.
    #[error(transparent)]
    Channel(#[from] GossipError),
    /// The payload is too long.
    #[error("the payload has {length} bytes, more than {}", message::MAX_PAYLOAD_LENGTH)]
    TooLong {
        /// Its length, in bytes.
        length: usize,
    },
}

/// Why peers cannot be revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// Nobody has that name.
    #[error(
        "no peer {name} is known: `weft status peers` lists them; a peer that is not listed can be named by its whole key"
    )]
    Unknown {
        /// As given.
        name: String,
    },
    /// Several peers have it.
    #[error("several peers are called {name}: name one by its key, {}", keys.join(" or "))]
    Ambiguous {
        /// As given.
        name: String,
        /// Their keys, in hexadecimal.
        keys: Vec<String>,
    },
    /// It is the local peer.
    #[error("a host cannot revoke itself: do it on another host, or take weft off this one with `weft reset`")]
    Local,
    /// Others let the local peer in no more.
    #[error("this host's own key was revoked, so that nobody takes revocations from it: do it on another host")]
    Revoked,
    /// There is no room for more.
    #[error("more than {} keys cannot be revoked in one mesh: found a new one", super::revocation::MAX_REVOCATIONS)]
    TooMany,
}

/// The peer cannot be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// Nothing is known of it.
    #[error("no peer {peer} is known")]
    Unknown {
        /// The peer.
        peer: PeerName,
    },
    /// It takes part in the mesh.
    #[error("the peer {peer} is reachable; stop it first")]
    Reachable {
        /// The peer.
        peer: PeerName,
    },
}
