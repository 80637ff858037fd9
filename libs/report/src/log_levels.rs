//! What services log.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Changes of what services log.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LogLevels {
    /// One for each service that was asked and answered.
    pub services: Vec<LogLevel>,
}

/// The change of what a service logs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LogLevel {
    /// Its name.
    pub service: &'static str,
    /// What it logs now.
    pub level: String,
    /// What it logged before.
    pub previous: String,
}

impl fmt::Display for LogLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.services
            .iter()
            .try_for_each(|LogLevel { service, level, previous }| writeln!(f, "{service:<12} {level} (was {previous})"))
    }
}
