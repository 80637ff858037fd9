//! When to dial what: targets for ever, and peers that gossip names as long as it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use weft_types::PeerName;

use super::{DialAddress, Target, backoff::Backoff};
use crate::mesh::{DialId, Problem, TargetState, TargetView, Timing};

/// How long the peer with the higher name leaves a newly discovered pair to the other.
const YIELD: Duration = Duration::from_secs(2);

/// What a dial is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Target(Target),
    Peer(PeerName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Waits for its time, or for the peer that it led to to be lost.
    Waiting { due: Instant },
    /// A try is under way.
    Dialling(DialId),
    /// It is ourselves: never again.
    Local,
}

#[derive(Debug)]
struct Attempt {
    state: State,
    backoff: Backoff,
    problem: Option<Problem>,
    /// Whom the last successful try led to.
    peer: Option<PeerName>,
    /// Until when tries that reach nobody follow each other without growing pauses, because there was a connection.
    eager_until: Option<Instant>,
}

#[derive(Debug)]
struct Candidate {
    endpoints: Vec<SocketAddr>,
    next: usize,
}

/// One dial to perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) id: DialId,
    pub(crate) address: DialAddress,
    pub(crate) expected: Option<PeerName>,
}

/// All that may be dialled, and when.
#[derive(Debug)]
pub(crate) struct Dialler {
    local: PeerName,
    default_port: u16,
    timing: Timing,
    random: SmallRng,
    targets: Vec<Target>,
    candidates: BTreeMap<PeerName, Candidate>,
    attempts: BTreeMap<Purpose, Attempt>,
    dials: BTreeMap<DialId, Purpose>,
    connected: BTreeSet<PeerName>,
    discovery_stopped: bool,
    next_dial: u64,
}

impl Dialler {
    pub(crate) fn new(local: PeerName, default_port: u16, timing: Timing, seed: u64) -> Self {
        Self {
            local,
            default_port,
            timing,
            random: SmallRng::seed_from_u64(seed),
            targets: Vec::new(),
            candidates: BTreeMap::new(),
            attempts: BTreeMap::new(),
            dials: BTreeMap::new(),
            connected: BTreeSet::new(),
            discovery_stopped: false,
            next_dial: 1,
        }
    }

    pub(crate) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Adds a target, or tries the one that is there now. Tells whether it is new.
    pub(crate) fn add(&mut self, target: Target, now: Instant) -> bool {
        let new = !self.targets.contains(&target);
        let backoff = Backoff::new(self.timing.retry_min, self.timing.retry_max);
        let fresh =
            Attempt { state: State::Waiting { due: now }, backoff, problem: None, peer: None, eager_until: None };
        let attempt = self.attempts.entry(Purpose::Target(target.clone())).or_insert(fresh);
        attempt.backoff.reset();
        match &mut attempt.state {
            State::Waiting { due } => *due = now,
            State::Dialling(_) | State::Local => {}
        }
        if new {
            self.targets.push(target);
        }
        new
    }

    /// Removes a target by its text. Tells whether there was one.
    pub(crate) fn remove(&mut self, text: &str) -> bool {
        let count = self.targets.len();
        self.targets.retain(|target| target.text() != text);
        self.attempts.retain(|purpose, _| !matches!(purpose, Purpose::Target(target) if target.text() == text));
        self.targets.len() < count
    }

    /// Sets which peers have a connection.
    pub(crate) fn set_connected(&mut self, connected: BTreeSet<PeerName>) {
        self.connected = connected;
    }

    /// Sets whether there are as many connections as discovery may make.
    pub(crate) const fn set_discovery_stopped(&mut self, stopped: bool) {
        self.discovery_stopped = stopped;
    }

