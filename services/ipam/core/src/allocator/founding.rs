//! How this host comes to a ring where it has none.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::Rng as _;
use weft_types::PeerName;

use super::{Allocator, Event};
use crate::{
    election::{Election, Proposal, Votes},
    records,
    ring::{Owner, Ring, RingInfo},
    settings::Creation,
};

impl Allocator {
    /// Takes the next step towards a ring.
    pub(super) fn found(&mut self, now: Instant) {
        if self.ring.is_some() || self.mesh.is_none() {
            self.propose_at = None;
            return;
        }
        match &self.settings.creation {
            Creation::Observe => {}
            Creation::Seeds(_) => self.sow(),
            Creation::Elect { .. } if self.is_founder() => {
                let info = self.new_info();
                let ring = Ring::shared(info.range, &[self.me]);
                self.begin_ring(info, ring);
            }
            Creation::Elect { .. } => self.elect(now),
        }
    }

    /// Tells whether this host makes a ring by itself: nobody told it to join others.
    pub(super) fn is_founder(&self) -> bool {
        let targets = self.mesh.as_ref().is_some_and(|mesh| mesh.targets_given);
        self.settings.creation == Creation::Elect { voters: None } && self.mesh.is_some() && !targets
    }

    /// Returns how many voters there are by this host's settings; none if it does not vote.
    pub(super) fn voters(&self) -> Option<u32> {
        match self.settings.creation {
            Creation::Elect { voters: Some(voters) } => Some(voters),
            Creation::Elect { voters: None } if self.is_founder() => None,
            Creation::Elect { voters: None } => self.mesh.as_ref().map(|mesh| mesh.target_count.saturating_add(1)),
            Creation::Seeds(_) | Creation::Observe => None,
        }
    }

    /// Tells whether this host would take the ring of others. One with seeds takes only that of the same seeds.
    pub(super) fn accepts(&self, info: &RingInfo) -> bool {
        match self.seeds() {
            None => true,
            Some(Ok(seeds)) => RingInfo::from_seeds(self.settings.range, &seeds).id == info.id,
            Some(Err(_)) => false,
        }
    }

    pub(super) fn begin_ring(&mut self, info: RingInfo, ring: Ring) {
        self.take_seed_share();
        self.unsaved.push(records::info_record(&info));
        self.ring = Some((info, ring));
        self.ring_changed = true;
        self.publication_due = true;
        self.retry_due = true;
        self.propose_at = None;
        self.tell(Event::RingReady(info));
    }

    /// Returns the votes of others that count: of those whom this host was told to join (or of all, where the number of
    /// voters was given), if they count as many voters.
    pub(super) fn ballots(&self) -> BTreeMap<PeerName, (u64, Votes)> {
        let Some(voters) = self.voters() else { return BTreeMap::new() };
        let ballots = self.views.iter().filter_map(|(peer, view)| Some((*peer, view.ballot.as_ref()?)));
        ballots
            .filter(|(peer, ballot)| self.is_voter(*peer) && ballot.voters == voters && !ballot.founder)
            .map(|(peer, ballot)| (peer, (ballot.store, ballot.votes.clone())))
            .collect()
    }

    pub(super) fn is_voter(&self, peer: PeerName) -> bool {
        let listed = self.mesh.as_ref().is_some_and(|mesh| mesh.target_peers.contains(&peer));
        listed || matches!(self.settings.creation, Creation::Elect { voters: Some(_) })
    }

    fn elect(&mut self, now: Instant) {
        let Some(voters) = self.voters() else { return };
        let others = self.ballots();
        let election = Election { me: self.me.peer, voters, others: &others };
        let mut votes = self.votes.clone();
        if others.len() + 1 < election.quorum() {
            self.propose_at = None;
        } else {
            let first = others.keys().all(|peer| self.me.peer < *peer);
            let begin = if first { now } else { now + self.random_delay(300, 1200) };
            if *self.propose_at.get_or_insert(begin) <= now {
                election.propose(&mut votes);
                self.propose_at = Some(now + self.random_delay(600, 2500));
            }
        }
        let info = self.new_info();
        let fresh = || {
            let owners = others.iter().map(|(peer, (store, _))| Owner { peer: *peer, store: *store });
            let mut owners: Vec<Owner> = owners.chain([self.me]).collect();
            owners.sort();
            Proposal { info, owners }
        };
        election.vote(&mut votes, fresh);
        let result = election.result(&votes);
        if votes != self.votes {
            self.votes = votes;
            self.unsaved.push(records::votes_record(&self.votes));
            self.publication_due = true;
        }
        if let Some(Proposal { info, owners }) = result.filter(|result| result.info.range == self.settings.range) {
            let ring = Ring::shared(info.range, &owners);
            self.begin_ring(info, ring);
        }
    }

    /// Returns the seeds if there are any, or those that have not been seen yet.
    pub(super) fn seeds(&self) -> Option<Result<Vec<Owner>, Vec<String>>> {
        let Creation::Seeds(seeds) = &self.settings.creation else { return None };
        let key = |seed: &String| {
            seed.parse().ok().or_else(|| self.names.values().find(|info| info.name == *seed).map(|info| info.peer))
        };
        let unknown: Vec<String> = seeds.iter().filter(|seed| key(seed).is_none()).cloned().collect();
        if !unknown.is_empty() {
            return Some(Err(unknown));
        }
        let mut owners: Vec<Owner> = seeds.iter().filter_map(key).map(|peer| Owner { peer, store: 0 }).collect();
        owners.sort();
        owners.dedup();
        Some(Ok(owners))
    }

    /// Becomes the owner of a seed's share, unless an earlier store of this host was that: shares of seeds are the same
    /// whoever makes the ring, so this is the one case in which a store does not name its owner by itself.
    fn take_seed_share(&mut self) {
        let Some(Ok(seeds)) = self.seeds() else { return };
        let seed = Owner { peer: self.me.peer, store: 0 };
        let facts = self.views.values().flat_map(|view| view.runs.values());
        let used = facts.into_iter().any(|(_, fact)| fact.owner == seed && fact.version > 0);
        if seeds.contains(&seed) && !used && !self.store_lost {
            self.me = seed;
            self.unsaved.push(records::store_record(0));
        }
    }

    fn sow(&mut self) {
        let Some(Ok(owners)) = self.seeds() else { return };
        let info = RingInfo::from_seeds(self.settings.range, &owners);
        let ring = Ring::shared(info.range, &owners);
        self.begin_ring(info, ring);
    }

    fn new_info(&mut self) -> RingInfo {
        RingInfo::from_bytes(self.settings.range, self.random.random())
    }

    fn random_delay(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    /// Says what is being waited for.
    pub(super) fn why_no_ring(&self) -> String {
        let Some(mesh) = &self.mesh else {
            return "the router of this host has not been reached".into();
        };
        if let Some(problem) = self.voter_problem() {
            return problem;
        }
        match self.seeds() {
            Some(Err(unknown)) => return format!("these seeds have not been seen yet: {}", unknown.join(", ")),
            Some(Ok(_)) => return "the ring is being made".into(),
            None => {}
        }
        let Some(voters) = self.voters() else {
            return "this host is an observer, and no peer that has addresses has been reached".into();
        };
        let heard = self.ballots().len() + 1;
        if mesh.peers.len() <= 1 {
            return "none of the peers that this host was given has been reached".into();
        }
        let quorum = voters as usize / 2 + 1;
        format!(
            "no peer has an address ring, and of {voters} voters {quorum} are needed to make one, {heard} were heard"
        )
    }
}
