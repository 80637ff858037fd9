//! Ways between peers while the network changes, over many seeds.
//!
//! `WEFT_SIM_SEEDS=n` runs that many seeds, `WEFT_SIM_SEED=n` that one alone. A failing seed is named in the failure.

use std::thread;

use weft_sim::path::{Scenario, Summary, Violation, run};

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
fn whoever_can_be_reached_is_reached_soon_and_then_by_the_best_way() {
    let seeds = seeds(40);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<(u64, Result<Summary, Violation>)> = thread::scope(|scope| {
        let work = |worker: usize| {
            let own = seeds.iter().copied().skip(worker).step_by(workers);
            own.map(|seed| (seed, run(&Scenario::from_seed(seed), seed))).collect::<Vec<_>>()
        };
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        running.into_iter().flat_map(|worker| worker.join().expect("a core panicked")).collect()
    });
    let mut total = Summary::default();
    for (seed, result) in results {
        let replay = || format!("WEFT_SIM_SEED={seed} replays it: {:?}", Scenario::from_seed(seed));
        let summary = result.unwrap_or_else(|violation| panic!("{violation}; {}", replay()));
        total.probes += summary.probes;
        total.delivered += summary.delivered;
        total.relayed += summary.relayed;
        total.changes += summary.changes;
        total.published += summary.published;
        for (total, calm) in total.calm.iter_mut().zip(summary.calm) {
            *total += calm;
        }
    }
    println!("{total:?}");
}

#[test]
fn a_run_is_the_same_each_time() {
    let scenario = Scenario::from_seed(7);
    assert_eq!(run(&scenario, 7), run(&scenario, 7));
}
