//! Moves frames: from the TAP, cut and sealed, to peers; from peers, opened and joined, to the TAP. Hands on what others
//! sealed for each other.

mod inbound;
mod outbound;
mod relaying;
mod ways;

use std::{
    collections::VecDeque,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    time::Instant,
};

use weft_router_core::{
    datagram::{Checksum, HEADER, SEGMENT_HEADER, TAG},
    fit::{Fitter, Joiner},
    forward::{DropReason, FairQueue, Switch},
    hostnet::announcement,
    path::ProbeRequest,
    segment::Join,
    virtio,
};
use weft_types::PeerName;

use super::{
    Command, Event,
    arrivals::Neighbours,
    facility::Facility,
    peers::{Peer, Peers},
    receive::Receive,
    routes::Routes,
    socket::DataSocket,
    statistics::{Counters, Traffic},
    tap::Tap,
    transmit::{Report, Transmit},
};
use crate::direction::Direction;

/// Frames that wait to be sealed at most.
const WAITING_FRAMES: usize = 64;
/// Slices of one joined frame at most.
const JOINED_SLICES: usize = 128;
/// The largest IP packet, in bytes.
const LARGEST_PACKET: usize = 65_535;
/// Ethernet header, in bytes.
const ETHERNET: usize = 14;
/// Two VLAN tags, in bytes.
const VLAN_TAGS: usize = 8;

/// A buffer for a frame from the TAP.
const BUFFER: usize = virtio::HEADER + ETHERNET + VLAN_TAGS + LARGEST_PACKET;

/// The packet path without its loop.
pub(super) struct Packets {
    tap: Tap,
    socket: DataSocket,
    counters: Arc<Counters>,
    peers: Peers,
    switch: Switch,
    routes: Routes,
    neighbours: Neighbours,
    transmit: Transmit,
    receive: Receive,
    /// A frame in the making from neighbouring slices of one peer, which lie in the receive buffer.
    joining: Option<(usize, Join)>,
    /// Where its payloads lie there.
    payloads: Vec<Range<usize>>,
    /// Contents that came in parts.
    parts: Joiner,
    fitter: Fitter,
    /// Frames from the TAP.
    waiting: FairQueue<Waiting>,
    /// Buffers for such; the one used last, which the CPU still has at hand, is used first.
    spare: Vec<Box<[u8]>>,
    answer: Vec<u8>,
    /// A slice of a batch that is sent in parts.
    slice: Vec<u8>,
    /// A datagram that came inside a control connection.
    stream_buffer: Vec<u8>,
    probes: Vec<(usize, ProbeRequest)>,
    report: Report,
    drops: [[u64; DropReason::ALL.len()]; Direction::ALL.len()],
    relayed: Traffic,
    touched: Vec<usize>,
    events: VecDeque<Event>,
    /// Whether something changed that timers depend on.
    timers_changed: bool,
    mtu: usize,
    virtio: bool,
    joins_udp: bool,
}

impl Packets {
    pub(super) fn new(tap: Tap, socket: DataSocket, mtu: u16, local: PeerName, counters: Arc<Counters>) -> Self {
        Self {
            virtio: tap.uses(Facility::VirtioHeader),
            joins_udp: tap.uses(Facility::UdpSegmentation),
            tap,
            socket,
            counters,
            peers: Peers::new(local),
            switch: Switch::default(),
            routes: Routes::default(),
            neighbours: Neighbours::default(),
            transmit: Transmit::new(),
            receive: Receive::new(),
            joining: None,
            payloads: Vec::with_capacity(JOINED_SLICES),
            parts: Joiner::default(),
            fitter: Fitter::default(),
            waiting: FairQueue::default(),
            spare: Vec::with_capacity(WAITING_FRAMES + 1),
            answer: Vec::with_capacity(128),
            slice: Vec::new(),
            stream_buffer: Vec::new(),
            probes: Vec::new(),
            report: Report::default(),
            drops: [[0; DropReason::ALL.len()]; Direction::ALL.len()],
            relayed: Traffic::default(),
            touched: Vec::new(),
            events: VecDeque::new(),
            timers_changed: false,
            mtu: mtu.into(),
        }
    }

