//! Moves frames: from the TAP, cut and sealed, to peers; from peers, opened and joined, to the TAP.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::SocketAddr,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use weft_router_core::{
    datagram::{
        Batch, Checksum, Content, FRAME_HEADER, HEADER, Header, PROBE, Probe, SEGMENT_HEADER, SegmentHeader, TAG,
    },
    forward::{DropReason, FairQueue, Switch, Verdict, flow_of},
    hostnet::announcement,
    path::{PathEvent, ProbeRequest, Via},
    segment::{Cut, Join, complete_checksum},
    virtio::{self, Offload},
};
use weft_types::PeerName;

use super::{
    Command, Event,
    facility::Facility,
    peers::{Peer, Peers},
    receive::Receive,
    socket::DataSocket,
    statistics::Counters,
    tap::Tap,
    transmit::{Destination, Report, Transmit},
};
use crate::direction::Direction;

/// Frames that are sealed before the socket gets its turn.
const FRAMES_PER_TURN: usize = 64;
/// Bytes that are sealed before the socket gets its turn.
const BYTES_PER_TURN: usize = 128 << 10;
/// Bytes that are sealed before the TAP is looked at again.
const BYTES_PER_LOOK: usize = 16 << 10;
/// Frames that wait to be sealed at most.
const WAITING_FRAMES: usize = 64;
/// Bytes that wait to be sealed at most.
const WAITING_BYTES: usize = 2 << 20;
/// Receive calls before the TAP gets its turn.
const RECEIVES_PER_TURN: usize = 4;
/// Slices of one joined frame at most.
const JOINED_SLICES: usize = 128;
/// Endpoints of one peer that are probed at most.
const ENDPOINTS: usize = 16;
/// How long after its last frame a path counts as carrying traffic.
const BUSY: Duration = Duration::from_secs(2);
/// The largest IP packet, in bytes.
const LARGEST_PACKET: usize = 65_535;
/// Ethernet header with two VLAN tags, in bytes.
const ETHERNET: usize = 14 + 8;

/// A buffer for a frame from the TAP.
const BUFFER: usize = virtio::HEADER + ETHERNET + LARGEST_PACKET;

/// The packet path without its loop.
pub(super) struct Packets {
    tap: Tap,
    socket: DataSocket,
    counters: Arc<Counters>,
    peers: Peers,
    switch: Switch,
    members: Vec<PeerName>,
    transmit: Transmit,
    receive: Receive,
    /// A frame in the making from neighbouring slices of one peer, which lie in the receive buffer.
    joining: Option<(usize, Join)>,
    /// Where its payloads lie there.
    payloads: Vec<Range<usize>>,
    /// Frames from the TAP.
    waiting: FairQueue<Waiting>,
    /// Buffers for such; the one used last, which the CPU still has at hand, is used first.
    spare: Vec<Box<[u8]>>,
    answer: Vec<u8>,
    probes: Vec<(usize, ProbeRequest)>,
    report: Report,
    drops: [[u64; DropReason::ALL.len()]; Direction::ALL.len()],
    touched: Vec<usize>,
    events: VecDeque<Event>,
    /// Whether something changed that timers depend on.
    timers_changed: bool,
    largest_frame: usize,
    virtio: bool,
    joins_udp: bool,
}

