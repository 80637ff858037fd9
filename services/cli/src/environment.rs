//! The environment variables that the command looks at.

use std::{collections::BTreeMap, ffi::OsString};

/// Tells the command in a service's container about the one on another machine that has it executed: [`TERMINAL`] or [`PIPE`], by
/// what that one's output is.
pub(crate) const CALLER: &str = "WEFT_CALLER";

/// Tells it in the same words what the caller's stderr is.
pub(crate) const CALLER_ERRORS: &str = "WEFT_CALLER_ERRORS";

/// The caller's output is a terminal.
pub(crate) const TERMINAL: &str = "terminal";

/// The caller's output is anything else.
pub(crate) const PIPE: &str = "pipe";

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

    /// Tells whether a command on another machine has this one executed, and keeps its stdin open for as long as it waits.
    #[must_use]
    pub fn has_caller(&self) -> bool {
        self.get(CALLER).is_some()
    }

    /// Tells whether what is printed is seen on a terminal of the caller's; nothing without a caller.
    pub(crate) fn caller_has_terminal(&self) -> Option<bool> {
        self.get(CALLER).map(|output| output == TERMINAL)
    }

    /// Tells whether complaints are seen on a terminal of the caller's; nothing without a caller.
    pub(crate) fn caller_has_error_terminal(&self) -> Option<bool> {
        self.get(CALLER).map(|_| self.get(CALLER_ERRORS) == Some(TERMINAL))
    }

    /// Returns the same with one variable of another value.
    pub(crate) fn with(&self, name: &str, value: &str) -> Self {
        let mut variables = self.0.clone();
        variables.insert(name.to_owned(), value.to_owned());
        Self(variables)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns a variable that is set to something.
    pub(crate) fn set(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }
}
