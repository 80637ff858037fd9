//! What becomes of the addresses of hosts that leave for good.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weft_types::{AddressRange, PeerName};

use super::{Allocator, Event, RequestId};
use crate::{
    Refusal,
    ring::{Fact, Owner, Ring, RingInfo},
    wire::Body,
};

/// How long a peer must not have been reached before anybody takes over what it owns.
///
/// Routers that lost each other, or were started, have tried each other again many times by then; the longest pause between two
/// attempts is a minute, too.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// How long nobody must have come before that: peers that meet tell each other all they know at once, and every five seconds again.
/// Who comes back may have been given addresses by the dead one that this host takes for the dead one's still.
const SETTLED_AFTER: Duration = Duration::from_secs(10);

/// This host gives away what it owns, until its process ends. Who leaves says no more that it has free addresses, so that nobody
/// else who leaves gives it any, and passes on what it is given all the same.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Who is to be told that others have it all, and until when.
    waiting: Option<(RequestId, Instant)>,
    /// What was given away, as it was when it was given.
    given: Ring,
}

impl Leaving {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.map(|(_, deadline)| deadline)
    }
}

impl Allocator {
    /// Takes over all that another peer owns, which is gone for good. `given` is its name, its host's name or its key.
    ///
    /// Answered with [`Event::Moved`] or [`Event::Refused`]. Refused while the peer can be reached (then it can give its addresses
    /// away itself), and for a minute after: who cannot be reached may live, and this host be the one that is cut off. The peer must
    /// never come back with its store while its containers live; should it do so, they lose their addresses ([`Event::Lost`]). Of
    /// two hosts that take over the same peer at a time one wins.
    pub fn take_over(&mut self, given: &str, now: Instant) -> RequestId {
        let request = self.new_request();
        let event = match self.dead(given, now) {
            Ok(dead) => {
                let me = self.me;
                let facts = self.ring.as_mut().map(|(_, ring)| ring.take_over(dead, me)).unwrap_or_default();
                self.ring_changed |= !facts.is_empty();
                let addresses = facts.iter().map(|(run, _)| run.size()).sum();
                Event::Moved { request, peer: Some(self.info_of(dead)), addresses }
            }
            Err(refusal) => Event::Refused { request, refusal },
        };
        self.tell(event);
        request
    }

    /// Gives all that this host owns to another peer, because it leaves: containers lose what they hold, requests that wait
    /// are refused, as are new ones.
    ///
    /// Answered with [`Event::Moved`] when that peer says that it has it, or when there is nobody else in the ring, and with
    /// [`Event::Refused`] if nobody can be reached or nobody confirms until `timeout`. Asked again it waits for the same, in place
    /// of who asked before.
    pub fn hand_over(&mut self, timeout: Duration, now: Instant) -> RequestId {
        let request = self.new_request();
        if self.leaving.is_none() {
            let owns = self.ring.iter().flat_map(|(_, ring)| ring.runs()).any(|(_, fact)| fact.owner == self.me);
            if !owns || self.is_alone() {
                self.tell(Event::Moved { request, peer: None, addresses: 0 });
                return request;
            }
            if self.heir().is_none() {
                self.tell(Event::Refused { request, refusal: Refusal::NoHeir });
                return request;
            }
            self.abandon_all();
        }
        let waiting = self.leaving.get_or_insert_default().waiting.replace((request, now + timeout));
        if let Some((older, _)) = waiting {
            self.refuse_unconfirmed(older);
        }
        self.publication_due = true;
        self.give_away();
        self.send_given(request);
        request
    }

    /// Gives what this host owns to who is to have it, if it leaves.
    pub(super) fn give_away(&mut self) {
        let (me, range) = (self.me, AddressRange::from(self.settings.range));
        let heir = self.heir();
        let (Some(leaving), Some((_, ring)), Some(heir)) = (&mut self.leaving, &mut self.ring, heir) else { return };
        for owned in ring.owned_in(me, range) {
            for (run, fact) in ring.grant(owned, me, heir) {
                leaving.given.learn(run, fact);
            }
            self.ring_changed = true;
        }
    }

    /// Tells those who have now what was given away. They hear the same from gossip, should a message be lost.
    fn send_given(&mut self, request: RequestId) {
        let mut facts: BTreeMap<PeerName, Vec<(AddressRange, Fact)>> = BTreeMap::new();
        for (run, fact) in self.given_now() {
            facts.entry(fact.owner.peer).or_default().push((run, fact));
        }
        facts.remove(&self.me.peer);
        for (peer, facts) in facts {
            self.send(peer, request.0, Body::Grant(facts));
        }
    }

    /// Returns what is known now about what was given away: who was given it may have given it on.
    fn given_now(&self) -> Vec<(AddressRange, Fact)> {
        let (Some(leaving), Some((_, ring))) = (&self.leaving, &self.ring) else { return Vec::new() };
        leaving.given.runs().flat_map(|(run, _)| ring.runs_in(run)).collect()
    }