impl Packets {
    pub(super) fn new(tap: Tap, socket: DataSocket, mtu: u16, counters: Arc<Counters>) -> Self {
        Self {
            virtio: tap.uses(Facility::VirtioHeader),
            joins_udp: tap.uses(Facility::UdpSegmentation),
            tap,
            socket,
            counters,
            peers: Peers::default(),
            switch: Switch::default(),
            members: Vec::new(),
            transmit: Transmit::new(),
            receive: Receive::new(),
            joining: None,
            payloads: Vec::with_capacity(JOINED_SLICES),
            waiting: FairQueue::default(),
            spare: Vec::with_capacity(WAITING_FRAMES + 1),
            answer: Vec::with_capacity(128),
            probes: Vec::new(),
            report: Report::default(),
            drops: [[0; DropReason::ALL.len()]; Direction::ALL.len()],
            touched: Vec::new(),
            events: VecDeque::new(),
            timers_changed: false,
            largest_frame: usize::from(mtu) + ETHERNET,
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
            }
            Command::SetEndpoints { peer, endpoints } => {
                let id = self.ensure(peer, now);
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.paths.set_endpoints(&endpoints[..endpoints.len().min(ENDPOINTS)], now);
                }
            }
            Command::SetForwarding(table) => {
                self.members = table.members.iter().copied().collect();
                self.switch = Switch::new(table);
            }
            Command::Announce(moved) => {
                for (address, mac) in moved {
                    self.write_frame(Checksum::default(), &mut announcement(mac, address));
                }
            }
        }
    }

    fn ensure(&mut self, name: PeerName, now: Instant) -> usize {
        self.peers.ensure(name, || self.counters.add_peer(name), now)
    }

    /// Sends the probes that are due, notices dead paths and removes sessions whose time is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let mut probes = std::mem::take(&mut self.probes);
        for (id, peer) in self.peers.iter_mut() {
            if !peer.has_session() {
                continue;
            }
            peer.paths.set_busy(peer.last_frame.is_some_and(|last| now.saturating_duration_since(last) < BUSY));
            peer.paths.handle_timeout(now);
            while let Some(probe) = peer.paths.poll_probe(now) {
                probes.push((id, probe));
            }
        }
        for (id, probe) in probes.drain(..) {
            let Via::Direct(endpoint) = probe.via else { continue };
            let (number, rest) = probe.token.split_at(8);
            let first = number.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
            for number in first..first + u64::from(probe.count) {
                let mut token = probe.token;
                token[..8].copy_from_slice(&number.to_be_bytes());
                token[8..].copy_from_slice(rest);
                self.send_probe(id, endpoint, Probe { answer: false, token }, now);
            }
        }
        self.probes = probes;
        let expired = self.peers.expire(now);
        self.events.extend(expired.into_iter().map(|local_index| Event::SessionExpired { local_index }));
        for id in 0..self.peers.slots() {
            self.path_changed(id, now);
        }
        self.flush(now);
    }

    /// Returns when [`Packets::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.peers.poll_timeout()
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

    /// Brings what depends on a peer's path up to date, and passes on what became of it.
    fn path_changed(&mut self, id: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.update_destination(id, &self.socket, now);
        let name = peer.name;
        while let Some(event) = peer.paths.poll_event() {
            let endpoint = |via| match via {
                Via::Direct(endpoint) => Some(endpoint),
                Via::Relay(_) | Via::Stream => None,
            };
            self.events.extend(match event {
                PathEvent::Up { via, round_trip } => {
                    endpoint(via).map(|endpoint| Event::PathUp { peer: name, endpoint, round_trip })
                }
                PathEvent::Down { via } => {
                    Some(Event::PathDown { peer: name, endpoint: via.and_then(endpoint) })
                }
                PathEvent::Changed => None,
            });
        }
    }

    /// Reads frames from the TAP and sends them; returns how many bytes there were.
    ///
    /// # Errors
    /// When the device is gone.
    pub(super) fn read_tap(&mut self, now: Instant) -> io::Result<usize> {
        let (mut bytes, mut since_look) = (0, BYTES_PER_LOOK);
        let mut result = Ok(());
        for _ in 0..FRAMES_PER_TURN {
            if since_look >= BYTES_PER_LOOK || self.waiting.is_empty() {
                since_look = 0;
                result = self.look_at_tap();
            }
            let Some(Waiting { buffer, length }) = self.waiting.pop() else { break };
            self.outbound(&buffer[..length], now);
            self.spare.push(buffer);
            bytes += length;
            since_look += length;
            if result.is_err() || bytes >= BYTES_PER_TURN {
                break;
            }
        }
        self.flush(now);
        result.map(|()| bytes)
    }

    /// Takes in all frames that the TAP has, so that none waits behind those of another flow.
    fn look_at_tap(&mut self) -> io::Result<()> {
        for _ in 0..WAITING_FRAMES {
            let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; BUFFER].into());
            let read = self.tap.read(&mut buffer);
            let Ok(Some(length)) = read else {
                self.spare.push(buffer);
                return read.map(|_| ());
            };
            let headers = if self.virtio { virtio::HEADER } else { 0 };
            let flow = flow_of(buffer[..length].get(headers..).unwrap_or_default());
            self.waiting.push(flow, length, Waiting { buffer, length });
            while self.waiting.len() > WAITING_FRAMES || self.waiting.bytes() > WAITING_BYTES {
                let Some(dropped) = self.waiting.pop_longest() else { break };
                self.spare.push(dropped.buffer);
                self.drop_one(Direction::Sent, DropReason::QueueFull);
            }
        }
        Ok(())
    }

    fn outbound(&mut self, bytes: &[u8], now: Instant) {
        let (offload, frame) = if self.virtio {
            let split = bytes.split_first_chunk::<{ virtio::HEADER }>();
            let decoded = split.and_then(|(header, frame)| Some((Offload::decode(header)?, frame)));
            let Some(decoded) = decoded else { return self.drop_one(Direction::Sent, DropReason::MalformedFrame) };
            decoded
        } else {
            (Offload { checksum: Checksum::default(), batch: None }, bytes)
        };
        match self.switch.outbound(frame, &mut self.answer) {
            Verdict::Unicast(name) => self.send(&name, offload, frame, now),
            Verdict::Flood => {
                let members = std::mem::take(&mut self.members);
                for member in &members {
                    self.send(member, offload, frame, now);
                }
                self.members = members;
            }
            Verdict::Answer => {
                self.counters.neighbour_answers.fetch_add(1, Relaxed);
                let mut answer = std::mem::take(&mut self.answer);
                self.write_frame(Checksum::default(), &mut answer);
                self.answer = answer;
            }
            Verdict::Ignore => {}
            Verdict::Drop(reason) => self.drop_one(Direction::Sent, reason),
        }
    }

    fn send(&mut self, name: &PeerName, offload: Offload, frame: &[u8], now: Instant) {
        let known = self.peers.find(name).and_then(|id| Some((id, self.peers.get_mut(id)?)));
        let Some((id, peer)) = known.filter(|(_, peer)| peer.has_session()) else {
            return self.drop_one(Direction::Sent, DropReason::NoSession);
        };
        let Some(destination) = peer.destination.clone() else {
            return self.drop_one(Direction::Sent, DropReason::NoPath);
        };
        peer.last_frame = Some(now);
        let mut sealed = true;
        if let Some((batch, size)) = offload.batch {
            let number = peer.next_batch();
            let Ok(cut) = Cut::new(batch, offload.checksum.start, size, frame) else {
                return self.drop_one(Direction::Sent, DropReason::MalformedFrame);
            };
            if cut.slice_length(0) > self.largest_frame {
                return self.drop_one(Direction::Sent, DropReason::Oversized);
            }
            for index in 0..cut.count() {
                let length = SEGMENT_HEADER + cut.slice_length(index);
                sealed &= self.seal(id, &destination, length, now, |content| {
                    let (header, slice) = content.split_at_mut(SEGMENT_HEADER);
                    header.copy_from_slice(&cut.header(number, index).encode());
                    cut.write(index, slice);
                });
            }
        } else if frame.len() > self.largest_frame {
            return self.drop_one(Direction::Sent, DropReason::Oversized);
        } else {
            sealed = self.seal(id, &destination, FRAME_HEADER + frame.len(), now, |content| {
                let (header, rest) = content.split_at_mut(FRAME_HEADER);
                header.copy_from_slice(&offload.checksum.encode());
                rest.copy_from_slice(frame);
            });
        }
        if let Some(peer) = self.peers.get_mut(id) {
            peer.sent.frames += u64::from(sealed);
            if peer.wants_rekey() {
                self.events.push_back(Event::RekeyWanted { peer: *name });
            }
        }
        if self.transmit.is_worth_sending() {
            self.flush(now);
        }
    }

    fn send_probe(&mut self, id: usize, endpoint: SocketAddr, probe: Probe, now: Instant) {
        // An endpoint of a family that this host lacks never answers.
        let Some(address) = self.socket.address_of(endpoint) else { return };
        let destination = Destination { address, batched: false, peer: id };
        self.seal(id, &destination, PROBE, now, |content| content.copy_from_slice(&probe.encode()));
    }

    /// Seals a datagram whose content has `length` bytes, written by `fill`, and lets it wait to be sent. Tells whether it
    /// does.
    fn seal(
        &mut self,
        id: usize,
        destination: &Destination,
        length: usize,
        now: Instant,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        let length = HEADER + length + TAG;
        if !self.transmit.has_room(length) {
            self.flush(now);
        }
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let slot = self.transmit.slot(destination, length);
        fill(&mut slot[HEADER..length - TAG]);
        match peer.seal(slot) {
            Ok(()) => {
                peer.sent.datagrams += 1;
                peer.sent.bytes += length as u64;
                touch(&mut self.touched, id, peer);
                true
            }
            Err(reason) => {
                self.transmit.take_back(length);
                self.drop_one(Direction::Sent, reason);
                false
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        if self.transmit.is_empty() {
            return;
        }
        self.transmit.flush(&self.socket, now, &mut self.report);
        for (reason, count) in self.report.dropped.drain(..) {
            self.drops[Direction::Sent as usize][reason as usize] += count;
        }
        for (id, until) in self.report.refused.drain(..) {
            self.counters.refused_batches.fetch_add(1, Relaxed);
            if let Some(peer) = self.peers.get_mut(id) {
                peer.refused_until = Some(until);
                peer.update_destination(id, &self.socket, now);
            }
        }
    }

    /// Receives datagrams and hands their frames to the kernel; returns how many bytes there were.
    pub(super) fn receive(&mut self, now: Instant) -> usize {
        let mut bytes = 0;
        for _ in 0..RECEIVES_PER_TURN {
            // Errors of earlier sends are reported here too; they concern no datagram that could be received.
            if self.receive.receive(&self.socket).is_err() {
                break;
            }
            let received = std::mem::take(&mut self.receive.received);
            let mut buffer = std::mem::take(&mut self.receive.buffer);
            for message in &received {
                bytes += message.end - message.start;
                let mut start = message.start;
                while start < message.end {
                    let end = message.end.min(start + message.segment);
                    if let Err(reason) = self.inbound(&mut buffer, start..end, message.source, now) {
                        self.drop_one(Direction::Received, reason);
                    }
                    start = end;
                }
            }
            self.finish_join(&buffer);
            let full = received.len() == self.receive.capacity();
            self.receive.adapt(&received);
            self.receive.received = received;
            self.receive.buffer = buffer;
            if !full {
                break;
            }
        }
        self.flush(now);
        bytes
    }

    fn inbound(
        &mut self,
        buffer: &mut [u8],
        datagram: Range<usize>,
        source: SocketAddr,
        now: Instant,
    ) -> Result<(), DropReason> {
        let bytes = &mut buffer[datagram.clone()];
        let header = Header::decode(bytes).ok_or(DropReason::MalformedDatagram)?;
        let id = self.peers.of_session(header.receiver).ok_or(DropReason::UnknownSession)?;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownSession)?;
        let opened = peer.open(header, bytes, now)?;
        let newest = opened.newest;
        let content = Content::decode(opened.content).ok_or(DropReason::UnknownContent)?;
        let (is_frame, content) = match content {
            Content::Frame(checksum, frame) => (true, Inbound::Frame(checksum, frame.len())),
            Content::Segment(header, slice) => (true, Inbound::Segment(header, slice.len())),
            Content::Probe(probe) => (false, Inbound::Probe(probe)),
        };
        let name = peer.name;
        peer.received.datagrams += 1;
        peer.received.bytes += datagram.len() as u64;
        touch(&mut self.touched, id, peer);
        self.timers_changed |= std::mem::take(&mut peer.promoted);
        if peer.endpoint() != Some(source) {
            peer.paths.handle_source(Via::Direct(source), newest && is_frame, now);
            if peer.endpoint() == Some(source) {
                self.path_changed(id, now);
            }
            self.timers_changed |= !is_frame;
        }
        let end = datagram.end - TAG;
        match content {
            Inbound::Frame(checksum, length) => {
                self.finish_join(buffer);
                let frame = &mut buffer[end - length..end];
                self.switch.inbound(&name, frame)?;
                self.count_frame(id);
                self.write_frame(checksum, frame);
            }
            Inbound::Segment(header, length) => self.join(id, &name, header, buffer, end - length..end)?,
            Inbound::Probe(probe) if probe.answer => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.paths.handle_answer(probe.token, 0, now);
                }
                self.path_changed(id, now);
            }
            Inbound::Probe(probe) => self.send_probe(id, source, Probe { answer: true, ..probe }, now),
        }
        Ok(())
    }

    fn count_frame(&mut self, id: usize) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.received.frames += 1;
        }
    }

    /// Appends a slice to the frame in the making, or starts a new one with it.
    fn join(
        &mut self,
        id: usize,
        name: &PeerName,
        header: SegmentHeader,
        buffer: &mut [u8],
        slice: Range<usize>,
    ) -> Result<(), DropReason> {
        if let Some((peer, join)) = &mut self.joining
            && *peer == id
            && self.payloads.len() < JOINED_SLICES
            && join.push(header, &buffer[slice.clone()])
        {
            self.payloads.push(slice.start + join.payload_offset()..slice.end);
            return Ok(());
        }
        self.finish_join(buffer);
        let bytes = &mut buffer[slice.clone()];
        self.switch.inbound(name, bytes)?;
        let join = Join::new(header, bytes).ok_or(DropReason::MalformedFrame)?;
        self.count_frame(id);
        if !self.virtio || (header.batch == Batch::Udp && !self.joins_udp) {
            let checksum = Checksum { start: header.transport.into(), offset: header.batch.checksum_offset() };
            self.write_frame(checksum, bytes);
        } else {
            self.payloads.push(slice.start + join.payload_offset()..slice.end);
            self.joining = Some((id, join));
        }
        Ok(())
    }

    /// Hands the frame in the making to the kernel, straight from where the payloads lie.
    fn finish_join(&mut self, buffer: &[u8]) {
        let Some((_, mut join)) = self.joining.take() else { return };
        let (headers, joined) = join.finish();
        let offload = Offload { checksum: joined.checksum, batch: joined.batch }.encode(joined.headers);
        let mut parts = [IoSlice::new(&[]); JOINED_SLICES + 2];
        parts[0] = IoSlice::new(&offload);
        parts[1] = IoSlice::new(headers);
        let count = self.payloads.len() + 2;
        for (part, payload) in parts[2..].iter_mut().zip(self.payloads.drain(..)) {
            *part = IoSlice::new(&buffer[payload]);
        }
        if let Err(reason) = self.tap.write(&parts[..count]) {
            self.drop_one(Direction::Received, reason);
        }
    }

    fn write_frame(&mut self, checksum: Checksum, frame: &mut [u8]) {
        let result = if self.virtio {
            let offload = Offload { checksum, batch: None }.encode(0);
            self.tap.write(&[IoSlice::new(&offload), IoSlice::new(frame)])
        } else if checksum.start != 0 && !complete_checksum(checksum, frame) {
            Err(DropReason::MalformedFrame)
        } else {
            self.tap.write(&[IoSlice::new(frame)])
        };
        if let Err(reason) = result {
            self.drop_one(Direction::Received, reason);
        }
    }
}

/// A frame from the TAP, with its offload header where there is one.
#[derive(Debug)]
struct Waiting {
    buffer: Box<[u8]>,
    length: usize,
}

/// What a datagram held, without the bytes.
enum Inbound {
    Frame(Checksum, usize),
    Segment(SegmentHeader, usize),
    Probe(Probe),
}

fn touch(touched: &mut Vec<usize>, id: usize, peer: &mut Peer) {
    if !peer.dirty {
        peer.dirty = true;
        touched.push(id);
    }
}
