//! The packet path: one thread that moves frames between the TAP device and sealed UDP datagrams.
//!
//! The control side talks to it by [`Command`]s and hears [`Event`]s; counters are read from [`Statistics`].

mod arrivals;
mod engine;
mod facility;
mod packets;
mod peers;
mod receive;
mod routes;
mod sessions;
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
    path::Via,
    session::{EstablishedSession, SessionIndex},
};
use weft_types::{MacAddress, PeerName};

use crate::control::Stream;

pub use self::{
    engine::{DataPlaneHandle, Inbox, Stopped},
    facility::{Facility, FacilityState, UnknownFacility},
    routes::{Route, RouteTable},
    statistics::{PathView, PeerStatistics, Statistics, Traffic},
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
    /// The local peer.
    pub local: PeerName,
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
    /// Says where a peer may be reached by UDP, best first.
    SetEndpoints {
        /// Who is reached there.
        peer: PeerName,
        /// Candidates.
        endpoints: Vec<SocketAddr>,
    },
    /// Says by which control connection with a peer datagrams may go, if there is one.
    SetStream {
        /// Who is at the other end.
        peer: PeerName,
        /// Takes the datagrams.
        stream: Option<Stream>,
    },
    /// Replaces the ways over other peers.
    SetRoutes(Arc<RouteTable>),
    /// Replaces the forwarding table.
    SetForwarding(Arc<ForwardingTable>),
    /// Tells containers of this host at which MACs addresses are now.
    Announce(Vec<(IpAddr, MacAddress)>),
}

/// How datagrams pass to a peer with nobody between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Whether they pass inside the control connection, and not by UDP.
    pub stream: bool,
    /// What one costs, in units of 0.1 ms; small changes of it are not told.
    pub cost: u32,
}

/// What the data plane tells the control side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A way to a peer works, and is used from now on.
    PathUp {
        /// Whom it leads to.
        peer: PeerName,
        /// It.
        via: Via,
        /// Of its probes.
        round_trip: Duration,
    },
    /// No way to a peer works.
    PathDown {
        /// Which.
        peer: PeerName,
        /// The way that was used last, or tried first.
        via: Option<Via>,
    },
    /// Datagrams pass to a peer with nobody between, in another way than before or at another cost; or they no longer do.
    LinkChanged {
        /// Which.
        peer: PeerName,
        /// How.
        link: Option<LinkState>,
    },
    /// A peer sees our datagrams come from somewhere else than before.
    Observed {
        /// Which.
        peer: PeerName,
        /// From there.
        endpoint: SocketAddr,
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
