//! The state machine: registrations, gossip, reachability.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crdts::CmRDT;
use hickory_proto::rr::LowerName;
use ipnet::Ipv4Net;
use weft_types::{ContainerId, PeerName};

use crate::{Change, InvalidName, NameRecord, Origin, Records, Zone};

/// Most records that are kept of one origin; what exceeds it is left out. A Linux bridge has 1,024 ports at most, so no host
/// has more attached containers than this.
pub const MAX_RECORDS_PER_ORIGIN: usize = 4_096;

/// How long peers that a restarted router has not met again keep their names: it meets them within seconds, and an "unknown
/// name" in between would break what a short wait does not.
const HOLD: Duration = Duration::from_secs(5);

/// Everything that dns knows.
#[derive(Debug)]
pub struct Names {
    zone: Zone,
    /// The overlay's IPv4 addresses.
    range: Ipv4Net,
    /// Whether a name's addresses on this host stand before all others.
    local_first: bool,
    records: Records,
    local: Option<PeerName>,
    /// How peers are printed; kept for those that became unreachable.
    peers: BTreeMap<PeerName, Peer>,
    reachable: BTreeSet<PeerName>,
    /// Peers that were reachable before the router restarted, and until when they count as such.
    held: BTreeMap<PeerName, Instant>,
    /// Peers whose records the restarted router does not have, and until when they are kept.
    stale: BTreeMap<PeerName, Instant>,
    subscribed: bool,
    /// Whether what an earlier process of this host published has been taken over.
    adopted: bool,
    unpublished: Unpublished,
}

/// How people know a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Printed form of its name.
    pub name: String,
    /// Name of its host.
    pub nickname: String,
}

/// What a subscription begins with.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Who we are.
    pub local: PeerName,
    /// All records of each origin, our own included.
    pub origins: BTreeMap<PeerName, Vec<(ContainerId, NameRecord)>>,
    /// Peers that a chain of links leads to.
    pub reachable: BTreeMap<PeerName, Peer>,
}

/// What the mesh does not know yet of our own records.
#[derive(Debug)]
enum Unpublished {
    Everything,
    Containers(BTreeSet<ContainerId>),
}

/// Something to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Set: these are all records of this host.
    pub complete: bool,
    /// Records by container; `None` deletes.
    pub entries: Vec<(ContainerId, Option<NameRecord>)>,
}

/// One record as it is shown.
#[derive(Debug, Clone)]
pub struct RecordView<'a> {
    /// Which container has the names.
    pub container: &'a ContainerId,
    /// Names, addresses, health.
    pub record: &'a NameRecord,
    /// Who published it; `None` while this host's own name is not known.
    pub origin: Option<PeerName>,
    /// How the origin is printed, as far as known.
    pub peer: Peer,
    /// Whether it is left out of answers because its origin cannot be reached.
    pub suspended: bool,
}

/// A registration cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A name cannot be.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// This host has as many records as it may have.
    #[error("this host has {MAX_RECORDS_PER_ORIGIN} containers with names already, and may not have more")]
    TooManyRecords,
}

impl Names {
    /// Starts with nothing known but the zone and the overlay's IPv4 range.
    #[must_use]
    pub fn new(zone: Zone, range: Ipv4Net) -> Self {
        Self {
            zone,
            range,
            local_first: false,
            records: Records::default(),
            local: None,
            peers: BTreeMap::new(),
            reachable: BTreeSet::new(),
            held: BTreeMap::new(),
            stale: BTreeMap::new(),
            subscribed: false,
            adopted: false,
            unpublished: Unpublished::Everything,
        }
    }

    /// Has the addresses of this host's containers stand before those of others in answers, or shuffled among them, as they
    /// are otherwise.
    #[must_use]
    pub fn with_local_first(self, local_first: bool) -> Self {
        Self { local_first, ..self }
    }

    /// Returns the zone.
    #[must_use]
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Returns all records, suspended ones included.
    #[must_use]
    pub const fn records(&self) -> &Records {
        &self.records
    }

    pub(crate) const fn is_local_first(&self) -> bool {
        self.local_first
    }

    pub(crate) const fn range(&self) -> &Ipv4Net {
        &self.range
    }

