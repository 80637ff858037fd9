//! What people may want to know.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use weft_types::{AddressRange, ContainerId, PeerName};

use super::{Allocator, PeerInfo};
use crate::{Refusal, free_report::free_now, ring::RingInfo};

/// Whether there is a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingState {
    /// Nobody has one, as far as is known.
    Electing,
    /// There is one.
    Ready,
    /// The peers that this host was told to join have not been reached.
    WaitingForPeers,
}

/// What a peer has of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The peer, and how people call it.
    pub peer: PeerInfo,
    /// How many addresses it owns.
    pub owned: u64,
    /// How many of them it says are free; exact for this host.
    pub free: u64,
    /// Whether it can be reached.
    pub reachable: bool,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A stable word that programs may compare.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
    /// How long it has been so.
    pub age: Duration,
}

/// Everything about the allocator that people may want to know.
#[derive(Debug, Clone)]
pub struct Status {
    /// Whether there is a ring.
    pub state: RingState,
    /// The ring, if there is one.
    pub ring: Option<RingInfo>,
    /// The range.
    pub range: Ipv4Net,
    /// The default subnet.
    pub default_subnet: Ipv4Net,
    /// Who owns how much.
    pub shares: Vec<Share>,
    /// Requests that wait: for whom, where, since when, and what for.
    pub pending: Vec<(ContainerId, Ipv4Net, Duration, Refusal)>,
    /// How many addresses the host's containers hold.
    pub allocated: usize,
    /// Number of voters while there is no ring.
    pub voters: u32,
    /// How many of them have been heard, this host included.
    pub voters_heard: u32,
    /// What is not as it should be.
    pub problems: Vec<Problem>,
}

impl Allocator {
    /// Returns everything about the allocator that people may want to know.
    pub fn status(&mut self, now: Instant) -> Status {
        let peers_seen = self.mesh.as_ref().is_some_and(|mesh| mesh.peers.len() > 1);
        let state = match &self.ring {
            Some(_) => RingState::Ready,
            None if peers_seen => RingState::Electing,
            None => RingState::WaitingForPeers,
        };
        let pending = self.pending.values().map(|pending| {
            let waited = now.saturating_duration_since(pending.since);
            (pending.container.clone(), pending.want.net(), waited, self.why_not(pending, now))
        });
        Status {
            state,
            ring: self.ring.as_ref().map(|(info, _)| *info),
            range: self.settings.range,
            default_subnet: self.settings.default_subnet,
            shares: self.shares(),
            pending: pending.collect(),
            allocated: self.holdings.len(),
            voters: if self.ring.is_none() { self.voters().unwrap_or_default() } else { 0 },
            voters_heard: if self.ring.is_none() { self.ballots().len() as u32 + 1 } else { 0 },
            problems: self.problems(now),
        }
    }

    fn shares(&self) -> Vec<Share> {
        let Some((info, ring)) = &self.ring else { return Vec::new() };
        let mut owned: BTreeMap<PeerName, u64> = BTreeMap::new();
        for (run, fact) in ring.runs() {
            *owned.entry(fact.owner.peer).or_default() += run.size();
        }
        let range = AddressRange::from(info.range);
        let share = |(peer, owned): (PeerName, u64)| {
            let free = if peer == self.me.peer {
                free_now(ring, &self.holdings, self.me, range)
            } else {
                self.views.get(&peer).and_then(|view| view.free.as_ref()).map_or(0, |report| report.total())
            };
            let reachable = peer == self.me.peer || self.is_reachable(peer);
            Share { peer: self.info_of(peer), owned, free, reachable }
        };
        owned.into_iter().map(share).collect()
    }

    /// Says that peers disagree about who votes, if they do.
    pub(super) fn voter_problem(&self) -> Option<String> {
        let voters = self.voters().filter(|_| self.ring.is_none())?;
        let other = self.views.iter().find_map(|(peer, view)| {
            let ballot = view.ballot.as_ref()?;
            (self.is_voter(*peer) && ballot.voters != voters && ballot.voters != 0).then_some((*peer, ballot.voters))
        });
        other.map(|(peer, theirs)| {
            let name = self.name_of(peer);
            format!(
                "{name} counts {theirs} voters for the address ring, this host {voters}: \
                 give all hosts the same list of peers, or the same --init consensus=<voters>"
            )
        })
    }

    fn problems(&mut self, now: Instant) -> Vec<Problem> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        found.extend(self.voter_problem().map(|message| ("voters_differ", message)));
        for (peer, view) in &self.views {
            let Some(theirs) = &view.info else { continue };
            let name = self.name_of(*peer);
            if theirs.range != self.settings.range {
                let (theirs, ours) = (theirs.range, self.settings.range);
                let message =
                    format!("{name} uses the address range {theirs}, this host {ours}: give all hosts the same one");
                found.push(("other_range", message));
            } else if let Some((ours, _)) = self.ring.as_ref().filter(|(ours, _)| ours.id != theirs.id) {
                let (theirs, ours) = (theirs.id, ours.id);
                let message = format!(
                    "{name} belongs to the address ring {theirs}, this host to {ours}, so each gives addresses without \
                     the other: stop weft on the hosts of one ring, remove /var/lib/weft/ipam there and start it with the \
                     other ring's hosts as its peers"
                );
                found.push(("other_ring", message));
            } else if self.ring.is_none() && self.seeds().is_some() {
                let message = format!(
                    "{name} belongs to the address ring {}, made of other seeds: give all hosts the same",
                    theirs.id
                );
                found.push(("other_seeds", message));
            }
        }
        if !self.lost.is_empty() {
            let addresses: Vec<String> = self
                .lost
                .iter()
                .take(5)
                .map(|(address, owner)| format!("{address} ({})", self.name_of(*owner)))
                .collect();
            let message = format!(
                "{} addresses of this host's containers were taken over while it was taken for dead, as {}: restart those containers",
                self.lost.len(),
                addresses.join(", "),
            );
            found.push(("addresses_lost", message));
        }
        let orphaned: u64 = self
            .ring
            .iter()
            .flat_map(|(_, ring)| ring.runs())
            .filter(|(_, fact)| fact.owner.peer == self.me.peer && fact.owner != self.me)
            .map(|(run, _)| run.size())
            .sum();
        if orphaned > 0 {
            let message = format!(
                "{orphaned} addresses belong to an address store that this host has lost, and nobody uses them until it is found again"
            );
            found.push(("store_lost", message));
        }
        self.problem_times.retain(|message, _| found.iter().any(|(_, still)| still == message));
        found
            .into_iter()
            .map(|(reason, message)| {
                let since = *self.problem_times.entry(message.clone()).or_insert(now);
                Problem { reason, message, age: now.saturating_duration_since(since) }
            })
            .collect()
    }
}
