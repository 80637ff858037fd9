//! The mesh under trouble, over many seeds.
//!
//! `weft_sim::seeds` says which; a failing seed is named in the failure.

use std::time::Duration;

use weft_sim::{
    gossip::{Scenario, Shape, Summary, Violation, World, run},
    run_seeds, seeds,
};

/// Runs many seeds on all cores, and returns what all runs together were like.
fn run_all(seeds: &[u64], scenario: fn(u64) -> Scenario) -> Summary {
    let results: Vec<(u64, Result<Summary, Violation>)> = run_seeds(seeds, |seed| run(&scenario(seed), seed));
    let mut total = Summary::default();
    for (seed, result) in results {
        let replay = || format!("WEFT_SIM_SEED={seed} replays it: {:?}", scenario(seed));
        let summary = result.unwrap_or_else(|violation| panic!("{violation}; {}", replay()));
        total.published += summary.published;
        total.crashes += summary.crashes;
        total.cuts += summary.cuts;
        total.deltas += summary.deltas;
        total.revoked += summary.revoked;
    }
    total
}

#[test]
fn everybody_comes_to_know_what_everybody_published() {
    println!("{:?}", run_all(&seeds(200), Scenario::from_seed));
}

#[test]
fn all_come_to_let_the_same_ones_in_no_more_whoever_revokes_whom() {
    let seeds = seeds(200);
    let total = run_all(&seeds, Scenario::with_revocations);
    println!("{total:?}");
    assert!(seeds.len() == 1 || total.revoked > 0, "nobody was revoked");
}

/// Hosts without trouble, all of which know everything.
fn settled(hosts: usize, shape: Shape, seed: u64) -> Result<World, Violation> {
    let scenario =
        Scenario { hosts, shape, seconds: 5, delay_millis: 5, publish_millis: 200, fault_millis: 0, revoke_millis: 0 };
    let mut world = World::new(scenario, seed);
    world.run_trouble()?;
    world.run_calm()?;
    world.run_for(Duration::from_secs(10))?;
    Ok(world)
}

#[test]
fn a_cut_shows_within_four_seconds() {
    for seed in seeds(60) {
        for shape in [Shape::Full, Shape::Sparse, Shape::Chain] {
            for probability in [0.2, 0.5, 0.8] {
                let hosts = 3 + (seed % 7) as usize;
                let cut = settled(hosts, shape, seed).and_then(|mut world| world.check_cut(probability));
                cut.unwrap_or_else(|violation| panic!("WEFT_SIM_SEED={seed}, {shape:?} {probability}: {violation}"));
            }
        }
    }
}

#[test]
fn a_revoked_host_is_out_everywhere_within_a_second() {
    for seed in seeds(60) {
        for shape in [Shape::Full, Shape::Sparse, Shape::Chain] {
            let hosts = 3 + (seed % 7) as usize;
            let out = settled(hosts, shape, seed).and_then(|mut world| world.check_revocation());
            out.unwrap_or_else(|violation| panic!("WEFT_SIM_SEED={seed}, {shape:?}: {violation}"));
        }
    }
}

#[test]
fn a_change_costs_one_delta_for_each_other_peer() {
    for seed in seeds(5) {
        for (shape, hosts) in [(Shape::Full, 9), (Shape::Chain, 5), (Shape::Sparse, 7)] {
            let mut world = settled(hosts, shape, seed).unwrap_or_else(|violation| panic!("{seed}: {violation}"));
            let mut total = 0;
            for host in 0..hosts {
                let before = world.traffic().deltas;
                world.publish(host).expect("nothing is wrong");
                world.run_for(Duration::from_millis(100)).expect("nothing is wrong");
                let sent = world.traffic().deltas - before;
                // None where a key was deleted that was not there; more where a digest crossed the news on its way.
                let others = hosts as u64 - 1;
                let plausible = sent == 0 || (others..=2 * others).contains(&sent);
                assert!(plausible, "{sent} deltas, WEFT_SIM_SEED={seed}, {shape:?}");
                total += sent;
                world.check_converged().unwrap_or_else(|violation| panic!("{seed}, {shape:?}: {violation}"));
            }
            assert!(total <= (hosts * hosts) as u64, "{total} deltas, WEFT_SIM_SEED={seed}, {shape:?}");
        }
    }
}

#[test]
fn an_idle_mesh_exchanges_heartbeats_and_digests_alone() {
    let mut world = settled(9, Shape::Full, 1).expect("nothing is wrong");
    let before = world.traffic();
    world.run_for(Duration::from_secs(60)).expect("nothing is wrong");
    let after = world.traffic();
    assert_eq!((before.deltas, before.vectors, before.others), (after.deltas, after.vectors, after.others));
    // 36 connections: a heartbeat and its echo each second from both ends; a digest every four to six seconds.
    assert!((8_000..=9_000).contains(&(after.heartbeats - before.heartbeats)), "{after:?}");
    assert!((700..=1_100).contains(&(after.digests - before.digests)), "{after:?}");
}

#[test]
fn a_run_is_the_same_each_time() {
    let scenario = Scenario::from_seed(7);
    assert_eq!(run(&scenario, 7), run(&scenario, 7));
}
