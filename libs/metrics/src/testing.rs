//! Reads a scrape as strictly as Prometheus could, for tests.

use std::collections::{BTreeMap, BTreeSet};

use crate::Family;

type Labels = BTreeMap<String, String>;

/// A scrape that was read.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
    families: BTreeSet<String>,
}

impl Scrape {
    /// Returns the families that have samples.
    pub fn families(&self) -> impl Iterator<Item = &str> {
        self.families.iter().map(String::as_str)
    }

    /// Returns which of these families, as far as they always have samples, have none.
    #[must_use]
    pub fn missing(&self, families: &[Family]) -> Vec<&'static str> {
        let wanted = families.iter().filter(|family| family.is_always_there()).map(|family| family.name);
        wanted.filter(|name| !self.families.contains(*name)).collect()
    }

    /// Returns the sum of all samples of this name that have these labels.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |found: &Labels| labels.iter().all(|(name, value)| found.get(*name).is_some_and(|v| v == value));
        let samples = self.samples.get(name).into_iter().flatten();
        samples.filter(|(found, _)| fits(found)).map(|(_, value)| value).sum()
    }
}

/// Reads a scrape.
///
/// # Errors
/// What is wrong with it: a sample outside of its family's place, without heading or written twice, a value that is no
/// number, a histogram whose buckets shrink.
pub fn read(text: &str) -> Result<Scrape, String> {
    let mut scrape = Scrape::default();
    let mut kinds: BTreeMap<String, String> = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    if !text.ends_with('\n') {
        return Err("the last line has no end".to_owned());
    }
    for line in text.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or_else(|| format!("a help without words: {line}"))?;
            if help.is_empty() || !helped.insert(name.to_owned()) {
                return wrong("a help that is empty or comes twice");
            }
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("a type without words: {line}"))?;
            if kinds.insert(name.to_owned(), kind.to_owned()).is_some() || !helped.contains(name) {
                return wrong("a type that comes twice, or before its help");
            }
            name.clone_into(&mut current);
        } else {
            let (name, labels, value) = sample(line).ok_or_else(|| format!("no sample: {line}"))?;
            let suffix = name.strip_prefix(current.as_str());
            let is_histogram = kinds.get(&current).is_some_and(|kind| kind == "histogram");
            let fits = match suffix {
                Some("") => !is_histogram,
                Some("_bucket" | "_sum" | "_count") => is_histogram,
                Some(_) | None => false,
            };
            if current.is_empty() || !fits {
                return wrong("a sample outside of its family's place");
            }
            if !seen.insert(format!("{name}{labels:?}")) {
                return wrong("a sample that comes twice");
            }
            scrape.families.insert(current.clone());
            scrape.samples.entry(name).or_default().push((labels, value));
        }
    }
    check_histograms(&scrape, &kinds)?;
    Ok(scrape)
}

fn check_histograms(scrape: &Scrape, kinds: &BTreeMap<String, String>) -> Result<(), String> {
    for name in kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
        let mut before: BTreeMap<Labels, f64> = BTreeMap::new();
        for (labels, value) in scrape.samples.get(&format!("{name}_bucket")).into_iter().flatten() {
            let mut labels = labels.clone();
            if labels.remove("le").is_none() {
                return Err(format!("a bucket of {name} without its bound"));
            }
            let last = before.entry(labels).or_default();
            if *value < *last {
                return Err(format!("the buckets of {name} shrink"));
            }
            *last = *value;
        }
        for (labels, count) in scrape.samples.get(&format!("{name}_count")).into_iter().flatten() {
            if before.get(labels) != Some(count) {
                return Err(format!("the last bucket of {name} is not its count"));
            }
        }
    }
    Ok(())
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value).is_none().then_some(())?;
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    Some((name.to_owned(), labels, rest.strip_prefix(' ')?.parse().ok()?))
}

/// Reads up to the closing quotation mark, and returns what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                plain @ ('"' | '\\') => plain,
                _ => return None,
            }),
            _ => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_refuses_is_refused() {
        let good = "# HELP a A.\n# TYPE a gauge\na{x=\"1\\\"}\",y=\"2\"} 1\na 2.5\n";
        let scrape = read(good).expect("well-formed");
        assert!((scrape.sum("a", &[]) - 3.5).abs() < 1e-9);
        assert!((scrape.sum("a", &[("x", "1\"}")]) - 1.0).abs() < 1e-9);
        for bad in [
            "a 1\n",
            "# HELP a A.\n# TYPE a gauge\na 1",
            "# HELP a A.\n# TYPE a gauge\nb 1\n",
            "# HELP a A.\n# TYPE a gauge\na 1\na 1\n",
            "# HELP a A.\n# TYPE a gauge\na x\n",
            "# HELP a A.\n# TYPE a gauge\na_sum 1\n",
            "# TYPE a gauge\na 1\n",
            "# HELP a A.\n# TYPE a gauge\na{x=\"1} 1\n",
            "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
            "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 2\na_sum 1\na_count 1\n",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
