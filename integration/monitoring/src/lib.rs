//! weft's dashboards as definitions, from which Grafana's files are made; and the reading of alerts, runbook and queries, so
//! that tests can compare them with what the services measure and say.

#![forbid(unsafe_code)]

pub mod dashboard;
pub mod dashboards;
pub mod query;
pub mod rules;
pub mod runbook;
pub mod sources;

use std::path::PathBuf;

/// Returns the path of a file of the project.
#[must_use]
pub fn project(path: &str) -> PathBuf {
    weft_lab::Project::root().join(path)
}

/// Returns the path of a program of Debian's `prometheus` package, as `integration/set-up monitoring` unpacks it.
///
/// # Errors
/// If it is not there; says what fetches it.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = weft_lab::cache_folder().join("bookworm/usr/bin").join(name);
    anyhow::ensure!(path.exists(), "{} is missing; `integration/set-up monitoring` fetches it", path.display());
    Ok(path)
}
