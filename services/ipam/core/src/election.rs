//! How peers without a ring agree on one: Paxos, with each peer's published ballot for messages.
//!
//! A peer's votes are one register that only it writes, saved before it is published. Promising means never to accept a
//! lower number; a proposer that sees a quorum promise its number accepts for it the value of the highest number accepted
//! among them, or its own; who sees its promised number accepted accepts the same; what a quorum accepted is the ring.

use std::collections::BTreeMap;

use crdts::CvRDT;
use weft_types::PeerName;

use crate::ring::{Owner, RingInfo};

/// Number of a proposal; no two peers make the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number {
    /// Counts the tries.
    pub round: u64,
    /// The proposer.
    pub peer: PeerName,
}

/// A ring to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The ring's identity.
    pub info: RingInfo,
    /// Who shares it, in order.
    pub owners: Vec<Owner>,
}

/// What one peer has promised and accepted. Only that peer changes it, and it only grows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Votes {
    /// Nothing below this is accepted.
    pub promised: Option<Number>,
    /// The last accepted proposal.
    pub accepted: Option<(Number, Proposal)>,
}

/// Two proposals go by one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("proposal {} of {} has two values", .0.round, .0.peer)]
pub struct AmbiguousProposal(Number);

impl CvRDT for Votes {
    type Validation = AmbiguousProposal;

    fn validate_merge(&self, other: &Self) -> Result<(), AmbiguousProposal> {
        match (&self.accepted, &other.accepted) {
            (Some((number, ours)), Some((other, theirs))) if number == other && ours != theirs => {
                Err(AmbiguousProposal(*number))
            }
            _ => Ok(()),
        }
    }

    fn merge(&mut self, other: Self) {
        self.promised = self.promised.max(other.promised);
        let number = |votes: &Option<(Number, Proposal)>| votes.as_ref().map(|(number, _)| *number);
        if number(&self.accepted) < number(&other.accepted) {
            self.accepted = other.accepted;
        }
    }
}

/// One look at all ballots that count: our own votes and those of the other voters, all with the same number of voters.
pub(crate) struct Election<'a> {
    pub(crate) me: PeerName,
    pub(crate) voters: u32,
    pub(crate) others: &'a BTreeMap<PeerName, (u64, Votes)>,
}

impl Election<'_> {
    /// Returns how many votes decide.
    pub(crate) fn quorum(&self) -> usize {
        self.voters as usize / 2 + 1
    }

    /// Starts a new try: promises a number above all that have been seen.
    pub(crate) fn propose(&self, mine: &mut Votes) {
        let seen = self.others.values().map(|(_, votes)| votes).chain([&*mine]);
        let round = seen.filter_map(|votes| votes.promised).map(|number| number.round).max().unwrap_or_default() + 1;
        mine.promised = Some(Number { round, peer: self.me });
    }

    /// Does what follows from the ballots; `fresh` makes a value where nothing was accepted. Tells whether the votes changed.
    pub(crate) fn vote(&self, mine: &mut Votes, fresh: impl FnOnce() -> Proposal) -> bool {
        let before = mine.clone();
        let highest = self.others.values().filter_map(|(_, votes)| votes.promised).max();
        mine.promised = mine.promised.max(highest);
        let Some(promised) = mine.promised else { return false };
        let accepted_number = |votes: &Votes| votes.accepted.as_ref().map(|(number, _)| *number);
        if accepted_number(mine) < Some(promised) {
            let same = self
                .others
                .values()
                .filter_map(|(_, votes)| votes.accepted.as_ref())
                .find(|(number, _)| *number == promised);
            if let Some(same) = same {
                mine.accepted = Some(same.clone());
            } else if promised.peer == self.me {
                let promisers: Vec<&Votes> = self
                    .others
                    .values()
                    .map(|(_, votes)| votes)
                    .filter(|votes| votes.promised == Some(promised))
                    .chain([&before])
                    .collect();
                if before.promised == Some(promised) && promisers.len() >= self.quorum() {
                    let value = promisers
                        .iter()
                        .filter_map(|votes| votes.accepted.as_ref())
                        .max_by_key(|(number, _)| *number)
                        .map_or_else(fresh, |(_, proposal)| proposal.clone());
                    mine.accepted = Some((promised, value));
                }
            }
        }
        *mine != before
    }

    /// Returns what a quorum has accepted.
    pub(crate) fn result(&self, mine: &Votes) -> Option<Proposal> {
        let mut counts: BTreeMap<Number, (usize, &Proposal)> = BTreeMap::new();
        for (number, proposal) in
            self.others.values().map(|(_, votes)| votes).chain([mine]).filter_map(|votes| votes.accepted.as_ref())
        {
            counts.entry(*number).or_insert((0, proposal)).0 += 1;
        }
        counts.into_values().find(|(count, _)| *count >= self.quorum()).map(|(_, proposal)| proposal.clone())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: usize) -> PeerName {
        PeerName::from_public_key([number as u8; 32])
    }

    /// Makes a value that nobody else makes.
    fn value(number: u8) -> Proposal {
        let info = RingInfo::from_bytes("10.32.0.0/12".parse().expect("valid"), [number; 32]);
        Proposal { info, owners: vec![Owner { peer: peer(1), store: number.into() }] }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever each voter has seen of the others, however old, no two values ever have a quorum.
        #[test]
        fn at_most_one_ring_is_elected(
            voters in 2_usize..=5,
            steps in prop::collection::vec((0_usize..5, any::<bool>(), any::<u8>(), 0_usize..3), 0..120),
        ) {
            // What each voter has published, oldest first, and up to where each has seen each other.
            let mut published = vec![vec![Votes::default()]; voters];
            let mut seen = vec![vec![0; voters]; voters];
            let mut accepted: BTreeMap<Number, (Vec<usize>, Proposal)> = BTreeMap::new();
            for (count, (who, propose, look, skip)) in steps.into_iter().enumerate() {
                let me = who % voters;
                for other in (0..voters).filter(|other| *other != me && look & (1 << other) != 0) {
                    let newest = published[other].len() - 1;
                    seen[me][other] = newest.saturating_sub(skip).max(seen[me][other]);
                }
                let others = (0..voters).filter(|other| *other != me);
                let others = others.map(|other| (peer(other), (1, published[other][seen[me][other]].clone()))).collect();
                let election = Election { me: peer(me), voters: voters as u32, others: &others };
                let mut votes = published[me].last().cloned().unwrap_or_default();
                if propose && look & 0b1100_0000 == 0 {
                    election.propose(&mut votes);
                    published[me].push(votes.clone());
                }
                election.vote(&mut votes, || value(count as u8));
                if let Some((number, proposal)) = &votes.accepted {
                    let (by, first) = accepted.entry(*number).or_insert_with(|| (Vec::new(), proposal.clone()));
                    prop_assert_eq!(&*first, proposal, "one number, one value");
                    if !by.contains(&me) {
                        by.push(me);
                    }
                }
                published[me].push(votes);
            }
            let mut chosen: Vec<_> = accepted.values().filter(|(by, _)| by.len() > voters / 2).map(|(_, value)| value).collect();
            chosen.dedup();
            prop_assert!(chosen.len() <= 1, "two rings: {:?}", chosen);
        }
    }
}
