//! The text that Prometheus reads (text format 0.0.4), apart and together.

use std::collections::BTreeMap;

use crate::Family;

/// A metric with its samples, ready to be read by Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricFamily {
    /// Its name.
    pub name: String,
    /// What it tells.
    pub help: String,
    /// Prometheus' name of its kind.
    pub kind: String,
    /// A line for each sample, as Prometheus reads it.
    pub samples: String,
}

impl MetricFamily {
    /// Makes one without samples.
    pub(crate) fn of(family: &Family) -> Self {
        let Family { name, kind, help, .. } = family;
        Self { name: (*name).into(), help: (*help).into(), kind: kind.name().into(), samples: String::new() }
    }

    /// Tells whether each line is a sample of this metric: what another process sent could spoil the others' otherwise.
    fn is_sound(&self) -> bool {
        let is_sample =
            |line: &str| line.strip_prefix(self.name.as_str()).is_some_and(|rest| rest.starts_with(['{', ' ', '_']));
        let plain = |text: &str| !text.contains(['\n', '\r']);
        !self.name.is_empty()
            && self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && plain(&self.help)
            && plain(&self.kind)
            && !self.samples.is_empty()
            && self.samples.lines().all(is_sample)
    }
}

/// Takes a text apart that the recorder rendered.
pub(crate) fn split(text: &str) -> Vec<MetricFamily> {
    let mut families: Vec<MetricFamily> = Vec::new();
    let named = |name: &str| MetricFamily { name: name.to_owned(), ..MetricFamily::default() };
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            families.push(MetricFamily { help: help.to_owned(), ..named(name) });
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            if families.last().is_none_or(|family| family.name != name) {
                families.push(named(name));
            }
            if let Some(family) = families.last_mut() {
                kind.clone_into(&mut family.kind);
            }
        } else if let Some(family) = families.last_mut() {
            family.samples.push_str(line);
            family.samples.push('\n');
        }
    }
    families
}

/// Joins what several services render, in order of name. A metric that several have gets one heading; what cannot be read
/// as samples of its metric is left out, and so is a metric that an earlier service has with another kind.
#[must_use]
pub fn merge(parts: impl IntoIterator<Item = Vec<MetricFamily>>) -> String {
    let mut all: BTreeMap<String, MetricFamily> = BTreeMap::new();
    for family in parts.into_iter().flatten().filter(MetricFamily::is_sound) {
        match all.get_mut(&family.name) {
            Some(known) if known.kind == family.kind => push(&mut known.samples, &family.samples),
            Some(_) => {}
            None => {
                all.insert(family.name.clone(), family);
            }
        }
    }
    let mut text = String::new();
    for MetricFamily { name, help, kind, samples } in all.into_values() {
        push(&mut text, &format!("# HELP {name} {help}"));
        push(&mut text, &format!("# TYPE {name} {kind}"));
        push(&mut text, &samples);
    }
    text
}

/// Appends lines, each with its end.
fn push(text: &mut String, lines: &str) {
    text.push_str(lines);
    if !lines.ends_with('\n') {
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(name: &str, kind: &str, samples: &str) -> MetricFamily {
        MetricFamily { name: name.into(), help: "Help.".into(), kind: kind.into(), samples: samples.into() }
    }

    #[test]
    fn a_metric_of_two_services_has_one_heading() {
        let router =
            vec![family("up", "gauge", "up{service=\"router\"} 1\n"), family("b_total", "counter", "b_total 2\n")];
        let ipam = vec![family("up", "gauge", "up{service=\"ipam\"} 0"), family("a", "gauge", "a 1\n")];
        let expected = "# HELP a Help.\n# TYPE a gauge\na 1\n# HELP b_total Help.\n# TYPE b_total counter\nb_total 2\n\
                        # HELP up Help.\n# TYPE up gauge\nup{service=\"router\"} 1\nup{service=\"ipam\"} 0\n";
        assert_eq!(merge([router, ipam]), expected);
    }

    #[test]
    fn what_makes_no_sense_spoils_nothing_else() {
        let good = family("a", "gauge", "a 1\n");
        let bad = [
            family("a", "counter", "a 2\n"),
            family("", "gauge", " 1\n"),
            family("x y", "gauge", "x y 1\n"),
            family("c", "gauge", ""),
            family("d", "gauge", "d 1\nother 2\n"),
            family("e", "gauge\nf 1", "e 1\n"),
            MetricFamily { help: "two\nlines".into(), ..family("g", "gauge", "g 1\n") },
        ];
        assert_eq!(merge([vec![good.clone()], bad.to_vec()]), merge([vec![good]]));
    }

    #[test]
    fn a_rendered_text_is_taken_apart() {
        let text = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"y\"} 1\na_total{x=\"z\"} 2\n\n\
                    # TYPE b gauge\nb 1\n\n";
        let families = split(text);
        assert_eq!(families[0], family("a_total", "counter", "a_total{x=\"y\"} 1\na_total{x=\"z\"} 2\n"));
        assert_eq!(families[1], MetricFamily { help: String::new(), ..family("b", "gauge", "b 1\n") });
        assert_eq!(families.len(), 2);
    }
}
