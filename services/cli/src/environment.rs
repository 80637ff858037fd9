//! The environment variables that the command looks at.

use std::collections::BTreeMap;

/// Environment variables, of this process or as a test gives them.
#[derive(Debug, Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the variables that matter from this process. Those that are no text count as absent.
    #[must_use]
    pub fn of_process() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place where the command reads its environment")]
        let read = |name: &str| std::env::var(name).ok().map(|value| (name.to_owned(), value));
        const NAMES: [&str; 4] = ["DOCKER_HOST", "ORIG_DOCKER_HOST", "DOCKER_TLS_VERIFY", "ORIG_DOCKER_TLS_VERIFY"];
        Self(NAMES.into_iter().filter_map(read).collect())
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
