//! What containers want.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use weft_types::{AddressRange, ContainerId};

use super::{Allocator, Event, PATIENCE, RequestId};
use crate::{
    Refusal,
    holdings::{Holding, Origin},
    space,
};

/// More requests than this do not wait at a time; further ones are refused.
const MOST_PENDING: usize = 4096;

/// How long nobody may have had a free address before that is believed: what a container holds that was removed a moment ago is
/// given back a moment later, and what others say is as old as their last report.
const GRACE: Duration = Duration::from_secs(2);

/// A request that waits.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) container: ContainerId,
    pub(super) want: Want,
    pub(super) since: Instant,
    pub(super) deadline: Instant,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Want {
    Any { subnet: Ipv4Net },
    This { address: Ipv4Net },
}

impl Want {
    /// Returns the subnet, or the address that is meant.
    pub(super) const fn net(self) -> Ipv4Net {
        match self {
            Self::Any { subnet } => subnet,
            Self::This { address } => address,
        }
    }
}

impl Allocator {
    /// Asks for an address of `subnet` (by default the default subnet) for the container.
    ///
    /// It is the lowest free one that this host owns there; where it owns none that is free, other peers are asked until
    /// `timeout`, or for two seconds where none of them says that it has any. A container that was given an address of that subnet before gets the same one.
    pub fn allocate(
        &mut self,
        container: ContainerId,
        subnet: Option<Ipv4Net>,
        timeout: Duration,
        now: Instant,
    ) -> RequestId {
        let subnet = subnet.unwrap_or(self.settings.default_subnet);
        let valid = self.check_subnet(subnet);
        self.start(container, Want::Any { subnet }, valid, timeout, now)
    }

    /// Asks for one given address for the container; `address` is an interface address.
    ///
    /// Inside the range it has to be ours, or its owner is asked for it until `timeout`. Outside the range it is taken
    /// unless somebody is known to have it.
    pub fn claim(&mut self, container: ContainerId, address: Ipv4Net, timeout: Duration, now: Instant) -> RequestId {
        let edge = address.addr() == address.network() || address.addr() == address.broadcast();
        let valid =
            if address.prefix_len() <= 30 && edge { Err(Refusal::NotForContainers { address }) } else { Ok(()) };
        self.start(container, Want::This { address }, valid, timeout, now)
    }

    /// Gives addresses of the container back; none named: all that it holds, and what it waits for is abandoned.
    /// Addresses that it does not hold are ignored.
    pub fn free(&mut self, container: &ContainerId, addresses: &[Ipv4Addr]) -> RequestId {
        let request = self.new_request();
        let held: Vec<Ipv4Addr> = self.holdings.of(container).iter().map(|holding| holding.address.addr()).collect();
        let mut freed = Vec::new();
        for address in held {
            if addresses.is_empty() || addresses.contains(&address) {
                freed.extend(self.drop_holding(container, address).map(|holding| self.dual(holding.address)));
            }
        }
        freed.sort();
        if addresses.is_empty() {
            let waiting = self.pending.iter().filter(|(_, pending)| pending.container == *container);
            for request in waiting.map(|(request, _)| *request).collect::<Vec<_>>() {
                self.pending.remove(&request);
                self.tell(Event::Refused { request, refusal: Refusal::Abandoned(container.clone()) });
            }
        }
        self.retry_due |= !freed.is_empty() && !self.pending.is_empty();
        self.tell(Event::Freed { request, addresses: freed });
        request
    }

    fn check_subnet(&self, subnet: Ipv4Net) -> Result<(), Refusal> {
        let range = self.settings.range;
        if subnet.addr() != subnet.network() {
            return Err(Refusal::HostBits { given: subnet, network: subnet.trunc() });
        }
        if !range.contains(&subnet) && !subnet.contains(&range) {
            return Err(Refusal::OutOfRange { subnet, range });
        }
        if subnet.prefix_len() > 30 {
            return Err(Refusal::SubnetTooSmall { subnet });
        }
        Ok(())
    }

    pub(super) fn new_request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    fn start(
        &mut self,
        container: ContainerId,
        want: Want,
        valid: Result<(), Refusal>,
        timeout: Duration,
        now: Instant,
    ) -> RequestId {
        let request = self.new_request();
        let full = if self.pending.len() < MOST_PENDING { Ok(()) } else { Err(Refusal::TooManyRequests(MOST_PENDING)) };
        let stays = if self.leaving.is_none() { Ok(()) } else { Err(Refusal::Leaving) };
        if let Err(refusal) = valid.and(full).and(stays) {
            self.tell(Event::Refused { request, refusal });
            return request;
        }
        let pending = Pending { container, want, since: now, deadline: now + timeout };
        if !self.attempt(request, &pending, now) {
            self.pending.insert(request, pending);
        }
        request
    }

    /// Answers requests whose time is over.
    pub(super) fn expire(&mut self, now: Instant) {
        let over: Vec<RequestId> =
            self.pending.iter().filter(|(_, pending)| pending.deadline <= now).map(|(request, _)| *request).collect();
        for request in over {
            if let Some(pending) = self.pending.remove(&request) {
                let refusal = self.why_not(&pending, now);
                self.tell(Event::Refused { request, refusal });
            }
        }
    }

    /// Tries all that wait, claims first: an address that was got for a claim must not go to somebody who takes any.
    pub(super) fn retry(&mut self, now: Instant) {
        let mut waiting: Vec<(RequestId, Pending)> =
            self.pending.iter().map(|(request, pending)| (*request, pending.clone())).collect();
        waiting.sort_by_key(|(request, pending)| (matches!(pending.want, Want::Any { .. }), *request));
        for (request, pending) in waiting {
            if self.attempt(request, &pending, now) {
                self.pending.remove(&request);
            }
        }
        self.asks.retain(|_, ask| self.pending.values().any(|pending| ask.serves(pending.want, self.settings.range)));
        if !self.pending.is_empty() && self.retry_at.is_none() {
            self.retry_at = Some(now + PATIENCE);
        }
    }

