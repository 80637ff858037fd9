//! Definitions of metrics.

use std::collections::BTreeSet;

/// How the value of a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the service starts anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts observations by size.
    Histogram,
}

impl Kind {
    /// Returns the name that Prometheus has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What the value of a metric is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds; the name says so.
    Seconds,
    /// Bytes; the name says so.
    Bytes,
    /// How many of what the name says.
    Count,
    /// 1 if it is so, 0 if it is not.
    Truth,
}

impl Unit {
    /// Returns its name for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Count => "number",
            Self::Truth => "1 or 0",
        }
    }
}

/// What the samples of a metric are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Which values it has, for people.
    pub values: &'static str,
}

impl Label {
    /// Makes a definition.
    #[must_use]
    pub const fn new(name: &'static str, values: &'static str) -> Self {
        Self { name, values }
    }
}

/// The definition of a metric, with all its samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// How its value behaves.
    pub kind: Kind,
    /// What its value is measured in.
    pub unit: Unit,
    /// One sentence that says what it tells.
    pub help: &'static str,
    /// What its samples are told apart by.
    pub labels: &'static [Label],
    /// When it has samples, as in "while a peer is connected"; empty: always.
    pub when: &'static str,
    /// Upper bounds of a histogram's buckets, in its unit.
    pub buckets: &'static [f64],
}

impl Family {
    /// Defines a counter.
    #[must_use]
    pub const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, unit, help, labels: &[], when: "", buckets: &[] }
    }

    /// Defines a gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, unit, help, labels: &[], when: "", buckets: &[] }
    }

    /// Defines a histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, unit: Unit, buckets: &'static [f64], help: &'static str) -> Self {
        Self { name, kind: Kind::Histogram, unit, help, labels: &[], when: "", buckets }
    }

    /// Says what the samples are told apart by.
    #[must_use]
    pub const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// Says when there are samples.
    #[must_use]
    pub const fn when(self, when: &'static str) -> Self {
        Self { when, ..self }
    }

    /// Tells whether there are samples at any time.
    #[must_use]
    pub const fn is_always_there(&self) -> bool {
        self.when.is_empty()
    }
}

/// A definition breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidFamily {
    /// Which.
    pub name: &'static str,
    /// The rule.
    pub rule: &'static str,
}

/// Checks definitions against each other and against the conventions for names: base units, `_total` on counters and
/// nowhere else, no suffix that a histogram's samples have.
///
/// # Errors
/// The first rule that is broken.
pub fn check<'a>(families: impl IntoIterator<Item = &'a Family>) -> Result<(), InvalidFamily> {
    let mut names = BTreeSet::new();
    for family in families {
        let name = family.name;
        let broken = |rule| Err(InvalidFamily { name, rule });
        let is_word = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase())
                && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        if !names.insert(name) {
            return broken("it is defined once");
        }
        if !is_word(name) || !family.labels.iter().all(|label| is_word(label.name)) {
            return broken("names consist of lower-case letters, digits and underscores");
        }
        if name.ends_with("_total") != (family.kind == Kind::Counter) {
            return broken("counters, and nothing else, end with _total");
        }
        let base = name.strip_suffix("_total").unwrap_or(name);
        if base.ends_with("_seconds") != (family.unit == Unit::Seconds)
            || base.ends_with("_bytes") != (family.unit == Unit::Bytes)
        {
            return broken("the name ends with its base unit");
        }
        if ["_count", "_sum", "_bucket", "_info"].iter().any(|suffix| base.ends_with(suffix))
            && base != "weft_build_info"
        {
            return broken("suffixes that samples of histograms have are theirs");
        }
        if !family.help.ends_with('.') || family.help.contains(['\n', '\\']) {
            return broken("help is one sentence");
        }
        if (family.kind == Kind::Histogram) == family.buckets.is_empty() || !family.buckets.is_sorted() {
            return broken("histograms, and nothing else, have buckets, in order");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_the_conventions_is_named() {
        let rule = |family: Family| check([&family]).expect_err("refused").rule;
        assert!(rule(Family::gauge("weft_Peers", Unit::Count, "Peers.")).contains("lower-case"));
        assert!(rule(Family::counter("weft_frames", Unit::Count, "Frames.")).contains("_total"));
        assert!(rule(Family::gauge("weft_frames_total", Unit::Count, "Frames.")).contains("_total"));
        assert!(rule(Family::gauge("weft_age", Unit::Seconds, "Age.")).contains("unit"));
        assert!(rule(Family::counter("weft_sent_total", Unit::Bytes, "Sent.")).contains("unit"));
        assert!(rule(Family::gauge("weft_peer_count", Unit::Count, "Peers.")).contains("histograms"));
        assert!(rule(Family::gauge("weft_peers", Unit::Count, "Peers")).contains("sentence"));
        assert!(rule(Family::histogram("weft_wait_seconds", Unit::Seconds, &[], "Waits.")).contains("buckets"));
        let twice = Family::gauge("weft_peers", Unit::Count, "Peers.");
        assert!(check([&twice, &twice]).is_err());
        assert_eq!(check([&twice]), Ok(()));
    }
}
