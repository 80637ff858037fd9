//! `report`.

use std::fmt;

use serde::Serialize;

use super::{Connections, Containers, Ipam, Names, Peers, Status, Targets};

/// Everything that the services of this host know: under each verb's word what its `--output json` gives.
///
/// What a service would have said that is away is absent; `status` has the reason.
#[derive(Debug, Serialize)]
pub struct Whole {
    /// `status`, the versions among it.
    pub status: Status,
    /// `status peers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Peers>,
    /// `status connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// `status targets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// `status ipam`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
    /// `status dns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Names>,
    /// `ps`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ps: Option<Containers>,
}

impl fmt::Display for Whole {
    /// Writes JSON: no other form shows all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?)
    }
}
