//! `status peers`.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::router::v1 as pb;

use super::{Identity, endpoint, trimmed};

/// All peers of the mesh, in order of name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Peers {
    /// Peers, this host included.
    pub peers: Vec<Peer>,
}

/// One peer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Peer {
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// Its version; empty while unknown.
    pub version: String,
    /// "local", "reachable", "unreachable": no chain of links leads to it, and what it published is suspended; or "revoked".
    pub state: &'static str,
    /// Whom it says it is connected with.
    pub links: Vec<Link>,
}

/// One link of a peer.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Link {
    /// The peer at the other end.
    pub remote: Identity,
    /// Where it is reached.
    pub address: String,
    /// Whether the peer dialled.
    pub outbound: bool,
    /// "established", or "pending" while data does not pass over it.
    pub state: &'static str,
}

impl Peers {
    /// Takes what the router says.
    #[must_use]
    pub fn new(status: &pb::GetStatusResponse) -> Self {
        let mut peers: Vec<_> = status.peers.iter().map(|peer| Peer::new(peer, status)).collect();
        peers.sort_by(|a, b| (&a.identity.name, &a.identity.key).cmp(&(&b.identity.name, &b.identity.key)));
        Self { peers }
    }
}

impl Peer {
    fn new(peer: &pb::Peer, status: &pb::GetStatusResponse) -> Self {
        Self {
            identity: Identity::new(peer.peer_name.as_ref(), &peer.name, &peer.nickname),
            version: peer.version.clone(),
            state: match peer.state() {
                pb::PeerState::Local => "local",
                pb::PeerState::Unspecified | pb::PeerState::Reachable => "reachable",
                pb::PeerState::Unreachable => "unreachable",
                pb::PeerState::Revoked => "revoked",
            },
            links: peer.links.iter().map(|link| Link::new(link, status)).collect(),
        }
    }
}

impl Link {
    fn new(link: &pb::PeerLink, status: &pb::GetStatusResponse) -> Self {
        let known = status.peers.iter().find(|peer| peer.peer_name == link.remote);
        let (name, nickname) = known.map_or(("", "?"), |peer| (&peer.name, &peer.nickname));
        Self {
            remote: Identity::new(link.remote.as_ref(), name, nickname),
            address: link.endpoint.as_ref().map(endpoint).unwrap_or_default(),
            outbound: link.outbound,
            state: if link.data_direct || link.data_stream { "established" } else { "pending" },
        }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for peer in &self.peers {
            let note = match peer.state {
                "unreachable" => " - unreachable, its names are suspended",
                "revoked" => " - revoked, nobody lets it in",
                _ => "",
            };
            writeln!(f, "{}{note}", peer.identity)?;
            for link in &peer.links {
                let arrow = if link.outbound { "->" } else { "<-" };
                let line = format!("   {arrow} {:<21} {:<37} {}", link.address, link.remote, link.state);
                writeln!(f, "{}", trimmed(&line))?;
            }
        }
        Ok(())
    }
}

/// What became of reading the password again.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PasswordReload {
    /// Whether the file had another than the one in force.
    pub changed: bool,
}

impl fmt::Display for PasswordReload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.changed {
            "the new password is in force; hosts that were members come in with the one before until all have the new one\n"
        } else {
            "nothing changed: the file has the password that is in force\n"
        })
    }
}
