//! One way to a peer, and what is known of it.

use std::time::{Duration, Instant};

use super::{
    BASE_SIZE, DEAD_TIME, Via,
    batch::Batches,
    cost::Quality,
    damping::Flaps,
    loss::{Counts, History},
    probes::Question,
    size::Sizes,
};

/// So many questions lost one after the other mean that a way is gone.
pub(super) const GONE: u8 = 3;
/// A way that loses so many permille is used only where there is no other.
pub(super) const MUCH_LOSS: u32 = 50;
/// A way in use that loses less than this is good again.
const LITTLE_LOSS: u32 = 25;
/// How long a way in use has to lose little.
const GOOD_AGAIN: Duration = Duration::from_secs(10);
/// Questions that follow a lost one closely, to see whether it was chance.
const CLOSE_LOOK: u8 = 20;
/// Questions of a trial, which must all be answered.
const TRIAL: u8 = 24;
/// Between them.
const TRIAL_INTERVAL: Duration = Duration::from_millis(40);
/// Between trials at least.
const TRIAL_PAUSE: Duration = Duration::from_secs(2);
/// Over this time a newer round trip replaces an older one.
const SMOOTHING: Duration = Duration::from_secs(4);
/// What a sealed datagram by stream may have, in bytes: as much as an IP packet.
const STREAM_SIZE: usize = u16::MAX as usize;

/// Whether a way answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CandidateState {
    /// It has not answered yet.
    Untried,
    /// It answers.
    Alive,
    /// It answers no more.
    Silent,
}

/// A way that loses much.
#[derive(Debug)]
struct Lossy {
    since: Instant,
    /// When it may be tried whether it still does.
    next_trial: Instant,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    sent: u8,
    answered: u8,
    last: Instant,
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: u32,
    pub(super) via: Via,
    /// Links of the whole way.
    pub(super) hops: u8,
    /// Whether somebody says that it exists; else it was learnt (`Direct`), or is used until there is a better one.
    pub(super) given: bool,
    pub(super) state: CandidateState,
    /// Since when it is in this state.
    pub(super) since: Instant,
    pub(super) last_probe: Option<Instant>,
    /// When it was heard last, or taken into use.
    pub(super) last_answer: Option<Instant>,
    /// When the first question was sent that nothing was answered after.
    pub(super) unanswered_since: Option<Instant>,
    newest_answered: Option<Instant>,
    pub(super) lost_in_row: u8,
    pub(super) close_look: u8,
    pub(super) round_trip: Option<Duration>,
    /// Datagrams that were sent this way.
    pub(super) datagrams: u64,
    /// Those of them that got lost in daring questions, which says nothing about others.
    pub(super) dared: u64,
    history: History,
    counts: Counts,
    lossy: Option<Lossy>,
    little_loss_since: Option<Instant>,
    pub(super) flaps: Flaps,
    /// When it may be chosen over another one that works.
    pub(super) ready: Instant,
    /// Since when it is better than the one in use, and how often it was answered since.
    pub(super) better_since: Option<Instant>,
    pub(super) answers_since_better: u8,
    pub(super) sizes: Sizes,
    pub(super) batches: Batches,
}

impl Candidate {
    pub(super) fn new(id: u32, via: Via, hops: u8, given: bool, now: Instant) -> Self {
        Self {
            id,
            via,
            hops,
            given,
            state: CandidateState::Untried,
            since: now,
            last_probe: None,
            last_answer: None,
            unanswered_since: None,
            newest_answered: None,
            lost_in_row: 0,
            close_look: 0,
            round_trip: None,
            datagrams: 0,
            dared: 0,
            history: History::default(),
            counts: Counts::default(),
            lossy: None,
            little_loss_since: None,
            flaps: Flaps::default(),
            ready: now,
            better_since: None,
            answers_since_better: 0,
            sizes: Sizes::new(),
            batches: Batches::new(),
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state == CandidateState::Alive
    }

    /// Tells whether a way that answered does so no more.
    pub(super) fn is_failing(&self, now: Instant) -> bool {
        self.lost_in_row >= GONE || self.is_dead(now)
    }

    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.last_answer.is_none_or(|last| now.saturating_duration_since(last) >= DEAD_TIME)
    }

    /// Returns the largest sealed datagram, in bytes.
    pub(super) fn largest(&self) -> usize {
        if self.via == Via::Stream { STREAM_SIZE } else { self.sizes.proven() }
    }

    pub(super) fn is_size_known(&self) -> bool {
        self.via == Via::Stream || self.sizes.is_known()
    }

    /// Returns the share that is lost, in permille. Probes are too few to tell less than [`MUCH_LOSS`].
    pub(super) fn loss(&self) -> u32 {
        let (counted, telling) = self.counts.permille();
        let probed = Some(self.history.permille()).filter(|loss| *loss >= MUCH_LOSS && !telling);
        counted.max(probed.unwrap_or(0))
    }

    pub(super) const fn lossy_since(&self) -> Option<Instant> {
        match &self.lossy {
            Some(lossy) => Some(lossy.since),
            None => None,
        }
    }

    /// Returns what it costs, as if it lost nothing if `clean`; nothing if its delay is unknown.
    pub(super) fn cost(&self, wanted: usize, clean: bool) -> Option<u32> {
        let quality = Quality {
            round_trip: self.round_trip?,
            loss: if clean { 0 } else { self.loss() },
            relays: self.hops.saturating_sub(1),
            stream: self.via == Via::Stream,
            missing: wanted.max(BASE_SIZE).saturating_sub(self.largest()),
        };
        Some(quality.cost())
    }