    /// Tells who asked once others say that they have all they were given, and that they stay.
    pub(super) fn confirm(&mut self) {
        let Some(request) = self.leaving.as_ref().and_then(|leaving| leaving.waiting).map(|(request, _)| request)
        else {
            return;
        };
        let given = self.given_now();
        let staying: BTreeMap<PeerName, Owner> = self.staying().map(|owner| (owner.peer, owner)).collect();
        let views = self.views.iter().filter(|(peer, _)| staying.contains_key(*peer));
        let published: Ring = views.flat_map(|(_, view)| view.runs.values().copied()).collect();
        let has = |run: AddressRange, fact: Fact| {
            staying.get(&fact.owner.peer) == Some(&fact.owner) && published.covers(run, fact)
        };
        if !given.iter().all(|(run, fact)| has(*run, *fact)) {
            return;
        }
        if let Some(leaving) = &mut self.leaving {
            leaving.waiting = None;
        }
        let addresses = given.iter().map(|(run, _)| run.size()).sum();
        self.tell(Event::Moved { request, peer: most(&given).map(|peer| self.info_of(peer)), addresses });
    }

    /// Answers who waits for too long.
    pub(super) fn expire_leaving(&mut self, now: Instant) {
        let late = self.leaving.as_mut().and_then(|leaving| leaving.waiting.take_if(|(_, deadline)| *deadline <= now));
        if let Some((request, _)) = late {
            self.refuse_unconfirmed(request);
        }
    }

    fn refuse_unconfirmed(&mut self, request: RequestId) {
        let refusal = match most(&self.given_now()) {
            Some(peer) => Refusal::NotConfirmed { peer: self.info_of(peer) },
            None => Refusal::NoHeir,
        };
        self.tell(Event::Refused { request, refusal });
    }

    /// Finds the peer that an operator calls dead.
    fn dead(&self, given: &str, now: Instant) -> Result<PeerName, Refusal> {
        let Some((_, ring)) = &self.ring else { return Err(Refusal::NoRing { why: self.why_no_ring() }) };
        let mut owners: Vec<PeerName> = ring.runs().map(|(_, fact)| fact.owner.peer).collect();
        owners.sort_unstable();
        owners.dedup();
        owners.retain(|peer| {
            let info = self.info_of(*peer);
            info.name == given || info.nickname == given || peer.to_string() == given || peer.to_hex() == given
        });
        let peer = match owners.as_slice() {
            [] => return Err(Refusal::OwnsNothing { given: given.to_owned() }),
            [peer] => *peer,
            peers => {
                let peers = peers.iter().map(PeerName::to_hex).collect();
                return Err(Refusal::Ambiguous { given: given.to_owned(), peers });
            }
        };
        let cannot = |why| Err(Refusal::NotGone { peer: self.info_of(peer), why });
        if peer == self.me.peer {
            return cannot("is this host: `weft reset` hands its addresses over");
        }
        if self.is_reachable(peer) {
            return cannot("can be reached: `weft reset` on that host hands its addresses over");
        }
        let Some(since) = self.away_since(peer) else {
            return cannot("may live, and this host's router cannot be asked: start it");
        };
        let away = now.saturating_duration_since(since);
        let settled = self.joined_at.map_or(away, |at| now.saturating_duration_since(at));
        let left = GONE_AFTER.saturating_sub(away).max(SETTLED_AFTER.saturating_sub(settled));
        if left.is_zero() { Ok(peer) } else { Err(Refusal::TooSoon { peer: self.info_of(peer), away, left }) }
    }

    /// Tells whether this host has the whole ring, and nobody is known who takes part in it. Without its router nobody is known.
    fn is_alone(&self) -> bool {
        let Some((info, ring)) = &self.ring else { return true };
        let owns_all = ring.runs().all(|(_, fact)| fact.owner.peer == self.me.peer);
        self.mesh.is_some() && owns_all && self.others(info).next().is_none()
    }

    /// Returns who is to have what this host owned: of those who can be reached and stay in the ring, who owns most.
    fn heir(&self) -> Option<Owner> {
        let (info, ring) = self.ring.as_ref()?;
        let owned = |owner| ring.owned_in(owner, info.range.into()).into_iter().map(AddressRange::size).sum::<u64>();
        let candidates = self.staying().filter(|owner| self.is_reachable(owner.peer));
        candidates.max_by_key(|owner| (owned(*owner), *owner))
    }

    /// Returns the others who take part in the ring and do not leave: only those say how much they have free.
    fn staying(&self) -> impl Iterator<Item = Owner> {
        let others = self.ring.iter().flat_map(|(info, _)| self.others(info));
        others.filter_map(|peer| {
            Some(Owner { peer, store: self.views.get(&peer)?.free.as_ref().map(|free| free.store)? })
        })
    }

    /// Returns all others who say that they take part in the ring.
    fn others(&self, info: &RingInfo) -> impl Iterator<Item = PeerName> {
        let of_ring = self.views.iter().filter(|(_, view)| view.info.is_some_and(|theirs| theirs.id == info.id));
        of_ring.map(|(peer, _)| *peer).filter(|peer| *peer != self.me.peer)
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

/// Returns who has most.
fn most(facts: &[(AddressRange, Fact)]) -> Option<PeerName> {
    let mut owned: BTreeMap<PeerName, u64> = BTreeMap::new();
    for (run, fact) in facts {
        *owned.entry(fact.owner.peer).or_default() += run.size();
    }
    owned.into_iter().max_by_key(|(_, size)| *size).map(|(peer, _)| peer)
}
