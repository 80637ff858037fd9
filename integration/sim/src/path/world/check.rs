//! What has to be so: traffic soon after each change, the best ways after a calm.

use std::{collections::BTreeMap, time::Duration};

use weft_router_core::path::{
    Unused, Via,
    cost::{Quality, RELAY, margin},
};

use super::{SILENCE, WANTED, World, datagrams::RELAYED, name, number};
use crate::path::{Violation, network::MUCH};

/// After a change, everybody hears of everybody who can be reached within: silence, a second for routes to change, and the time
/// that control connections and answers need.
const DEADLINE: Duration = Duration::from_secs(3 + 1 + 2);
/// Data that came so lately says that traffic flows, although some gets lost, or a way turns out to be narrower.
const LATELY: Duration = Duration::from_millis(2500);
/// After a change, everybody with traffic is on the best way within this.
const CALM: Duration = Duration::from_secs(15);
/// Then everybody else is, who asks other ways more seldom.
const IDLE_CALM: Duration = Duration::from_secs(10);
/// Routes follow delays after some seconds, and loss after more. What a way has lost may be the fault of the route it had until
/// then, and it waits for a trial so long.
const ROUTED: Duration = Duration::from_secs(8);

/// What a way is like in truth.
#[derive(Debug, Clone, Copy)]
struct Walk {
    round_trip: Duration,
    largest: usize,
    /// Whether much is lost there, and on the way there and back.
    lossy: [bool; 2],
}

impl Walk {
    const START: Self = Self { round_trip: Duration::ZERO, largest: usize::MAX, lossy: [false; 2] };
}

impl World {
    /// Lets the deadline pass and checks that traffic flows wherever it can.
    ///
    /// # Errors
    /// A [`Violation`] names a pair that hears nothing.
    pub fn check_traffic(&mut self) -> Result<(), Violation> {
        // Where much is lost, questions that would show what else is wrong get lost as well.
        self.run_for(if self.scenario.lossy > 0 { DEADLINE + LATELY } else { DEADLINE })?;
        let groups = self.groups();
        for (host, peer) in self.all_pairs() {
            let possible = groups[host] == groups[peer] || self.network.has_udp(host, peer);
            let heard = self.hosts[host].pairs[peer].heard;
            if possible && heard.is_none_or(|heard| self.now - heard > LATELY) {
                let ways: Vec<_> = self.hosts[peer].pairs[host].paths.candidates().collect();
                return Err(Violation(format!(
                    "host {host} heard from {peer} at {heard:?} last, now it is {:?}; {peer} knows the ways {ways:#?}",
                    self.now
                )));
            }
        }
        Ok(())
    }

    /// Lets a calm pass and checks that everybody is on the best way.
    ///
    /// # Errors
    /// A [`Violation`] names a pair that is not.
    pub fn settle(&mut self) -> Result<(), Violation> {
        let end = self.changed.0 + CALM;
        self.run_for(end.saturating_sub(self.now))?;
        for (host, peer) in
            self.all_pairs().filter(|(host, peer)| self.hosts[*host].pairs[*peer].busy).collect::<Vec<_>>()
        {
            self.check_choice(host, peer)?;
        }
        self.run_for(IDLE_CALM)?;
        for (host, peer) in self.all_pairs() {
            self.check_choice(host, peer)?;
            self.check_route(host, peer)?;
        }
        Ok(())
    }

    /// Tells whether everything has settled, so that all see the same links.
    pub(super) fn is_calm(&self) -> bool {
        self.now > self.changed.0 + CALM && self.now > self.published + DEADLINE
    }

    /// Returns a number for each host, equal where a chain of control connections joins them. Each of these carries data, if
    /// nothing else as a stream.
    fn groups(&self) -> Vec<usize> {
        let mut groups: Vec<usize> = (0..self.hosts.len()).collect();
        for (a, b) in self.all_pairs().filter(|(a, b)| self.network.has_tcp(*a, *b)) {
            let (one, other) = (groups[a], groups[b]);
            groups.iter_mut().filter(|group| **group == other).for_each(|group| *group = one);
        }
        groups
    }

    fn check_choice(&mut self, host: usize, peer: usize) -> Result<(), Violation> {
        let candidates: Vec<_> = self.hosts[host].pairs[peer].paths.candidates().collect();
        let (now, moment) = (self.now, self.moment());
        let Some(choice) = self.hosts[host].pairs[peer].paths.choice() else { return Ok(()) };
        self.summary.calm[match choice.via {
            Via::Direct(_) => 0,
            Via::Relay(_) => 1,
            Via::Stream => 2,
        }] += 1;
        let complain = |what: &str| {
            Err(Violation(format!(
                "host {host} reaches {peer} by {:?} at {now:?}: {what}; it knows {candidates:#?}",
                choice.via
            )))
        };
        let Some(present) = self.walk(host, peer, choice.via) else { return complain("that does not work") };
        let (busy, settled) = (self.hosts[host].pairs[peer].busy, now >= self.changed.0 + CALM + IDLE_CALM);
        if choice.via != Via::Stream && choice.largest > present.largest {
            // Sizes are watched under traffic only, and noticed within some seconds of a change of routes.
            let noticed = busy && settled && now >= self.published + DEADLINE;
            return if noticed { complain("that is narrower") } else { Ok(()) };
        }
        let cost = self.cost(host, peer, choice.via, present);
        for candidate in candidates.iter().filter(|candidate| candidate.via != choice.via) {
            let Some(mut other) = self.walk(host, peer, candidate.via) else { continue };
            // That it carries more now is found out once a minute.
            other.largest = other.largest.min(candidate.largest);
            let on_trial = candidate.unused.as_ref().is_some_and(|(why, since)| {
                let lost = matches!(why, Unused::Loses { .. }) || self.scenario.lossy > 0;
                lost && *since > moment - ROUTED
            });
            if other.lossy != [false; 2] || on_trial {
                continue;
            }
            let better = self.cost(host, peer, candidate.via, other);
            let lossy = present.lossy[0] && busy && settled;
            if lossy || (present.lossy == [false; 2] && better + margin(cost) + cost / 10 + 5 < cost) {
                return complain(&format!("that costs {cost} {present:?}, {:?} {better} {other:?}", candidate.via));
            }
        }
        Ok(())
    }

