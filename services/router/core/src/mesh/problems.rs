//! What keeps the mesh from working as it should.

use std::collections::BTreeMap;

use super::{GoodbyeReason, Mesh, PeerIdentity, Problem, RingId, exchange::FREE_RAISES};
use crate::gossip::limits;

/// Peers that one sentence names.
const NAMED: usize = 3;

impl Mesh {
    /// Returns what keeps the mesh from working as it should and is no single connection's matter.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let lost = |peer| {
            let identity = self.identity(peer);
            let message = format!(
                "no chain of connections leads to {}({}): its containers cannot be reached, and their names are not answered",
                identity.name, identity.nickname
            );
            Problem { reason: "peer_unreachable", message, is_final: false }
        };
        let mut problems: Vec<Problem> = self.key_problem().into_iter().collect();
        problems.extend(self.admission_problems());
        problems.extend(self.name_problems());
        problems.extend(self.ring_problems());
        problems.extend(self.surplus_problem());
        problems.extend(self.unreachable.keys().copied().filter(|peer| !self.is_revoked(*peer)).map(lost));
        problems
    }

    /// Says so when another host seems to speak for the local peer.
    fn key_problem(&self) -> Option<Problem> {
        let message = || {
            format!(
                "another host gossips with the key of {}({}): remove /var/lib/weft/router on the one that is the copy, \
                 and restart weft there",
                self.config.name, self.config.nickname
            )
        };
        let suspicious = self.raises.len() > FREE_RAISES as usize;
        suspicious.then(|| Problem { reason: GoodbyeReason::SameKey.word(), message: message(), is_final: false })
    }

    /// Names the hosts that have one name, which those do that never had a connection with each other.
    fn name_problems(&self) -> Vec<Problem> {
        let mut holders: BTreeMap<String, Vec<PeerIdentity>> = BTreeMap::new();
        for identity in self.reachable() {
            holders.entry(identity.name.clone()).or_default().push(identity);
        }
        let same = |(name, holders): (String, Vec<PeerIdentity>)| {
            let [one, other, ..] = holders.as_slice() else { return None };
            let message = format!(
                "the name {name} is that of two hosts, {} (key {}) and {} (key {}): set another WEFT_NAME on one of them",
                one.nickname, one.peer, other.nickname, other.peer
            );
            Some(Problem { reason: GoodbyeReason::SameName.word(), message, is_final: false })
        };
        holders.into_iter().filter_map(same).collect()
    }

    /// Names the peers that take part over others though their addresses come from another ring.
    fn ring_problems(&self) -> Vec<Problem> {
        let Some(ours) = self.ring_id else { return Vec::new() };
        let other = |peer| {
            let theirs = self.facts.get(peer)?.ring_id.filter(|theirs| *theirs != ours)?;
            let identity = self.identity(*peer);
            let message =
                other_rings(&format!("{}({})", identity.name, identity.nickname), &theirs, &self.config.name, &ours);
            Some(Problem { reason: GoodbyeReason::RingId.word(), message, is_final: false })
        };
        self.reachable.iter().filter_map(other).collect()
    }

    /// Says of whom not everything is known because there is no room for it.
    fn surplus_problem(&self) -> Option<Problem> {
        let count = self.store.surplus().count();
        let named: Vec<String> = self.store.surplus().take(NAMED).map(|peer| self.identity(peer).name).collect();
        let more = if count > named.len() { format!(" and {} more", count - named.len()) } else { String::new() };
        let message = || {
            format!(
                "other hosts publish more than {} holds of them ({} hosts, {} MiB), so that what is new of {}{more} is left \
                 out: run fewer hosts or containers in one mesh",
                self.config.name,
                limits::ORIGINS,
                limits::TOTAL_LENGTH >> 20,
                named.join(", ")
            )
        };
        (count > 0).then(|| Problem { reason: "gossip_limit", message: message(), is_final: false })
    }
}

/// Says that two hosts take their addresses from two rings.
pub(super) fn other_rings(theirs: &str, their_ring: &RingId, ours: &str, our_ring: &RingId) -> String {
    format!(
        "{theirs} takes its addresses from ring {}, and {ours} from ring {}: two networks were founded apart; reset the hosts \
         of one of them, so that they join the other",
        short(their_ring),
        short(our_ring)
    )
}

fn short(ring: &RingId) -> String {
    ring.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}
