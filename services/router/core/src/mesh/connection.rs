//! One control connection that was let in.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use weft_types::PeerName;

use super::{ControlMessage, Introduction, MAX_IN_FLIGHT, message::RoutedBody};
use crate::gossip::{Assembler, DeltaEntry, Neighbour};

/// Messages, besides gossip, that may wait for a connection. Those to other peers are dropped beyond that, as datagrams
/// would be; heartbeats and vectors are few.
const MAX_WAITING: usize = 256;

/// Heartbeats whose echo is waited for; older ones count as lost.
const MAX_BEATS: usize = 8;

/// Bytes that a message counts besides what it carries.
const MESSAGE_OVERHEAD: usize = 128;

/// State of a connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: PeerName,
    pub(super) introduction: Introduction,
    /// Exclusive or of both sides' random numbers: the same at both ends.
    pub(super) order: u64,
    pub(super) remote: SocketAddr,
    pub(super) outbound: bool,
    pub(super) since: Instant,
    pub(super) heard: Instant,
    pub(super) heartbeat_due: Instant,
    pub(super) round_trip: Option<Duration>,
    pub(super) neighbour: Neighbour,
    /// Since when the digests of both ends have differed.
    pub(super) differs_since: Option<Instant>,
    pub(super) assembler: Assembler,
    /// Heartbeats sent and not echoed: token, and when.
    beats: VecDeque<(u64, Instant)>,
    next_token: u64,
    waiting: VecDeque<ControlMessage>,
    in_flight: VecDeque<usize>,
    in_flight_length: usize,
}

impl Connection {
    pub(super) fn new(introduced: super::Introduced, now: Instant) -> Self {
        Self {
            peer: introduced.peer,
            order: introduced.order(),
            introduction: introduced.introduction,
            remote: introduced.remote,
            outbound: introduced.dial.is_some(),
            since: now,
            heard: now,
            heartbeat_due: now,
            round_trip: None,
            neighbour: Neighbour::default(),
            differs_since: None,
            assembler: Assembler::default(),
            beats: VecDeque::new(),
            next_token: 1,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_length: 0,
        }
    }

    /// Queues a message. Tells whether there was room.
    pub(super) fn queue(&mut self, message: ControlMessage) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push_back(message);
        }
        room
    }

    /// Queues a heartbeat.
    pub(super) fn beat(&mut self, interval: Duration, now: Instant) {
        self.heartbeat_due = now + interval;
        let token = self.next_token;
        if self.queue(ControlMessage::Heartbeat { token, echo: false }) {
            self.next_token = token.wrapping_add(1);
            self.beats.push_back((token, now));
            if self.beats.len() > MAX_BEATS {
                self.beats.pop_front();
            }
        }
    }

    /// Takes the answer to a heartbeat. Returns when that was sent, unless it is unknown or answered already.
    pub(super) fn handle_echo(&mut self, token: u64, now: Instant) -> Option<Instant> {
        let place = self.beats.iter().position(|(sent, _)| *sent == token)?;
        let (_, at) = self.beats.drain(..=place).next_back()?;
        self.round_trip = Some(now.saturating_duration_since(at));
        Some(at)
    }

    /// Tells whether the shell may be handed more.
    pub(super) const fn has_room(&self) -> bool {
        self.in_flight_length < MAX_IN_FLIGHT
    }

    /// Takes the next message that is no gossip.
    pub(super) fn next_waiting(&mut self) -> Option<ControlMessage> {
        self.waiting.pop_front()
    }

    /// Counts a message that the shell was handed.
    pub(super) fn handed_out(&mut self, message: &ControlMessage) {
        let length = MESSAGE_OVERHEAD
            + match message {
                ControlMessage::Delta(delta) => delta.entries.iter().map(DeltaEntry::length).sum(),
                ControlMessage::Vector { origins, .. } => origins.len() * size_of::<crate::gossip::OriginVersion>(),
                ControlMessage::Routed(routed) => match &routed.body {
                    RoutedBody::Channel { payload, .. } => payload.len(),
                    RoutedBody::Session(_) => 0,
                },
                ControlMessage::Heartbeat { .. }
                | ControlMessage::Digest(_)
                | ControlMessage::Goodbye(_)
                | ControlMessage::Datagram(_)
                | ControlMessage::Unknown => 0,
            };
        self.in_flight.push_back(length);
        self.in_flight_length += length;
    }

    /// Learns that the oldest message handed out was written.
    pub(super) fn handle_transmitted(&mut self) {
        self.in_flight_length -= self.in_flight.pop_front().unwrap_or_default();
    }
}