    fn cost(&mut self, host: usize, peer: usize, via: Via, walk: Walk) -> u32 {
        let hops = self.hosts[host].routes.next_hops(name(peer));
        let hops = hops.into_iter().find(|(hop, _)| via == Via::Relay(*hop));
        let quality = Quality {
            round_trip: walk.round_trip,
            loss: 0,
            relays: hops.map_or(0, |(_, hops)| hops - 1),
            stream: via == Via::Stream,
            missing: WANTED - WANTED.min(walk.largest / 8 * 8),
        };
        quality.cost()
    }

    /// Follows a way there and back.
    fn walk(&mut self, host: usize, peer: usize, via: Via) -> Option<Walk> {
        let mut walk = Walk::START;
        match via {
            Via::Direct(_) | Via::Stream => {
                self.step(host, peer, via, 0, 0, &mut walk)?;
                self.step(peer, host, via, 1, 0, &mut walk)?;
            }
            Via::Relay(relay) => {
                let last = self.walk_over(host, peer, number(relay), 0, &mut walk)?;
                let back = self.hosts[peer].pairs[host].paths.relay_for_answer(name(last));
                self.walk_over(peer, host, number(back), 1, &mut walk)?;
            }
        }
        Some(walk)
    }

    /// Follows a relayed datagram, and returns who relays it last.
    fn walk_over(&mut self, from: usize, to: usize, relay: usize, back: usize, walk: &mut Walk) -> Option<usize> {
        let (mut before, mut at) = (from, relay);
        for _ in 0..self.hosts.len() {
            let link = self.hosts[before].pairs[at].paths.link_choice()?;
            self.step(before, at, link.via, back, RELAYED, walk)?;
            if at == to {
                return Some(before);
            }
            let next = self.hosts[at].routes.next_hop_for_relay(name(to), name(before))?;
            (before, at) = (at, number(next));
        }
        None
    }

    fn step(&self, from: usize, to: usize, via: Via, back: usize, more: usize, walk: &mut Walk) -> Option<()> {
        let wire = self.network.wire(from, to);
        let works = match via {
            Via::Direct(endpoint) if back == 0 || more > 0 => {
                self.network.receiver(from, endpoint, self.now) == Some(to) && self.network.has_udp(from, to)
            }
            Via::Direct(_) => self.network.has_udp(from, to),
            Via::Stream => self.network.has_tcp(from, to),
            Via::Relay(_) => false,
        };
        walk.round_trip += wire.delay;
        if let Via::Direct(_) = via {
            walk.lossy[back] |= self.network.loss(from, to) >= MUCH;
            if back == 0 {
                walk.largest = walk.largest.min(wire.largest() - more);
            }
        }
        works.then_some(())
    }

    /// Checks the relays that are offered where there is no link: that there are some if any chain of links exists, and that the
    /// first is no worse than steps and delay of what is published explain.
    fn check_route(&mut self, host: usize, peer: usize) -> Result<(), Violation> {
        let groups = self.groups();
        let linked = self.network.has_tcp(host, peer);
        if linked || groups[host] != groups[peer] || self.scenario.lossy > 0 || self.now < SILENCE {
            return Ok(());
        }
        let offered = self.hosts[host].routes.next_hops(name(peer));
        let Some((first, _)) = offered.first() else {
            return Err(Violation(format!("host {host} knows no relay to {peer} at {:?}", self.now)));
        };
        let costs = self.link_costs(peer);
        let (mut cost, mut before, mut at) = (0, host, number(*first));
        for _ in 0..self.hosts.len() {
            cost += self.link_cost(before, at).unwrap_or(u32::MAX / 64);
            if at == peer {
                break;
            }
            let next = self.hosts[at].routes.next_hop_for_relay(name(peer), name(before));
            (before, at) = (at, next.map_or(before, number));
        }
        let best = costs[&host];
        if cost > best * 9 / 4 + 3 * RELAY {
            return Err(Violation(format!("from {host} to {peer} over {first} costs {cost}, the best way {best}")));
        }
        Ok(())
    }

    /// What a link costs in truth, with what each link adds in routes.
    fn link_cost(&self, a: usize, b: usize) -> Option<u32> {
        let wire = self.network.wire(a, b);
        self.network.has_tcp(a, b).then(|| {
            let missing = WANTED - WANTED.min(wire.largest() / 8 * 8);
            let udp = Quality { round_trip: 2 * wire.delay, loss: 0, relays: 0, stream: false, missing };
            let stream = Quality { stream: true, missing: 0, ..udp };
            let udp = self.network.has_udp(a, b).then(|| udp.cost());
            udp.unwrap_or(u32::MAX).min(stream.cost()) + RELAY
        })
    }

    /// The lowest cost from each host to one, by trying over and over.
    fn link_costs(&self, to: usize) -> BTreeMap<usize, u32> {
        let mut costs = BTreeMap::from([(to, 0)]);
        for _ in 0..self.hosts.len() {
            for (a, b) in self.all_pairs() {
                if let Some((link, rest)) = self.link_cost(a, b).zip(costs.get(&b).copied()) {
                    let known = costs.entry(a).or_insert(u32::MAX);
                    *known = (*known).min(rest + link);
                }
            }
        }
        costs
    }
}
