use std::collections::BTreeSet;

use super::*;

const MTU: u16 = 1400;
const SECOND: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(5);
const SALT: [u8; 8] = [7; 8];

/// A way to a peer that answers what passes, on a virtual clock.
struct World {
    way: Way,
    now: Instant,
    small: bool,
    full: bool,
    batches: bool,
    round_trip: Duration,
    /// Each so manieth full frame is lost; 0 for none.
    every: u64,
    asked: u64,
    answers: BTreeSet<(Instant, [u8; 16])>,
    changes: u64,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
    fn new() -> Self {
        let now = Instant::now();
        Self {
            way: Way::new(MTU, SALT, now),
            now,
            small: true,
            full: true,
            batches: true,
            round_trip: Duration::from_millis(1),
            every: 0,
            asked: 0,
            answers: BTreeSet::new(),
            changes: 0,
        }
    }

    fn cut(&mut self) {
        (self.small, self.full, self.batches) = (false, false, false);
    }

    fn heal(&mut self) {
        (self.small, self.full, self.batches) = (true, true, true);
    }

    fn run(&mut self, time: Duration) {
        self.until(time, |_| false);
    }

    /// Lets time pass until something is so, and tells whether it is.
    fn until(&mut self, time: Duration, is_so: impl Fn(&Way) -> bool) -> bool {
        let end = self.now + time;
        while !is_so(&self.way) {
            if self.now >= end {
                return false;
            }
            self.now += TICK;
            self.tick();
        }
        true
    }

    fn tick(&mut self) {
        let before = self.way.is_used();
        while self.answers.first().is_some_and(|(at, _)| *at <= self.now) {
            let Some((_, token)) = self.answers.pop_first() else { break };
            self.way.handle_answer(token, self.now);
        }
        if self.way.poll_timeout() <= self.now {
            self.way.handle_timeout(self.now);
            let mut requests = 0;
            while let Some(request) = self.way.poll_request(self.now) {
                requests += 1;
                assert!(requests < 10, "it never ends");
                self.answer(request);
            }
            assert!(self.way.poll_timeout() > self.now, "it would never sleep");
        }
        self.changes += u64::from(self.way.is_used() != before);
    }

    fn answer(&mut self, request: Request) {
        self.asked += 1;
        let lost = request.kind == Kind::Full && self.every > 0 && self.asked.is_multiple_of(self.every);
        let passes = match request.kind {
            Kind::Small => self.small,
            Kind::Full => self.full && !lost,
            Kind::Batch => self.batches,
        };
        if passes {
            self.answers.insert((self.now + self.round_trip, request.token));
        }
    }
}

#[test]
fn it_is_used_when_full_frames_and_a_batch_have_passed_and_watched_sparingly() {
    let mut world = World::new();
    assert_eq!(world.way.fault(), Some(Fault::Untried));
    assert!(world.until(SECOND, Way::is_used));
    assert_eq!((world.way.fault(), world.way.batches_work()), (None, true));
    assert!(world.asked > u64::from(PROOFS));
    world.asked = 0;
    world.run(60 * SECOND);
    assert!(world.asked <= 75, "{} questions in a minute", world.asked);
    assert_eq!(world.changes, 1);
}

#[test]
fn a_way_that_dies_is_left_within_three_seconds_and_back_within_ten_of_its_return() {
    for outage in [1, 3, 20, 100] {
        let mut world = World::new();
        world.run(10 * SECOND);
        for round in 0..6 {
            assert!(world.way.is_used());
            world.cut();
            assert!(world.until(3 * SECOND, |way| !way.is_used()), "left in time");
            assert_eq!(world.way.fault(), Some(Fault::NoAnswer));
            world.run(outage * SECOND);
            world.heal();
            assert!(world.until(10 * SECOND, Way::is_used), "back in time, round {round}");
            world.run(SECOND / 3 * round);
        }
    }
}

#[test]
fn an_underlay_that_became_narrow_is_left_and_says_why() {
    let mut world = World::new();
    world.run(10 * SECOND);
    world.full = false;
    world.batches = false;
    assert!(world.until(3 * SECOND, |way| !way.is_used()));
    world.run(20 * SECOND);
    assert_eq!(world.way.fault(), Some(Fault::Narrow { mtu: MTU }));
    world.heal();
    assert!(world.until(10 * SECOND, Way::is_used));
}

#[test]
fn a_way_that_never_carried_full_frames_is_never_used() {
    let mut world = World::new();
    world.full = false;
    world.batches = false;
    world.run(60 * SECOND);
    assert_eq!((world.changes, world.way.fault()), (0, Some(Fault::Narrow { mtu: MTU })));
}

#[test]
fn a_way_that_breaks_batches_is_not_used() {
    let mut world = World::new();
    world.batches = false;
    world.run(60 * SECOND);
    assert_eq!((world.changes, world.way.fault()), (0, Some(Fault::Batches)));
    world.heal();
    assert!(world.until(10 * SECOND, Way::is_used));
    world.batches = false;
    assert!(world.until(10 * SECOND, |way| !way.is_used()), "noticed while in use too");
    assert_eq!(world.way.fault(), Some(Fault::Batches));
}

#[test]
fn a_lost_question_now_and_then_changes_nothing() {
    let mut world = World::new();
    world.run(10 * SECOND);
    world.every = 7;
    world.run(300 * SECOND);
    assert_eq!((world.way.is_used(), world.changes), (true, 1));
}

#[test]
fn a_way_that_comes_and_goes_waits_and_says_so() {
    let mut world = World::new();
    world.run(5 * SECOND);
    for _ in 0..4 {
        world.cut();
        world.run(3 * SECOND);
        world.heal();
        assert!(world.until(10 * SECOND, Way::is_used));
    }
    world.cut();
    world.run(3 * SECOND);
    world.heal();
    world.run(4 * SECOND);
    assert_eq!(world.way.fault(), Some(Fault::Flapped { times: 5 }));
}

#[test]
fn slow_ways_are_not_taken_for_dead() {
    let mut world = World::new();
    world.round_trip = Duration::from_millis(900);
    world.run(60 * SECOND);
    assert_eq!((world.way.is_used(), world.changes), (true, 1));
}

#[test]
fn who_was_not_asked_proves_nothing() {
    let mut world = World::new();
    world.cut();
    for number in 0..200u64 {
        let mut token = [0; 16];
        token[..8].copy_from_slice(&number.to_be_bytes());
        world.way.handle_answer(token, world.now);
        world.run(TICK);
    }
    assert!(!world.way.is_used());
    assert_eq!(world.way.round_trip(), None);
}
