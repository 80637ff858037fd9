//! How a peer is reached: probes every way there is, uses the best that works, notices when it stops.
//!
//! A way is UDP to an endpoint, a relay, or the control connection. Score, hysteresis and damping: `docs/decisions/paths.md`;
//! when probes go where: `docs/wire-protocol.md`, section 4.5. What is left to others: sealing and sending, and which relays
//! there are ([`crate::route`]).

mod batch;
mod candidate;
mod choose;
pub mod cost;
pub(crate) mod damping;
mod loss;
mod probes;
mod schedule;
mod size;
mod view;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use weft_types::PeerName;

pub use candidate::CandidateState;
pub use view::{CandidateView, Unused};

use candidate::Candidate;
use probes::{Probes, Purpose};

/// Without an answer for this long, a way is gone.
pub const DEAD_TIME: Duration = Duration::from_secs(3);
/// What every way carries, in bytes of the sealed datagram: it fits an underlay of 1124 bytes with IPv6 (40) and UDP (8)
/// inside a relayed datagram (20).
pub const BASE_SIZE: usize = 1124 - 40 - 8 - 20;
/// Endpoints learnt from the peer's datagrams.
const LEARNED: usize = 2;
/// Endpoints that are given at most.
const ENDPOINTS: usize = 16;
/// Relays that are given at most.
const RELAYS: usize = 2;

/// How datagrams reach a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// By UDP to an endpoint of its own.
    Direct(SocketAddr),
    /// Over others: the neighbour to whom the relayed datagram is given.
    Relay(PeerName),
    /// Inside the control connection with the very peer.
    Stream,
}

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Where to.
    pub via: Via,
    /// What the answer returns. Where there are several, the first 8 bytes are a number that each next one raises by one.
    pub token: [u8; 16],
    /// Bytes of the whole sealed datagram; 0 for as few as a probe may have.
    pub size: usize,
    /// How many of it, sent as one batch.
    pub count: u8,
}

/// How datagrams reach a peer now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The way.
    pub via: Via,
    /// The largest sealed datagram that is known to pass, in bytes.
    pub largest: usize,
    /// Whether that is all that passes; else a larger one may be found any moment.
    pub proven: bool,
    /// Whether batches pass that one send cuts into datagrams.
    pub batched: bool,
}

/// What the link with a neighbour is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Datagrams pass by UDP.
    pub direct: bool,
    /// Datagrams pass inside the control connection.
    pub stream: bool,
    /// Cost of the better of them, as [`cost::Quality::cost`] tells; [`cost::LinkCost`] turns it into what is published.
    pub cost: u32,
}

/// What became of a peer's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEvent {
    /// A way is used from now on.
    Up {
        /// It.
        via: Via,
        /// Its delay.
        round_trip: Duration,
    },
    /// No way works.
    Down {
        /// The one that was used last, or the first that was tried.
        via: Option<Via>,
    },
    /// Of the way in use, what it carries has changed.
    Changed,
}

/// The ways to one peer.
#[derive(Debug)]
pub struct Paths {
    /// The latest time that anybody told.
    now: Instant,
    candidates: Vec<Candidate>,
    next_id: u32,
    active: Option<u32>,
    active_since: Instant,
    link: Option<u32>,
    probes: Probes,
    search_started: Instant,
    down_reported: bool,
    busy: bool,
    wanted: usize,
    announced: Option<Choice>,
    events: VecDeque<PathEvent>,
}