    /// Tells whether records of `origin` are left out of answers.
    #[must_use]
    pub fn is_suspended(&self, origin: Origin) -> bool {
        match origin {
            Origin::Local => false,
            Origin::Peer(peer) => !self.reachable.contains(&peer) && !self.held.contains_key(&peer),
        }
    }

    /// Returns all records as they are shown, in order of origin and container, this host's first.
    pub fn views(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.records.iter().map(|(origin, container, record)| {
            let suspended = self.is_suspended(origin);
            let origin = match origin {
                Origin::Local => self.local,
                Origin::Peer(peer) => Some(peer),
            };
            RecordView {
                container,
                record,
                origin,
                peer: origin.and_then(|peer| self.peers.get(&peer)).cloned().unwrap_or_default(),
                suspended,
            }
        })
    }

    /// Gives a container of this host its names and addresses; replaces what it had.
    ///
    /// # Errors
    /// [`RegisterError::TooManyRecords`].
    pub fn register(&mut self, container: ContainerId, record: NameRecord) -> Result<(), RegisterError> {
        let known = self.records.get(Origin::Local, &container);
        if known == Some(&record) {
            return Ok(());
        }
        if known.is_none() && self.records.len_of(Origin::Local) >= MAX_RECORDS_PER_ORIGIN {
            return Err(RegisterError::TooManyRecords);
        }
        self.change_own(vec![(container, Some(record))]);
        Ok(())
    }

    /// Takes names away from a container of this host: those given, or all if none are.
    pub fn deregister(&mut self, container: &ContainerId, names: &[LowerName]) {
        let Some(known) = self.records.get(Origin::Local, container) else { return };
        let left = known.without(names);
        if names.is_empty() || left.names().is_empty() {
            self.change_own(vec![(container.clone(), None)]);
        } else if left != *known {
            self.change_own(vec![(container.clone(), Some(left))]);
        }
    }

    /// States all registrations of this host that come from the Docker engine: others of that kind are removed. weft's own
    /// (`weft:extern` and the like) are not of that kind.
    ///
    /// # Errors
    /// [`RegisterError::TooManyRecords`]; nothing has changed then.
    pub fn replace(&mut self, registrations: BTreeMap<ContainerId, NameRecord>) -> Result<(), RegisterError> {
        let own = self.records.of(Origin::Local).map(|(container, _)| container);
        let (engines, others): (Vec<_>, Vec<_>) = own.partition(|container| of_engine(container));
        if registrations.len() + others.len() > MAX_RECORDS_PER_ORIGIN {
            return Err(RegisterError::TooManyRecords);
        }
        let gone = engines.into_iter().filter(|container| !registrations.contains_key(*container));
        let gone: Vec<_> = gone.map(|container| (container.clone(), None)).collect();
        let changed = registrations
            .into_iter()
            .filter(|(container, record)| self.records.get(Origin::Local, container) != Some(record));
        let changed: Vec<_> = changed.map(|(container, record)| (container, Some(record))).collect();
        // An earlier process may have published what this one has never heard of: from here on the engine's list counts.
        self.adopted = true;
        self.change_own(gone.into_iter().chain(changed).collect());
        Ok(())
    }

    /// Takes in what a subscription begins with. What this host published before its dns restarted is adopted, unless it has
    /// been registered anew since.
    pub fn handle_snapshot(&mut self, snapshot: Snapshot, now: Instant) {
        self.subscribed = true;
        self.unpublished = Unpublished::Everything;
        self.local = Some(snapshot.local);
        if let Some(own) = snapshot.origins.get(&snapshot.local).filter(|_| !self.adopted) {
            let news = own.iter().filter(|(container, _)| self.records.get(Origin::Local, container).is_none());
            let entries =
                news.take(MAX_RECORDS_PER_ORIGIN).map(|(container, record)| (container.clone(), Some(record.clone())));
            let entries = entries.collect();
            self.records.apply(Change { origin: Origin::Local, complete: false, entries });
        }
        self.adopted = true;

        for peer in std::mem::take(&mut self.reachable) {
            if !snapshot.reachable.contains_key(&peer) {
                self.held.entry(peer).or_insert(now + HOLD);
            }
        }
        for origin in self.records.origins() {
            if let Origin::Peer(peer) = origin
                && !snapshot.origins.contains_key(&peer)
            {
                self.stale.entry(peer).or_insert(now + HOLD);
            }
        }
        for (peer, entries) in snapshot.origins {
            if peer != snapshot.local {
                let entries = entries.into_iter().map(|(container, record)| (container, Some(record))).collect();
                self.handle_change(peer, true, entries);
            }
        }
        self.handle_reachable(snapshot.reachable);
    }

