//! What the mesh is told at its start.

use std::{collections::BTreeSet, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use weft_types::PeerName;

use super::{Revocation, Told};
use crate::handshake::PasswordMark;

/// What the mesh has to know from its start.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// The local peer.
    pub local: PeerName,
    /// Printed form of its name.
    pub name: String,
    /// The host's name.
    pub nickname: String,
    /// Version of weft, for others to see.
    pub version: String,
    /// Random at each start.
    pub instance: u64,
    /// One more than at the start before; 1 at the first. [`Event::GenerationRaised`](super::Event::GenerationRaised) may raise it further.
    pub generation: u64,
    /// TCP and UDP port of the mesh; also where targets without a port are dialled.
    pub listen_port: u16,
    /// Range that addresses come from; equal in the whole mesh.
    pub address_range: Ipv4Net,
    /// Whether peers that only gossip names are dialled.
    pub discovery: bool,
    /// How many connections there may be. Discovery stops there, and further peers are refused.
    pub connection_limit: usize,
    /// Channels that this host published on before its restart, from [`Event::KnownChannelsChanged`](super::Event::KnownChannelsChanged). Nothing is
    /// announced before each has a snapshot again, for [`Timing::hold_back`] at most.
    pub known_channels: BTreeSet<String>,
    /// Marks of the local peer's passwords: of its own, then of the old one if there is one.
    pub password_marks: Vec<PasswordMark>,
    /// Keys that are let in no more, from [`Mesh::revocations`](super::Mesh::revocations).
    pub revocations: Vec<Revocation>,
    /// What others said of the local peer's own key before, from [`Mesh::told`](super::Mesh::told).
    pub told: Option<Told>,
    /// Members of the mesh, from [`Mesh::known_peers`](super::Mesh::known_peers).
    pub known_peers: BTreeSet<PeerName>,
    /// Subnets whose addresses are trusted with data that is not sealed, as far as they trust ours.
    pub trusted_subnets: Vec<IpNet>,
    /// Seed of all chance: jitter only, nothing secret.
    pub seed: u64,
    /// Intervals and time-outs.
    pub timing: Timing,
}

/// Intervals and time-outs of the mesh.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Between heartbeats on a connection.
    pub heartbeat: Duration,
    /// A connection that was silent for so long is dead. Also how long another instance of a connected peer waits for the
    /// old connection's proof of life.
    pub silence: Duration,
    /// Between digests, give or take a fifth.
    pub digest: Duration,
    /// How soon after a change of the graph the next digest follows: while peers see different graphs, news may pass
    /// one by.
    pub repair: Duration,
    /// How long changes of own links wait for others.
    pub coalesce: Duration,
    /// How long a restarted peer waits for its services before it announces its new generation.
    pub hold_back: Duration,
    /// First pause between tries; each is half as long again as the one before, give or take a half.
    pub retry_min: Duration,
    /// Longest pause between tries.
    pub retry_max: Duration,
    /// Pause after a final refusal, which takes somebody to change something, give or take a tenth.
    pub retry_refused: Duration,
    /// A connection that lasted so long is dialled again at once when it breaks.
    pub long_lived: Duration,
    /// For so long after a connection broke, tries that reach nobody follow each other without growing pauses: whoever comes
    /// back is found within seconds.
    pub eager: Duration,
    /// An unreachable peer is forgotten after so long.
    pub forget: Duration,
    /// An old password is dropped when all peers known have had the new one for so long.
    pub old_password: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(3),
            digest: Duration::from_secs(5),
            repair: Duration::from_millis(300),
            coalesce: Duration::from_millis(50),
            hold_back: Duration::from_secs(3),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(60),
            retry_refused: Duration::from_secs(15),
            long_lived: Duration::from_secs(10),
            eager: Duration::from_secs(15 * 60),
            forget: Duration::from_secs(24 * 3600),
            old_password: Duration::from_secs(60),
        }
    }
}
