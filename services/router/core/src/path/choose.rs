//! Which way is used: the score, when it changes, and how.

use std::time::Duration;

use weft_types::PeerName;

use super::{
    Choice, DEAD_TIME, Link, PathEvent, Paths, Via,
    candidate::{Candidate, CandidateState, GONE},
    cost::margin,
};

/// How long another way has to be better than the one in use before it takes over …
pub(super) const CONFIRM_TIME: Duration = Duration::from_millis(800);
/// … and how many questions it has to answer meanwhile.
pub(super) const CONFIRM_ANSWERS: u8 = 3;
/// A way that was not heard of for longer is not trusted to be there.
const FRESH: Duration = Duration::from_millis(6500);
/// A learnt endpoint that has been silent for so long is forgotten.
const FORGET: Duration = Duration::from_secs(120);
/// Events that wait at most.
const EVENTS: usize = 16;

impl Paths {
    pub(super) fn active_candidate(&self) -> Option<&Candidate> {
        self.find(self.active?)
    }

    pub(super) fn find(&self, id: u32) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.id == id)
    }

    pub(super) fn find_mut(&mut self, id: u32) -> Option<&mut Candidate> {
        self.candidates.iter_mut().find(|candidate| candidate.id == id)
    }

    /// Returns the best of the ways that work and are as `filter` says, except the one in use.
    fn best(&self, filter: impl Fn(&Candidate) -> bool) -> Option<&Candidate> {
        let others =
            self.candidates.iter().filter(|candidate| candidate.is_alive() && Some(candidate.id) != self.active);
        let known = others.filter(|candidate| filter(candidate) && candidate.round_trip.is_some());
        known.min_by_key(|candidate| candidate.rank(self.wanted))
    }

    pub(super) fn fallback(&self) -> Option<&Candidate> {
        self.best(|_| true)
    }

    /// Draws the conclusions from all that is known.
    pub(super) fn decide(&mut self) {
        let now = self.now;
        for candidate in &mut self.candidates {
            let in_use = Some(candidate.id) == self.active;
            candidate.judge_loss(in_use, now);
            if candidate.is_alive() && !in_use && candidate.lost_in_row >= GONE {
                candidate.fall_silent(now);
            }
        }
        self.watch_better();
        let next = match self.active_candidate() {
            None => self.best(|_| true).map(|best| best.id),
            Some(active) => self.successor(active),
        };
        if let Some(next) = next {
            self.activate(next);
        } else if self.active_candidate().is_some_and(|active| active.is_dead(now)) {
            self.take_down();
        }
        self.forget();
        self.choose_link();
        self.announce();
    }

    /// Notes since when which ways are better than the one in use.
    fn watch_better(&mut self) {
        let (now, wanted) = (self.now, self.wanted);
        let present = self.active_candidate().and_then(|active| active.rank(wanted));
        let active = self.active;
        for candidate in &mut self.candidates {
            let better = candidate.is_alive()
                && candidate.lost_in_row == 0
                && Some(candidate.id) != active
                && candidate.rank(wanted).zip(present).is_some_and(|((tier, cost), (present_tier, present))| {
                    tier == present_tier && cost.saturating_add(margin(present)) < present
                });
            if better && candidate.better_since.is_none() {
                candidate.better_since = Some(now);
                candidate.answers_since_better = 0;
            } else if !better {
                candidate.better_since = None;
            }
        }
    }

    /// Returns the way that takes over from the one in use.
    fn successor(&self, active: &Candidate) -> Option<u32> {
        let now = self.now;
        let next = if active.is_failing(now) {
            self.best(|other| other.lost_in_row == 0 && other.last_answer >= active.unanswered_since)
        } else {
            let trusted = |other: &Candidate| {
                let heard = other.last_answer.is_some_and(|last| now.saturating_duration_since(last) < FRESH);
                other.lost_in_row == 0 && heard && other.tier() < active.tier()
            };
            self.best(trusted).or_else(|| {
                self.best(|other| {
                    let confirmed = other.better_since.is_some_and(|since| {
                        now.saturating_duration_since(since) >= CONFIRM_TIME
                            && other.answers_since_better >= CONFIRM_ANSWERS
                    });
                    confirmed && now >= other.ready && (other.is_size_known() || !active.is_size_known())
                })
            })
        };
        next.map(|next| next.id)
    }

    fn activate(&mut self, id: u32) {
        let now = self.now;
        if let Some(old) = self.active.and_then(|old| self.find_mut(old)) {
            if old.is_failing(now) {
                old.fall_silent(now);
            } else {
                old.flaps.record(now);
                old.ready = now + old.flaps.wait(now);
            }
        }
        self.active = Some(id);
        self.active_since = now;
        for candidate in &mut self.candidates {
            candidate.count_anew();
            candidate.better_since = None;
            if candidate.id == id {
                candidate.last_answer = Some(now);
                candidate.last_probe = None;
                candidate.sizes.suspect();
                candidate.batches.doubt(now);
            }
        }
    }

    /// Gives the way in use up, with none to replace it.
    pub(super) fn take_down(&mut self) {
        let now = self.now;
        if let Some(active) = self.active.take().and_then(|active| self.find_mut(active)) {
            active.fall_silent(now);
        }
        self.search_started = now;
    }

    /// Removes ways that nobody gives any more.
    fn forget(&mut self) {
        let (now, active) = (self.now, self.active);
        let probes = &mut self.probes;
        self.candidates.retain(|candidate| {
            let kept = candidate.given
                || Some(candidate.id) == active
                || match candidate.via {
                    Via::Direct(_) => candidate.is_alive() || now.saturating_duration_since(candidate.since) < FORGET,
                    Via::Relay(_) | Via::Stream => false,
                };
            if !kept {
                probes.forget(candidate.id);
            }
            kept
        });
    }

    /// Chooses the way for datagrams that are relayed by the peer: the one in use if it may be, else the best that may, with
    /// the same margin.
    fn choose_link(&mut self) {
        let is_link = |candidate: &&Candidate| {
            candidate.is_alive() && candidate.round_trip.is_some() && !matches!(candidate.via, Via::Relay(_))
        };
        let wanted = self.wanted;
        if let Some(active) = self.active_candidate().filter(is_link) {
            self.link = Some(active.id);
            return;
        }
        let best = self.candidates.iter().filter(is_link).min_by_key(|candidate| candidate.rank(wanted));
        let present = self.link.and_then(|link| self.find(link)).filter(is_link);
        let rank = |candidate: &Candidate| candidate.rank(wanted);
        let stays = present.filter(|present| {
            best.and_then(rank).zip(rank(present)).is_some_and(|((best_tier, best), (tier, cost))| {
                tier <= best_tier && cost <= best.saturating_add(margin(best))
            })
        });
        self.link = stays.or(best).map(|link| link.id);
    }

    /// Reports what changed about the way in use.
    fn announce(&mut self) {
        let now = self.now;
        let choice = self.choice();
        let via = |choice: &Option<Choice>| choice.map(|choice| choice.via);
        if via(&choice) != via(&self.announced) {
            match self.active_candidate() {
                Some(active) => {
                    let round_trip = active.round_trip.unwrap_or_default();
                    self.push(PathEvent::Up { via: active.via, round_trip });
                    self.down_reported = false;
                }
                None => {
                    self.push(PathEvent::Down { via: via(&self.announced) });
                    self.down_reported = true;
                }
            }
        } else if choice != self.announced {
            self.push(PathEvent::Changed);
        } else if choice.is_none()
            && !self.down_reported
            && now.saturating_duration_since(self.search_started) >= DEAD_TIME
        {
            self.down_reported = true;
            let via = self.candidates.first().map(|candidate| candidate.via);
            self.push(PathEvent::Down { via });
        }
        self.announced = choice;
    }

    pub(super) fn push(&mut self, event: PathEvent) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn choice_of(candidate: &Candidate) -> Choice {
        Choice {
            via: candidate.via,
            largest: candidate.largest(),
            proven: candidate.is_size_known(),
            batched: candidate.batches.work(),
        }
    }

    /// Returns how datagrams reach the peer.
    #[must_use]
    pub fn choice(&self) -> Option<Choice> {
        self.active_candidate().map(Self::choice_of)
    }

    /// Returns how datagrams reach the peer that it is to relay: directly or by stream.
    #[must_use]
    pub fn link_choice(&self) -> Option<Choice> {
        self.link.and_then(|link| self.find(link)).map(Self::choice_of)
    }

    /// Returns the neighbour to whom the answer to a question is given that came relayed, by that neighbour: itself if it is one
    /// of the relays, else the best of them, as relays may send back what is given to others; itself if there is none.
    #[must_use]
    pub fn relay_for_answer(&self, neighbour: PeerName) -> PeerName {
        let relays =
            self.candidates.iter().filter(|candidate| candidate.given && matches!(candidate.via, Via::Relay(_)));
        let by_rank =
            |candidate: &&Candidate| (candidate.via != Via::Relay(neighbour), !candidate.is_alive(), candidate.hops);
        match relays.min_by_key(by_rank).map(|candidate| candidate.via) {
            Some(Via::Relay(relay)) => relay,
            Some(Via::Direct(_) | Via::Stream) | None => neighbour,
        }
    }

    /// Returns what may be published of the link with the peer; nothing if neither UDP nor the stream works.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        let link = self.link.and_then(|link| self.find(link))?;
        let works = |stream| {
            let alive = |other: &Candidate| other.is_alive() && !matches!(other.via, Via::Relay(_));
            self.candidates.iter().any(|other| alive(other) && (other.via == Via::Stream) == stream)
        };
        Some(Link { direct: works(false), stream: works(true), cost: link.cost(self.wanted, false)? })
    }

    /// Returns the smoothed round trip of the way in use.
    #[must_use]
    pub fn round_trip(&self) -> Option<Duration> {
        self.active_candidate()?.round_trip
    }

    /// Forgets what is known of all ways but that they exist.
    pub(super) fn forget_answers(&mut self) {
        let now = self.now;
        for candidate in &mut self.candidates {
            if candidate.is_alive() {
                candidate.state = CandidateState::Silent;
                candidate.since = now;
            }
            candidate.last_probe = None;
            candidate.unanswered_since = None;
            candidate.lost_in_row = 0;
        }
    }
}