    pub(super) fn tap(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    pub(super) fn handle_command(&mut self, command: Command, now: Instant) {
        self.timers_changed = true;
        match command {
            Command::InstallSession(session) => {
                let id = self.ensure(session.peer, now);
                self.peers.install(id, &session, now);
            }
            Command::RemovePeer(name) => {
                let indices = self.peers.remove(&name);
                self.events.extend(indices.into_iter().map(|local_index| Event::SessionExpired { local_index }));
                self.counters.remove_peer(name);
                self.neighbours.remove(name);
                self.relays_changed(name);
            }
            Command::SetEndpoints { peer, endpoints } => {
                let id = self.ensure(peer, now);
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.paths.set_endpoints(&endpoints, now);
                }
            }
            Command::SetStream { peer, stream } => {
                let known = self.peers.find(&peer);
                // Nothing is remembered for the sake of one that was removed.
                let Some(id) = known.or_else(|| stream.is_some().then(|| self.ensure(peer, now))) else { return };
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.paths.set_stream(stream.is_some(), now);
                    peer.stream = stream;
                }
                self.path_changed(id, now);
            }
            Command::SetRoutes(table) => {
                self.routes = Routes::new(table);
                for (_, peer) in self.peers.iter_mut() {
                    peer.set_relays(self.routes.relays(peer.name), now);
                }
            }
            Command::SetForwarding(table) => self.switch = Switch::new(table),
            Command::Announce(moved) => {
                for (address, mac) in moved {
                    self.write_frame(Checksum::default(), &mut announcement(mac, address));
                }
            }
        }
    }

    fn ensure(&mut self, name: PeerName, now: Instant) -> usize {
        // A full frame of its own or as a slice.
        let wanted = HEADER + SEGMENT_HEADER + ETHERNET + self.mtu + TAG;
        let id = self.peers.ensure(name, || self.counters.add_peer(name), wanted, now);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.set_relays(self.routes.relays(name), now);
        }
        id
    }

    /// Returns the longest frame that containers may exchange, in bytes.
    const fn largest_frame(&self) -> usize {
        self.mtu + ETHERNET + VLAN_TAGS
    }

    /// Returns when [`Packets::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.peers.poll_timeout().into_iter().chain(self.parts.poll_timeout()).min()
    }

    /// Tells, once, whether the time that was returned may no longer be right.
    pub(super) fn take_timers_changed(&mut self) -> bool {
        std::mem::take(&mut self.timers_changed)
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Adds what was counted to the counters that others read.
    pub(super) fn settle(&mut self) {
        for id in self.touched.drain(..) {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.counters.sent.add(std::mem::take(&mut peer.sent));
                peer.counters.received.add(std::mem::take(&mut peer.received));
                peer.dirty = false;
            }
        }
        self.counters.relayed.add(std::mem::take(&mut self.relayed));
        for (direction, drops) in Direction::ALL.into_iter().zip(&mut self.drops) {
            for (reason, count) in DropReason::ALL.into_iter().zip(drops) {
                if *count > 0 {
                    self.counters.add_drops(direction, reason, std::mem::take(count));
                }
            }
        }
    }

    fn drop_one(&mut self, direction: Direction, reason: DropReason) {
        self.drops[direction as usize][reason as usize] += 1;
    }
}

/// A frame from the TAP, with its offload header where there is one.
#[derive(Debug)]
struct Waiting {
    buffer: Box<[u8]>,
    length: usize,
}

fn touch(touched: &mut Vec<usize>, id: usize, peer: &mut Peer) {
    if !peer.dirty {
        peer.dirty = true;
        touched.push(id);
    }
}
