//! When which way is probed. The table is in `docs/wire-protocol.md`, section 4.5.

use std::time::{Duration, Instant};

use super::{
    Paths, ProbeRequest, Via,
    batch::BATCH,
    candidate::{Candidate, CandidateState},
    choose::{CONFIRM_ANSWERS, CONFIRM_TIME},
    probes::Purpose,
};

/// Between questions on each way while none works, on a way that may be gone and meanwhile on all that work, and on one
/// that has lost a question lately.
const SEARCH: Duration = Duration::from_millis(200);
/// How long a search asks all ways that closely.
pub(super) const EAGER: Duration = Duration::from_secs(10);
/// On a way in use that carries frames.
const BUSY: Duration = Duration::from_millis(500);
/// On a way in use without frames, the fallback of one with frames, the way that relayed datagrams take, one that was lost
/// in the last minute, one that is new, and those that answered once while none works.
const CLOSE: Duration = Duration::from_secs(1);
/// On a way that would be better than the one in use.
const CONFIRM: Duration = Duration::from_millis(300);
/// On all others.
const SELDOM: Duration = Duration::from_secs(5);
/// What each way that never answered adds to the time between questions on each of them, with and without a way in use.
const CROWD: Duration = Duration::from_secs(1);
const CROWD_EAGER: Duration = SEARCH;

/// What the intervals depend on.
struct Roles {
    active: Option<u32>,
    doubt: bool,
    fallback: Option<u32>,
    present_cost: Option<u32>,
    untried: u32,
}

impl Paths {
    fn roles(&self) -> Roles {
        let active = self.active_candidate();
        Roles {
            active: active.map(|active| active.id),
            doubt: active.is_some_and(|active| active.lost_in_row > 0),
            fallback: self.fallback().map(|fallback| fallback.id),
            present_cost: active.and_then(|active| active.cost(self.wanted, false)),
            untried: self.candidates.iter().filter(|candidate| candidate.state == CandidateState::Untried).count()
                as u32,
        }
    }

    fn interval(&self, candidate: &Candidate, roles: &Roles) -> Duration {
        let untried = candidate.state == CandidateState::Untried;
        let now = self.now;
        let is_new = now.saturating_duration_since(candidate.since) < EAGER;
        let Some(active) = roles.active else {
            return if now.saturating_duration_since(self.search_started) < EAGER {
                SEARCH
            } else if untried {
                CLOSE.max(roles.untried * CROWD_EAGER)
            } else {
                CLOSE
            };
        };
        if candidate.is_alive() && candidate.close_look > 0 && (active == candidate.id || candidate.lost_in_row > 0) {
            SEARCH
        } else if active == candidate.id {
            if self.busy { BUSY } else { CLOSE }
        } else if roles.doubt {
            if candidate.is_alive() { SEARCH } else { CLOSE }
        } else if candidate.better_since.is_some() {
            CONFIRM
        } else if candidate.flaps.count(now) > 0
            || self.link == Some(candidate.id)
            || (self.busy && roles.fallback == Some(candidate.id))
        {
            CLOSE
        } else if untried && !is_new {
            SELDOM.max(roles.untried * CROWD)
        } else if is_new {
            CLOSE
        } else {
            SELDOM
        }
    }

    fn due(&self, candidate: &Candidate, roles: &Roles) -> Instant {
        candidate.last_probe.map_or(self.now, |last| last + self.interval(candidate, roles))
    }

    /// Tells whether it is worth knowing whether the way still loses as much.
    fn is_trial_wanted(&self, candidate: &Candidate, roles: &Roles) -> bool {
        let clean = candidate.cost(self.wanted, true);
        roles.active.is_some_and(|active| active != candidate.id)
            && clean.zip(roles.present_cost).is_some_and(|(clean, present)| clean < present)
    }

    /// Returns a probe that is due.
    pub fn poll_probe(&mut self, now: Instant) -> Option<ProbeRequest> {
        self.now = self.now.max(now);
        let roles = self.roles();
        for index in 0..self.candidates.len() {
            let due = self.due(&self.candidates[index], &roles) <= now;
            let trial = self.is_trial_wanted(&self.candidates[index], &roles);
            let closely = [roles.active, roles.fallback].contains(&Some(self.candidates[index].id));
            let (busy, wanted) = (self.busy, self.wanted);
            let candidate = &mut self.candidates[index];
            let watched = busy && closely;
            if due {
                candidate.last_probe = Some(now);
                candidate.unanswered_since.get_or_insert(now);
                return Some(self.ask(index, Purpose::Alive, 0, now));
            }
            if !candidate.is_alive() {
                continue;
            }
            if trial && candidate.poll_trial(now) {
                let size = if busy && candidate.via != Via::Stream { candidate.sizes.proven() } else { 0 };
                return Some(self.ask(index, Purpose::Trial, size, now));
            }
            if candidate.via == Via::Stream {
                continue;
            }
            if let Some((size, small)) = candidate.sizes.poll(watched, closely, wanted, now) {
                if small {
                    candidate.last_probe = None;
                }
                return Some(self.ask(index, Purpose::Size(size), size, now));
            }
            if candidate.batches.poll(watched, now) {
                let size = candidate.sizes.proven();
                if candidate.batches.is_in_doubt() {
                    candidate.last_probe = None;
                }
                return Some(self.ask(index, Purpose::Batch, size, now));
            }
        }
        None
    }

    fn ask(&mut self, index: usize, purpose: Purpose, size: usize, now: Instant) -> ProbeRequest {
        let candidate = &self.candidates[index];
        let count = if purpose == Purpose::Batch { BATCH } else { 1 };
        let deadline = now + candidate.patience();
        let token = self.probes.ask(candidate.id, purpose, count, candidate.datagrams, now, deadline);
        ProbeRequest { via: candidate.via, token, size, count }
    }

    /// Returns when to call [`Paths::handle_timeout`] and [`Paths::poll_probe`] again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let roles = self.roles();
        let probes = self.candidates.iter().filter_map(|candidate| self.candidate_timeout(candidate, &roles)).min();
        let dead = match self.active_candidate() {
            Some(active) => active.last_answer.map(|last| last + super::DEAD_TIME),
            None => (!self.down_reported).then_some(self.search_started + super::DEAD_TIME),
        };
        probes.into_iter().chain(dead).chain(self.probes.poll_timeout()).min()
    }

    fn candidate_timeout(&self, candidate: &Candidate, roles: &Roles) -> Option<Instant> {
        let due = self.due(candidate, roles);
        if !candidate.is_alive() {
            return Some(due);
        }
        let closely = [roles.active, roles.fallback].contains(&Some(candidate.id));
        let watched = self.busy && closely;
        let by_udp = candidate.via != Via::Stream;
        let sizes = || candidate.sizes.due(watched, closely, self.wanted, self.now).filter(|_| by_udp);
        let batches = || candidate.batches.due(watched, self.now).filter(|_| by_udp);
        let trial = candidate.trial_due().filter(|_| self.is_trial_wanted(candidate, roles));
        let better = candidate.better_since.filter(|_| candidate.answers_since_better >= CONFIRM_ANSWERS);
        let better = better.map(|since| (since + CONFIRM_TIME).max(candidate.ready)).filter(|time| *time > self.now);
        [Some(due), sizes(), batches(), trial, better].into_iter().flatten().min()
    }
}
