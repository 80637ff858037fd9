use super::*;

/// Endpoints that answer, on a virtual clock.
struct World {
    paths: Paths,
    start: Instant,
    now: Instant,
    answering: Vec<SocketAddr>,
    probes: usize,
}

#[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
fn world(answering: &[SocketAddr]) -> World {
    let now = Instant::now();
    World { paths: Paths::new(now), start: now, now, answering: answering.to_vec(), probes: 0 }
}

impl World {
    fn run(&mut self, time: Duration) -> Vec<PathEvent> {
        let end = self.now + time;
        let mut events = Vec::new();
        while let Some(next) = self.paths.poll_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.paths.handle_timeout(self.now);
            while let Some(probe) = self.paths.poll_probe(self.now) {
                self.probes += 1;
                if self.answering.contains(&probe.endpoint) {
                    self.paths.handle_answer(probe.token, self.now + Duration::from_millis(1));
                }
            }
            while let Some(event) = self.paths.poll_event() {
                events.push(event);
            }
        }
        self.now = end;
        events
    }
}

fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 6783))
}

const SECOND: Duration = Duration::from_secs(1);

fn up(last: u8) -> PathEvent {
    PathEvent::Up { endpoint: endpoint(last), round_trip: Duration::from_millis(1) }
}

#[test]
fn the_candidate_that_answers_is_used_and_probed_sparingly() {
    let mut world = world(&[endpoint(2)]);
    world.paths.set_endpoints(&[endpoint(1), endpoint(2)], world.now);
    assert_eq!(world.run(SECOND), [up(2)]);
    world.probes = 0;
    assert_eq!(world.run(60 * SECOND), []);
    assert!(world.probes <= 70, "{} probes in a minute", world.probes);
}

#[test]
fn nobody_answering_is_reported_once() {
    let mut world = world(&[]);
    world.paths.set_endpoints(&[endpoint(1)], world.now);
    assert_eq!(world.run(60 * SECOND), [PathEvent::Down { endpoint: Some(endpoint(1)) }]);
    world.answering = vec![endpoint(1)];
    assert_eq!(world.run(2 * SECOND), [up(1)]);
}

#[test]
fn a_dead_path_is_noticed_within_the_dead_time_and_replaced_earlier() {
    let mut world = world(&[endpoint(1)]);
    world.paths.set_endpoints(&[endpoint(1), endpoint(2)], world.now);
    assert_eq!(world.run(5 * SECOND), [up(1)]);
    world.answering = vec![endpoint(2)];
    assert_eq!(world.run(DEAD_TIME), [up(2)]);
    world.answering.clear();
    assert_eq!(world.run(DEAD_TIME), [PathEvent::Down { endpoint: Some(endpoint(2)) }]);
}

#[test]
fn a_peer_that_moves_is_followed_at_its_first_frame() {
    let mut world = world(&[endpoint(1)]);
    world.paths.set_endpoints(&[endpoint(1)], world.now);
    world.run(SECOND);
    world.paths.handle_source(endpoint(9), false, world.now);
    assert_eq!(world.paths.endpoint(), Some(endpoint(1)), "an old or empty datagram moves nobody");
    world.paths.handle_source(endpoint(8), true, world.now);
    assert_eq!(world.paths.endpoint(), Some(endpoint(8)));
    world.answering = vec![endpoint(8)];
    world.run(10 * SECOND);
    assert_eq!(world.paths.endpoint(), Some(endpoint(8)));
}

#[test]
fn what_is_learnt_stays_bounded() {
    let mut world = world(&[]);
    for last in 0..200 {
        world.paths.handle_source(endpoint(last), true, world.now);
    }
    assert!(world.paths.candidates.len() <= LEARNED + 1);
    assert!(world.paths.poll_timeout().is_some_and(|next| next >= world.start));
}

#[test]
fn a_path_without_keys_is_down_and_comes_back() {
    let mut world = world(&[endpoint(1)]);
    world.paths.set_endpoints(&[endpoint(1)], world.now);
    world.run(Duration::from_secs(2));
    assert_eq!(world.paths.endpoint(), Some(endpoint(1)));
    world.paths.handle_keys_lost(world.now);
    assert_eq!(world.paths.endpoint(), None);
    assert_eq!(world.paths.poll_event(), Some(PathEvent::Down { endpoint: Some(endpoint(1)) }));
    world.paths.restart(world.now);
    let events = world.run(Duration::from_secs(1));
    assert!(matches!(events[..], [PathEvent::Up { .. }]), "{events:?}");
}
