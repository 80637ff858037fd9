//! The way to one trusted peer: used when full frames and batches have proved to pass both ways, left when they do not.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use crate::path::damping::Flaps;

/// Between questions while nothing answers, and on a way in use.
const INTERVAL: Duration = Duration::from_secs(1);
/// Between questions while the way is proven, and after one got lost.
const CLOSE: Duration = Duration::from_millis(200);
/// Between batches on a way in use, and after three that were lost.
const BATCH_INTERVAL: Duration = Duration::from_secs(5);
/// Full frames that must be answered one after the other before a way is used.
const PROOFS: u8 = 3;
/// Lost ones, one after the other, that end it.
const LOST: u8 = 3;
/// The shortest and the longest time that an answer may take.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(1500));
/// Questions that may be answered; older ones are forgotten.
const OUTSTANDING: usize = 64;

/// What a question consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A frame as small as can be, answered by such a one: tells a way that is narrow from one that is closed.
    Small,
    /// A frame as large as the mesh has, answered by such a one.
    Full,
    /// A batch that the kernel or the network device cuts, answered by a small frame when all of it came intact.
    Batch,
}

/// A question to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What the answer returns.
    pub token: [u8; 16],
    /// What it consists of.
    pub kind: Kind,
}

/// Why a way is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It has not been tried for long enough to tell.
    Untried,
    /// Nothing is answered.
    NoAnswer,
    /// Small frames pass, full ones do not.
    Narrow {
        /// Bytes of a full packet.
        mtu: u16,
    },
    /// Frames pass, batches do not.
    Batches,
    /// It was left too lately to be trusted again.
    Flapped {
        /// How often in the last minute.
        times: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untried => f.write_str("is being proven"),
            Self::NoAnswer => f.write_str("no answer to probes by VXLAN (UDP port 6784)"),
            Self::Narrow { mtu } => write!(f, "packets of {mtu} bytes do not pass by VXLAN, smaller ones do"),
            Self::Batches => {
                f.write_str("batches do not arrive intact by VXLAN: a device on the way computes checksums wrong")
            }
            Self::Flapped { times: 1 } => f.write_str("was lost once in the last minute"),
            Self::Flapped { times } => write!(f, "was lost {times} times in the last minute"),
        }
    }
}

#[derive(Debug)]
struct Question {
    number: u64,
    kind: Kind,
    sent: Instant,
    deadline: Instant,
}

/// The way to one trusted peer.
#[derive(Debug)]
pub struct Way {
    now: Instant,
    mtu: u16,
    /// Part of all tokens, so that nobody answers who was not asked.
    salt: [u8; 8],
    next: u64,
    questions: VecDeque<Question>,
    requests: VecDeque<Request>,
    frame_due: Instant,
    batch_due: Instant,
    /// When the newest full frame was sent that was answered.
    answered: Option<Instant>,
    answered_in_row: u8,
    lost_in_row: u8,
    small_heard: bool,
    batches_work: bool,
    batches_lost: u8,
    used: bool,
    ready: Instant,
    flaps: Flaps,
    fault: Fault,
    round_trip: Option<Duration>,
}

impl Way {
    /// Starts without any proof. `mtu` is that of the mesh, in bytes; `salt` nobody can guess.
    #[must_use]
    pub fn new(mtu: u16, salt: [u8; 8], now: Instant) -> Self {
        Self {
            now,
            mtu,
            salt,
            next: 0,
            questions: VecDeque::new(),
            requests: VecDeque::new(),
            frame_due: now,
            batch_due: now,
            answered: None,
            answered_in_row: 0,
            lost_in_row: 0,
            small_heard: false,
            batches_work: false,
            batches_lost: 0,
            used: false,
            ready: now,
            flaps: Flaps::default(),
            fault: Fault::Untried,
            round_trip: None,
        }
    }