impl Paths {
    /// Starts without any way.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            candidates: Vec::new(),
            next_id: 0,
            active: None,
            active_since: now,
            link: None,
            probes: Probes::default(),
            search_started: now,
            down_reported: false,
            busy: false,
            wanted: BASE_SIZE,
            announced: None,
            events: VecDeque::new(),
        }
    }

    /// Replaces the endpoints that are given, the first 16 of them, not those that were learnt; one in use stays so while it
    /// answers.
    pub fn set_endpoints(&mut self, endpoints: &[SocketAddr], now: Instant) {
        let ways = endpoints.iter().take(ENDPOINTS).map(|endpoint| (Via::Direct(*endpoint), 1)).collect::<Vec<_>>();
        self.set_ways(&ways, |via| matches!(via, Via::Direct(_)), now);
    }

    /// Replaces the relays: neighbours, each with the number of links of the whole way over it, best first, the first two of
    /// them. One in use stays so until another way answers.
    pub fn set_relays(&mut self, relays: &[(PeerName, u8)], now: Instant) {
        let ways = relays.iter().take(RELAYS).map(|(relay, hops)| (Via::Relay(*relay), *hops)).collect::<Vec<_>>();
        self.set_ways(&ways, |via| matches!(via, Via::Relay(_)), now);
    }

    /// Says whether there is a control connection with the peer itself.
    pub fn set_stream(&mut self, connected: bool, now: Instant) {
        let ways: &[_] = if connected { &[(Via::Stream, 1)] } else { &[] };
        self.set_ways(ways, |via| via == Via::Stream, now);
    }

    /// Makes these the given ones among the ways of one kind.
    fn set_ways(&mut self, ways: &[(Via, u8)], of_kind: impl Fn(Via) -> bool, now: Instant) {
        self.now = self.now.max(now);
        let active = self.active;
        let probes = &mut self.probes;
        self.candidates.retain_mut(|candidate| {
            if !of_kind(candidate.via) || ways.iter().any(|(via, _)| *via == candidate.via) {
                return true;
            }
            // A learnt endpoint was not given before either.
            let kept = !candidate.given || Some(candidate.id) == active;
            candidate.given = false;
            if !kept {
                probes.forget(candidate.id);
            }
            kept
        });
        for (via, hops) in ways {
            match self.candidates.iter_mut().find(|candidate| candidate.via == *via) {
                Some(candidate) => {
                    candidate.given = true;
                    if candidate.hops != *hops {
                        candidate.hops = *hops;
                        candidate.sizes.suspect();
                    }
                }
                None => {
                    self.add(*via, *hops, true);
                    if self.active.is_none() {
                        self.search_started = self.now;
                    }
                }
            }
        }
        self.decide();
    }

    fn add(&mut self, via: Via, hops: u8, given: bool) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.candidates.push(Candidate::new(id, via, hops, given, self.now));
        id
    }

    /// Says what full frames need, in bytes of the sealed datagram.
    pub fn set_wanted(&mut self, bytes: usize) {
        if bytes == self.wanted {
            return;
        }
        self.wanted = bytes;
        for candidate in self.candidates.iter_mut().filter(|candidate| candidate.is_alive()) {
            candidate.sizes.set_wanted(bytes, self.now);
        }
        self.decide();
    }

    /// Says whether frames were sent lately; the way in use is probed more closely then.
    pub const fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Counts sealed datagrams that were sent, probes and answers among them: the peer counts what comes.
    pub fn handle_sent(&mut self, via: Via, datagrams: u64) {
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.via == via) {
            candidate.datagrams = candidate.datagrams.saturating_add(datagrams);
        }
    }

    /// Probes all ways anew, as after a new session.
    pub fn restart(&mut self, now: Instant) {
        self.now = self.now.max(now);
        for candidate in &mut self.candidates {
            candidate.last_probe = None;
            candidate.count_anew();
        }
        if self.active.is_none() {
            self.search_started = self.now;
        }
    }

    /// Takes the path down at once: there are no keys by which probes could be sealed.
    pub fn handle_keys_lost(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let via = self.active_candidate().map(|active| active.via);
        self.active = None;
        self.announced = None;
        self.probes.clear();
        self.search_started = self.now;
        self.down_reported = true;
        self.push(PathEvent::Down { via });
        self.forget_answers();
        self.decide();
    }

    /// Takes note of which way an authentic datagram came. `newest` says that none sealed later came before it and that it
    /// carried a frame: then an endpoint that was never heard of is where the peer has moved to.
    pub fn handle_source(&mut self, via: Via, newest: bool, now: Instant) {
        if !matches!(via, Via::Direct(_)) {
            return;
        }
        self.now = self.now.max(now);
        let active = self.active_candidate().filter(|active| matches!(active.via, Via::Direct(_)));
        let active = active.map(|active| (active.via, active.given));
        let known = self.candidates.iter().find(|candidate| candidate.via == via);
        match known.map(|known| (known.id, known.given)) {
            Some((id, false)) if newest && active.is_some_and(|(used, given)| used != via && !given) => self.follow(id),
            Some(_) => {}
            None => {
                self.make_room();
                let id = self.add(via, 1, false);
                if newest && active.is_some() {
                    self.follow(id);
                }
            }
        }
    }

    /// Makes room for a learnt endpoint in place of the oldest.
    fn make_room(&mut self) {
        let learned = |candidate: &Candidate| !candidate.given && matches!(candidate.via, Via::Direct(_));
        if self.candidates.iter().filter(|candidate| learned(candidate)).count() >= LEARNED {
            let active = self.active;
            let oldest = |candidate: &Candidate| learned(candidate) && Some(candidate.id) != active;
            if let Some(oldest) = self.candidates.iter().position(oldest) {
                let removed = self.candidates.remove(oldest);
                self.probes.forget(removed.id);
            }
        }
    }

    /// Uses an endpoint that the peer has moved to.
    fn follow(&mut self, id: u32) {
        let (now, wanted) = (self.now, self.wanted);
        let round_trip = self.round_trip();
        if let Some(candidate) = self.find_mut(id) {
            candidate.handle_life(wanted, now);
            candidate.round_trip = candidate.round_trip.or(round_trip);
            candidate.last_probe = None;
        }
        self.active = Some(id);
        self.active_since = now;
        self.candidates.iter_mut().for_each(Candidate::count_anew);
        self.decide();
    }

    /// Takes an answer to a probe: its token, and how many datagrams the peer had received that way.
    pub fn handle_answer(&mut self, token: [u8; 16], received: u64, now: Instant) {
        self.now = self.now.max(now);
        let Some(question) = self.probes.answer(token) else { return };
        let (now, wanted, in_use) = (self.now, self.wanted, self.active == Some(question.way));
        let daring = self.probes.daring_before(&question);
        let Some(candidate) = self.find_mut(question.way) else { return };
        candidate.handle_life(wanted, now);
        if question.is_late() && question.purpose.is_daring() {
            candidate.dared = candidate.dared.saturating_sub(1);
        }
        match question.purpose {
            Purpose::Alive => {
                let sent = question.datagrams.saturating_sub(candidate.dared + daring);
                candidate.handle_alive(&question, in_use.then_some((sent, received)), now);
            }
            Purpose::Size(size) => candidate.sizes.handle_answer(size, now),
            Purpose::Trial if question.is_late() => {}
            Purpose::Trial => candidate.handle_trial(true, now),
            Purpose::Batch if question.is_late() || !question.is_complete() => {}
            Purpose::Batch => candidate.batches.handle_result(question.answered(), true, now),
        }
        self.decide();
    }

    /// Takes note that the kernel refused a sealed datagram of so many bytes as too large.
    pub fn handle_refused(&mut self, via: Via, bytes: usize) {
        let now = self.now;
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.via == via) {
            candidate.sizes.handle_refused(bytes, now);
            self.decide();
        }
    }

    /// Takes note that the kernel refused to cut a batch into datagrams.
    pub fn handle_batch_refused(&mut self, via: Via, now: Instant) {
        self.now = self.now.max(now);
        let now = self.now;
        if let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.via == via) {
            candidate.batches.handle_refused(now);
            self.decide();
        }
    }

    /// Lets time pass: notices ways that stopped answering, and takes those into use that have proved themselves.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let now = self.now;
        while let Some(question) = self.probes.poll_lost(now) {
            let Some(candidate) = self.find_mut(question.way) else { continue };
            let alive = candidate.lost_in_row == 0 || candidate.last_answer > Some(question.sent);
            if question.purpose.is_daring() {
                candidate.dared += question.unanswered();
            }
            match question.purpose {
                Purpose::Alive => candidate.handle_silence(question.sent),
                Purpose::Size(size) => candidate.sizes.handle_lost(size, alive, now),
                Purpose::Trial => candidate.handle_trial(false, now),
                Purpose::Batch => {
                    let single_pass = alive && !candidate.sizes.is_in_doubt();
                    candidate.batches.handle_result(question.answered(), single_pass, now);
                }
            }
        }
        self.decide();
    }

    /// Returns what became of the path, oldest first.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests;
