//! Which peers are dialled after a restart: those that the configuration names, as changed at run time.

use serde::{Deserialize, Serialize};

/// Targets as they were when they last changed at run time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTargets {
    /// Those that the configuration named then.
    configured: Vec<String>,
    /// Those that there were.
    current: Vec<String>,
}

impl KeptTargets {
    /// Joins what the configuration names with what there is.
    #[must_use]
    pub fn new(configured: &[String], current: Vec<String>) -> Self {
        Self { configured: configured.to_owned(), current }
    }

    /// Returns the targets to start with. What was added or removed at run time counts as long as the configuration names the
    /// same peers; where it names others, it counts beside what was added. With `resume` the configuration does not count,
    /// unless nothing has been changed yet.
    #[must_use]
    pub fn start(self, configured: &[String], resume: bool) -> Vec<String> {
        if configured == self.configured || (resume && self != Self::default()) {
            return self.current;
        }
        let added = self.current.into_iter().filter(|text| !self.configured.contains(text));
        let added: Vec<String> = added.filter(|text| !configured.contains(text)).collect();
        [configured, &added].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &str) -> Vec<String> {
        list.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn changes_at_run_time_count_until_the_configuration_names_others() {
        let kept = |configured: &str, current: &str| KeptTargets::new(&texts(configured), texts(current));
        let cases = [
            (KeptTargets::default(), "", false, ""),
            (KeptTargets::default(), "a", false, "a"),
            (KeptTargets::default(), "a", true, "a"),
            (kept("a b", "a b c"), "a b", false, "a b c"),
            (kept("a b", "b c"), "a b", false, "b c"),
            (kept("a b", ""), "a b", false, ""),
            (kept("a b", "b c"), "d", false, "d c"),
            (kept("a b", "b c"), "c", false, "c"),
            (kept("a b", "b c"), "", false, "c"),
            (kept("a b", "b c"), "d", true, "b c"),
            (kept("a b", ""), "d", true, ""),
        ];
        for (kept, configured, resume, expected) in cases {
            let said = format!("{kept:?}, {configured}, {resume}");
            assert_eq!(kept.start(&texts(configured), resume), texts(expected), "{said}");
        }
    }
}
