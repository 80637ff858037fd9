//! The dashboards.

mod addresses_names;
mod data_plane;
mod docker;
mod host;
mod mesh;

use crate::dashboard::Dashboard;

/// Where Grafana finds them.
pub const FOLDER: &str = "deploy/grafana/dashboards";

/// Returns all of them.
#[must_use]
pub fn all() -> [Dashboard; 5] {
    [mesh::dashboard(), host::dashboard(), data_plane::dashboard(), addresses_names::dashboard(), docker::dashboard()]
}

/// When problems and alerts have samples.
const PROBLEM: &str = "while something does not work";
/// What is between two hosts.
const PEER: &str = "{{host}} → {{peer}}";
