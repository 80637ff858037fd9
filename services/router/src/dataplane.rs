//! The packet path: one thread that moves frames between the TAP device and sealed UDP datagrams.
//!
//! The control side talks to it by [`Command`]s and hears [`Event`]s; counters are read from [`Statistics`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use weft_router_core::{
    forward::ForwardingTable,
    session::{EstablishedSession, SessionIndex},
};
use weft_types::PeerName;

/// What the control side tells the data plane.
#[derive(Debug)]
pub enum Command {
    /// Adds a session with a peer; the newest usable one seals, older ones still open until they expire.
    InstallSession(EstablishedSession),
    /// Forgets sessions, endpoints and counters of a peer.
    RemovePeer(PeerName),
    /// Says where a peer may be reached by UDP, best first. Each is probed; the first that answers is used.
    SetEndpoints {
        /// Who is reached there.
        peer: PeerName,
        /// Candidates.
        endpoints: Vec<SocketAddr>,
    },
    /// Replaces the forwarding table.
    SetForwarding(Arc<ForwardingTable>),
}

/// What the data plane tells the control side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Sealed probes pass both ways.
    PathUp {
        /// Whom the path leads to.
        peer: PeerName,
        /// Where its datagrams go.
        endpoint: SocketAddr,
        /// Of the probe.
        round_trip: Duration,
    },
    /// No probe was answered for the dead time (3 s).
    PathDown {
        /// Whom the path led to.
        peer: PeerName,
        /// Where probes went, if an endpoint was known.
        endpoint: Option<SocketAddr>,
    },
    /// The session in use has sealed or lasted enough: agree on new keys.
    RekeyWanted {
        /// With whom.
        peer: PeerName,
    },
    /// A session is no longer used and its index may be given out again.
    SessionExpired {
        /// Index on our side.
        local_index: SessionIndex,
    },
}
