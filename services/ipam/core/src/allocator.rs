//! The allocator: what the shell talks to.

mod asking;
mod founding;
mod leaving;
mod mesh;
mod publication;
mod requests;
mod status;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ipnet::{Ipv4Net, Ipv6Net};
use rand::{SeedableRng as _, rngs::StdRng};
use weft_types::{AddressRange, ContainerId, PeerName};

pub use mesh::{Entry, PeerInfo, Reachability};
pub use status::{Problem, RingState, Share, Status};

use crate::{
    Refusal, Settings,
    election::Votes,
    free_report::FreeReport,
    gossip::OriginView,
    holdings::{Holding, Holdings},
    records::{self, Record, State},
    ring::{Owner, Ring, RingInfo},
};
use asking::Ask;
use leaving::Leaving;
use requests::Pending;

/// Names a request until its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// An address of the overlay in both families, as interface addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DualAddress {
    /// The address that the ring, or a hand, gave.
    pub v4: Ipv4Net,
    /// Its twin; none for an address outside the range.
    pub v6: Option<Ipv6Net>,
}

/// What has to be saved, all or nothing, before anything that depends on it leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// To be named when it is saved.
    pub number: u64,
    /// The records that change.
    pub records: Vec<Record>,
}

/// What to give to the local router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transmit {
    /// Change what this host publishes.
    Publish {
        /// These are all entries.
        snapshot: bool,
        /// In the order of their keys.
        entries: Vec<Entry>,
    },
    /// Send a message to one peer.
    Send {
        /// To whom.
        peer: PeerName,
        /// The message.
        payload: Vec<u8>,
    },
}

/// What happened that the shell has to tell somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The container has the address.
    Granted {
        /// Of `allocate` or `claim`.
        request: RequestId,
        /// The address.
        address: DualAddress,
    },
    /// The container has given the addresses back.
    Freed {
        /// Of `free`.
        request: RequestId,
        /// Which ones, in order.
        addresses: Vec<DualAddress>,
    },
    /// There is no address for the container.
    Refused {
        /// Of `allocate`, `claim`, `take_over` or `hand_over`.
        request: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// All addresses that a peer owned have another owner.
    Moved {
        /// Of `take_over` or `hand_over`.
        request: RequestId,
        /// Whose they were, or who has most of them now, if there is anybody else.
        peer: Option<PeerInfo>,
        /// How many.
        addresses: u64,
    },
    /// A container lost an address because its range was taken over while this host was taken for dead.
    Lost {
        /// The container.
        container: ContainerId,
        /// The address.
        address: Ipv4Net,
        /// Who owns it now.
        owner: PeerName,
    },
    /// There is a ring now.
    RingReady(RingInfo),
}

/// Gives addresses to the containers of one host, out of the ring that it shares with other hosts.
///
/// After each call of `handle_*` or of a verb the shell calls [`poll_commit`](Self::poll_commit) (unless a commit is on
/// its way to the disk), then drains [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event), and
/// sets its timer by [`poll_timeout`](Self::poll_timeout). Many requests that come in while a commit is written share
/// the next one.
#[derive(Debug)]
pub struct Allocator {
    settings: Settings,
    me: Owner,
    /// An earlier process of this host had a ring that this one does not know of.
    store_lost: bool,
    random: StdRng,

    ring: Option<(RingInfo, Ring)>,
    holdings: Holdings,
    votes: Votes,
    report: FreeReport,

    /// Runs as they were in the last commit taken.
    saved_runs: Ring,
    unsaved: Vec<Record>,
    ring_changed: bool,
    taken: u64,
    saved: u64,

    /// `None` while the router is away.
    mesh: Option<Reachability>,
    /// When the router told for the first time whom it reaches, after it was away.
    reached_at: Option<Instant>,
    /// When somebody was reached for the last time who had not been before.
    joined_at: Option<Instant>,
    /// Peers that were reached since `reached_at`, and when they were lost.
    lost_at: BTreeMap<PeerName, Instant>,
    names: BTreeMap<PeerName, PeerInfo>,
    views: BTreeMap<PeerName, OriginView>,
    published: BTreeMap<Vec<u8>, Vec<u8>>,
    publication_due: bool,

