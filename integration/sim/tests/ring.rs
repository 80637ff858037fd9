//! The address ring under trouble, over many seeds.
//!
//! `WEFT_SIM_SEEDS=n` runs that many seeds, `WEFT_SIM_SEED=n` that one alone. A failing seed is named in the failure.

use weft_sim::ring::{Founding, Scenario, World, run};

#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

fn seeds(default: u64) -> Vec<u64> {
    match number("WEFT_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("WEFT_SIM_SEEDS").unwrap_or(default)).collect(),
    }
}

#[test]
fn no_address_is_held_twice_and_nobody_waits_for_ever() {
    let mut granted = 0;
    let mut crashes = 0;
    for seed in seeds(300) {
        let scenario = Scenario::from_seed(seed);
        match run(&scenario, seed) {
            Ok(summary) => {
                granted += summary.granted;
                crashes += summary.crashes;
            }
            Err(violation) => panic!("WEFT_SIM_SEED={seed} replays it: {violation}\n{scenario:?}"),
        }
    }
    println!("{granted} addresses were given, {crashes} processes died");
}

fn scenario(hosts: usize, prefix_length: u8, founding: Founding) -> Scenario {
    Scenario { hosts, prefix_length, founding, seconds: 10, request_millis: 50, loss_percent: 0, fault_millis: 0 }
}

#[test]
fn seven_peers_elect_one_ring_however_their_votes_split() {
    for seed in seeds(40) {
        for founding in [Founding::Everybody, Founding::Voters] {
            let scenario = Scenario { loss_percent: 30, fault_millis: 300, seconds: 6, ..scenario(7, 24, founding) };
            run(&scenario, seed).unwrap_or_else(|violation| panic!("WEFT_SIM_SEED={seed}: {violation}"));
        }
    }
}

#[test]
fn the_smallest_ranges_are_used_to_their_last_address() {
    for seed in seeds(40) {
        for prefix_length in [28, 29, 30] {
            let scenario = scenario(3, prefix_length, Founding::Star);
            let summary = run(&scenario, seed).unwrap_or_else(|violation| panic!("WEFT_SIM_SEED={seed}: {violation}"));
            assert!(summary.granted > 0 && summary.refused > 0, "WEFT_SIM_SEED={seed}: {summary:?}");
        }
    }
}

#[test]
fn two_rings_that_meet_stay_apart_and_say_so() {
    for seed in seeds(10) {
        let mut world = World::new(scenario(2, 24, Founding::TwoFounders), seed);
        world.run_trouble().unwrap_or_else(|violation| panic!("WEFT_SIM_SEED={seed}: {violation}"));
        let ids = world.ring_ids();
        if ids[0] == ids[1] {
            // One started late enough to take the other's.
            continue;
        }
        for host in 0..2 {
            let problems = world.problems(host);
            let id = ids[1 - host].expect("it founded one").to_string();
            assert!(problems.iter().any(|problem| problem.contains(&id) && problem.contains("remove")), "{problems:?}");
        }
    }
}

#[test]
fn a_run_is_the_same_each_time() {
    let scenario = Scenario::from_seed(7);
    assert_eq!(run(&scenario, 7), run(&scenario, 7));
}
