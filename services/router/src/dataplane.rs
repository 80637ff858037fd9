//! The packet path: one thread that moves frames between the TAP device and sealed UDP datagrams.
//!
//! The control side talks to it by [`Command`]s and hears [`Event`]s; counters are read from [`Statistics`].

mod engine;
mod facility;
mod packets;
mod peers;
mod receive;
mod socket;
mod statistics;
mod tap;
mod transmit;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use weft_router_core::{
    forward::ForwardingTable,
    session::{EstablishedSession, SessionIndex},
};
use weft_types::{MacAddress, PeerName};

pub use self::{
    engine::{DataPlaneHandle, Stopped},
    facility::{Facility, FacilityState, UnknownFacility},
    statistics::{PeerStatistics, Statistics, Traffic},
    tap::{Tap, open_tap},
};

/// Length of the TAP device's queue that keeps the wait behind bulk traffic short, in frames of up to 64 KiB.
pub const TAP_QUEUE_LENGTH: u32 = 64;

/// What the data plane needs to start.
#[derive(Debug)]
pub struct DataPlaneConfig {
    /// The TAP device that is a port of the bridge, from [`open_tap`].
    pub tap: Tap,
    /// Address of the UDP socket; all addresses of both families when absent.
    pub bind_address: Option<IpAddr>,
    /// Port of the UDP socket; 0 lets the kernel choose.
    pub port: u16,
    /// MTU of containers' interfaces, in bytes. Larger frames are dropped and counted.
    pub mtu: u16,
    /// Facilities that must not be used even where they are present.
    pub masked: BTreeSet<Facility>,
}

/// Opens the UDP socket in the caller's network namespace and starts the thread that moves frames.
///
/// Events wait in a queue of bounded length; those that do not fit wait inside, newest state of each path only.
///
/// # Errors
/// When the socket cannot be opened, or the thread not be started.
pub fn spawn(config: DataPlaneConfig) -> anyhow::Result<(DataPlaneHandle, mpsc::Receiver<Event>)> {
    engine::spawn(config)
}

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
    /// Tells containers of this host at which MACs addresses are now.
    Announce(Vec<(IpAddr, MacAddress)>),
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
    /// A session is no longer used and its index may be given out again; also follows [`Command::RemovePeer`].
    SessionExpired {
        /// Index on our side.
        local_index: SessionIndex,
    },
    /// The TAP device was deleted. No frame passes any more, and no other device takes its place.
    TapLost,
}
