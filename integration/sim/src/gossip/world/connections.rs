//! Connections: dialled, cut, healed, and what travels on them.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use rand::Rng as _;
use weft_router_core::mesh::{ConnectionId, DialId, Introduced};

use super::{Host, What, World, address, unreachable};
use crate::gossip::{
    Violation,
    network::{End, Item, Pipe},
};

impl World {
    pub(super) fn heal(&mut self) {
        self.barriers.heal();
        let waiting: Vec<(u64, usize, usize)> = self
            .pipes
            .iter()
            .flat_map(|(pipe, state)| (0..2).map(|end| (*pipe, end, state.ends[end].sent.len())))
            .collect();
        for (pipe, end, count) in waiting {
            // What arrives twice finds nothing the second time.
            for _ in 0..count {
                self.at(Duration::ZERO, What::Arrive { pipe, end });
            }
        }
    }

    /// The other side of a dial, if there is one, takes it.
    pub(super) fn accept(&mut self, from: usize, life: u64, dial: DialId, to: Option<usize>) -> Result<(), Violation> {
        let now = self.start + self.now;
        if self.hosts[from].alive(life).is_none() {
            return Ok(());
        }
        let there =
            to.filter(|to| self.hosts[*to].process.is_some() && (*to == from || !self.barriers.between(from, *to)));
        let Some(to) = there else {
            if let Some(process) = self.hosts[from].alive(life) {
                process.mesh.handle_dial_failed(dial, unreachable(), now);
            }
            return self.drain(from);
        };
        let source = SocketAddr::new(address(from).ip(), self.random.random_range(32768..60000));
        let (random, other_random) = (self.random.random(), self.random.random());
        let introduce = |host: &Host, random, remote| {
            host.process.as_ref().map(|process| process.mesh.introduction(random, remote)).expect("it runs")
        };
        let outbound = Introduced {
            peer: self.hosts[to].peer,
            introduction: introduce(&self.hosts[to], other_random, source),
            local_random: random,
            remote: address(to),
            dial: Some(dial),
            password: None,
        };
        let inbound = Introduced {
            peer: self.hosts[from].peer,
            introduction: introduce(&self.hosts[from], random, address(to)),
            local_random: other_random,
            remote: source,
            dial: None,
            password: None,
        };
        let pipe = self.next_pipe;
        // Both ends of a connection with oneself would have one number in one mesh.
        self.next_pipe += 2;
        let end = |host: usize, life| End { host, life, open: true, last: self.now, sent: VecDeque::new() };
        let ends = [end(from, life), end(to, self.hosts[to].life)];
        self.pipes.insert(pipe, Pipe { ends });
        let delay = self.delay(1, self.scenario.delay_millis);
        let earliest = self.now + delay;
        self.pipes.get_mut(&pipe).expect("just made").ends[1].last = earliest;
        self.at(delay, What::Dialled { pipe, dial, introduced: Box::new(outbound) });
        if to == from {
            return Ok(());
        }
        if let Some(process) = &mut self.hosts[to].process {
            process.mesh.handle_connected(ConnectionId(pipe), inbound, now);
        }
        self.drain(to)
    }

    pub(super) fn arrive(&mut self, pipe: u64, end: usize) -> Result<(), Violation> {
        let now = self.start + self.now;
        let state = self.pipes.get_mut(&pipe).expect("pipes stay");
        let (from, to) = (state.ends[end].host, state.ends[1 - end].host);
        if self.barriers.between(from, to) {
            return Ok(());
        }
        let Some(item) = state.ends[end].sent.pop_front() else { return Ok(()) };
        if !self.hosts[to].powered {
            return Ok(());
        }
        let (sender, receiver) = (state.ends[end].life, &mut state.ends[1 - end]);
        let (life, open) = (receiver.life, receiver.open);
        let id = ConnectionId(pipe);
        match item {
            Item::End => receiver.open = false,
            Item::Message { .. } if !open => self.send(pipe, 1 - end, Item::End),
            Item::Message { .. } => {}
        }
        if let Item::Message { counted: true, .. } = item
            && let Some(process) = self.hosts[from].alive(sender)
        {
            process.mesh.handle_transmitted(id, now);
            self.drain(from)?;
        }
        if open && let Some(process) = self.hosts[to].alive(life) {
            match item {
                Item::End => process.mesh.handle_disconnected(id, None, now),
                Item::Message { message, .. } => {
                    process.mesh.handle_message(id, message, now).map_err(|error| Violation(error.to_string()))?;
                }
            }
            self.drain(to)?;
        }
        Ok(())
    }

    /// Sends something from one end of a pipe; order is kept.
    pub(super) fn send(&mut self, pipe: u64, end: usize, item: Item) {
        let delay = self.delay(1, self.scenario.delay_millis);
        let end_state = &mut self.pipes.get_mut(&pipe).expect("pipes stay").ends[end];
        end_state.last = end_state.last.max(self.now + delay);
        end_state.sent.push_back(item);
        let wait = end_state.last - self.now;
        self.at(wait, What::Arrive { pipe, end });
    }
}
