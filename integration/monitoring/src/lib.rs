//! weft's dashboards as definitions, from which Grafana's files are made; and the reading of alerts, runbook and queries, so
//! that tests can compare them with what the services measure and say.

#![forbid(unsafe_code)]

pub mod dashboard;
pub mod dashboards;
pub mod query;
pub mod rules;
pub mod runbook;
pub mod sources;

use std::path::{Path, PathBuf};

/// Returns the path of a file of the project.
#[must_use]
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Returns the path of a program of Debian's `prometheus` package, as `integration/set-up monitoring` unpacks it.
///
/// # Errors
/// If it is not there; says what fetches it.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    #[expect(clippy::disallowed_methods, reason = "where set-up puts things is set by this variable")]
    let cache = std::env::var("WEFT_CACHE").unwrap_or_else(|_| "/var/cache/weft".to_owned());
    let path = Path::new(&cache).join("bookworm/usr/bin").join(name);
    anyhow::ensure!(path.exists(), "{} is missing; `integration/set-up monitoring` fetches it", path.display());
    Ok(path)
}
