//! Connections as ordered pipes of messages, and which hosts they can join.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use weft_router_core::mesh::ControlMessage;

/// One thing on its way through a pipe.
#[derive(Debug)]
pub(super) enum Item {
    /// A message. The sender waits for it to be taken, except for a goodbye that the mesh no longer knows of.
    Message { message: ControlMessage, counted: bool },
    /// The sender's end was closed.
    End,
}

/// One end of a pipe.
#[derive(Debug)]
pub(super) struct End {
    pub(super) host: usize,
    /// Of the host's process.
    pub(super) life: u64,
    pub(super) open: bool,
    /// When the last thing sent from here arrives.
    pub(super) last: Duration,
    /// What was sent from here and has not arrived.
    pub(super) sent: VecDeque<Item>,
}

/// A connection: both ends know it by its number.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) ends: [End; 2],
}

impl Pipe {
    /// Returns which end a process has, if it has one that is open.
    pub(super) fn end_of(&self, host: usize, life: u64) -> Option<usize> {
        self.ends.iter().position(|end| end.host == host && end.life == life && end.open)
    }
}

/// Which pairs of hosts are apart.
#[derive(Debug, Default)]
pub(super) struct Barriers {
    never: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
}

impl Barriers {
    pub(super) fn forbid(&mut self, a: usize, b: usize) {
        self.never.insert((a.min(b), a.max(b)));
    }

    pub(super) fn cut(&mut self, a: usize, b: usize) -> bool {
        self.cut.insert((a.min(b), a.max(b)))
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(super) fn between(&self, a: usize, b: usize) -> bool {
        let pair = (a.min(b), a.max(b));
        self.never.contains(&pair) || self.cut.contains(&pair)
    }

    /// Returns the hosts that a chain of pairs leads to.
    pub(super) fn component(&self, from: usize, hosts: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([from]);
        let mut open = vec![from];
        while let Some(host) = open.pop() {
            for other in 0..hosts {
                if !self.between(host, other) && found.insert(other) {
                    open.push(other);
                }
            }
        }
        found
    }
}
