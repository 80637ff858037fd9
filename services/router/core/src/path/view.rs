//! What people are told of each way: whether it works, and why it is not the one in use.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{Paths, Via, candidate::Candidate, candidate::CandidateState, cost::margin};

/// One way to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CandidateView {
    /// The way.
    pub via: Via,
    /// Whether it answers.
    pub state: CandidateState,
    /// Smoothed, from question to answer; of the last time that it answered.
    pub round_trip: Option<Duration>,
    /// Datagrams lost lately, in permille.
    pub loss: u16,
    /// The largest sealed datagram that is known to pass, in bytes.
    pub largest: usize,
    /// Whether batches pass that one send cuts into datagrams.
    pub batched: bool,
    /// Why it is not used, and since when that is so; nothing for the one in use.
    pub unused: Option<(Unused, Instant)>,
}

/// Why a way is not the one in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unused {
    /// It does not answer, or not yet.
    NoAnswer {
        /// The way.
        via: Via,
    },
    /// It loses much.
    Loses {
        /// Of datagrams.
        permille: u16,
    },
    /// It was lost too lately to be trusted again.
    Flapped {
        /// How often in the last minute.
        times: usize,
    },
    /// Its delay is longer.
    Slower {
        /// Its own.
        round_trip: Duration,
        /// Of the one in use.
        in_use: Duration,
    },
    /// It is narrower.
    Narrow {
        /// What it carries at most.
        bytes: usize,
    },
    /// It needs more hosts.
    MoreHops {
        /// Links of the whole way.
        hops: u8,
    },
    /// It is inside a TCP connection.
    Stream,
    /// No other peer offers it any more.
    Withdrawn,
    /// It has just proved better.
    JustBetter,
    /// It is not better by enough to be worth a change.
    Equal,
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer { via: Via::Direct(_) } => f.write_str("no answer to UDP probes"),
            Self::NoAnswer { via: Via::Relay(peer) } => write!(f, "no answer to probes over {peer}"),
            Self::NoAnswer { via: Via::Stream } => f.write_str("no answer to probes inside the control connection"),
            Self::Loses { permille } if *permille < 10 => f.write_str("loses less than 1 % of datagrams"),
            Self::Loses { permille } => write!(f, "loses {} % of datagrams", permille / 10),
            Self::Flapped { times: 1 } => f.write_str("was lost once in the last minute"),
            Self::Flapped { times } => write!(f, "was lost {times} times in the last minute"),
            Self::Slower { round_trip, in_use } => {
                write!(f, "slower: {} instead of {}", Millis(*round_trip), Millis(*in_use))
            }
            Self::Narrow { bytes } => write!(f, "carries at most {bytes} bytes"),
            Self::MoreHops { hops } => write!(f, "needs {hops} hops"),
            Self::Stream => f.write_str("inside a TCP connection, which slows datagrams down"),
            Self::Withdrawn => f.write_str("no route leads over it any more"),
            Self::JustBetter => f.write_str("has only just become better"),
            Self::Equal => f.write_str("not better by enough to be worth a change"),
        }
    }
}

struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros >= 10_000 {
            write!(f, "{} ms", (micros + 500) / 1000)
        } else {
            write!(f, "{}.{} ms", micros / 1000, micros % 1000 / 100)
        }
    }
}

impl Paths {
    /// Lists all ways, with the reason why each is not the one in use.
    pub fn candidates(&self) -> impl Iterator<Item = CandidateView> {
        self.candidates.iter().map(|candidate| CandidateView {
            via: candidate.via,
            state: candidate.state,
            round_trip: candidate.round_trip,
            loss: candidate.loss() as u16,
            largest: candidate.largest(),
            batched: candidate.batches.work(),
            unused: self.unused(candidate),
        })
    }

    fn unused(&self, candidate: &Candidate) -> Option<(Unused, Instant)> {
        let active = self.active_candidate();
        if active.is_some_and(|active| active.id == candidate.id) {
            return None;
        }
        let no_answer = Unused::NoAnswer { via: candidate.via };
        let Some(active) = active.filter(|_| candidate.is_alive()) else { return Some((no_answer, candidate.since)) };
        let since = candidate.since.max(self.active_since);
        let wanted = self.wanted;
        let (Some(cost), Some(present)) = (candidate.cost(wanted, false), active.cost(wanted, false)) else {
            return Some((no_answer, candidate.since));
        };
        if let Some(lossy) = candidate.lossy_since() {
            return Some((Unused::Loses { permille: candidate.loss() as u16 }, lossy));
        }
        if candidate.tier() > 0 {
            return Some((Unused::Withdrawn, since));
        }
        if cost.saturating_add(margin(present)) < present || active.tier() > 0 {
            let times = candidate.flaps.count(self.now);
            let waits = candidate.ready > self.now && times > 0;
            let since = candidate.better_since.unwrap_or(since);
            return Some((if waits { Unused::Flapped { times } } else { Unused::JustBetter }, since));
        }
        Some((self.weakness(candidate, active, cost < present), since))
    }

    /// Finds out which property makes the way no better than the one in use.
    fn weakness(&self, candidate: &Candidate, active: &Candidate, cheaper: bool) -> Unused {
        let of = |candidate: &Candidate| candidate.round_trip.unwrap_or_default();
        let (round_trip, in_use) = (of(candidate), of(active));
        let hops = candidate.hops;
        if cheaper {
            Unused::Equal
        } else if round_trip > in_use + in_use / 4 && round_trip > in_use + Duration::from_millis(1) {
            Unused::Slower { round_trip, in_use }
        } else if candidate.via == Via::Stream && active.via != Via::Stream {
            Unused::Stream
        } else if hops > active.hops {
            Unused::MoreHops { hops }
        } else if candidate.largest() < active.largest().min(self.wanted) {
            Unused::Narrow { bytes: candidate.largest() }
        } else if candidate.loss() > active.loss() {
            Unused::Loses { permille: candidate.loss() as u16 }
        } else {
            Unused::Equal
        }
    }
}
