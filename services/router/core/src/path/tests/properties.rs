//! What holds whatever is done to [`Paths`].

use proptest::prelude::*;

use super::{network::*, *};

#[derive(Debug, Clone)]
enum Step {
    Endpoints(Vec<u8>),
    Relays(Vec<(u8, u8)>),
    Stream(bool),
    Wanted(usize),
    Busy(bool),
    Way(u8, Option<(u64, usize, u64, bool)>),
    Source(u8, bool),
    Sent(u8, u64),
    Answer([u8; 16], u64),
    Refused(u8, usize),
    KeysLost,
    Restart,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Step::*;
    let way = prop::option::weighted(0.7, (1..800u64, 1056..1500usize, prop_oneof![Just(0), 2..9u64], any::<bool>()));
    let step = prop_oneof![
        2 => prop::collection::vec(0..6u8, 0..5).prop_map(Endpoints),
        2 => prop::collection::vec((0..4u8, 2..5u8), 0..4).prop_map(Relays),
        1 => any::<bool>().prop_map(Stream),
        1 => (0..9000usize).prop_map(Wanted),
        1 => any::<bool>().prop_map(Busy),
        6 => (0..11u8, way).prop_map(|(via, way)| Way(via, way)),
        1 => (0..9u8, any::<bool>()).prop_map(|(source, newest)| Source(source, newest)),
        1 => (0..11u8, any::<u64>()).prop_map(|(via, sent)| Sent(via, sent)),
        1 => any::<([u8; 16], u64)>().prop_map(|(token, received)| Answer(token, received)),
        1 => (0..11u8, 0..9000usize).prop_map(|(via, bytes)| Refused(via, bytes)),
        1 => Just(KeysLost),
        1 => Just(Restart),
        6 => (0..8000u64).prop_map(Pass),
    ];
    prop::collection::vec(step, 1..40)
}

fn via(number: u8) -> Via {
    match number {
        0..=5 => endpoint(number),
        6..=9 => relay(number - 6),
        _ => Via::Stream,
    }
}

fn apply(world: &mut World, step: Step) {
    let now = world.now;
    match step {
        Step::Endpoints(all) => {
            world.paths.set_endpoints(&all.into_iter().map(address).collect::<Vec<_>>(), now);
        }
        Step::Relays(all) => {
            let all: Vec<_> = all.into_iter().map(|(number, hops)| (peer(number), hops)).collect();
            world.paths.set_relays(&all, now);
        }
        Step::Stream(connected) => world.paths.set_stream(connected, now),
        Step::Wanted(bytes) => world.paths.set_wanted(bytes),
        Step::Busy(busy) => {
            world.paths.set_busy(busy);
            world.rate = if busy { 200 } else { 0 };
        }
        Step::Way(number, None) => world.remove(via(number)),
        Step::Way(number, Some((millis, largest, every, batches))) => {
            world.set(via(number), Way { largest, every, batches, ..Way::millis(millis) });
        }
        Step::Source(source, newest) => world.paths.handle_source(endpoint(source), newest, now),
        Step::Sent(number, datagrams) => world.paths.handle_sent(via(number), datagrams),
        Step::Answer(token, received) => world.paths.handle_answer(token, received, now),
        Step::Refused(number, bytes) => world.paths.handle_refused(via(number), bytes),
        Step::KeysLost => world.paths.handle_keys_lost(now),
        Step::Restart => world.paths.restart(now),
        Step::Pass(millis) => world.run(Duration::from_millis(millis)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Nothing panics, loops or grows; what is reported last is what is; a way that works is found in time.
    #[test]
    fn whatever_happens_a_way_that_works_is_found(steps in steps()) {
        let mut world = World::new(&[]);
        for step in steps {
            apply(&mut world, step);
            prop_assert!(world.paths.candidates().count() <= ENDPOINTS + LEARNED + 1 + 2 * RELAYS + 2);
        }
        world.ways.insert(endpoint(5), Way::millis(3));
        world.paths.set_endpoints(&[address(5)], world.now);
        world.run(4 * SECOND);
        let choice = world.paths.choice();
        prop_assert!(choice.is_some_and(|choice| world.ways.contains_key(&choice.via)), "{choice:?}");
        let last = world.events.last();
        let reported = matches!(last, Some(PathEvent::Up { via, .. }) if Some(*via) == up(&world));
        prop_assert!(reported, "{last:?}");
    }
}
