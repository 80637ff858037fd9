//! What becomes of the addresses of hosts that leave for good.

use std::time::{Duration, Instant};

use weft_types::{AddressRange, PeerName};

use super::{Allocator, Event, RequestId};
use crate::{
    Refusal,
    ring::{Fact, Owner, Ring},
    wire::Body,
};

/// What this host gave to another because it leaves, until that one says that it has it.
#[derive(Debug)]
pub(super) struct Leaving {
    request: RequestId,
    heir: PeerName,
    facts: Vec<(AddressRange, Fact)>,
    pub(super) deadline: Instant,
}

impl Allocator {
    /// Takes over all that another peer owns, which is gone for good. `peer` is its name, its host's name or its key.
    ///
    /// Answered with [`Event::Moved`] or [`Event::Refused`]. Refused while the peer can be reached: then it can give its
    /// addresses away itself. The peer must never come back with its store while its containers live; should it do so, they
    /// lose their addresses ([`Event::Lost`]). Of two hosts that take over the same peer at a time one wins.
    pub fn take_over(&mut self, peer: &str) -> RequestId {
        let request = self.new_request();
        let event = match self.dead(peer) {
            Ok(dead) => {
                let me = self.me;
                let facts = self.ring.as_mut().map(|(_, ring)| ring.take_over(dead, me)).unwrap_or_default();
                self.ring_changed |= !facts.is_empty();
                Event::Moved { request, peer: Some(dead), name: self.full_name_of(dead), addresses: size(&facts) }
            }
            Err(refusal) => Event::Refused { request, refusal },
        };
        self.tell(event);
        request
    }

    /// Gives all that this host owns to another peer, because it leaves: containers lose what they hold, requests that wait
    /// are refused.
    ///
    /// Answered with [`Event::Moved`] when that peer says that it has it, or when there is nobody else in the ring, and with
    /// [`Event::Refused`] if nobody can be reached or nobody confirms until `timeout`.
    pub fn hand_over(&mut self, timeout: Duration, now: Instant) -> RequestId {
        let request = self.new_request();
        let me = self.me;
        let owners: Vec<Owner> =
            self.ring.iter().flat_map(|(_, ring)| ring.runs()).map(|(_, fact)| fact.owner).collect();
        let alone = owners.iter().all(|owner| owner.peer == me.peer) && self.heir().is_none();
        if alone || !owners.contains(&me) {
            self.tell(Event::Moved { request, peer: None, name: String::new(), addresses: 0 });
            return request;
        }
        let Some(heir) = self.heir() else {
            self.tell(Event::Refused { request, refusal: Refusal::NoHeir });
            return request;
        };
        self.abandon_all();
        let range = AddressRange::from(self.settings.range);
        let Some((_, ring)) = &mut self.ring else { return request };
        let owned = ring.owned_in(me, range);
        let facts: Vec<_> = owned.into_iter().flat_map(|run| ring.grant(run, me, heir)).collect();
        self.ring_changed = true;
        self.publication_due = true;
        self.leaving = Some(Leaving { request, heir: heir.peer, facts: facts.clone(), deadline: now + timeout });
        // It hears the same from gossip, should the message be lost.
        self.send(heir.peer, request.0, Body::Grant(facts));
        request
    }

    /// Tells who asked once the heir says that it has all it was given.
    pub(super) fn confirm(&mut self) {
        let Some(leaving) = &self.leaving else { return };
        let published = self.views.get(&leaving.heir).map(|view| &view.runs).into_iter().flatten();
        let published: Ring = published.map(|(_, run)| *run).collect();
        if leaving.facts.iter().all(|(run, fact)| published.covers(*run, *fact)) {
            let (request, heir, addresses) = (leaving.request, leaving.heir, size(&leaving.facts));
            self.leaving = None;
            self.tell(Event::Moved { request, peer: Some(heir), name: self.full_name_of(heir), addresses });
        }
    }

    /// Answers who waits for the heir for too long.
    pub(super) fn expire_leaving(&mut self, now: Instant) {
        if let Some(Leaving { request, heir, .. }) = self.leaving.take_if(|leaving| leaving.deadline <= now) {
            let refusal = Refusal::NotConfirmed { peer: self.full_name_of(heir) };
            self.tell(Event::Refused { request, refusal });
        }
    }

    /// Finds the peer that an operator calls dead.
    fn dead(&self, given: &str) -> Result<PeerName, Refusal> {
        let Some((_, ring)) = &self.ring else { return Err(Refusal::NoRing { why: self.why_no_ring() }) };
        let mut owners: Vec<PeerName> = ring.runs().map(|(_, fact)| fact.owner.peer).collect();
        owners.sort_unstable();
        owners.dedup();
        owners.retain(|peer| {
            let info = self.names.get(peer);
            peer.to_string() == given
                || peer.to_hex() == given
                || info.is_some_and(|info| info.name == given || info.nickname == given)
        });
        let cannot = |peer: PeerName, why| Err(Refusal::NotGone { peer: self.full_name_of(peer), why });
        match owners.as_slice() {
            [] => Err(Refusal::OwnsNothing { given: given.to_owned() }),
            [peer] if *peer == self.me.peer => cannot(*peer, "is this host: `weft reset` hands its addresses over"),
            [peer] if self.is_reachable(*peer) => {
                cannot(*peer, "can be reached: `weft reset` on that host hands its addresses over")
            }
            [peer] if self.mesh.is_none() => {
                cannot(*peer, "may live, and this host's router cannot be asked: start it")
            }
            [peer] => Ok(*peer),
            peers => {
                let peers = peers.iter().map(PeerName::to_hex).collect();
                Err(Refusal::Ambiguous { given: given.to_owned(), peers })
            }
        }
    }

    /// Returns who is to have what this host owned: of those who can be reached and take part in the ring, who owns most.
    fn heir(&self) -> Option<Owner> {
        let (info, ring) = self.ring.as_ref()?;
        let owned = |owner| ring.owned_in(owner, info.range.into()).into_iter().map(AddressRange::size).sum::<u64>();
        let candidates = self.views.iter().filter(|(peer, view)| {
            **peer != self.me.peer && self.is_reachable(**peer) && view.info.is_some_and(|theirs| theirs.id == info.id)
        });
        let candidates = candidates
            .filter_map(|(peer, view)| Some(Owner { peer: *peer, store: view.free.as_ref().map(|free| free.store)? }));
        candidates.max_by_key(|owner| (owned(*owner), *owner))
    }

    /// Returns a peer's name and that of its host, as lists of peers show them.
    fn full_name_of(&self, peer: PeerName) -> String {
        let nickname = self.names.get(&peer).map_or("", |info| &info.nickname);
        if nickname.is_empty() { self.name_of(peer) } else { format!("{}({nickname})", self.name_of(peer)) }
    }

    fn abandon_all(&mut self) {
        for (request, pending) in std::mem::take(&mut self.pending) {
            self.tell(Event::Refused { request, refusal: Refusal::Abandoned(pending.container) });
        }
        self.asks.clear();
        let held: Vec<_> = self
            .holdings
            .iter()
            .flat_map(|(container, held)| held.iter().map(|holding| (container.clone(), holding.address.addr())))
            .collect();
        for (container, address) in held {
            self.drop_holding(&container, address);
        }
    }
}

fn size(facts: &[(AddressRange, Fact)]) -> u64 {
    facts.iter().map(|(run, _)| run.size()).sum()
}