    /// Takes in what an origin changed. What comes back of our own changes is ignored: we know better.
    pub fn handle_change(
        &mut self,
        origin: PeerName,
        complete: bool,
        mut entries: Vec<(ContainerId, Option<NameRecord>)>,
    ) {
        if self.local == Some(origin) {
            return;
        }
        self.stale.remove(&origin);
        let origin = Origin::Peer(origin);
        let known = if complete { 0 } else { self.records.len_of(origin) };
        let mut room = MAX_RECORDS_PER_ORIGIN.saturating_sub(known);
        entries.retain(|(container, record)| {
            if record.is_none() || (!complete && self.records.get(origin, container).is_some()) {
                return true;
            }
            let fits = room > 0;
            room = room.saturating_sub(1);
            fits
        });
        self.records.apply(Change { origin, complete, entries });
    }

    /// Takes in which peers a chain of links leads to.
    pub fn handle_reachable(&mut self, reachable: BTreeMap<PeerName, Peer>) {
        self.reachable = reachable.keys().copied().collect();
        self.held.retain(|peer, _| !self.reachable.contains(peer));
        self.peers.extend(reachable);
        let origins: BTreeSet<_> = self.records.origins().collect();
        let known = |peer: &PeerName| self.reachable.contains(peer) || origins.contains(&Origin::Peer(*peer));
        self.peers.retain(|peer, _| known(peer));
    }

    /// Notes that the subscription ended. Records and reachability stay as they are.
    pub fn handle_unsubscribed(&mut self) {
        self.subscribed = false;
    }

    /// Notes that a publication did not get through: everything is published again.
    pub fn handle_unpublished(&mut self) {
        self.unpublished = Unpublished::Everything;
    }

    /// Lets go of what a restarted router did not find again in time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.held.retain(|_, until| *until > now);
        for (peer, _) in self.stale.extract_if(.., |_, until| *until <= now) {
            self.records.apply(Change { origin: Origin::Peer(peer), complete: true, entries: Vec::new() });
        }
    }

    /// Says when [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let until = self.held.values().chain(self.stale.values()).min();
        until.map(|until| (*until, "let go of what a restarted router did not find again"))
    }

    /// Says what to publish next; nothing while there is no subscription.
    pub fn poll_publication(&mut self) -> Option<Publication> {
        if !self.subscribed {
            return None;
        }
        let changed = Unpublished::Containers(BTreeSet::new());
        let publication = match std::mem::replace(&mut self.unpublished, changed) {
            Unpublished::Everything => {
                let own = self.records.of(Origin::Local);
                let entries = own.map(|(container, record)| (container.clone(), Some(record.clone()))).collect();
                Publication { complete: true, entries }
            }
            Unpublished::Containers(containers) if containers.is_empty() => return None,
            Unpublished::Containers(containers) => {
                let entries = containers.into_iter().map(|container| {
                    let record = self.records.get(Origin::Local, &container).cloned();
                    (container, record)
                });
                Publication { complete: false, entries: entries.collect() }
            }
        };
        Some(publication)
    }

    fn change_own(&mut self, entries: Vec<(ContainerId, Option<NameRecord>)>) {
        if let Unpublished::Containers(containers) = &mut self.unpublished {
            containers.extend(entries.iter().map(|(container, _)| container.clone()));
        }
        self.records.apply(Change { origin: Origin::Local, complete: false, entries });
    }
}

/// Tells whether the id is one that a Docker engine gave, rather than one of weft's own.
fn of_engine(container: &ContainerId) -> bool {
    !container.as_str().starts_with("weft:")
}

#[cfg(test)]
mod tests;
