//! The environment variables that the command looks at.

use std::{collections::BTreeMap, ffi::OsString};

/// Environment variables, of this process or as a test gives them.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the variables that matter from this process. Those that are no text count as absent.
    #[must_use]
    pub fn of_process() -> Self {
        const PREFIXES: [&str; 4] = ["DOCKER_", "ORIG_DOCKER_", "WEFT_", "WEAVE_"];
        let read = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let matters = |(name, _): &(String, String)| PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        Self(std::env::vars_os().filter_map(read).filter(matters).collect())
    }

    /// Makes an environment of these variables.
    #[must_use]
    pub fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self(variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}
