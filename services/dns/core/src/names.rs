//! The state machine: registrations, gossip, reachability.

mod kept;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crdts::CmRDT;
use hickory_proto::rr::LowerName;
use ipnet::Ipv4Net;
use weft_types::{ContainerId, PeerName};

use self::kept::Waiting;
use crate::{Change, Holder, InvalidName, MAX_NAMES, NameRecord, Origin, Records, Zone, by_hand};

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
    /// Whether what was given by hand was kept, and has been restored.
    restored: bool,
    /// What was given by hand before, and needs something that is not there yet, by the keys of the records to come.
    waiting: BTreeMap<ContainerId, Waiting>,
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
    /// Who has the names.
    pub holder: Holder<'a>,
    /// Names, addresses, health.
    pub record: &'a NameRecord,
    /// Who published it; `None` while this host's own name is not known.
    pub origin: Option<PeerName>,
    /// How the origin is printed, as far as known.
    pub peer: Peer,
    /// Whether it is left out of answers because its origin cannot be reached, or because it waits.
    pub suspended: bool,
    /// Whether it was given by hand before this host's services restarted, and its container has not been registered since.
    pub waiting: bool,
}

/// A registration cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A name cannot be.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// This host has as many records as it may have.
    #[error(
        "this host has {MAX_RECORDS_PER_ORIGIN} containers and further addresses with names already, and may not have more"
    )]
    TooManyRecords,
    /// Nobody of that id can be given names by hand.
    #[error("{0:?} is not the id of a container")]
    NotAContainer(String),
    /// What an earlier process of this host gave by hand is not known.
    #[error(
        "names cannot be changed by hand until the router has told those that this host has: try again once it is up"
    )]
    NotKnownYet,
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
            restored: false,
            waiting: BTreeMap::new(),
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

    /// Returns all records as they are shown, in order of origin and container, this host's first, and first what waits.
    pub fn views(&self) -> impl Iterator<Item = RecordView<'_>> {
        let waiting = self.waiting.iter().map(|(key, waiting)| (Origin::Local, key, &waiting.record, true));
        let records = self.records.iter().map(|(origin, container, record)| (origin, container, record, false));
        waiting.chain(records).map(|(origin, container, record, waiting)| {
            let suspended = waiting || self.is_suspended(origin);
            let origin = match origin {
                Origin::Local => self.local,
                Origin::Peer(peer) => Some(peer),
            };
            RecordView {
                holder: Holder::of(container),
                record,
                origin,
                peer: origin.and_then(|peer| self.peers.get(&peer)).cloned().unwrap_or_default(),
                suspended,
                waiting,
            }
        })
    }

    /// Returns how many records this host has, or will have when what waits is there.
    fn count(&self) -> usize {
        self.records.len_of(Origin::Local) + self.waiting.len()
    }

    /// Gives a container of this host its names, of which there may be none, and addresses; replaces what it had. Names given
    /// by hand stay, and those that waited for it are answered, but for those of addresses that it has no longer: others may
    /// be given these.
    ///
    /// # Errors
    /// [`RegisterError::TooManyRecords`].
    pub fn register(&mut self, container: ContainerId, record: NameRecord) -> Result<(), RegisterError> {
        let known = self.records.get(Origin::Local, &container);
        if known == Some(&record) {
            return Ok(());
        }
        if known.is_none() && self.count() >= MAX_RECORDS_PER_ORIGIN {
            return Err(RegisterError::TooManyRecords);
        }
        let lost = known.map(|known| keys_of_lost(&container, known, &record)).unwrap_or_default();
        // What is left of it leads to the same container, which is as well as this says.
        let healthy = record.is_healthy();
        let adapted = self.given_by_hand(&container).filter_map(|(key, given)| {
            let lost = lost.contains(key);
            (lost || given.is_healthy() != healthy).then(|| (key.clone(), (!lost).then(|| given.with_health(healthy))))
        });
        let mut changed: Vec<_> = adapted.collect();
        changed.extend(self.take_waiting(&container, &record));
        changed.push((container, Some(record)));
        self.change_own(changed);
        Ok(())
    }

    /// Takes names away from a container of this host: those given of the registered ones, or all if none are, those given by
    /// hand among them.
    pub fn deregister(&mut self, container: &ContainerId, names: &[LowerName]) {
        if names.is_empty() {
            self.waiting.retain(|key, _| Holder::of(key).id != container.as_str());
            let own = self.records.of(Origin::Local).map(|(key, _)| key);
            let gone = own.filter(|key| Holder::of(key).id == container.as_str());
            let gone: Vec<_> = gone.map(|key| (key.clone(), None)).collect();
            return self.change_own(gone);
        }
        let Some(known) = self.records.get(Origin::Local, container) else { return };
        let left = known.without(names);
        if left != *known {
            self.change_own(vec![(container.clone(), (!left.names().is_empty()).then_some(left))]);
        }
    }

    /// Gives names addresses by hand: each of `given`'s names means each of its addresses, beside whatever else they mean. They
    /// go with `holder`, which is a container or [`by_hand::nobody`].
    ///
    /// # Errors
    /// [`RegisterError`]; nothing has changed then.
    pub fn add_by_hand(&mut self, holder: &ContainerId, given: &NameRecord) -> Result<(), RegisterError> {
        self.check_known()?;
        let healthy = self.records.get(Origin::Local, holder).is_none_or(NameRecord::is_healthy);
        let mut changed = Vec::new();
        for address in given.addresses() {
            let not_a_container = || RegisterError::NotAContainer(holder.to_string());
            let key = by_hand::key(holder, *address).ok_or_else(not_a_container)?;
            let known = self.records.get(Origin::Local, &key);
            let waiting = self.waiting.get(&key).map(|waiting| &waiting.record);
            let record = match known.or(waiting) {
                Some(known) => known.with(given.names()).with_health(healthy),
                None => NameRecord::new(given.names().to_vec(), [*address], healthy),
            };
            if record.names().len() > MAX_NAMES {
                return Err(InvalidName::TooManyNames { count: record.names().len() }.into());
            }
            if known != Some(&record) {
                changed.push((key, Some(record)));
            }
        }
        let is_known = |key| self.records.get(Origin::Local, key).is_some() || self.waiting.contains_key(key);
        let new = changed.iter().filter(|(key, _)| !is_known(key)).count();
        if self.count() + new > MAX_RECORDS_PER_ORIGIN {
            return Err(RegisterError::TooManyRecords);
        }
        for (key, _) in &changed {
            self.waiting.remove(key);
        }
        self.change_own(changed);
        Ok(())
    }

    /// Fails while it is not known what has been given by hand.
    const fn check_known(&self) -> Result<(), RegisterError> {
        if self.adopted || self.restored { Ok(()) } else { Err(RegisterError::NotKnownYet) }
    }

    /// Takes away what [`Self::add_by_hand`] gave: the pairs of these names, or any, with these addresses, or any. Returns how
    /// many there were.
    ///
    /// # Errors
    /// [`RegisterError::NotKnownYet`].
    pub fn remove_by_hand(
        &mut self,
        holder: &ContainerId,
        names: &[LowerName],
        addresses: &[IpAddr],
    ) -> Result<usize, RegisterError> {
        self.check_known()?;
        let meant = |record: &NameRecord| {
            addresses.is_empty() || record.addresses().iter().any(|address| addresses.contains(address))
        };
        let left = |record: &NameRecord| record.without(if names.is_empty() { record.names() } else { names });
        let (mut changed, mut removed) = (Vec::new(), 0);
        for (key, record) in self.given_by_hand(holder).filter(|(_, record)| meant(record)) {
            let left = left(record);
            removed += record.names().len() - left.names().len();
            if left != *record {
                changed.push((key.clone(), (!left.names().is_empty()).then_some(left)));
            }
        }
        self.change_own(changed);
        self.waiting.retain(|key, Waiting { record, .. }| {
            if Holder::of(key).id == holder.as_str() && meant(record) {
                let left = left(record);
                removed += record.names().len() - left.names().len();
                *record = left;
            }
            !record.names().is_empty()
        });
        Ok(removed)
    }

    /// Returns what was given by hand to a holder of this host.
    fn given_by_hand(&self, holder: &ContainerId) -> impl Iterator<Item = (&ContainerId, &NameRecord)> {
        let holder = holder.as_str().to_owned();
        self.records.of(Origin::Local).filter(move |(key, _)| {
            let of = Holder::of(key);
            of.by_hand && of.id == holder
        })
    }

    /// Takes in what a subscription begins with. What this host published before its dns restarted is adopted, unless it has
    /// been registered anew since, or was given by hand and is known from [`Self::restore`].
    pub fn handle_snapshot(&mut self, snapshot: Snapshot, now: Instant) {
        self.subscribed = true;
        self.unpublished = Unpublished::Everything;
        self.local = Some(snapshot.local);
        if let Some(own) = snapshot.origins.get(&snapshot.local).filter(|_| !self.adopted) {
            let lost = own.iter().flat_map(|(container, before)| {
                let now = self.records.get(Origin::Local, container);
                now.map(|now| keys_of_lost(container, before, now)).unwrap_or_default()
            });
            let lost: BTreeSet<_> = lost.collect();
            let is_restored = |container| self.restored && Holder::of(container).by_hand;
            let is_new = |container| self.records.get(Origin::Local, container).is_none() && !lost.contains(container);
            let news = own.iter().filter(|(container, _)| is_new(container) && !is_restored(container));
            let room = MAX_RECORDS_PER_ORIGIN.saturating_sub(self.count());
            let news: Vec<_> = news.take(room).cloned().collect();
            for (container, record) in news {
                let mut entries = self.take_waiting(&container, &record);
                entries.push((container, Some(record)));
                self.records.apply(Change { origin: Origin::Local, complete: false, entries });
            }
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

/// Returns the keys of what may have been given by hand for addresses that a container no longer has.
fn keys_of_lost(container: &ContainerId, before: &NameRecord, now: &NameRecord) -> BTreeSet<ContainerId> {
    let lost = before.addresses().iter().filter(|address| !now.addresses().contains(address));
    lost.filter_map(|address| by_hand::key(container, *address)).collect()
}

#[cfg(test)]
mod tests;
