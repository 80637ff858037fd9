//! Counts what travels on control connections.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weft_router_core::mesh::ControlMessage;

use crate::direction::Direction;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Signs of life.
    Heartbeat,
    /// What peers publish, and comparing it.
    Gossip,
    /// To one peer, over others if need be.
    Routed,
    /// Sealed datagrams, where UDP does not pass.
    Datagram,
    /// Anything else.
    Other,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 5] = [Self::Heartbeat, Self::Gossip, Self::Routed, Self::Datagram, Self::Other];

    /// Returns the label of metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Gossip => "gossip",
            Self::Routed => "routed",
            Self::Datagram => "datagram",
            Self::Other => "other",
        }
    }

    const fn of(message: &ControlMessage) -> Self {
        match message {
            ControlMessage::Heartbeat { .. } => Self::Heartbeat,
            ControlMessage::Digest(_) | ControlMessage::Vector { .. } | ControlMessage::Delta(_) => Self::Gossip,
            ControlMessage::Routed(_) => Self::Routed,
            ControlMessage::Datagram(_) => Self::Datagram,
            ControlMessage::Goodbye(_) | ControlMessage::Unknown => Self::Other,
        }
    }
}

/// What was exchanged with all peers together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages.
    pub messages: u64,
    /// Their bytes, before they are sealed.
    pub bytes: u64,
}

/// Counts; shared by all connections.
#[derive(Debug, Default)]
pub(super) struct Counters {
    counts: [[(AtomicU64, AtomicU64); Kind::ALL.len()]; Direction::ALL.len()],
}

impl Counters {
    pub(super) fn add(&self, direction: Direction, message: &ControlMessage, length: usize) {
        let (messages, bytes) = &self.counts[direction as usize][Kind::of(message) as usize];
        messages.fetch_add(1, Relaxed);
        bytes.fetch_add(length as u64, Relaxed);
    }

    pub(super) fn read(&self, direction: Direction, kind: Kind) -> Traffic {
        let (messages, bytes) = &self.counts[direction as usize][kind as usize];
        Traffic { messages: messages.load(Relaxed), bytes: bytes.load(Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_by_direction_and_kind() {
        let counters = Counters::default();
        counters.add(Direction::Sent, &ControlMessage::Digest([0; 32]), 40);
        counters.add(Direction::Sent, &ControlMessage::Heartbeat { token: 1, echo: false }, 9);
        counters.add(Direction::Received, &ControlMessage::Unknown, 3);
        let read = |direction, kind| {
            let Traffic { messages, bytes } = counters.read(direction, kind);
            (messages, bytes)
        };
        assert_eq!(read(Direction::Sent, Kind::Gossip), (1, 40));
        assert_eq!(read(Direction::Sent, Kind::Heartbeat), (1, 9));
        assert_eq!(read(Direction::Received, Kind::Other), (1, 3));
        assert_eq!(read(Direction::Received, Kind::Gossip), (0, 0));
    }
}
