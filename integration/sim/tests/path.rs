//! Ways between peers while the network changes, over many seeds.
//!
//! `weft_sim::seeds` says which; a failing seed is named in the failure.

use weft_sim::{
    path::{Scenario, Summary, Violation, run},
    run_seeds, seeds,
};

#[test]
fn whoever_can_be_reached_is_reached_soon_and_then_by_the_best_way() {
    let seeds = seeds(40);
    let results: Vec<(u64, Result<Summary, Violation>)> =
        run_seeds(&seeds, |seed| run(&Scenario::from_seed(seed), seed));
    let mut total = Summary::default();
    let mut violations = Vec::new();
    for (seed, result) in results {
        let replay = || format!("WEFT_SIM_SEED={seed} replays it: {:?}", Scenario::from_seed(seed));
        let summary = match result {
            Ok(summary) => summary,
            Err(violation) => {
                violations.push(format!("{violation}; {}", replay()));
                continue;
            }
        };
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
    assert!(violations.is_empty(), "{} of {} seeds: {}", violations.len(), seeds.len(), violations.join("\n"));
}

#[test]
fn a_run_is_the_same_each_time() {
    let scenario = Scenario::from_seed(7);
    assert_eq!(run(&scenario, 7), run(&scenario, 7));
}
