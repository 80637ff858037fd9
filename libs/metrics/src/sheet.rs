//! What is known at the moment of a scrape.

use std::{collections::BTreeMap, fmt::Write};

use metrics_exporter_prometheus::formatting::sanitize_label_value;

use crate::{Family, MetricFamily, shared};

/// Collects samples of one scrape. A family that gets none does not appear.
#[derive(Debug)]
pub struct Sheet {
    service: &'static str,
    families: BTreeMap<&'static str, MetricFamily>,
}

impl Sheet {
    /// Makes one for the metrics of a service, whose name metrics that all services have carry as a label.
    #[must_use]
    pub const fn new(service: &'static str) -> Self {
        Self { service, families: BTreeMap::new() }
    }

    /// Writes a sample. Labels come in the order of the definition.
    pub fn set(&mut self, family: &Family, labels: &[&str], value: f64) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{} has other labels", family.name);
        let sample = self.families.entry(family.name).or_insert_with(|| MetricFamily::of(family));
        let samples = &mut sample.samples;
        samples.push_str(family.name);
        for (index, (label, value)) in family.labels.iter().zip(labels).enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            // Writing to a string cannot fail, here and below.
            let _ = write!(samples, "{before}{}=\"{}\"", label.name, sanitize_label_value(value));
        }
        if !family.labels.is_empty() {
            samples.push('}');
        }
        let _ = writeln!(samples, " {value}");
    }

    /// Writes a sample of a number that is counted.
    pub fn count(&mut self, family: &Family, labels: &[&str], value: u64) {
        // Exact up to 9 petabytes, and by far close enough beyond.
        self.set(family, labels, value as f64);
    }

    /// Writes 1 for the state that is, and 0 for the others there are.
    pub fn state(&mut self, family: &Family, states: &[&str], current: &str) {
        for state in states {
            self.set(family, &[state], if *state == current { 1.0 } else { 0.0 });
        }
    }

    /// Writes what does not work now: stable words, and for how many seconds it has been so.
    pub fn problems<'a>(&mut self, problems: impl IntoIterator<Item = (&'a str, f64)>) {
        let service = self.service;
        let mut count = 0;
        let mut oldest: BTreeMap<&str, f64> = BTreeMap::new();
        for (reason, age) in problems {
            count += 1;
            let known = oldest.entry(reason).or_default();
            *known = known.max(age);
        }
        self.count(&shared::PROBLEMS, &[service], count);
        for (reason, age) in oldest {
            self.set(&shared::PROBLEM_AGE, &[service, reason], age);
        }
    }

    /// Returns all families that have samples.
    #[must_use]
    pub fn into_families(self) -> Vec<MetricFamily> {
        self.families.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Label, Unit, merge};

    const PEERS: Family =
        Family::gauge("peers", Unit::Count, "Peers.").by(&[Label::new("name", "names"), Label::new("state", "states")]);

    #[test]
    fn samples_are_written_as_prometheus_reads_them() {
        let mut sheet = Sheet::new("router");
        sheet.count(&PEERS, &["a\"b\\c\nd", "up"], 3);
        sheet.set(&PEERS, &["e", "down"], 0.25);
        let expected = "# HELP peers Peers.\n# TYPE peers gauge\n\
                        peers{name=\"a\\\"b\\\\c\\nd\",state=\"up\"} 3\npeers{name=\"e\",state=\"down\"} 0.25\n";
        assert_eq!(merge([sheet.into_families()]), expected);
    }

    #[test]
    fn of_problems_with_one_reason_the_oldest_counts() {
        let mut sheet = Sheet::new("router");
        sheet.problems([("unreachable", 3.0), ("unreachable", 7.0), ("no_data_path", 1.0)]);
        let text = merge([sheet.into_families()]);
        assert!(text.contains("weft_problems{service=\"router\"} 3\n"), "{text}");
        assert!(text.contains("weft_problem_age_seconds{service=\"router\",reason=\"unreachable\"} 7\n"), "{text}");
    }
}
