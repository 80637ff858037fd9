//! Clocks and sums.

use std::{fs, time::Instant};

use anyhow::Context;

/// USER_HZ, which is 100 on all architectures that weft is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one transfer reached.
#[derive(Debug, Clone)]
pub(crate) struct Transfer {
    /// As the receiver counted.
    pub(crate) gigabits_per_second: f64,
    /// Of the whole machine.
    pub(crate) cpu_seconds_per_gigabyte: f64,
    /// Round trips meanwhile, in milliseconds.
    pub(crate) ping_millis: Vec<f64>,
}

#[expect(clippy::disallowed_methods, reason = "the one place of the benchmarks that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Returns the CPU time that the machine has spent on anything since it started, in seconds.
pub(crate) fn busy_seconds() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
    let fields = stat.lines().next().context("/proc/stat is empty")?.split_whitespace().skip(1);
    let ticks = fields.map(str::parse).collect::<Result<Vec<f64>, _>>().context("/proc/stat is strange")?;
    // user, nice, system, idle, iowait, irq, softirq; idle and iowait are not work.
    let busy: f64 = ticks.iter().take(7).enumerate().filter(|(field, _)| !matches!(field, 3 | 4)).map(|(_, t)| t).sum();
    Ok(busy / TICKS_PER_SECOND)
}

/// Returns the middle one of several values; of an even number, the larger of the two in the middle.
///
/// # Panics
/// If there are none, or they can't be compared.
pub(crate) fn median<T: PartialOrd + Copy>(values: Vec<T>) -> T {
    quantile(values, 0.5)
}

/// Returns the value below which a share of several values lies; of two candidates the larger.
///
/// # Panics
/// If there are none, or they can't be compared.
pub(crate) fn quantile<T: PartialOrd + Copy>(mut values: Vec<T>, share: f64) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("measured values are ordered"));
    let index = (values.len() as f64 * share) as usize;
    values[index.min(values.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_in_the_middle() {
        assert_eq!(median(vec![9, 1, 5]), 5);
    }

    #[test]
    fn quantiles_are_near_their_share() {
        assert_eq!(quantile((0..100).rev().collect(), 0.99), 99);
        assert_eq!((quantile(vec![7], 0.99), quantile(vec![1, 2], 1.0)), (7, 2));
    }

    #[test]
    fn machine_has_been_busy() {
        assert!(busy_seconds().unwrap() > 0.0);
    }
}
