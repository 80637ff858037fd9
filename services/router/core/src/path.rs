//! Which endpoint a peer is reached at: probes every candidate, uses what answers, notices when it stops.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Without an answer for this long, a path is down.
pub const DEAD_TIME: Duration = Duration::from_secs(3);
/// Without an answer for this long, other candidates are probed closely, and one that answers takes over.
const DOUBT_TIME: Duration = Duration::from_millis(1200);
/// Between probes of each candidate while no path is up or the one in use is in doubt.
const SEARCH_INTERVAL: Duration = Duration::from_millis(200);
/// How long a search probes that closely.
const EAGER_SEARCH: Duration = Duration::from_secs(10);
/// Between probes after that, and on a path in use without traffic.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Between probes on a path in use that carries traffic.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);
/// Between probes of candidates that are not in use.
const SPARE_INTERVAL: Duration = Duration::from_secs(10);
/// Probes that may be answered; older ones are forgotten.
const OUTSTANDING: usize = 64;
/// Endpoints learnt from the peer's datagrams.
const LEARNED: usize = 2;

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeRequest {
    /// Where to.
    pub endpoint: SocketAddr,
    /// What the answer returns.
    pub token: [u8; 16],
}

/// What became of a peer's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathEvent {
    /// An endpoint answers, and is used from now on.
    Up {
        /// It.
        endpoint: SocketAddr,
        /// Of the probe.
        round_trip: Duration,
    },
    /// No endpoint answers.
    Down {
        /// The one that was used last.
        endpoint: Option<SocketAddr>,
    },
}

#[derive(Debug)]
struct Candidate {
    endpoint: SocketAddr,
    learned: bool,
    next_probe: Instant,
}

#[derive(Debug)]
struct Active {
    endpoint: SocketAddr,
    last_answer: Instant,
    round_trip: Duration,
}

/// The endpoints of one peer.
#[derive(Debug)]
pub struct Paths {
    candidates: Vec<Candidate>,
    active: Option<Active>,
    outstanding: VecDeque<(u64, SocketAddr, Instant)>,
    next_probe: u64,
    search_started: Instant,
    down_reported: bool,
    busy: bool,
    events: VecDeque<PathEvent>,
}

