//! Who owns which address: a map from addresses to facts that grow, kept as runs of equal facts.

use std::{collections::BTreeMap, fmt};

use crdts::CvRDT;
use ipnet::Ipv4Net;
use sha2::{Digest, Sha256};
use weft_types::{AddressRange, PeerName, UlaPrefix};

/// Names a ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingId(pub [u8; 16]);

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingId({self})")
    }
}

/// What makes a ring this ring and no other. Never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingInfo {
    /// The ring's name.
    pub id: RingId,
    /// The whole range.
    pub range: Ipv4Net,
    /// Prefix of all IPv6 twins.
    pub ula: UlaPrefix,
}

impl RingInfo {
    /// Makes a new ring's identity from 32 bytes that nobody else has.
    #[must_use]
    pub fn from_bytes(range: Ipv4Net, bytes: [u8; 32]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[..16]);
        let mut global_id = [0; 5];
        global_id.copy_from_slice(&bytes[16..21]);
        Self { id: RingId(id), range, ula: UlaPrefix::from_global_id(global_id) }
    }

    /// Makes the identity that all who were given the same seeds and range arrive at.
    #[must_use]
    pub fn from_seeds<'a>(range: Ipv4Net, seeds: impl IntoIterator<Item = &'a Owner>) -> Self {
        let mut hash = Sha256::new_with_prefix(format!("weft ring {range}"));
        for seed in seeds {
            hash.update(seed.peer.as_bytes());
        }
        Self::from_bytes(range, hash.finalize().into())
    }
}

/// Who may own addresses: a peer, as long as it keeps its store.
///
/// A peer whose store was lost comes back as another owner. It cannot know what it had given away, so it must not use what
/// the lost store owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The peer.
    pub peer: PeerName,
    /// Tells its stores apart; 0 is the first store of a seed.
    pub store: u64,
}

/// What is known about one address: who owns it. Of two facts the greater one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fact {
    /// Grows by one with each takeover.
    pub epoch: u32,
    /// Grows with each change of owner within the epoch.
    pub version: u64,
    /// The owner. Two facts differ in nothing but this only when two peers took over the same addresses at a time.
    pub owner: Owner,
}

/// All facts known about a range: a state-based CRDT, whose merge keeps the greater fact for every single address.
///
/// Kept as disjoint runs, each as long as it can be; a run starts at its token. Where nothing is known there is no run.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Ring {
    runs: BTreeMap<u32, (u64, Fact)>,
}

/// Two facts about the same addresses differ in the owner alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{range} was given to two peers at a time: {ours} and {theirs}", ours = ours.owner.peer, theirs = theirs.owner.peer)]
pub struct Conflict {
    /// The addresses.
    pub range: AddressRange,
    /// One fact.
    pub ours: Fact,
    /// The other.
    pub theirs: Fact,
}

impl Ring {
    /// Makes the ring that `owners` share at first.
    ///
    /// The range is halved again and again among the owners in their order, so that the pieces stay aligned; a number that
    /// is no power of two makes unequal shares.
    #[must_use]
    pub fn shared(range: Ipv4Net, owners: &[Owner]) -> Self {
        let mut ring = Self::default();
        ring.share(range.into(), owners);
        ring
    }

    fn share(&mut self, range: AddressRange, owners: &[Owner]) {
        let Some(&owner) = owners.first() else { return };
        let middle = u64::from(range.start()) + range.size() / 2;
        let halves = u32::try_from(middle).ok().and_then(|start| {
            Some((AddressRange::new(range.start(), middle).ok()?, AddressRange::new(start, range.end()).ok()?))
        });
        match halves {
            Some((lower, upper)) if owners.len() > 1 => {
                let (first, second) = owners.split_at(owners.len() / 2);
                self.share(lower, first);
                self.share(upper, second);
            }
            Some(_) | None => {
                self.learn(range, Fact { epoch: 0, version: 0, owner });
            }
        }
    }