    pending: BTreeMap<RequestId, Pending>,
    asks: BTreeMap<AddressRange, Ask>,
    leaving: Option<Leaving>,
    next_request: u64,
    retry_due: bool,
    retry_at: Option<Instant>,
    propose_at: Option<Instant>,

    lost: BTreeSet<(Ipv4Addr, PeerName)>,
    problem_times: BTreeMap<String, Instant>,

    transmits: VecDeque<(u64, Transmit)>,
    events: VecDeque<(u64, Event)>,
}

impl Allocator {
    /// Makes the allocator of a host from what it remembers. `seed` should be random.
    #[must_use]
    pub fn new(settings: Settings, state: State, seed: u64) -> Self {
        let me = Owner { peer: settings.peer, store: state.store };
        Self {
            settings,
            me,
            store_lost: false,
            random: StdRng::seed_from_u64(seed),
            saved_runs: state.ring.as_ref().map(|(_, ring)| ring.clone()).unwrap_or_default(),
            ring: state.ring,
            holdings: state.holdings,
            votes: state.votes,
            report: FreeReport { version: state.free_version, ..FreeReport::default() },
            unsaved: Vec::new(),
            ring_changed: false,
            taken: 0,
            saved: 0,
            mesh: None,
            reached_at: None,
            joined_at: None,
            lost_at: BTreeMap::new(),
            names: BTreeMap::new(),
            views: BTreeMap::new(),
            published: BTreeMap::new(),
            publication_due: false,
            pending: BTreeMap::new(),
            asks: BTreeMap::new(),
            leaving: None,
            next_request: 0,
            retry_due: false,
            retry_at: None,
            propose_at: None,
            lost: BTreeSet::new(),
            problem_times: BTreeMap::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Returns what the container holds, in both families.
    #[must_use]
    pub fn lookup(&self, container: &ContainerId) -> Vec<DualAddress> {
        self.holdings.of(container).iter().map(|holding| self.dual(holding.address)).collect()
    }

    /// Returns all holdings of the host, by container.
    pub fn allocations(&self) -> impl Iterator<Item = (&ContainerId, Vec<DualAddress>)> {
        self.holdings
            .iter()
            .map(|(container, held)| (container, held.iter().map(|holding| self.dual(holding.address)).collect()))
    }

    /// Returns the ring, once there is one.
    #[must_use]
    pub fn ring(&self) -> Option<(&RingInfo, &Ring)> {
        self.ring.as_ref().map(|(info, ring)| (info, ring))
    }

    /// Returns the name under which this host owns addresses.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.me
    }

    /// Reports that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire(now);
        self.expire_leaving(now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.retry_due = true;
        }
    }

    /// Reports that the commit of this number, and all before it, are on disk.
    pub fn handle_saved(&mut self, number: u64) {
        self.saved = self.saved.max(number);
    }

    /// Closes the batch of everything that happened so far, and returns what has to be saved of it.
    ///
    /// Nothing that depends on the returned commit comes out of the other `poll_*` methods before
    /// [`handle_saved`](Self::handle_saved) names it.
    pub fn poll_commit(&mut self, now: Instant) -> Option<Commit> {
        self.found(now);
        self.give_away();
        self.confirm();
        if std::mem::take(&mut self.retry_due) {
            self.retry(now);
        }
        if self.ring_changed {
            self.after_ring_change();
        }
        self.update_report();
        if std::mem::take(&mut self.publication_due) {
            self.publish(false);
        }
        let mut records = std::mem::take(&mut self.unsaved);
        if let (true, Some((_, ring))) = (std::mem::take(&mut self.ring_changed), &self.ring) {
            records.extend(records::ring_records(&self.saved_runs, ring));
            self.saved_runs = ring.clone();
        }
        if records.is_empty() {
            let waiting =
                self.transmits.iter_mut().map(|(after, _)| after).chain(self.events.iter_mut().map(|(after, _)| after));
            waiting.for_each(|after| *after = self.taken.min(*after));
            return None;
        }
        self.taken += 1;
        Some(Commit { number: self.taken, records })
    }

