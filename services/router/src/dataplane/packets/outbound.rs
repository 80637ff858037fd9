//! Frames on their way from the TAP to peers.

use std::{io, rc::Rc, sync::atomic::Ordering::Relaxed, time::Instant};

use weft_router_core::{
    datagram::{Checksum, FRAME_HEADER, HEADER, SEGMENT_HEADER, TAG},
    fit::{Fit, Parts, clamp_mss},
    forward::{DropReason, Verdict, flow_of},
    segment::Cut,
    virtio::{self, Offload},
};
use weft_types::PeerName;

use super::{BUFFER, Packets, WAITING_FRAMES, Waiting, touch};
use crate::{
    dataplane::{Event, transmit::Destination},
    direction::Direction,
};

/// Frames that are sealed before the socket gets its turn.
const FRAMES_PER_TURN: usize = 64;
/// Bytes that are sealed before the socket gets its turn.
const BYTES_PER_TURN: usize = 128 << 10;
/// Bytes that are sealed before the TAP is looked at again.
const BYTES_PER_LOOK: usize = 16 << 10;
/// Bytes that wait to be sealed at most.
const WAITING_BYTES: usize = 2 << 20;

impl Packets {
    /// Reads frames from the TAP and sends them; returns how many bytes there were.
    ///
    /// # Errors
    /// When the device is gone.
    pub(in crate::dataplane) fn read_tap(&mut self, now: Instant) -> io::Result<usize> {
        let (mut bytes, mut since_look) = (0, BYTES_PER_LOOK);
        let mut result = Ok(());
        for _ in 0..FRAMES_PER_TURN {
            if since_look >= BYTES_PER_LOOK || self.waiting.is_empty() {
                since_look = 0;
                result = self.look_at_tap();
            }
            let Some(Waiting { mut buffer, length }) = self.waiting.pop() else { break };
            self.outbound(&mut buffer[..length], now);
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

    fn outbound(&mut self, bytes: &mut [u8], now: Instant) {
        let (offload, frame) = if self.virtio {
            let split = bytes.split_first_chunk_mut::<{ virtio::HEADER }>();
            let decoded = split.and_then(|(header, frame)| Some((Offload::decode(header)?, frame)));
            let Some(decoded) = decoded else { return self.drop_one(Direction::Sent, DropReason::MalformedFrame) };
            decoded
        } else {
            (Offload { checksum: Checksum::default(), batch: None }, bytes)
        };
        match self.switch.outbound(frame, &mut self.answer) {
            Verdict::Unicast(name) => self.send(&name, offload, frame, now),
            Verdict::Flood(group) => {
                let mut next = 0;
                while let Some(member) = self.switch.members(group).get(next).copied() {
                    self.send(&member, offload, frame, now);
                    next += 1;
                }
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

    fn send(&mut self, name: &PeerName, offload: Offload, frame: &mut [u8], now: Instant) {
        let known = self.peers.find(name).and_then(|id| Some((id, self.peers.get_mut(id)?)));
        let Some((id, peer)) = known.filter(|(_, peer)| peer.sessions.can_seal()) else {
            return self.drop_one(Direction::Sent, DropReason::NoSession);
        };
        // Ways over others are tried from now on, if they were not.
        self.timers_changed |= peer.last_frame.is_none();
        peer.last_frame = Some(now);
        let Some(destination) = peer.destination.clone() else {
            return self.drop_one(Direction::Sent, DropReason::NoPath);
        };
        if destination.limits.packet() < self.mtu {
            clamp_mss(frame, offload.checksum, destination.limits.packet());
        }
        if offload.batch.is_none() && frame.len() > self.largest_frame() {
            return self.drop_one(Direction::Sent, DropReason::Oversized);
        }
        let mut told = std::mem::take(&mut self.answer);
        let decided = self.fitter.decide(destination.limits, offload, frame, now, &mut told);
        let sent = match decided {
            Ok(decision) => {
                if decision.answered {
                    self.write_frame(Checksum::default(), &mut told);
                }
                match decision.fit {
                    Fit::Frame => Ok(self.send_frame(id, &destination, offload.checksum, frame, now)),
                    Fit::Slices(cut) => self.send_slices(id, &destination, &cut, now),
                    Fit::FrameInParts => self.send_parts(id, &destination, offload.checksum, frame, now),
                    Fit::SlicesInParts(cut) => self.send_slices_in_parts(id, &destination, &cut, now),
                    Fit::Refused => Err(DropReason::TooBig),
                }
            }
            Err(_) => Err(DropReason::MalformedFrame),
        };
        self.answer = told;
        match sent {
            Ok(sealed) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.sent.frames += u64::from(sealed);
                    if peer.sessions.wants_rekey() {
                        self.events.push_back(Event::RekeyWanted { peer: *name });
                    }
                }
            }
            Err(reason) => self.drop_one(Direction::Sent, reason),
        }
        if self.transmit.is_worth_sending() {
            self.flush(now);
        }
    }

    /// Seals a frame as one datagram. Tells whether it waits to be sent.
    fn send_frame(
        &mut self,
        id: usize,
        destination: &Rc<Destination>,
        checksum: Checksum,
        frame: &[u8],
        now: Instant,
    ) -> bool {
        self.seal(id, destination, FRAME_HEADER + frame.len(), now, |content| {
            let (header, rest) = content.split_at_mut(FRAME_HEADER);
            header.copy_from_slice(&checksum.encode());
            rest.copy_from_slice(frame);
        })
    }

    /// Seals each slice of a batch as one datagram.
    fn send_slices(
        &mut self,
        id: usize,
        destination: &Rc<Destination>,
        cut: &Cut<'_>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        if cut.slice_length(0) > self.largest_frame() {
            return Err(DropReason::Oversized);
        }
        let number = self.peers.get_mut(id).map(|peer| peer.next_batch()).unwrap_or_default();
        let mut sealed = true;
        for index in 0..cut.count() {
            let length = SEGMENT_HEADER + cut.slice_length(index);
            sealed &= self.seal(id, destination, length, now, |content| {
                let (header, slice) = content.split_at_mut(SEGMENT_HEADER);
                header.copy_from_slice(&cut.header(number, index).encode());
                cut.write(index, slice);
            });
        }
        Ok(sealed)
    }

    /// Seals each slice of a batch as a frame of its own, those that are too large in parts.
    fn send_slices_in_parts(
        &mut self,
        id: usize,
        destination: &Rc<Destination>,
        cut: &Cut<'_>,
        now: Instant,
    ) -> Result<bool, DropReason> {
        if cut.slice_length(0) > self.largest_frame() {
            return Err(DropReason::Oversized);
        }
        let mut sealed = true;
        for index in 0..cut.count() {
            let header = cut.header(0, index);
            let checksum = Checksum { start: header.transport.into(), offset: header.batch.checksum_offset() };
            let mut slice = std::mem::take(&mut self.slice);
            slice.resize(cut.slice_length(index), 0);
            cut.write(index, &mut slice);
            let sent = self.send_parts(id, destination, checksum, &slice, now);
            self.slice = slice;
            sealed &= sent?;
        }
        Ok(sealed)
    }

    /// Seals a frame in as many parts as it takes.
    fn send_parts(
        &mut self,
        id: usize,
        destination: &Rc<Destination>,
        checksum: Checksum,
        frame: &[u8],
        now: Instant,
    ) -> Result<bool, DropReason> {
        let number = self.peers.get_mut(id).map(|peer| peer.next_content()).unwrap_or_default();
        let head = checksum.encode();
        let parts = Parts::new(&head, frame, number, destination.limits.content()).ok_or(DropReason::TooBig)?;
        let mut sealed = true;
        for index in 0..parts.count() {
            sealed &= self.seal(id, destination, parts.length(index), now, |content| parts.write(index, content));
        }
        Ok(sealed)
    }

    /// Seals a datagram whose content has `length` bytes, written by `fill`, and lets it wait to be sent. Tells whether it
    /// does.
    pub(super) fn seal(
        &mut self,
        id: usize,
        destination: &Rc<Destination>,
        length: usize,
        now: Instant,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        let prefix = destination.prefix();
        let length = HEADER + length + TAG;
        let whole = prefix.len() + length;
        if !self.transmit.has_room(whole) {
            self.flush(now);
        }
        let Some(peer) = self.peers.get_mut(id) else { return false };
        let (head, slot) = self.transmit.slot(destination, whole).split_at_mut(prefix.len());
        head.copy_from_slice(prefix);
        fill(&mut slot[HEADER..length - TAG]);
        match peer.sessions.seal(slot) {
            Ok(()) => {
                peer.sent.datagrams += 1;
                peer.sent.bytes += length as u64;
                touch(&mut self.touched, id, peer);
                true
            }
            Err(reason) => {
                self.transmit.take_back(whole);
                self.drop_one(Direction::Sent, reason);
                false
            }
        }
    }
}