    /// Returns all runs in order.
    pub fn runs(&self) -> impl Iterator<Item = (AddressRange, Fact)> + '_ {
        self.runs.iter().map(|(start, (end, fact))| (run_range(*start, *end), *fact))
    }

    /// Returns the runs that lie in `range`, cut at its ends.
    pub fn runs_in(&self, range: AddressRange) -> impl Iterator<Item = (AddressRange, Fact)> + '_ {
        let first = self.runs.range(..=range.start()).next_back().map_or(range.start(), |(start, _)| *start);
        self.runs
            .range(first..)
            .take_while(move |(start, _)| u64::from(**start) < range.end())
            .filter_map(move |(start, (end, fact))| Some((run_range(*start, *end).intersection(range)?, *fact)))
    }

    /// Returns the longest ranges inside `range` that `owner` owns.
    pub fn owned_in(&self, owner: Owner, range: AddressRange) -> Vec<AddressRange> {
        let mut spans: Vec<AddressRange> = Vec::new();
        for (run, fact) in self.runs_in(range) {
            if fact.owner != owner {
                continue;
            }
            match spans.last_mut() {
                Some(last) if last.end() == u64::from(run.start()) => *last = run_range(last.start(), run.end()),
                Some(_) | None => spans.push(run),
            }
        }
        spans
    }

    /// Returns the fact about one address, if there is one.
    #[must_use]
    pub fn fact(&self, address: u32) -> Option<Fact> {
        let (_, (end, fact)) = self.runs.range(..=address).next_back()?;
        (u64::from(address) < *end).then_some(*fact)
    }

    /// Returns how many runs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Tells whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Tells whether everything in `range` is known to be at least `fact`.
    #[must_use]
    pub fn covers(&self, range: AddressRange, fact: Fact) -> bool {
        let mut reached = u64::from(range.start());
        for (run, known) in self.runs_in(range) {
            if u64::from(run.start()) != reached || known < fact {
                return false;
            }
            reached = run.end();
        }
        reached == range.end()
    }

    /// Takes in that `fact` holds for all of `range`, wherever nothing greater is known. Tells whether it was news.
    pub fn learn(&mut self, range: AddressRange, fact: Fact) -> bool {
        let mut news = Vec::new();
        let mut reached = range.start();
        let mut complete = false;
        for (run, known) in self.runs_in(range) {
            if reached < run.start() {
                news.push(run_range(reached, run.start().into()));
            }
            if known < fact {
                news.push(run);
            }
            match u32::try_from(run.end()) {
                Ok(end) => reached = end,
                Err(_) => complete = true,
            }
        }
        if !complete && u64::from(reached) < range.end() {
            news.push(run_range(reached, range.end()));
        }
        for part in &news {
            self.write(*part, fact);
        }
        !news.is_empty()
    }

    /// Gives `range`, all of which `from` must own, to `to`, and returns the new facts.
    ///
    /// # Panics
    /// If `from` does not own the range: only the owner may write.
    pub fn grant(&mut self, range: AddressRange, from: Owner, to: Owner) -> Vec<(AddressRange, Fact)> {
        let runs: Vec<_> = self.runs_in(range).collect();
        assert!(runs.iter().map(|(run, _)| run.size()).sum::<u64>() == range.size(), "a granted range is known");
        assert!(runs.iter().all(|(_, fact)| fact.owner == from), "only the owner grants");
        let version = runs.iter().map(|(_, fact)| fact.version).max().unwrap_or_default() + 1;
        for (run, fact) in runs {
            self.write(run, Fact { version, owner: to, ..fact });
        }
        self.runs_in(range).collect()
    }

    /// Gives all that `dead` says it owns to `to`, in a new epoch, and returns the new facts.
    ///
    /// Safe only while `dead` runs no container: it is an operator's decision, never made here.
    pub fn take_over(&mut self, dead: PeerName, to: Owner) -> Vec<(AddressRange, Fact)> {
        let runs: Vec<_> = self.runs().filter(|(_, fact)| fact.owner.peer == dead).collect();
        let mut facts = Vec::with_capacity(runs.len());
        for (run, fact) in runs {
            let fact = Fact { epoch: fact.epoch + 1, version: 0, owner: to };
            self.write(run, fact);
            facts.push((run, fact));
        }
        facts
    }

    /// Joins neighbouring runs of `owner`, who must be the local one, by giving them the greatest of their versions.
    /// Tells whether there were any.
    pub fn consolidate(&mut self, owner: Owner) -> bool {
        let mut groups: Vec<(AddressRange, Fact, usize)> = Vec::new();
        for (run, fact) in self.runs().filter(|(_, fact)| fact.owner == owner) {
            match groups.last_mut() {
                Some((range, last, count)) if range.end() == u64::from(run.start()) && last.epoch == fact.epoch => {
                    *range = run_range(range.start(), run.end());
                    last.version = last.version.max(fact.version);
                    *count += 1;
                }
                Some(_) | None => groups.push((run, fact, 1)),
            }
        }
        groups.retain(|(.., count)| *count > 1);
        for (range, fact, _) in &groups {
            self.write(*range, *fact);
        }
        !groups.is_empty()
    }

    /// Replaces what is known about `range`, and joins the new run with equal neighbours.
    fn write(&mut self, range: AddressRange, fact: Fact) {
        let (mut start, mut end) = (range.start(), range.end());
        let overlapping: Vec<u32> = self
            .runs
            .range(..=u32::try_from(end).unwrap_or(u32::MAX))
            .rev()
            .take_while(|(_, (run_end, _))| *run_end >= u64::from(start))
            .map(|(token, _)| *token)
            .collect();
        for token in overlapping {
            let Some((run_end, known)) = self.runs.remove(&token) else { continue };
            if known == fact {
                start = start.min(token);
                end = end.max(run_end);
                continue;
            }
            if token < range.start() {
                self.runs.insert(token, (run_end.min(range.start().into()), known));
            }
            if let (true, Ok(rest)) = (run_end > range.end(), u32::try_from(range.end())) {
                self.runs.insert(rest.max(token), (run_end, known));
            }
        }
        self.runs.insert(start, (end, fact));
    }
}

impl CvRDT for Ring {
    type Validation = Conflict;

    fn validate_merge(&self, other: &Self) -> Result<(), Conflict> {
        for (range, theirs) in other.runs() {
            for (range, ours) in self.runs_in(range) {
                if (ours.epoch, ours.version) == (theirs.epoch, theirs.version) && ours.owner != theirs.owner {
                    return Err(Conflict { range, ours, theirs });
                }
            }
        }
        Ok(())
    }

    fn merge(&mut self, other: Self) {
        for (range, fact) in other.runs() {
            self.learn(range, fact);
        }
    }
}

impl FromIterator<(AddressRange, Fact)> for Ring {
    fn from_iter<I: IntoIterator<Item = (AddressRange, Fact)>>(facts: I) -> Self {
        let mut ring = Self::default();
        for (range, fact) in facts {
            ring.learn(range, fact);
        }
        ring
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.runs()).finish()
    }
}

fn run_range(start: u32, end: u64) -> AddressRange {
    AddressRange::new(start, end).expect("runs are never empty and end by 2^32")
}

#[cfg(test)]
mod tests;