    /// Tries to answer a request, and sees to it that others are asked where that is needed. Tells whether it is answered.
    fn attempt(&mut self, request: RequestId, pending: &Pending, now: Instant) -> bool {
        let outcome = match pending.want {
            Want::Any { subnet } => self.try_any(&pending.container, subnet, pending.since, now),
            Want::This { address } => self.try_this(&pending.container, address, now),
        };
        match outcome {
            Some(Ok(address)) => {
                let address = self.dual(address);
                self.tell(Event::Granted { request, address });
            }
            Some(Err(refusal)) => self.tell(Event::Refused { request, refusal }),
            None => {
                self.retry_at.get_or_insert(now + PATIENCE);
                return false;
            }
        }
        true
    }

    fn try_any(
        &mut self,
        container: &ContainerId,
        subnet: Ipv4Net,
        since: Instant,
        now: Instant,
    ) -> Option<Result<Ipv4Net, Refusal>> {
        let held = self.holdings.of(container).iter();
        let mut same = held.filter(|held| held.origin == Origin::Allocated && held.address.trunc() == subnet);
        if let Some(holding) = same.next() {
            return Some(Ok(holding.address));
        }
        let (_, ring) = self.ring.as_ref()?;
        let usable = space::usable(subnet)?.intersection(self.settings.range.into())?;
        if let Some(address) = space::lowest_free(ring, &self.holdings, self.me, usable) {
            let address = Ipv4Net::new_assert(address.into(), subnet.prefix_len());
            self.add_holding(container, Holding { address, origin: Origin::Allocated });
            return Some(Ok(address));
        }
        if self.is_exhausted(usable) {
            if now >= since + GRACE {
                return Some(Err(Refusal::Exhausted { subnet, size: usable.size() }));
            }
            let again = (since + GRACE).min(now + PATIENCE);
            self.retry_at = Some(self.retry_at.map_or(again, |at| at.min(again)));
            return None;
        }
        self.ask(AddressRange::from(subnet).intersection(self.settings.range.into())?, now);
        None
    }

    /// Tells whether it is known that nobody has a free address there: every owner is, and says so. While the router is away
    /// that may have changed.
    fn is_exhausted(&self, usable: AddressRange) -> bool {
        let owned: u64 = self.ring.iter().flat_map(|(_, ring)| ring.runs_in(usable)).map(|(run, _)| run.size()).sum();
        self.mesh.is_some() && owned == usable.size() && self.donors(usable).is_empty()
    }

    fn try_this(
        &mut self,
        container: &ContainerId,
        address: Ipv4Net,
        now: Instant,
    ) -> Option<Result<Ipv4Net, Refusal>> {
        let holding = Holding { address, origin: Origin::Claimed };
        if let Some(holder) = self.holdings.holder(address.addr()) {
            if holder != container {
                let holder = format!("the container {} of this host", holder.short());
                return Some(Err(Refusal::Taken { address, holder }));
            }
            if !self.holdings.of(container).iter().any(|held| held.address == address) {
                self.add_holding(container, holding);
            }
            return Some(Ok(address));
        }
        if self.settings.range.contains(&address.addr()) {
            let (_, ring) = self.ring.as_ref()?;
            if ring.fact(address.addr().into()).is_none_or(|fact| fact.owner != self.me) {
                self.ask(AddressRange::from(Ipv4Net::from(address.addr())), now);
                return None;
            }
        } else {
            let known = self.views.iter().find_map(|(peer, view)| Some((*peer, view.externals.get(&address.addr())?)));
            if let Some((peer, holder)) = known {
                let holder = format!("the container {} of {}", holder.short(), self.name_of(peer));
                return Some(Err(Refusal::Taken { address, holder }));
            }
        }
        self.add_holding(container, holding);
        Some(Ok(address))
    }

    /// Says why a request got no address in time.
    pub(super) fn why_not(&self, pending: &Pending, now: Instant) -> Refusal {
        let Some((_, ring)) = &self.ring else {
            return Refusal::NoRing { why: self.why_no_ring() };
        };
        match pending.want {
            Want::This { address } => {
                let Some(fact) = ring.fact(address.addr().into()) else {
                    return Refusal::NoRing {
                        why: format!("nothing is known yet about the owner of {}", address.addr()),
                    };
                };
                let owner = fact.owner.peer;
                let why = if self.is_reachable(owner) { "did not answer in time" } else { "cannot be reached" };
                Refusal::OwnerUnreachable { address, owner: self.name_of(owner), why }
            }
            Want::Any { subnet } => {
                let usable = space::usable(subnet).and_then(|usable| usable.intersection(self.settings.range.into()));
                let Some(usable) = usable else { return Refusal::SubnetTooSmall { subnet } };
                let donors = self.donors(usable);
                if donors.is_empty() {
                    return Refusal::Exhausted { subnet, size: usable.size() };
                }
                if self.mesh.is_none() {
                    return Refusal::RouterAway { subnet };
                }
                let names = |reachable: bool| -> Vec<String> {
                    let donors = donors.keys().filter(|peer| self.is_reachable(**peer) == reachable);
                    donors.map(|peer| self.name_of(*peer)).collect()
                };
                let reachable = names(true);
                if reachable.is_empty() {
                    Refusal::OwnersUnreachable { subnet, peers: names(false) }
                } else {
                    let waited = now.saturating_duration_since(pending.since);
                    Refusal::NoAnswer { subnet, waited, peers: reachable }
                }
            }
        }
    }
}
