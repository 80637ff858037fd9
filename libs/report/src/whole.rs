//! `report`.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Connections, Containers, Ipam, Names, PassedOn, Peers, Section, Status, Targets};

/// Everything that the services of this host know: under each verb's word what its `--output json` gives.
///
/// In place of what was not to be had is the reason.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Whole {
    /// `status`, the versions among it.
    pub status: Status,
    /// `status peers`.
    pub peers: Section<Peers>,
    /// `status connections`.
    pub connections: Section<Connections>,
    /// `status targets`.
    pub targets: Section<Targets>,
    /// `status services`.
    pub services: Section<PassedOn>,
    /// `status ipam`.
    pub ipam: Section<Ipam>,
    /// `status dns`.
    pub dns: Section<Names>,
    /// `ps`.
    pub ps: Section<Containers>,
}

impl Whole {
    /// Tells whether no part is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let of_mesh = self.peers.is_here() && self.connections.is_here() && self.targets.is_here();
        let of_router = of_mesh && self.services.is_here();
        let of_others = self.ipam.is_here() && self.dns.is_here() && self.ps.is_here();
        self.status.is_whole() && of_router && of_others
    }
}
