//! Getting space from other peers, and giving it to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use ipnet::Ipv4Net;
use rand::Rng as _;
use weft_types::{AddressRange, ContainerId, PeerName};

use super::{Allocator, Event, PATIENCE, Transmit, requests::Want};
use crate::{
    Refusal,
    ring::{Fact, Owner, Ring},
    space,
    wire::{Body, Malformed, Message},
};

/// One range that others are asked for, one of them at a time.
#[derive(Debug)]
pub(super) struct Ask {
    wanted: AddressRange,
    /// Of the last message.
    id: u64,
    donor: Option<PeerName>,
    sent: Option<Instant>,
    denied: BTreeSet<PeerName>,
}

impl Ask {
    pub(super) fn serves(&self, want: Want, range: Ipv4Net) -> bool {
        match want {
            Want::Any { subnet } => AddressRange::from(subnet).intersection(range.into()) == Some(self.wanted),
            Want::This { address } => AddressRange::from(Ipv4Net::from(address.addr())) == self.wanted,
        }
    }
}

impl Allocator {
    /// Reports a message from another peer.
    ///
    /// # Errors
    /// [`Malformed`] if it is none; nothing has changed then.
    pub fn handle_message(&mut self, from: PeerName, payload: &[u8], now: Instant) -> Result<(), Malformed> {
        let message = Message::decode(payload)?;
        if self.ring.as_ref().is_none_or(|(info, _)| info.id != message.ring) {
            return Ok(());
        }
        match message.body {
            Body::Request { wanted, owner } if owner.peer == from => self.donate(message.request, wanted, owner),
            Body::Request { .. } => {}
            Body::Grant(runs) => self.take(from, message.request, &runs),
            Body::Denial { holder } => self.denied(from, message.request, holder, now),
        }
        Ok(())
    }

    /// Returns who seems to have free addresses in `usable`, and how many.
    pub(super) fn donors(&self, usable: AddressRange) -> BTreeMap<PeerName, u64> {
        let mut owned: BTreeMap<Owner, u64> = BTreeMap::new();
        let runs = self.ring.iter().flat_map(|(_, ring)| ring.runs_in(usable));
        for (run, fact) in runs.filter(|(_, fact)| fact.owner.peer != self.me.peer) {
            *owned.entry(fact.owner).or_default() += run.size();
        }
        let free = owned.into_iter().map(|(owner, size)| {
            let report = self.views.get(&owner.peer).and_then(|view| view.free.as_ref());
            // Who has not reported is asked; a report of a later store says that nobody can give what this one owned.
            let free = match report {
                Some(report) if report.store == owner.store => report.free_in(usable).min(size),
                Some(_) => 0,
                None => size,
            };
            (owner.peer, free)
        });
        free.filter(|(_, free)| *free > 0).collect()
    }

    /// Sees to it that somebody is being asked for addresses of `wanted`.
    pub(super) fn ask(&mut self, wanted: AddressRange, now: Instant) {
        if self.mesh.is_none() {
            return;
        }
        let ask = self.asks.get(&wanted);
        if ask.and_then(|ask| ask.sent).is_some_and(|sent| now < sent + PATIENCE) {
            return;
        }
        let donors = if wanted.size() == 1 { self.owner_of(wanted.start()) } else { self.donors(inner(wanted)) };
        let reachable: Vec<(PeerName, u64)> = donors.into_iter().filter(|(peer, _)| self.is_reachable(*peer)).collect();
        let mut denied = ask.map(|ask| ask.denied.clone()).unwrap_or_default();
        if let Some(late) = ask.and_then(|ask| ask.donor) {
            // Who has not answered comes last, too.
            denied.insert(late);
        }
        if reachable.iter().all(|(peer, _)| denied.contains(peer)) {
            denied.clear();
        }
        let candidates: Vec<_> = reachable.into_iter().filter(|(peer, _)| !denied.contains(peer)).collect();
        let Some(donor) = self.draw(&candidates) else { return };
        let id = self.random.random();
        self.asks.insert(wanted, Ask { wanted, id, donor: Some(donor), sent: Some(now), denied });
        self.retry_at.get_or_insert(now + PATIENCE);
        let owner = self.me;
        self.send(donor, id, Body::Request { wanted, owner });
    }

    fn owner_of(&self, address: u32) -> BTreeMap<PeerName, u64> {
        let fact = self.ring.as_ref().and_then(|(_, ring)| ring.fact(address));
        fact.map(|fact| fact.owner).filter(|owner| *owner != self.me).map(|owner| (owner.peer, 1)).into_iter().collect()
    }