    /// Sets the peers that gossip names, and where they may be. Endpoints that are targets are left to those.
    pub(crate) fn set_candidates(&mut self, peers: BTreeMap<PeerName, Vec<SocketAddr>>, now: Instant) {
        let covered: BTreeSet<SocketAddr> = self
            .targets
            .iter()
            .filter_map(|target| match target.address(self.default_port) {
                DialAddress::Endpoint(endpoint) => Some(endpoint),
                DialAddress::Name { .. } => None,
            })
            .collect();
        let mut candidates = BTreeMap::new();
        for (peer, mut endpoints) in peers {
            endpoints.retain(|endpoint| !covered.contains(endpoint));
            if endpoints.is_empty() {
                continue;
            }
            let next = self.candidates.get(&peer).map_or(0, |candidate| candidate.next);
            candidates.insert(peer, Candidate { endpoints, next });
            let due = if self.local < peer { now } else { now + YIELD };
            let backoff = Backoff::new(self.timing.retry_min, self.timing.retry_max);
            self.attempts.entry(Purpose::Peer(peer)).or_insert(Attempt {
                state: State::Waiting { due },
                backoff,
                problem: None,
                peer: Some(peer),
                eager_until: None,
            });
        }
        self.candidates = candidates;
        let candidates = &self.candidates;
        self.attempts.retain(|purpose, _| match purpose {
            Purpose::Target(_) => true,
            Purpose::Peer(peer) => candidates.contains_key(peer),
        });
    }