    /// Tells whether frames should go there.
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.used
    }

    /// Returns why it is not used; nothing while it is.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        let times = self.flaps.count(self.now);
        match () {
            () if self.used => None,
            () if self.is_proven() && times > 0 => Some(Fault::Flapped { times }),
            () => Some(self.fault),
        }
    }

    /// Returns the smoothed time from question to answer.
    #[must_use]
    pub const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Tells whether batches were proven.
    #[must_use]
    pub const fn batches_work(&self) -> bool {
        self.batches_work
    }

    fn is_proven(&self) -> bool {
        self.answered_in_row >= PROOFS && self.lost_in_row == 0 && self.batches_work
    }

    /// Takes an answer, by the token of its question.
    pub fn handle_answer(&mut self, token: [u8; 16], now: Instant) {
        self.now = self.now.max(now);
        let (number, salt) = token.split_at(8);
        let number = number.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        let place = self.questions.iter().position(|question| Some(question.number) == number);
        let Some(question) = place.filter(|_| salt == self.salt).and_then(|place| self.questions.remove(place)) else {
            return;
        };
        match question.kind {
            Kind::Small => self.small_heard = true,
            Kind::Full => self.handle_full(question.sent),
            Kind::Batch => {
                self.batches_work = true;
                self.batches_lost = 0;
                self.batch_due = self.now + BATCH_INTERVAL;
            }
        }
        self.decide();
    }

    fn handle_full(&mut self, sent: Instant) {
        let sample = self.now.saturating_duration_since(sent);
        self.round_trip = Some(self.round_trip.map_or(sample, |old| (old * 7 + sample) / 8));
        if self.answered_in_row == 0 && !self.used {
            let wait = self.flaps.wait(self.now);
            self.ready = self.now + wait;
            self.frame_due = self.frame_due.min(sent + CLOSE);
        }
        self.answered = self.answered.max(Some(sent));
        self.answered_in_row = self.answered_in_row.saturating_add(1);
        self.lost_in_row = 0;
    }

    /// Lets time pass: questions get lost.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while let Some(place) = self.questions.iter().position(|question| question.deadline <= self.now) {
            let Some(question) = self.questions.remove(place) else { break };
            match question.kind {
                Kind::Small => self.small_heard = false,
                Kind::Full => {
                    self.answered_in_row = 0;
                    self.lost_in_row = self.lost_in_row.saturating_add(1);
                    self.frame_due = self.frame_due.min(question.sent + CLOSE);
                }
                // Without a full frame that passed after it, whatever took it says nothing about batches.
                Kind::Batch => {
                    self.batches_lost += u8::from(self.answered >= Some(question.sent));
                    self.frame_due = self.now;
                    let failed = self.batches_lost >= LOST;
                    self.batches_work &= !failed;
                    self.batch_due = if failed { self.now + BATCH_INTERVAL } else { self.now };
                }
            }
        }
        self.decide();
    }

    fn decide(&mut self) {
        let gone = self.lost_in_row >= LOST;
        let broken = self.batches_lost >= LOST;
        if gone {
            self.fault = if self.small_heard { Fault::Narrow { mtu: self.mtu } } else { Fault::NoAnswer };
        } else if broken {
            self.fault = Fault::Batches;
        }
        if self.used && (gone || broken) {
            self.used = false;
            self.flaps.record(self.now);
            // All has to be proven anew.
            self.answered_in_row = 0;
            self.batches_work = false;
            self.batch_due = self.now;
        } else if !self.used && self.is_proven() && self.now >= self.ready {
            self.used = true;
            self.fault = Fault::Untried;
        }
        if self.batches_lost >= LOST {
            // Counted from here on again.
            self.batches_lost = 0;
        }
    }

    /// Returns a question that is due.
    pub fn poll_request(&mut self, now: Instant) -> Option<Request> {
        self.now = self.now.max(now);
        if self.frame_due <= self.now {
            let proving = self.answered_in_row > 0 && self.answered_in_row < PROOFS && !self.used;
            let doubtful = self.lost_in_row > 0 && self.lost_in_row < LOST;
            self.frame_due = self.now + if proving || doubtful { CLOSE } else { INTERVAL };
            // The small one goes before it, so that it is known when the full one is lost.
            if self.answered_in_row == 0 {
                self.ask(Kind::Small);
            }
            self.ask(Kind::Full);
        }
        if self.batch_due <= self.now && self.answered_in_row > 0 && self.lost_in_row == 0 && !self.asks_batch() {
            self.ask(Kind::Batch);
        }
        self.requests.pop_front()
    }

    fn asks_batch(&self) -> bool {
        self.questions.iter().any(|question| question.kind == Kind::Batch)
    }

    fn ask(&mut self, kind: Kind) {
        if self.questions.len() == OUTSTANDING {
            self.questions.pop_front();
        }
        let mut token = [0; 16];
        token[..8].copy_from_slice(&self.next.to_be_bytes());
        token[8..].copy_from_slice(&self.salt);
        let deadline = self.now + patience(self.round_trip);
        self.questions.push_back(Question { number: self.next, kind, sent: self.now, deadline });
        self.requests.push_back(Request { token, kind });
        self.next += 1;
    }

    /// Returns when [`Way::handle_timeout`] and [`Way::poll_request`] are due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let deadlines = self.questions.iter().map(|question| question.deadline);
        let batch = (self.answered_in_row > 0 && self.lost_in_row == 0 && !self.asks_batch()).then_some(self.batch_due);
        let ready = (!self.used && self.is_proven()).then_some(self.ready);
        deadlines.chain(batch).chain(ready).fold(self.frame_due, Instant::min)
    }
}

/// Returns how long an answer may take before it counts as lost.
fn patience(round_trip: Option<Duration>) -> Duration {
    let (shortest, longest) = PATIENCE;
    round_trip.map_or(longest, |time| 2 * time + Duration::from_millis(200)).clamp(shortest, longest)
}

#[cfg(test)]
mod tests;
