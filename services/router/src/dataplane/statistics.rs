//! Counters of the packet path: written by its thread once per batch, read by anyone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use weft_router_core::{
    forward::DropReason,
    path::{CandidateView, Via},
};
use weft_types::PeerName;

use super::facility::{Facility, FacilityState};
use crate::direction::Direction;

/// What the data plane has done since it started.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Peers that have a session or endpoints.
    pub peers: BTreeMap<PeerName, PeerStatistics>,
    /// Traffic to all peers, those included that are gone.
    pub sent: Traffic,
    /// Traffic from all peers, those included that are gone.
    pub received: Traffic,
    /// Frames and datagrams dropped, for every reason there is, on the way to peers or from them.
    pub drops: BTreeMap<(Direction, DropReason), u64>,
    /// Datagrams handed on for other peers.
    pub relayed: Traffic,
    /// Facilities of the kernel.
    pub facilities: BTreeMap<Facility, FacilityState>,
    /// ARP requests and neighbour solicitations that were answered from the table.
    pub neighbour_answers: u64,
    /// Times that a batch had to be sent datagram by datagram, because the path refused it.
    pub refused_batches: u64,
}

impl Statistics {
    /// Returns how many frames and datagrams were dropped for a reason, both ways.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        Direction::ALL.iter().filter_map(|direction| self.drops.get(&(*direction, reason))).sum()
    }
}

/// What was exchanged with one peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStatistics {
    /// The ways to it, as they were a second ago at most.
    pub path: PathView,
    /// Traffic to the peer.
    pub sent: Traffic,
    /// Traffic from the peer.
    pub received: Traffic,
}

/// The ways to a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathView {
    /// How its datagrams go, while any way works.
    pub via: Option<Via>,
    /// Smoothed round trip of the probes on that way.
    pub round_trip: Option<Duration>,
    /// All ways, and why they are not used.
    pub candidates: Vec<CandidateView>,
}

/// Traffic in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Ethernet frames, a batch of up to 64 KiB counted as one.
    pub frames: u64,
    /// Sealed datagrams, probes included.
    pub datagrams: u64,
    /// Bytes of sealed datagrams, without UDP and IP headers.
    pub bytes: u64,
}

impl Traffic {
    const fn plus(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            datagrams: self.datagrams + other.datagrams,
            bytes: self.bytes + other.bytes,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct TrafficCounters {
    frames: AtomicU64,
    datagrams: AtomicU64,
    bytes: AtomicU64,
}

impl TrafficCounters {
    pub(super) fn add(&self, traffic: Traffic) {
        self.frames.fetch_add(traffic.frames, Relaxed);
        self.datagrams.fetch_add(traffic.datagrams, Relaxed);
        self.bytes.fetch_add(traffic.bytes, Relaxed);
    }

    fn read(&self) -> Traffic {
        Traffic {
            frames: self.frames.load(Relaxed),
            datagrams: self.datagrams.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct PeerCounters {
    pub(super) sent: TrafficCounters,
    pub(super) received: TrafficCounters,
    path: Mutex<PathView>,
}

impl PeerCounters {
    pub(super) fn set_path(&self, path: PathView) {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    fn read(&self) -> PeerStatistics {
        let path = self.path.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PeerStatistics { path, sent: self.sent.read(), received: self.received.read() }
    }
}

#[derive(Debug, Default)]
struct Peers {
    present: BTreeMap<PeerName, Arc<PeerCounters>>,
    /// Sent to and received from those that were removed.
    gone: (Traffic, Traffic),
}

/// The counters, shared between the thread that writes them and those who read.
#[derive(Debug)]
pub(super) struct Counters {
    peers: Mutex<Peers>,
    drops: [[AtomicU64; DropReason::ALL.len()]; Direction::ALL.len()],
    facilities: BTreeMap<Facility, FacilityState>,
    pub(super) relayed: TrafficCounters,
    pub(super) neighbour_answers: AtomicU64,
    pub(super) refused_batches: AtomicU64,
}

impl Counters {
    pub(super) fn new(facilities: BTreeMap<Facility, FacilityState>) -> Self {
        Self {
            peers: Mutex::default(),
            drops: [const { [const { AtomicU64::new(0) }; DropReason::ALL.len()] }; Direction::ALL.len()],
            facilities,
            relayed: TrafficCounters::default(),
            neighbour_answers: AtomicU64::new(0),
            refused_batches: AtomicU64::new(0),
        }
    }

    pub(super) fn add_peer(&self, peer: PeerName) -> Arc<PeerCounters> {
        Arc::clone(self.peers.lock().unwrap_or_else(PoisonError::into_inner).present.entry(peer).or_default())
    }

    pub(super) fn remove_peer(&self, peer: PeerName) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(removed) = peers.present.remove(&peer) {
            let (sent, received) = peers.gone;
            peers.gone = (sent.plus(removed.sent.read()), received.plus(removed.received.read()));
        }
    }

    pub(super) fn add_drops(&self, direction: Direction, reason: DropReason, count: u64) {
        self.drops[direction as usize][reason as usize].fetch_add(count, Relaxed);
    }

    pub(super) fn read(&self) -> Statistics {
        let peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let (sent, received) = peers.gone;
        let peers: BTreeMap<PeerName, PeerStatistics> =
            peers.present.iter().map(|(name, counters)| (*name, counters.read())).collect();
        Statistics {
            sent: peers.values().fold(sent, |sum, peer| sum.plus(peer.sent)),
            received: peers.values().fold(received, |sum, peer| sum.plus(peer.received)),
            peers,
            drops: Direction::ALL
                .into_iter()
                .flat_map(|direction| DropReason::ALL.map(|reason| (direction, reason)))
                .map(|key| (key, self.drops[key.0 as usize][key.1 as usize].load(Relaxed)))
                .collect(),
            relayed: self.relayed.read(),
            facilities: self.facilities.clone(),
            neighbour_answers: self.neighbour_answers.load(Relaxed),
            refused_batches: self.refused_batches.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_shrink_when_a_peer_goes() {
        let counters = Counters::new(BTreeMap::new());
        let (one, other) = (PeerName::from_public_key([1; 32]), PeerName::from_public_key([2; 32]));
        counters.add_peer(one).sent.add(Traffic { frames: 1, datagrams: 2, bytes: 30 });
        counters.add_peer(other).sent.add(Traffic { frames: 4, datagrams: 5, bytes: 60 });
        let before = counters.read();
        assert_eq!(before.sent, Traffic { frames: 5, datagrams: 7, bytes: 90 });
        counters.remove_peer(one);
        let after = counters.read();
        assert_eq!((after.sent, after.peers.len()), (before.sent, 1));
    }
}