    /// Returns how it compares with others; the lower, the better. One that loses much, or that nobody gives any more, is
    /// behind all others.
    pub(super) fn rank(&self, wanted: usize) -> Option<(u8, u32)> {
        Some((self.tier(), self.cost(wanted, false)?))
    }

    pub(super) fn tier(&self) -> u8 {
        let withdrawn = !self.given && !matches!(self.via, Via::Direct(_));
        u8::from(self.lossy.is_some()) + 2 * u8::from(withdrawn)
    }

    /// Returns how long a question may take before it counts as lost.
    pub(super) fn patience(&self) -> Duration {
        let time = self.round_trip.map_or(Duration::from_secs(1), |time| 2 * time + Duration::from_millis(200));
        time.clamp(Duration::from_millis(300), Duration::from_millis(1500))
    }

    /// Takes note that it is there after all: an answer, or a datagram of a peer that has moved.
    pub(super) fn handle_life(&mut self, wanted: usize, now: Instant) {
        self.last_answer = Some(now);
        self.unanswered_since = None;
        self.lost_in_row = 0;
        if self.state != CandidateState::Alive {
            self.state = CandidateState::Alive;
            self.since = now;
            self.ready = now + self.flaps.wait(now);
            self.round_trip = None;
            self.history = History::default();
            self.counts = Counts::default();
            self.lossy = None;
            if self.via != Via::Stream {
                self.sizes.restart(wanted, now);
                self.batches.restart(now);
            }
        }
    }

    /// Takes note that a question was answered by which delay is measured. `counted` is what was sent
    /// until it was asked and should have come, and what came; nothing for a way that is not in use.
    pub(super) fn handle_alive(&mut self, question: &Question, counted: Option<(u64, u64)>, now: Instant) {
        let sample = now.saturating_duration_since(question.sent);
        let gap = self.newest_answered.map_or(SMOOTHING, |last| question.sent.saturating_duration_since(last));
        let weight = (gap.as_millis() * 16 / SMOOTHING.as_millis()).clamp(2, 16) as u32;
        self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * (16 - weight) + sample * weight) / 16));
        self.newest_answered = self.newest_answered.max(Some(question.sent));
        self.sizes.handle_small(question.sent);
        self.close_look = self.close_look.saturating_sub(1);
        self.answers_since_better = self.answers_since_better.saturating_add(1);
        self.record(question.is_late(), false);
        if let Some((sent, received)) = counted {
            self.counts.record(sent, received, now);
        }
    }

    fn record(&mut self, late: bool, lost: bool) {
        if late {
            self.history.forgive();
        } else {
            self.history.record(lost);
        }
    }

    /// Takes note that a question was lost by which loss is measured, unless it was asked before the way came back.
    pub(super) fn handle_silence(&mut self, sent: Instant) {
        if self.state == CandidateState::Alive && sent >= self.since {
            self.record(false, true);
            self.close_look = CLOSE_LOOK;
        }
        if self.newest_answered.is_none_or(|answered| sent > answered) {
            self.lost_in_row = self.lost_in_row.saturating_add(1);
        }
    }

    /// Forgets what was counted of another time of use.
    pub(super) fn count_anew(&mut self) {
        self.counts = Counts::default();
    }

    /// Takes note that it is left because it is gone.
    pub(super) fn fall_silent(&mut self, now: Instant) {
        self.state = CandidateState::Silent;
        self.since = now;
        self.flaps.record(now);
        self.better_since = None;
    }

    /// Brings up to date whether it loses much.
    pub(super) fn judge_loss(&mut self, in_use: bool, now: Instant) {
        let loss = self.loss();
        if loss >= MUCH_LOSS {
            self.little_loss_since = None;
            if self.lossy.is_none() {
                let next_trial = now + self.flaps.wait(now).max(TRIAL_PAUSE);
                self.lossy = Some(Lossy { since: now, next_trial, trial: None });
                self.sizes.suspect();
                self.batches.suspect(now);
            }
        } else if in_use && self.lossy.is_some() && loss < LITTLE_LOSS {
            let since = *self.little_loss_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= GOOD_AGAIN {
                self.lossy = None;
            }
        } else {
            self.little_loss_since = None;
        }
    }

    /// Returns when a question of a trial is due.
    pub(super) fn trial_due(&self) -> Option<Instant> {
        let lossy = self.lossy.as_ref().filter(|_| self.is_alive())?;
        match &lossy.trial {
            Some(trial) => (trial.sent < TRIAL).then_some(trial.last + TRIAL_INTERVAL),
            None => Some(lossy.next_trial),
        }
    }

    /// Tells whether a question of a trial is due, which the caller then sends.
    pub(super) fn poll_trial(&mut self, now: Instant) -> bool {
        if self.trial_due().is_none_or(|due| due > now) {
            return false;
        }
        let Some(lossy) = &mut self.lossy else { return false };
        let trial = lossy.trial.get_or_insert(Trial { sent: 0, answered: 0, last: now });
        trial.sent += 1;
        trial.last = now;
        true
    }

    /// Takes what became of a question of a trial: all have to be answered.
    pub(super) fn handle_trial(&mut self, answered: bool, now: Instant) {
        let Some(Lossy { next_trial, trial: Some(trial), .. }) = &mut self.lossy else { return };
        trial.answered += u8::from(answered);
        if !answered {
            self.history.record(true);
            *next_trial = now + self.flaps.wait(now).max(TRIAL_PAUSE);
            self.sizes.suspect();
            if let Some(lossy) = &mut self.lossy {
                lossy.trial = None;
            }
        } else if trial.answered >= TRIAL {
            self.lossy = None;
            self.history = History::default();
            self.counts = Counts::default();
            self.ready = now;
        }
    }
}