    /// Draws one candidate, weighted by what it has.
    fn draw(&mut self, candidates: &[(PeerName, u64)]) -> Option<PeerName> {
        let total: u64 = candidates.iter().map(|(_, free)| *free).sum();
        if total == 0 {
            return None;
        }
        let mut draw = self.random.random_range(0..total);
        for (peer, free) in candidates {
            if draw < *free {
                return Some(*peer);
            }
            draw -= free;
        }
        None
    }

    /// Answers a request with a grant or a denial.
    fn donate(&mut self, request: u64, wanted: AddressRange, to: Owner) {
        let me = self.me;
        let usable = inner(wanted);
        let Some((_, ring)) = &mut self.ring else { return };
        let unseen = {
            let published = self.views.get(&to.peer).map(|view| &view.runs).into_iter().flatten();
            let seen: Ring = published.map(|(_, run)| *run).collect();
            ring.runs_in(wanted).filter(|(run, fact)| fact.owner == to && !seen.covers(*run, *fact)).collect::<Vec<_>>()
        };
        if !unseen.is_empty() {
            // Granted before, and it does not say so: the grant was lost, or it is on its way.
            self.send(to.peer, request, Body::Grant(unseen));
            return;
        }
        if let Some(block) = space::donation(ring, &self.holdings, me, wanted, usable) {
            let facts = ring.grant(block, me, to);
            self.ring_changed = true;
            self.publication_due = true;
            self.send(to.peer, request, Body::Grant(facts));
            return;
        }
        let single = (wanted.size() == 1).then(|| wanted.start());
        let holder = single
            .filter(|address| ring.fact(*address).is_some_and(|fact| fact.owner == me))
            .and_then(|address| self.holdings.holder(address.into()).cloned());
        self.send(to.peer, request, Body::Denial { holder });
    }

    fn take(&mut self, from: PeerName, request: u64, facts: &[(AddressRange, Fact)]) {
        let range = AddressRange::from(self.settings.range);
        let facts = facts.iter().filter(|(run, _)| range.contains_range(*run));
        let mut news = false;
        if let Some((_, ring)) = &mut self.ring {
            for (run, fact) in facts {
                news |= ring.learn(*run, *fact);
            }
        }
        if news {
            self.asks.retain(|_, ask| ask.id != request || ask.donor != Some(from));
            self.ring_changed = true;
            self.retry_due = true;
        }
    }

    fn denied(&mut self, from: PeerName, request: u64, holder: Option<ContainerId>, now: Instant) {
        let Some(ask) = self.asks.values_mut().find(|ask| ask.id == request && ask.donor == Some(from)) else { return };
        let wanted = ask.wanted;
        ask.donor = None;
        ask.denied.insert(from);
        if wanted.size() > 1 {
            ask.sent = None;
            // Asking the next one at once ends when all have denied: then their patience is waited for.
            let others =
                self.donors(inner(wanted)).into_keys().filter(|peer| self.is_reachable(*peer)).collect::<Vec<_>>();
            if let Some(ask) = self.asks.get_mut(&wanted)
                && others.iter().all(|peer| ask.denied.contains(peer))
            {
                ask.sent = Some(now);
            } else {
                self.retry_due = true;
            }
        }
        let Some(holder) = holder else { return };
        let claims: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| matches!(pending.want, Want::This { address } if u32::from(address.addr()) == wanted.start()))
            .map(|(request, pending)| (*request, pending.want.net()))
            .collect();
        for (request, address) in claims.into_iter().filter(|_| wanted.size() == 1) {
            self.pending.remove(&request);
            let holder = format!("the container {} of {}", holder.short(), self.name_of(from));
            self.tell(Event::Refused { request, refusal: Refusal::Taken { address, holder } });
        }
    }

    pub(super) fn send(&mut self, peer: PeerName, request: u64, body: Body) {
        let Some((info, _)) = &self.ring else { return };
        let payload = Message { ring: info.id, request, body }.encode();
        self.transmit(Transmit::Send { peer, payload });
    }
}

/// Returns what containers may have of a wanted range: a subnet's first and last address are for nobody.
fn inner(wanted: AddressRange) -> AddressRange {
    let without_ends = wanted.start().checked_add(1).and_then(|start| AddressRange::new(start, wanted.end() - 1).ok());
    without_ends.filter(|_| wanted.size() >= 4).unwrap_or(wanted)
}
