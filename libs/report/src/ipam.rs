//! `status ipam`, `prime`.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use weft_proto::{common::v1::PeerName, ipam::v1 as pb, router::v1 as router};
use weft_types::hex;

use super::{Identity, Problem, prefix};

/// Who owns which share of the addresses.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Ipam {
    /// What is shared out; absent while unknown.
    pub range: Option<String>,
    /// Shares, this host's first.
    pub shares: Vec<Share>,
    /// Requests of this host that wait for space.
    pub pending: Vec<Pending>,
}

/// One peer's share.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Share {
    /// Whose.
    pub peer: Identity,
    /// Whether it is this host.
    pub local: bool,
    /// Addresses that the peer owns.
    pub owned: u64,
    /// How many of them it says are free.
    pub free: u64,
    /// The share of all addresses, in percent.
    pub percent: f64,
    /// Addresses in use, for this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<u64>,
    /// Whether the peer can be asked for space.
    pub reachable: bool,
}

/// The ring that was waited for; in text that is no news.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Primed {
    /// Its id in hexadecimal.
    pub ring_id: String,
}

/// A request that waits.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Pending {
    /// For whom.
    pub container: String,
    /// Where an address is wanted.
    pub subnet: String,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl Primed {
    /// Takes the ring's id.
    #[must_use]
    pub fn new(ring_id: &[u8]) -> Self {
        Self { ring_id: hex(ring_id) }
    }
}

impl fmt::Display for Primed {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl Ipam {
    /// Takes what ipam says; `local` is this host's name, as far as known.
    #[must_use]
    pub fn new(status: &pb::GetStatusResponse, local: Option<&PeerName>) -> Self {
        let total: u64 = status.shares.iter().map(|share| share.owned).sum();
        let share = |share: &pb::PeerShare| {
            let is_local = local.is_some() && share.peer_name.as_ref() == local;
            Share {
                peer: Identity::new(share.peer_name.as_ref(), &share.name, &share.nickname),
                local: is_local,
                owned: share.owned,
                free: share.free,
                percent: share.owned as f64 * 100.0 / total.max(1) as f64,
                active: is_local.then_some(status.allocated),
                reachable: share.reachable || is_local,
            }
        };
        let mut shares: Vec<_> = status.shares.iter().map(share).collect();
        shares.sort_by_key(|share| (!share.local, share.peer.name.clone()));
        let pending = status.pending.iter().map(|pending| Pending {
            container: pending.container_id.clone(),
            subnet: pending.subnet.as_ref().map(prefix).unwrap_or_default(),
            problem: pending.problem.as_ref().map(Into::into),
        });
        Self { range: status.range.as_ref().map(prefix), shares, pending: pending.collect() }
    }
}

impl fmt::Display for Ipam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for share in &self.shares {
            let Share { peer, owned, percent, .. } = share;
            write!(f, "{peer:<37} {owned:>8} IPs ({percent:04.1}% of total)")?;
            if let Some(active) = share.active {
                write!(f, " ({active} active)")?;
            }
            writeln!(f, "{}", if share.reachable { "" } else { " - unreachable!" })?;
        }
        for pending in &self.pending {
            let container = pending.container.get(..12).unwrap_or(&pending.container);
            write!(f, "{container} waits for an address of {}", pending.subnet)?;
            match &pending.problem {
                Some(problem) => writeln!(f, ": {problem}")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// Returns the whole key of the owner that has this nickname, where only the router knows that: ipam forgets nicknames of those who are
/// away when it is started.
#[must_use]
pub fn unnamed_owner(
    nickname: &str,
    ipam: &pb::GetStatusResponse,
    router: &router::GetStatusResponse,
) -> Option<String> {
    if nickname.is_empty() || ipam.shares.iter().any(|share| share.nickname == nickname) {
        return None;
    }
    let unnamed = |peer: &router::Peer| {
        let share = ipam.shares.iter().find(|share| share.peer_name == peer.peer_name);
        share.is_some_and(|share| share.nickname.is_empty())
    };
    let mut called = router.peers.iter().filter(|peer| peer.nickname == nickname && unnamed(peer));
    let (peer, None) = (called.next()?, called.next()) else { return None };
    Some(Identity::new(peer.peer_name.as_ref(), "", nickname).key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nickname_that_ipam_forgot_is_the_routers_to_say() {
        let peer = |number: u8| Some(PeerName::from(weft_types::PeerName::from_public_key([number; 32])));
        let share = |number: u8, nickname: &str| pb::PeerShare {
            peer_name: peer(number),
            nickname: nickname.to_owned(),
            ..Default::default()
        };
        let known = |number: u8, nickname: &str| router::Peer {
            peer_name: peer(number),
            nickname: nickname.to_owned(),
            ..Default::default()
        };
        let ipam = pb::GetStatusResponse {
            shares: vec![share(1, "host1"), share(3, ""), share(4, ""), share(5, "")],
            ..Default::default()
        };
        let router = router::GetStatusResponse {
            peers: [(1, "host1"), (2, "host2"), (3, "host3"), (4, "twin"), (5, "twin")]
                .map(|(number, nickname)| known(number, nickname))
                .into(),
            ..Default::default()
        };
        let found = |nickname: &str| unnamed_owner(nickname, &ipam, &router);
        assert_eq!(found("host3"), Some("03".repeat(32)));
        assert_eq!(found("host1"), None, "ipam knows it");
        assert_eq!(found("host2"), None, "it owns nothing");
        assert_eq!(found("twin"), None, "which of them?");
    }
}