impl Paths {
    /// Starts without any endpoint.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            candidates: Vec::new(),
            active: None,
            outstanding: VecDeque::new(),
            next_probe: 0,
            search_started: now,
            down_reported: false,
            busy: false,
            events: VecDeque::new(),
        }
    }

    /// Returns where datagrams go.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.active.as_ref().map(|active| active.endpoint)
    }

    /// Returns the smoothed round trip of the path in use.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.active.as_ref().map(|active| active.round_trip)
    }

    /// Replaces the candidates that are given, not those that were learnt; a path in use stays so while it answers.
    pub fn set_endpoints(&mut self, endpoints: &[SocketAddr], now: Instant) {
        let active = self.endpoint();
        self.candidates.retain_mut(|candidate| {
            candidate.learned |= Some(candidate.endpoint) == active && !endpoints.contains(&candidate.endpoint);
            candidate.learned || endpoints.contains(&candidate.endpoint)
        });
        for endpoint in endpoints {
            match self.candidates.iter_mut().find(|candidate| candidate.endpoint == *endpoint) {
                Some(candidate) => candidate.learned = false,
                None => {
                    self.candidates.push(Candidate { endpoint: *endpoint, learned: false, next_probe: now });
                    if active.is_none() {
                        self.search_started = now;
                    }
                }
            }
        }
    }

    /// Probes all candidates anew, as after a new session.
    pub fn restart(&mut self, now: Instant) {
        for candidate in &mut self.candidates {
            candidate.next_probe = now;
        }
        if self.active.is_none() {
            self.search_started = now;
        }
    }

    /// Takes the path down at once: there are no keys by which probes could be sealed.
    pub fn handle_keys_lost(&mut self, now: Instant) {
        let endpoint = self.active.take().map(|active| active.endpoint);
        self.outstanding.clear();
        self.search_started = now;
        self.down_reported = true;
        self.events.push_back(PathEvent::Down { endpoint });
    }

    /// Says whether frames were sent since the last call; a path in use is probed more closely then.
    pub const fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Takes note of where an authentic datagram came from. `newest` says that none sealed later came before it and that
    /// it carried a frame: then a source that was never heard of is where the peer has moved to.
    pub fn handle_source(&mut self, source: SocketAddr, newest: bool, now: Instant) {
        let learned = |endpoint: SocketAddr| {
            self.candidates.iter().find(|candidate| candidate.endpoint == endpoint).map(|candidate| candidate.learned)
        };
        match learned(source) {
            Some(true) if newest && self.endpoint().is_some_and(|active| active != source) => {
                if self.endpoint().and_then(learned) == Some(true) {
                    self.follow(source, now);
                }
                return;
            }
            Some(_) => return,
            None => {}
        }
        let learned = self.candidates.iter().filter(|candidate| candidate.learned).count();
        if learned >= LEARNED {
            let active = self.endpoint();
            let oldest =
                self.candidates.iter().position(|candidate| candidate.learned && Some(candidate.endpoint) != active);
            if let Some(oldest) = oldest {
                self.candidates.remove(oldest);
            }
        }
        self.candidates.push(Candidate { endpoint: source, learned: true, next_probe: now });
        if newest {
            self.follow(source, now);
        }
    }

    fn follow(&mut self, endpoint: SocketAddr, now: Instant) {
        if let Some(active) = &mut self.active {
            active.endpoint = endpoint;
            active.last_answer = now;
            self.events.push_back(PathEvent::Up { endpoint, round_trip: active.round_trip });
        }
    }

    /// Takes an answer to a probe.
    pub fn handle_answer(&mut self, token: [u8; 16], now: Instant) {
        let [a, b, c, d, e, f, g, h, ..] = token;
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let Some(index) = self.outstanding.iter().position(|(sent, ..)| *sent == number) else { return };
        let Some((_, endpoint, sent)) = self.outstanding.remove(index) else { return };
        let round_trip = now.saturating_duration_since(sent);
        match &mut self.active {
            Some(active) if active.endpoint == endpoint => {
                active.last_answer = now;
                active.round_trip = (active.round_trip * 7 + round_trip) / 8;
            }
            Some(active) if now.saturating_duration_since(active.last_answer) < DOUBT_TIME => {}
            Some(_) | None => self.activate(endpoint, round_trip, now),
        }
    }

    fn activate(&mut self, endpoint: SocketAddr, round_trip: Duration, now: Instant) {
        self.active = Some(Active { endpoint, last_answer: now, round_trip });
        self.down_reported = false;
        self.events.push_back(PathEvent::Up { endpoint, round_trip });
        for candidate in &mut self.candidates {
            let interval = if candidate.endpoint == endpoint { BUSY_INTERVAL } else { SPARE_INTERVAL };
            candidate.next_probe = now + interval;
        }
    }

    /// Lets time pass: notices paths that stopped answering.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(active) = &self.active {
            let silence = now.saturating_duration_since(active.last_answer);
            if silence >= DEAD_TIME {
                let endpoint = Some(active.endpoint);
                self.active = None;
                self.down_reported = true;
                self.search_started = now;
                self.events.push_back(PathEvent::Down { endpoint });
            }
            if silence >= DOUBT_TIME {
                for candidate in &mut self.candidates {
                    candidate.next_probe = candidate.next_probe.min(now + SEARCH_INTERVAL);
                }
            }
        } else if !self.down_reported && now.saturating_duration_since(self.search_started) >= DEAD_TIME {
            self.down_reported = true;
            let endpoint = self.candidates.first().map(|candidate| candidate.endpoint);
            self.events.push_back(PathEvent::Down { endpoint });
        }
    }

    /// Returns a probe that is due.
    pub fn poll_probe(&mut self, now: Instant) -> Option<ProbeRequest> {
        let eager = now.saturating_duration_since(self.search_started) < EAGER_SEARCH;
        let (active, doubt) = match &self.active {
            Some(active) => (Some(active.endpoint), now.saturating_duration_since(active.last_answer) >= DOUBT_TIME),
            None => (None, false),
        };
        let candidate = self.candidates.iter_mut().find(|candidate| candidate.next_probe <= now)?;
        let interval = match active {
            Some(_) if doubt => SEARCH_INTERVAL,
            Some(endpoint) if endpoint == candidate.endpoint && self.busy => BUSY_INTERVAL,
            Some(endpoint) if endpoint == candidate.endpoint => IDLE_INTERVAL,
            Some(_) => SPARE_INTERVAL,
            None if eager => SEARCH_INTERVAL,
            None => IDLE_INTERVAL,
        };
        candidate.next_probe = now + interval;
        let number = self.next_probe;
        self.next_probe += 1;
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back((number, candidate.endpoint, now));
        let mut token = [0; 16];
        token[..8].copy_from_slice(&number.to_be_bytes());
        Some(ProbeRequest { endpoint: candidate.endpoint, token })
    }

    /// Returns what became of the path, oldest first.
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        self.events.pop_front()
    }

    /// Returns when to call [`Paths::handle_timeout`] and [`Paths::poll_probe`] again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probe = self.candidates.iter().map(|candidate| candidate.next_probe).min();
        let dead = match &self.active {
            Some(active) => Some(active.last_answer + DEAD_TIME),
            None => (!self.down_reported).then_some(self.search_started + DEAD_TIME),
        };
        probe.into_iter().chain(dead).min()
    }
}

#[cfg(test)]
mod tests;
