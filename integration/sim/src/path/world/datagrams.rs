//! Datagrams on their way: directly, inside control connections, over relays.

use std::net::SocketAddr;

use rand::Rng as _;
use weft_router_core::{
    path::{ProbeRequest, Via},
    route::HOP_LIMIT,
};

use super::{WANTED, World, name, number};
use crate::path::{Violation, network::source};

/// Bytes that relaying adds.
pub(super) const RELAYED: usize = 20;
/// Bytes of an answer with header and tag.
const ANSWER: usize = 72;
/// Bytes of data of a pair that is not busy.
const SMALL: usize = 200;

/// Which way a datagram came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Came {
    Direct(SocketAddr),
    Stream,
    /// From the neighbour with this number.
    Relay(usize),
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Question([u8; 16]),
    Answer([u8; 16], u64),
    Data(u64),
}

/// A sealed datagram, in a relayed one or not.
#[derive(Debug, Clone)]
pub(super) struct Datagram {
    pub(super) source: usize,
    pub(super) destination: usize,
    pub(super) content: Content,
    pub(super) size: usize,
    /// Relays that may still follow; nothing if it is not relayed.
    pub(super) hops_left: Option<u8>,
    /// Where it has been.
    pub(super) visited: Vec<usize>,
}

impl World {
    pub(super) fn send_probe(&mut self, host: usize, peer: usize, probe: ProbeRequest) {
        self.summary.probes += 1;
        let (first, rest) = probe.token.split_first_chunk::<8>().expect("it has 16 bytes");
        for number in (u64::from_be_bytes(*first)..).take(probe.count.into()) {
            let token = [&number.to_be_bytes(), rest].concat().try_into().expect("it has 16 bytes");
            self.send(host, peer, probe.via, Content::Question(token), probe.size.max(ANSWER), probe.count > 1);
        }
    }

    pub(super) fn send_data(&mut self, host: usize, peer: usize) {
        let pair = &mut self.hosts[host].pairs[peer];
        let Some(choice) = pair.paths.choice() else { return };
        pair.sent += 1;
        let (content, size) = (Content::Data(pair.sent), if pair.busy { WANTED.min(choice.largest) } else { SMALL });
        let batch = pair.busy && choice.batched;
        self.send(host, peer, choice.via, content, size, batch);
    }

    fn send(&mut self, host: usize, peer: usize, via: Via, content: Content, size: usize, batch: bool) {
        self.hosts[host].pairs[peer].paths.handle_sent(via, 1);
        let mut datagram =
            Datagram { source: host, destination: peer, content, size, hops_left: None, visited: vec![host] };
        match via {
            Via::Direct(endpoint) => self.send_udp(host, endpoint, Came::Direct(source(host)), datagram, batch),
            Via::Stream => self.send_stream(host, peer, Came::Stream, datagram),
            Via::Relay(relay) => {
                let hops = self.hosts[host].routes.next_hops(name(peer)).into_iter().find(|(hop, _)| *hop == relay);
                datagram.hops_left = Some(hops.map_or(HOP_LIMIT, |(_, hops)| (hops + 2).min(HOP_LIMIT)));
                self.send_relayed(host, number(relay), datagram, batch);
            }
        }
    }

    /// Gives a relayed datagram to a neighbour, by the best way that is no relay.
    fn send_relayed(&mut self, host: usize, next: usize, datagram: Datagram, batch: bool) {
        let Some(choice) = self.hosts[host].pairs[next].paths.link_choice() else { return };
        match choice.via {
            Via::Direct(endpoint) => self.send_udp(host, endpoint, Came::Relay(host), datagram, batch),
            Via::Stream => self.send_stream(host, next, Came::Relay(host), datagram),
            Via::Relay(_) => self.violation = Some(Violation("a link is a relay".to_owned())),
        }
    }

    fn send_udp(&mut self, host: usize, endpoint: SocketAddr, came: Came, datagram: Datagram, batch: bool) {
        let now = self.now;
        self.network.open_pinhole(host, endpoint, now);
        let Some(to) = self.network.receiver(host, endpoint, now) else { return };
        let wire = self.network.wire(host, to);
        let size = datagram.size + if datagram.hops_left.is_some() { RELAYED } else { 0 };
        let (delay, fits) = (wire.delay, size <= wire.largest() && (wire.batches || !batch));
        let lost = self.random.random_range(0..1000) < self.network.loss(host, to);
        if fits && !lost && self.network.passes(host, to) {
            self.deliver(host, to, came, datagram, delay);
        }
    }

