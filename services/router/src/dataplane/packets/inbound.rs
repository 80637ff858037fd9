//! Datagrams on their way from peers to the TAP.

use std::{io::IoSlice, net::SocketAddr, ops::Range, time::Instant};

use weft_router_core::{
    datagram::{Batch, Checksum, Content, Header, Probe, RELAYED_TYPE, SegmentHeader, TAG},
    fit::{PartHeader, clamp_mss},
    forward::DropReason,
    path::Via,
    segment::{Join, complete_checksum},
    session::SessionIndex,
    virtio::Offload,
};
use weft_types::PeerName;

use super::{JOINED_SLICES, Packets, touch};
use crate::{dataplane::Event, direction::Direction};

/// Receive calls before the TAP gets its turn.
const RECEIVES_PER_TURN: usize = 4;

/// Where a datagram comes from, as far as nothing in it had to be believed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// By UDP, which anybody may pretend.
    Endpoint(SocketAddr),
    /// Inside the control connection with a peer.
    Stream(PeerName),
}

/// What a datagram held, without the bytes.
enum Inbound {
    Frame(Checksum, usize),
    Segment(SegmentHeader, usize),
    Fragment(usize),
    Probe(Probe),
}

impl Packets {
    /// Receives datagrams and hands their frames to the kernel; returns how many bytes there were.
    pub(in crate::dataplane) fn receive(&mut self, now: Instant) -> usize {
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
                    let from = Source::Endpoint(message.source);
                    if let Err(reason) = self.take(&mut buffer, start..end, from, now) {
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

    /// Takes a datagram that came inside the control connection with a peer.
    pub(in crate::dataplane) fn receive_stream(&mut self, from: PeerName, datagram: &[u8], now: Instant) {
        let mut buffer = std::mem::take(&mut self.stream_buffer);
        buffer.clear();
        buffer.extend_from_slice(datagram);
        if let Err(reason) = self.take(&mut buffer, 0..datagram.len(), Source::Stream(from), now) {
            self.drop_one(Direction::Received, reason);
        }
        self.finish_join(&buffer);
        self.stream_buffer = buffer;
        self.flush(now);
    }

    /// Takes a datagram of any type.
    fn take(
        &mut self,
        buffer: &mut [u8],
        datagram: Range<usize>,
        from: Source,
        now: Instant,
    ) -> Result<(), DropReason> {
        if buffer.get(datagram.start) == Some(&RELAYED_TYPE) {
            return self.take_relayed(buffer, datagram, from, now);
        }
        let via = match from {
            Source::Endpoint(source) => Via::Direct(source),
            Source::Stream(_) => Via::Stream,
        };
        self.inbound(buffer, datagram, via, Some(from), now)
    }

    /// Opens a datagram that is for us. `from` is where it came from, unless others handed it on.
    pub(super) fn inbound(
        &mut self,
        buffer: &mut [u8],
        datagram: Range<usize>,
        via: Via,
        from: Option<Source>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let bytes = &mut buffer[datagram.clone()];
        let header = Header::decode(bytes).ok_or(DropReason::MalformedDatagram)?;
        let id = self.peers.of_session(header.receiver).ok_or(DropReason::UnknownSession)?;
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownSession)?;
        if let Some(Source::Stream(from)) = from
            && (from != peer.name || peer.stream.is_none())
        {
            return Err(DropReason::NotNeighbour);
        }
        let opened = peer.sessions.open(header, bytes, now)?;
        let newest = opened.newest;
        let content = Content::decode(opened.content).ok_or(DropReason::UnknownContent)?;
        let (is_frame, content) = match content {
            Content::Frame(checksum, frame) => (true, Inbound::Frame(checksum, frame.len())),
            Content::Segment(header, slice) => (true, Inbound::Segment(header, slice.len())),
            Content::Fragment(part) => (true, Inbound::Fragment(part.len())),
            Content::Probe(probe) => (false, Inbound::Probe(probe)),
        };
        peer.received.datagrams += 1;
        peer.received.bytes += datagram.len() as u64;
        touch(&mut self.touched, id, peer);
        self.timers_changed |= peer.sessions.take_promoted();
        if peer.arrivals.count(via, now) {
            self.timers_changed = true;
            if let Via::Direct(source) = via {
                self.neighbours.note(source, peer.name, now);
            }
        }
        if peer.destination.as_ref().map(|destination| destination.via) != Some(via) {
            peer.paths.handle_source(via, newest && is_frame, now);
            if peer.paths.choice().is_some_and(|choice| choice.via == via) {
                self.path_changed(id, now);
            }
            self.timers_changed |= !is_frame;
        }
        let end = datagram.end - TAG;
        match content {
            Inbound::Frame(checksum, length) => {
                self.finish_join(buffer);
                self.deliver(id, checksum, &mut buffer[end - length..end])?;
            }
            Inbound::Segment(header, length) => self.join(id, header, buffer, end - length..end)?,
            Inbound::Fragment(length) => {
                self.finish_join(buffer);
                self.take_part(id, header.receiver, &buffer[end - length..end], now)?;
            }
            Inbound::Probe(Probe::Question { token }) => self.answer(id, token, via, now),
            Inbound::Probe(Probe::Answer { token, received, source }) => {
                if let Some(peer) = self.peers.get_mut(id) {
                    peer.paths.handle_answer(token, received, now);
                    if let Some(endpoint) = source.filter(|source| peer.observed != Some(*source)) {
                        peer.observed = Some(endpoint);
                        self.events.push_back(Event::Observed { peer: peer.name, endpoint });
                    }
                }
                self.path_changed(id, now);
            }
        }
        Ok(())
    }

    /// Hands the kernel a frame of a peer, if it may be one of its.
    fn deliver(&mut self, id: usize, checksum: Checksum, frame: &mut [u8]) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownSession)?;
        self.switch.inbound(&peer.name, frame)?;
        peer.received.frames += 1;
        // What the other side offers to take binds ours, whose way there may be narrower than this one.
        if let Some(limits) = peer.destination.as_ref().map(|destination| destination.limits)
            && limits.packet() < self.mtu
        {
            clamp_mss(frame, checksum, limits.packet());
        }
        self.write_frame(checksum, frame);
        Ok(())
    }

    /// Takes a part of a frame, and delivers the frame with its last part.
    fn take_part(&mut self, id: usize, session: SessionIndex, content: &[u8], now: Instant) -> Result<(), DropReason> {
        let (header, part) = PartHeader::decode(content).ok_or(DropReason::BadFragment)?;
        self.timers_changed = true;
        let whole = self.parts.handle_part(session, header, part, now).map_err(|_| DropReason::BadFragment)?;
        let Some(mut whole) = whole else { return Ok(()) };
        match Content::decode(&mut whole) {
            Some(Content::Frame(checksum, frame)) => self.deliver(id, checksum, frame),
            Some(Content::Segment(..) | Content::Fragment(_) | Content::Probe(_)) | None => {
                Err(DropReason::BadFragment)
            }
        }
    }

    /// Appends a slice to the frame in the making, or starts a new one with it.
    fn join(
        &mut self,
        id: usize,
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
        let peer = self.peers.get_mut(id).ok_or(DropReason::UnknownSession)?;
        self.switch.inbound(&peer.name, bytes)?;
        let join = Join::new(header, bytes).ok_or(DropReason::MalformedFrame)?;
        peer.received.frames += 1;
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
    pub(super) fn finish_join(&mut self, buffer: &[u8]) {
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

    pub(super) fn write_frame(&mut self, checksum: Checksum, frame: &mut [u8]) {
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
