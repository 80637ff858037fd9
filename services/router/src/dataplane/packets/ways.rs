//! The ways to peers: probes, what became of them, and where datagrams go now.

use std::{rc::Rc, sync::atomic::Ordering::Relaxed, time::Instant};

use weft_router_core::{
    datagram::{HEADER, PROBE_ANSWER, PROBE_QUESTION, Probe, TAG},
    forward::DropReason,
    path::{Choice, PathEvent, ProbeRequest, Via},
};
use weft_types::PeerName;

use super::Packets;
use crate::{
    dataplane::{Event, LinkState, transmit::Destination},
    direction::Direction,
};

impl Packets {
    /// Sends the probes that are due, notices dead paths and removes sessions whose time is over.
    pub(in crate::dataplane) fn handle_timeout(&mut self, now: Instant) {
        let mut probes = std::mem::take(&mut self.probes);
        let mut due = Vec::new();
        for (id, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_due(now)) {
            due.push(id);
            peer.handle_timeout(now);
            while let Some(probe) = peer.paths.poll_probe(now) {
                probes.push((id, probe));
            }
        }
        for (id, probe) in probes.drain(..) {
            self.ask(id, probe, now);
        }
        self.probes = probes;
        let expired = self.peers.expire(now);
        if !expired.is_empty() {
            due = (0..self.peers.slots()).collect();
        }
        self.events.extend(expired.into_iter().map(|local_index| Event::SessionExpired { local_index }));
        for id in due {
            self.path_changed(id, now);
        }
        self.parts.handle_timeout(now);
        self.drops[Direction::Received as usize][DropReason::BadFragment as usize] += self.parts.take_given_up();
        self.flush(now);
    }

    /// Sends the questions that are wanted, several of them as one batch.
    fn ask(&mut self, id: usize, request: ProbeRequest, now: Instant) {
        let together = request.count > 1;
        let Some(destination) = self.aside(id, request.via, together) else { return };
        let length = request.size.saturating_sub(HEADER + TAG).max(PROBE_QUESTION);
        if together {
            self.flush(now);
        }
        let (first, rest) = request.token.split_at(8);
        let first = first.first_chunk::<8>().copied().map(u64::from_be_bytes).unwrap_or_default();
        for number in 0..u64::from(request.count.max(1)) {
            let mut token = [0; 16];
            token[..8].copy_from_slice(&first.wrapping_add(number).to_be_bytes());
            token[8..].copy_from_slice(rest);
            self.seal(id, &destination, length, now, |content| Probe::Question { token }.encode(content));
        }
        if together {
            self.flush(now);
        }
    }

    /// Answers a question, by the way that it came.
    pub(super) fn answer(&mut self, id: usize, token: [u8; 16], via: Via, now: Instant) {
        let Some(peer) = self.peers.get(id) else { return };
        let source = match via {
            Via::Direct(source) => Some(source),
            Via::Relay(_) | Via::Stream => None,
        };
        let answer = Probe::Answer { token, received: peer.arrivals.received(via), source };
        let Some(destination) = self.aside(id, via, false) else { return };
        self.seal(id, &destination, PROBE_ANSWER, now, |content| answer.encode(content));
    }

    /// Returns where a probe goes that takes this way. An endpoint of a family that this host lacks never answers.
    fn aside(&self, id: usize, via: Via, batched: bool) -> Option<Rc<Destination>> {
        let choice = Choice { via, largest: usize::MAX, proven: false, batched };
        self.peers.destination(id, choice, &self.socket).map(Rc::new)
    }

    /// Brings what depends on a peer's ways up to date, and passes on what became of them.
    pub(super) fn path_changed(&mut self, id: usize, now: Instant) {
        let moved = self.peers.update(id, &self.socket);
        let Some(peer) = self.peers.get_mut(id) else { return };
        let name = peer.name;
        if moved {
            peer.offer_relays(now);
        }
        let mut changed = false;
        while let Some(event) = peer.paths.poll_event() {
            changed = true;
            self.events.extend(match event {
                PathEvent::Up { via, round_trip } => Some(Event::PathUp { peer: name, via, round_trip }),
                PathEvent::Down { via } => Some(Event::PathDown { peer: name, via }),
                PathEvent::Changed => None,
            });
        }
        peer.show(changed, now);
        let link = peer.paths.link_choice().zip(peer.paths.link());
        if link.is_none() {
            peer.link_cost.reset();
        }
        let link = link.map(|(choice, link)| LinkState {
            stream: choice.via == Via::Stream,
            cost: peer.link_cost.update(link.cost, now),
        });
        if peer.link_told != link {
            peer.link_told = link;
            self.events.push_back(Event::LinkChanged { peer: name, link });
        }
        if moved {
            self.relays_changed(name);
        }
    }

    /// Brings the destinations of peers in line that a neighbour hands datagrams on to.
    pub(super) fn relays_changed(&mut self, relay: PeerName) {
        for id in 0..self.peers.slots() {
            let choice = self.peers.get(id).and_then(|peer| peer.paths.choice());
            if choice.is_some_and(|choice| choice.via == Via::Relay(relay)) {
                self.peers.update(id, &self.socket);
            }
        }
    }

    /// Sends what waits, and tells the ways what became of it.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.transmit.is_empty() {
            return;
        }
        self.transmit.flush(&self.socket, &mut self.report);
        for (destination, datagrams) in self.report.sent.drain(..) {
            if let Some(peer) = self.peers.get_mut(destination.peer) {
                peer.paths.handle_sent(destination.via, datagrams);
            }
        }
        if !self.report.dropped.is_empty() || !self.report.refused.is_empty() {
            self.handle_refusals(now);
        }
    }

    /// Counts what was not sent, and tells the ways what the kernel refused.
    fn handle_refusals(&mut self, now: Instant) {
        for (reason, count) in self.report.dropped.drain(..) {
            self.drops[Direction::Sent as usize][reason as usize] += count;
        }
        let mut changed: Vec<usize> = Vec::new();
        for (destination, length) in self.report.too_large.drain(..) {
            if let Some(peer) = self.peers.get_mut(destination.peer) {
                peer.paths.handle_refused(destination.via, length);
                changed.push(destination.peer);
            }
        }
        for destination in self.report.refused.drain(..) {
            self.counters.refused_batches.fetch_add(1, Relaxed);
            if let Some(peer) = self.peers.get_mut(destination.peer) {
                peer.paths.handle_batch_refused(destination.via, now);
                changed.push(destination.peer);
            }
        }
        self.timers_changed |= !changed.is_empty();
        for id in changed {
            self.path_changed(id, now);
        }
    }
}