    fn send_stream(&mut self, host: usize, to: usize, came: Came, datagram: Datagram) {
        if self.hosts[host].pairs[to].connected && self.network.has_tcp(host, to) {
            let delay = self.network.wire(host, to).delay;
            self.deliver(host, to, came, datagram, delay);
        }
    }

    fn deliver(&mut self, from: usize, at: usize, came: Came, datagram: Datagram, delay: std::time::Duration) {
        self.at(delay, super::What::Arrive { at, from, came, datagram });
    }

    pub(super) fn arrive(&mut self, at: usize, from: usize, came: Came, mut datagram: Datagram) {
        if datagram.destination != at {
            return self.relay(at, from, datagram);
        }
        let peer = datagram.source;
        let (now, moment) = (self.now, self.moment());
        let pair = &mut self.hosts[at].pairs[peer];
        let received = pair.received.entry(came).or_default();
        *received += 1;
        let received = *received;
        let newest = match datagram.content {
            Content::Data(count) => count > pair.newest,
            Content::Question(_) | Content::Answer(..) => false,
        };
        if let Came::Direct(source) = came {
            pair.paths.handle_source(Via::Direct(source), newest, moment);
        }
        match datagram.content {
            Content::Data(count) => {
                pair.newest = pair.newest.max(count);
                pair.heard = Some(now);
                self.summary.delivered += 1;
            }
            Content::Answer(token, received) => pair.paths.handle_answer(token, received, moment),
            Content::Question(token) => {
                datagram.source = at;
                datagram.destination = peer;
                datagram.content = Content::Answer(token, received);
                datagram.size = ANSWER;
                datagram.visited = vec![at];
                self.answer(at, peer, came, datagram);
            }
        }
        self.after(at, peer);
    }

    /// Sends an answer the way that its question came.
    fn answer(&mut self, at: usize, peer: usize, came: Came, mut datagram: Datagram) {
        let via = match came {
            Came::Direct(source) => Via::Direct(source),
            Came::Stream => Via::Stream,
            Came::Relay(relay) => Via::Relay(self.hosts[at].pairs[peer].paths.relay_for_answer(name(relay))),
        };
        self.hosts[at].pairs[peer].paths.handle_sent(via, 1);
        match via {
            Via::Direct(endpoint) => self.send_udp(at, endpoint, Came::Direct(source(at)), datagram, false),
            Via::Stream => self.send_stream(at, peer, Came::Stream, datagram),
            Via::Relay(relay) => {
                datagram.hops_left = Some(HOP_LIMIT);
                self.send_relayed(at, number(relay), datagram, false);
            }
        }
    }

    fn relay(&mut self, at: usize, from: usize, mut datagram: Datagram) {
        let Some(left) = datagram.hops_left.map(|left| left - 1).filter(|left| *left > 0) else {
            return self.complain_in_calm(&datagram, "was relayed too often");
        };
        if datagram.visited.contains(&at) {
            self.complain_in_calm(&datagram, "came back");
        }
        datagram.visited.push(at);
        if datagram.visited.len() > usize::from(HOP_LIMIT) + 1 {
            self.violation = Some(Violation(format!("{datagram:?} is relayed beyond the limit")));
        }
        datagram.hops_left = Some(left);
        self.summary.relayed += 1;
        let next = self.hosts[at].routes.next_hop_for_relay(name(datagram.destination), name(from));
        if let Some(next) = next {
            self.send_relayed(at, number(next), datagram, false);
        }
    }

    /// Complains of a way that relays do not take as it was promised. Answers take the way of their question where it was not.
    fn complain_in_calm(&mut self, datagram: &Datagram, what: &str) {
        if self.is_calm() && !matches!(datagram.content, Content::Answer(..)) {
            self.violation = Some(Violation(format!("{datagram:?} {what} at {:?}", self.now)));
        }
    }
}