    /// Returns the next dial that is due.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Dial> {
        let (purpose, _) = self.waiting().find(|(_, due)| *due <= now)?;
        let purpose = purpose.clone();
        let id = DialId(self.next_dial);
        let (address, expected) = match &purpose {
            Purpose::Target(target) => (target.address(self.default_port), None),
            Purpose::Peer(peer) => {
                let candidate = self.candidates.get_mut(peer)?;
                let endpoint = candidate.endpoints[candidate.next % candidate.endpoints.len()];
                candidate.next = candidate.next.wrapping_add(1);
                (DialAddress::Endpoint(endpoint), Some(*peer))
            }
        };
        self.next_dial += 1;
        self.attempts.get_mut(&purpose)?.state = State::Dialling(id);
        self.dials.insert(id, purpose);
        Some(Dial { id, address, expected })
    }

    /// Returns when the next dial is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting().map(|(_, due)| due).min()
    }

    fn waiting(&self) -> impl Iterator<Item = (&Purpose, Instant)> {
        self.attempts.iter().filter_map(|(purpose, attempt)| match attempt.state {
            State::Waiting { due } => {
                let stopped = self.discovery_stopped && matches!(purpose, Purpose::Peer(_));
                let connected = attempt.peer.is_some_and(|peer| self.connected.contains(&peer));
                (!stopped && !connected).then_some((purpose, due))
            }
            State::Dialling(_) | State::Local => None,
        })
    }

    /// Takes that a dial failed.
    pub(crate) fn failed(&mut self, dial: DialId, problem: Problem, now: Instant) {
        let Some((_, attempt)) = Self::finish(&mut self.dials, &mut self.attempts, dial) else { return };
        attempt.fail(Some(problem), now, &self.timing, &mut self.random);
    }

    /// Takes that a dial led to a peer, whether or not the connection stays.
    pub(crate) fn reached(&mut self, dial: DialId, peer: PeerName, now: Instant) {
        let Some((purpose, attempt)) = Self::finish(&mut self.dials, &mut self.attempts, dial) else { return };
        if matches!(purpose, Purpose::Peer(wanted) if wanted != peer) {
            // Somebody else lives at this endpoint; the next one may be right.
            attempt.fail(None, now, &self.timing, &mut self.random);
            return;
        }
        // Counts once the peer is no longer connected, unless `lost` says otherwise first.
        attempt.state = State::Waiting { due: now };
        attempt.peer = Some(peer);
        attempt.problem = None;
    }

    /// Takes that a dial led to ourselves. A target is never tried again then; another peer may have further endpoints.
    pub(crate) fn reached_local(&mut self, dial: DialId, problem: Problem, now: Instant) {
        let Some((purpose, attempt)) = Self::finish(&mut self.dials, &mut self.attempts, dial) else { return };
        match purpose {
            Purpose::Target(_) => {
                attempt.state = State::Local;
                attempt.problem = Some(problem);
            }
            Purpose::Peer(_) => attempt.fail(None, now, &self.timing, &mut self.random),
        }
    }

    /// Takes that all connections with a peer are gone, the last after `lived`. A long life earns a try at once; after short
    /// ones pauses grow, so that a peer that breaks each connection is not dialled all the time. Then, whoever does not
    /// answer is looked for [eagerly](Timing::eager).
    pub(crate) fn lost(&mut self, peer: PeerName, lived: Duration, problem: Option<Problem>, now: Instant) {
        let long = lived >= self.timing.long_lived;
        for attempt in self.attempts.values_mut().filter(|attempt| attempt.peer == Some(peer)) {
            if !matches!(attempt.state, State::Waiting { .. }) {
                continue;
            }
            attempt.problem.clone_from(&problem);
            attempt.eager_until = Some(now + self.timing.eager);
            if problem.as_ref().is_some_and(|problem| problem.is_final) {
                attempt.state = State::Waiting { due: now + refused(&self.timing, &mut self.random) };
            } else if long {
                attempt.backoff.reset();
                attempt.state = State::Waiting { due: now };
            } else {
                attempt.state = State::Waiting { due: now + attempt.backoff.pause(&mut self.random) };
            }
        }
    }

    /// Returns how many targets there are that are not ourselves.
    pub(crate) fn target_count(&self) -> usize {
        let local = |target: &&Target| {
            self.attempts.get(&Purpose::Target((*target).clone())).is_some_and(|a| a.state == State::Local)
        };
        self.targets.len() - self.targets.iter().filter(local).count()
    }

    /// Returns whom targets have led to.
    pub(crate) fn target_peers(&self) -> BTreeSet<PeerName> {
        let targets = self.attempts.iter().filter(|(purpose, _)| matches!(purpose, Purpose::Target(_)));
        targets.filter_map(|(_, attempt)| attempt.peer).collect()
    }

    /// Returns all targets and their states.
    pub(crate) fn views(&self, now: Instant) -> Vec<TargetView> {
        let view = |target: &Target| {
            let attempt = self.attempts.get(&Purpose::Target(target.clone()))?;
            let connected = attempt.peer.is_some_and(|peer| self.connected.contains(&peer));
            let is_final = attempt.problem.as_ref().is_some_and(|problem| problem.is_final);
            let (state, retry) = match attempt.state {
                State::Local => (TargetState::Refused, None),
                State::Dialling(_) => (TargetState::Connecting, None),
                State::Waiting { .. } if connected => (TargetState::Connected, None),
                State::Waiting { due } => {
                    let state = if is_final { TargetState::Refused } else { TargetState::Waiting };
                    (state, Some(due.saturating_duration_since(now)))
                }
            };
            let problem = if connected { None } else { attempt.problem.clone() };
            Some(TargetView { text: target.text().to_owned(), state, problem, retry })
        };
        self.targets.iter().filter_map(view).collect()
    }

    /// Forgets the dial and returns the attempt it belongs to, unless that was removed or replaced meanwhile.
    fn finish<'a>(
        dials: &mut BTreeMap<DialId, Purpose>,
        attempts: &'a mut BTreeMap<Purpose, Attempt>,
        dial: DialId,
    ) -> Option<(Purpose, &'a mut Attempt)> {
        let purpose = dials.remove(&dial)?;
        let attempt = attempts.get_mut(&purpose).filter(|attempt| attempt.state == State::Dialling(dial))?;
        Some((purpose, attempt))
    }
}

impl Attempt {
    fn fail(&mut self, problem: Option<Problem>, now: Instant, timing: &Timing, random: &mut SmallRng) {
        let is_final = problem.as_ref().is_some_and(|problem| problem.is_final);
        let pause = if is_final {
            refused(timing, random)
        } else if self.eager_until.is_some_and(|until| now < until) {
            self.backoff.shortest(random)
        } else {
            self.backoff.pause(random)
        };
        self.state = State::Waiting { due: now + pause };
        self.problem = problem;
    }
}

fn refused(timing: &Timing, random: &mut SmallRng) -> Duration {
    timing.retry_refused.mul_f64(random.random_range(0.9..1.1))
}

#[cfg(test)]
mod tests;
