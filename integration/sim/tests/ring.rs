//! The address ring under trouble, over many seeds.
//!
//! `weft_sim::seeds` says which; a failing seed is named in the failure.

use weft_sim::{
    ring::{Founding, Scenario, Summary, Violation, World, run},
    run_seeds, seeds,
};

#[test]
fn no_address_is_held_twice_and_nobody_waits_for_ever() {
    let seeds = seeds(300);
    let results: Vec<(u64, Result<Summary, Violation>)> =
        run_seeds(&seeds, |seed| run(&Scenario::from_seed(seed), seed));
    let mut granted = 0;
    let mut crashes = 0;
    for (seed, result) in results {
        let replay = || format!("WEFT_SIM_SEED={seed} replays it: {:?}", Scenario::from_seed(seed));
        let summary = result.unwrap_or_else(|violation| panic!("{violation}; {}", replay()));
        granted += summary.granted;
        crashes += summary.crashes;
    }
    println!("{granted} addresses were given, {crashes} processes died");
}

/// Hosts are reset, two at a time too, or are gone without a word and somebody takes over what they owned: while others are cut off,
/// die and lose messages.
#[test]
fn nothing_is_held_twice_or_lost_for_ever_where_hosts_come_and_go() {
    let seeds = seeds(60);
    let results = run_seeds(&seeds, |seed| run(&Scenario::leaving_from_seed(seed), seed));
    let mut sum = Summary::default();
    for (seed, result) in results {
        let replay = || format!("WEFT_SIM_SEED={seed} replays it: {:?}", Scenario::leaving_from_seed(seed));
        let summary = result.unwrap_or_else(|violation| panic!("{violation}; {}", replay()));
        sum.granted += summary.granted;
        sum.resets += summary.resets;
        sum.handed_over += summary.handed_over;
        sum.unconfirmed += summary.unconfirmed;
        sum.died += summary.died;
        sum.taken_over += summary.taken_over;
    }
    println!("{sum:?}");
    let all = [sum.granted, sum.handed_over, sum.unconfirmed, sum.died, sum.taken_over];
    assert!(seeds.len() < 10 || all.iter().all(|count| *count > 0), "something never happened: {sum:?}");
}

fn scenario(hosts: usize, prefix_length: u8, founding: Founding) -> Scenario {
    Scenario {
        hosts,
        prefix_length,
        founding,
        seconds: 10,
        request_millis: 50,
        loss_percent: 0,
        fault_millis: 0,
        leave_millis: 0,
    }
}

#[test]
fn seven_peers_elect_one_ring_however_their_votes_split() {
    for seed in seeds(20) {
        for founding in [Founding::Everybody, Founding::Voters] {
            let scenario = Scenario { loss_percent: 30, fault_millis: 300, seconds: 6, ..scenario(7, 24, founding) };
            run(&scenario, seed).unwrap_or_else(|violation| panic!("WEFT_SIM_SEED={seed}: {violation}"));
        }
    }
}

/// Three voters, all of whom are needed again and again while they lose their power: who voted and forgot it would let two
/// rings be made.
#[test]
fn a_vote_is_never_forgotten() {
    for seed in seeds(200) {
        let trouble =
            Scenario { fault_millis: 80, seconds: 5, loss_percent: 20, ..scenario(3, 26, Founding::Everybody) };
        run(&trouble, seed).unwrap_or_else(|violation| panic!("WEFT_SIM_SEED={seed}: {violation}"));
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
        // Hardly any requests: addresses of two rings are not compared.
        let scenario = Scenario { request_millis: 1_000_000, ..scenario(2, 24, Founding::TwoFounders) };
        let mut world = World::new(scenario, seed);
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
