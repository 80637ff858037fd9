//! What the driver shows of the router.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weft_router_core::{
    mesh::{ATTACHMENTS_CHANNEL, ConnectionView, PeerIdentity, PeerView, TargetView},
    path::Via,
    session::Cipher,
};
use weft_types::PeerName;

use super::{Attachment, Driver, forwarding};
use crate::{dataplane::Statistics, trusted::TrustedView};

/// Everything there is to show.
#[derive(Debug)]
pub struct Status {
    /// The local peer.
    pub local: PeerIdentity,
    /// All targets, and since when each has its problem.
    pub targets: Vec<(TargetView, Option<ProblemView>)>,
    /// All connections, and why datagrams do not pass beside one.
    pub connections: Vec<(ConnectionView, Option<ProblemView>)>,
    /// All peers known.
    pub peers: Vec<PeerView>,
    /// The way of data to each peer.
    pub data: BTreeMap<PeerName, DataView>,
    /// The way by VXLAN to each peer that is trusted, or is not though either end trusts somebody.
    pub trusted: BTreeMap<PeerName, TrustedView>,
    /// Counters of the packet path.
    pub statistics: Statistics,
    /// What does not work.
    pub problems: Vec<ProblemView>,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemView {
    /// Stable word.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// For how long.
    pub age: Duration,
}

/// The way of data to a peer.
#[derive(Debug, Clone)]
pub struct DataView {
    /// How datagrams pass both ways, and the round trip.
    pub up: Option<(Via, Duration)>,
    /// Cipher of the newest session.
    pub cipher: Option<Cipher>,
    /// Sessions agreed on.
    pub sessions: u64,
}

/// An attachment and where it is.
#[derive(Debug, Clone)]
pub struct Located {
    /// The peer.
    pub peer: PeerIdentity,
    /// Whether the peer takes part.
    pub reachable: bool,
    /// The attachment; its host interface is not known.
    pub attachment: Attachment,
}

impl Driver {
    pub(super) fn status(&mut self, now: Instant) -> Status {
        self.look_for_problems(now);
        let statistics = self.paths.statistics();
        let targets = self.mesh.targets(now).into_iter().map(|target| {
            let problem = target.problem.as_ref();
            let problem = problem.map(|problem| self.problems.view(problem.reason, &problem.message, now));
            (target, problem)
        });
        let connections = self.mesh.connections(now).into_iter().map(|view| {
            let problem = self.path_problem(&view, &statistics, now);
            (view, problem)
        });
        let peers = self.mesh.peers();
        let data = peers.iter().filter_map(|view| {
            let path = self.paths.get(view.identity.peer)?;
            Some((view.identity.peer, DataView { up: path.up, cipher: path.cipher, sessions: path.sessions }))
        });
        Status {
            local: self.mesh.local(),
            targets: targets.collect(),
            connections: connections.collect(),
            data: data.collect(),
            trusted: self.trusted(),
            peers,
            problems: self.general_problems(now),
            statistics,
        }
    }

    /// Returns the ways by VXLAN, and for whom there is none because one end does not trust the other.
    fn trusted(&self) -> BTreeMap<PeerName, TrustedView> {
        let mut ways = self.trusted.shown();
        for (peer, trust) in self.mesh.trusts() {
            let reason = match trust {
                Ok(_) if ways.contains_key(&peer) => continue,
                Ok(_) => {
                    Some("has no device yet: there are too many trusted peers, or another has its number".to_owned())
                }
                Err(distrust) => distrust.reason(&self.mesh.identity(peer).name),
            };
            ways.extend(reason.map(|reason| (peer, TrustedView { reason, ..TrustedView::default() })));
        }
        ways
    }

    pub(super) fn locations(&self) -> Vec<Located> {
        let mut located = Vec::new();
        for origin in self.mesh.channel(ATTACHMENTS_CHANNEL) {
            let peer = self.mesh.identity(origin.origin);
            let reachable = self.mesh.is_reachable(origin.origin);
            located.extend(forwarding::attachments(&origin).map(|published| Located {
                peer: peer.clone(),
                reachable,
                attachment: Attachment {
                    container: published.container,
                    mac: published.mac,
                    addresses: published.addresses,
                    allowed: published.allowed,
                    host_interface: String::new(),
                },
            }));
        }
        located
    }
}
