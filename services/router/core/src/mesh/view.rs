//! What the mesh shows of itself.

use std::{net::SocketAddr, time::Duration};

use weft_types::PeerName;

use super::event::{ConnectionId, Problem};

/// A peer and what people call it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerIdentity {
    /// The peer.
    pub peer: PeerName,
    /// Printed form.
    pub name: String,
    /// The host's name.
    pub nickname: String,
}

/// State of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetState {
    /// The peer that was reached there has a connection to us, by whatever way.
    Connected,
    /// A try is under way.
    Connecting,
    /// The next try comes with time.
    Waiting,
    /// It is ourselves, or cannot work before somebody changes something. In the latter case it is tried again slowly.
    Refused,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetView {
    /// As given.
    pub text: String,
    /// Its state.
    pub state: TargetState,
    /// Why the last try failed, if it did.
    pub problem: Option<Problem>,
    /// How long until the next try; nothing where none is due.
    pub retry: Option<Duration>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionView {
    /// Its id.
    pub connection: ConnectionId,
    /// Who is at the other end.
    pub identity: PeerIdentity,
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Whether we dialled it.
    pub outbound: bool,
    /// How long it has existed.
    pub age: Duration,
    /// Round trip of the last heartbeat, once one was answered.
    pub round_trip: Option<Duration>,
    /// Where datagrams go and how long their round trip is, while they pass both ways.
    pub path: Option<(SocketAddr, Option<Duration>)>,
}

/// A connection that was refused lately, by either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalView {
    /// Address of the other end.
    pub remote: SocketAddr,
    /// Whether we dialled it.
    pub outbound: bool,
    /// Who was at the other end.
    pub identity: PeerIdentity,
    /// Why.
    pub problem: Problem,
    /// How long ago.
    pub age: Duration,
}

/// Whether a peer takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// It is us.
    Local,
    /// A chain of links leads to it.
    Reachable,
    /// None does: what it published is suspended, not gone.
    Unreachable,
}

/// A link that a peer says it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// The other end.
    pub remote: PeerName,
    /// Where the peer reaches it.
    pub endpoint: Option<SocketAddr>,
    /// Whether the peer dialled it.
    pub outbound: bool,
    /// Whether datagrams pass directly.
    pub data_direct: bool,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// The peer and its names; the names are empty while only its links are known.
    pub identity: PeerIdentity,
    /// Version of weft that it runs; may be empty.
    pub version: String,
    /// Whether it takes part.
    pub state: PeerState,
    /// Where it may be reached, as it says.
    pub endpoints: Vec<SocketAddr>,
    /// Its links.
    pub links: Vec<LinkView>,
}
