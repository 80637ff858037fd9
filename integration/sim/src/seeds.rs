//! Which seeds are run, and on how many cores.
//!
//! `WEFT_SIM_SEEDS=n` runs that many seeds, `WEFT_SIM_FIRST=n` has them begin with that one, `WEFT_SIM_SEED=n` runs one alone.

use std::thread;

/// Returns the seeds that the environment asks for, or so many.
///
/// # Panics
/// If a variable is no number.
#[must_use]
pub fn seeds(default: u64) -> Vec<u64> {
    match number("WEFT_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number("WEFT_SIM_FIRST").unwrap_or(0);
            (first..first + number("WEFT_SIM_SEEDS").unwrap_or(default)).collect()
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// Runs each seed, on all cores, and returns what came of each.
///
/// # Panics
/// If a run does.
#[must_use]
pub fn run_seeds<T: Send>(seeds: &[u64], run: impl Fn(u64) -> T + Sync) -> Vec<(u64, T)> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let work = |worker: usize| {
            let own = seeds.iter().copied().skip(worker).step_by(workers);
            own.map(|seed| (seed, run(seed))).collect::<Vec<_>>()
        };
        let running: Vec<_> = (0..workers).map(|worker| scope.spawn(move || work(worker))).collect();
        running.into_iter().flat_map(|worker| worker.join().expect("a core panicked")).collect()
    })
}
