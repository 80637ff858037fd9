//! Ways that answer, on a virtual clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{address, peer};
use crate::path::{BASE_SIZE, PathEvent, Paths, ProbeRequest, Via};

pub(super) const SECOND: Duration = Duration::from_secs(1);
/// How often time passes.
const TICK: Duration = Duration::from_millis(5);

/// What a way does with datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) round_trip: Duration,
    /// The largest that pass.
    pub(super) largest: usize,
    pub(super) batches: bool,
    /// Every so manieth probe is lost; 0: none.
    pub(super) every: u64,
    /// Share of data, but not of probes, that is lost.
    pub(super) data_loss: u64,
}

impl Way {
    pub(super) const fn millis(millis: u64) -> Self {
        let round_trip = Duration::from_millis(millis);
        Self { round_trip, largest: 9000, batches: true, every: 0, data_loss: 0 }
    }
}

pub(super) struct World {
    pub(super) paths: Paths,
    pub(super) now: Instant,
    pub(super) ways: BTreeMap<Via, Way>,
    /// Questions that were sent, batches as one.
    pub(super) probes: u64,
    /// All but changes of the way in use.
    pub(super) events: Vec<PathEvent>,
    pub(super) changes: u64,
    /// Datagrams that are sent each second, as large as may be and in batches where these are used.
    pub(super) rate: u64,
    sent: u64,
    pub(super) received: BTreeMap<Via, u64>,
    answers: BTreeSet<(Instant, [u8; 16], u64)>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
    pub(super) fn new(ways: &[(Via, Way)]) -> Self {
        let now = Instant::now();
        Self {
            paths: Paths::new(now),
            now,
            ways: ways.iter().copied().collect(),
            probes: 0,
            events: Vec::new(),
            changes: 0,
            rate: 0,
            sent: 0,
            received: BTreeMap::new(),
            answers: BTreeSet::new(),
        }
    }

    pub(super) fn set(&mut self, via: Via, way: Way) {
        self.ways.insert(via, way);
    }

    pub(super) fn remove(&mut self, via: Via) {
        self.ways.remove(&via);
    }

    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until something is so, and tells whether it is.
    pub(super) fn run_until(&mut self, time: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        while !is_so(self) {
            if self.now >= end {
                return false;
            }
            self.now += TICK;
            self.tick();
        }
        true
    }

    fn tick(&mut self) {
        while self.answers.first().is_some_and(|(at, ..)| *at <= self.now) {
            let Some((at, token, received)) = self.answers.pop_first() else { break };
            self.paths.handle_answer(token, received, at);
        }
        if self.rate > 0 {
            self.send_data();
        }
        if self.paths.poll_timeout().is_some_and(|due| due <= self.now) {
            self.paths.handle_timeout(self.now);
            let mut probes = Vec::new();
            while let Some(probe) = self.paths.poll_probe(self.now) {
                probes.push(probe);
                assert!(probes.len() < 100, "it never ends");
            }
            probes.into_iter().for_each(|probe| self.answer(probe));
        }
        while let Some(event) = self.paths.poll_event() {
            match event {
                PathEvent::Up { .. } | PathEvent::Down { .. } => self.events.push(event),
                PathEvent::Changed => self.changes += 1,
            }
        }
    }

    fn send_data(&mut self) {
        let each = SECOND.as_millis() as u64 / TICK.as_millis() as u64;
        self.sent += 1;
        let count = self.rate * self.sent / each - self.rate * (self.sent - 1) / each;
        let Some(choice) = self.paths.choice() else { return };
        self.paths.handle_sent(choice.via, count);
        if let Some(way) = self.ways.get(&choice.via) {
            let broken = (choice.batched && !way.batches) || choice.largest > way.largest.max(BASE_SIZE);
            for number in 0..count {
                let lost = broken || (self.sent * count + number) * 37 % 100 < way.data_loss;
                *self.received.entry(choice.via).or_default() += u64::from(!lost);
            }
        }
    }

    fn answer(&mut self, probe: ProbeRequest) {
        self.probes += 1;
        self.paths.handle_sent(probe.via, probe.count.into());
        let Some(way) = self.ways.get(&probe.via) else { return };
        let lost = way.every > 0 && self.probes.is_multiple_of(way.every);
        if lost || probe.size > way.largest || (probe.count > 1 && !way.batches) {
            return;
        }
        let received = self.received.entry(probe.via).or_default();
        let (number, rest) = probe.token.split_first_chunk::<8>().expect("it has 16 bytes");
        for number in (u64::from_be_bytes(*number)..).take(probe.count.into()) {
            *received += 1;
            let token = [&number.to_be_bytes(), rest].concat().try_into().expect("it has 16 bytes");
            self.answers.insert((self.now + way.round_trip, token, *received));
        }
    }
}

pub(super) fn endpoint(last: u8) -> Via {
    Via::Direct(address(last))
}

pub(super) fn relay(number: u8) -> Via {
    Via::Relay(peer(number))
}