    /// Returns the next thing for the router.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let due = self.transmits.front().is_some_and(|(after, _)| *after <= self.saved);
        if due { self.transmits.pop_front().map(|(_, transmit)| transmit) } else { None }
    }

    /// Returns the next thing to tell.
    pub fn poll_event(&mut self) -> Option<Event> {
        let due = self.events.front().is_some_and(|(after, _)| *after <= self.saved);
        if due { self.events.pop_front().map(|(_, event)| event) } else { None }
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout) and `poll_commit`, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let deadline = self.pending.values().map(|pending| pending.deadline).min();
        let leaving = self.leaving.as_ref().and_then(Leaving::deadline);
        let times =
            [(deadline, "deadline"), (leaving, "leaving"), (self.retry_at, "retry"), (self.propose_at, "propose")];
        times.into_iter().filter_map(|(at, why)| Some((at?, why))).min()
    }

    /// Returns the number of the commit that everything so far will be saved by.
    fn batch(&self) -> u64 {
        if self.ring_changed || !self.unsaved.is_empty() { self.taken + 1 } else { self.taken }
    }

    fn transmit(&mut self, transmit: Transmit) {
        self.transmits.push_back((self.batch(), transmit));
    }

    fn tell(&mut self, event: Event) {
        self.events.push_back((self.batch(), event));
    }

    /// Keeps what follows a changed ring in step: holdings whose range is no longer ours are withdrawn.
    fn after_ring_change(&mut self) {
        let Some((info, ring)) = &mut self.ring else { return };
        ring.consolidate(self.me);
        let range = AddressRange::from(info.range);
        let lost: Vec<(ContainerId, Holding, PeerName)> = self
            .holdings
            .held_in(range)
            .filter_map(|address| {
                let fact = ring.fact(address).filter(|fact| fact.owner != self.me)?;
                let address = Ipv4Addr::from(address);
                let container = self.holdings.holder(address)?;
                let holding = self.holdings.of(container).iter().find(|holding| holding.address.addr() == address)?;
                Some((container.clone(), *holding, fact.owner.peer))
            })
            .collect();
        for (container, holding, owner) in lost {
            self.drop_holding(&container, holding.address.addr());
            self.lost.insert((holding.address.addr(), owner));
            self.tell(Event::Lost { container, address: holding.address, owner });
        }
        self.publication_due = true;
        self.retry_due |= !self.pending.is_empty();
    }

    fn update_report(&mut self) {
        let Some((info, ring)) = &self.ring else { return };
        let now = FreeReport::now(ring, &self.holdings, self.me, info.range.into(), self.report.version + 1);
        if now.is_news_after(&self.report) {
            self.unsaved.push(records::free_version_record(now.version));
            self.report = now;
            self.publication_due = true;
        }
    }

    fn add_holding(&mut self, container: &ContainerId, holding: Holding) {
        self.holdings.insert(container, holding);
        self.unsaved.push(records::holding_record(container, holding.address.addr(), Some(holding)));
        self.publication_due |= !self.settings.range.contains(&holding.address.addr());
    }

    fn drop_holding(&mut self, container: &ContainerId, address: Ipv4Addr) -> Option<Holding> {
        let holding = self.holdings.remove(container, address)?;
        self.unsaved.push(records::holding_record(container, address, None));
        self.publication_due |= !self.settings.range.contains(&address);
        Some(holding)
    }

    fn dual(&self, v4: Ipv4Net) -> DualAddress {
        let info = self.ring.as_ref().map(|(info, _)| info).filter(|info| info.range.contains(&v4.addr()));
        DualAddress { v4, v6: info.map(|info| info.ula.twin(v4)) }
    }

    /// Returns how people call a peer.
    fn name_of(&self, peer: PeerName) -> String {
        self.info_of(peer).name
    }

    fn info_of(&self, peer: PeerName) -> PeerInfo {
        let unnamed = || PeerInfo { peer, name: peer.to_string(), nickname: String::new() };
        self.names.get(&peer).cloned().unwrap_or_else(unnamed)
    }

    fn is_reachable(&self, peer: PeerName) -> bool {
        self.mesh.as_ref().is_some_and(|mesh| mesh.reaches(peer))
    }
}

/// How long to wait for an answer before somebody else is asked.
const PATIENCE: Duration = Duration::from_secs(1);
