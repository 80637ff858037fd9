//! What passes between hosts, and what goes wrong with it.

use std::{collections::BTreeMap, time::Duration};

use rand::Rng as _;
use weft_ipam_core::{PeerInfo, Reachability};

use super::{Host, What, World};
use crate::ring::{
    Violation,
    router::{self, Published},
};

impl World {
    pub(super) fn digest(&mut self, to: usize, digest: BTreeMap<usize, Published>) -> Result<(), Violation> {
        if !self.hosts[to].router_up {
            return Ok(());
        }
        let news = self.hosts[to].router.merge(to, digest);
        for origin in news {
            let complete = self.random.random_range(0..4) == 0;
            let twice = self.random.random_range(0..8) == 0;
            let peer = self.hosts[origin].peer;
            let Host { router, process, .. } = &mut self.hosts[to];
            let Some(process) = process.as_mut().filter(|process| process.subscribed) else { continue };
            let difference = router.difference(origin);
            let entries = if complete { router::entries(&router.told[&origin]) } else { difference };
            for _ in 0..=usize::from(twice) {
                process.ipam.handle_update(peer, complete, &entries);
            }
        }
        self.step(to)
    }

    pub(super) fn fault(&mut self) -> Result<(), Violation> {
        let Some(host) = self.any_present() else { return Ok(()) };
        match self.random.random_range(0..6) {
            0 | 1 => {
                for host in &mut self.hosts {
                    host.side = self.random.random_range(0..2);
                }
                self.tell_reachability();
            }
            2 => {
                for host in &mut self.hosts {
                    host.side = 0;
                }
                self.tell_reachability();
            }
            3 => self.crash(host),
            4 => {
                // The whole host loses its power.
                self.crash(host);
                self.stop_router(host);
            }
            _ => {
                self.stop_router(host);
                self.step(host)?;
            }
        }
        Ok(())
    }

    pub(super) fn stop_router(&mut self, host: usize) {
        self.hosts[host].router_up = false;
        if let Some(process) = self.hosts[host].process.as_mut().filter(|process| process.subscribed) {
            process.subscribed = false;
            process.ipam.handle_disconnected();
        }
        let delay = self.delay(10, 2000);
        self.at(delay, What::StartRouter { host });
        self.tell_reachability();
    }

    pub(super) fn start_router(&mut self, host: usize) {
        self.hosts[host].router_up = true;
        self.hosts[host].router.restart();
        let generation = self.hosts[host].router.generation;
        self.at(Duration::from_secs(3), What::Announce { host, generation });
        let life = self.hosts[host].life;
        let delay = self.delay(1, 300);
        self.at(delay, What::Subscribe { host, life });
    }

    pub(super) fn tell_reachability(&mut self) {
        let now = self.instant();
        for host in 0..self.hosts.len() {
            let reachability = self.reachability(host);
            if let Some(process) = self.hosts[host].process.as_mut().filter(|process| process.subscribed) {
                process.ipam.handle_reachability(reachability, now);
                // Errors show in the next step of that host, at the latest when it is woken.
                let life = self.hosts[host].life;
                let delay = self.delay(1, 20);
                let due = self.now + delay;
                if let Some(process) = &mut self.hosts[host].process {
                    process.wake = Some(due);
                }
                self.queued += 1;
                self.queue.insert((due, self.queued), What::Wake { host, life });
            }
        }
    }

    pub(super) fn reachability(&mut self, host: usize) -> Reachability {
        let reached: Vec<usize> =
            (0..self.hosts.len()).filter(|other| *other == host || self.reaches(host, *other)).collect();
        let Host { router, targets, .. } = &mut self.hosts[host];
        router.reached.extend(targets.iter().filter(|target| reached.contains(target)));
        let (target_count, targets_given) = (targets.len() as u32, !targets.is_empty());
        let target_peers = router.reached.clone();
        let info = |host: &usize| PeerInfo {
            peer: self.hosts[*host].peer,
            name: format!("host{host}"),
            nickname: format!("nick{host}"),
        };
        Reachability {
            peers: reached.iter().map(info).collect(),
            target_count,
            targets_given,
            target_peers: target_peers.iter().map(|host| self.hosts[*host].peer).collect(),
        }
    }

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.hosts[from], &self.hosts[to]);
        from.peer != to.peer && from.router_up && to.router_up && from.side == to.side
    }

    pub(super) fn send_digest(&mut self, from: usize, to: usize) {
        if !self.reaches(from, to) {
            return;
        }
        let digest = self.hosts[from].router.digest(from);
        for _ in 0..self.copies() {
            let delay = self.delay(1, 150);
            self.at(delay, What::Digest { to, digest: digest.clone() });
        }
    }

    /// How often a message arrives.
    pub(super) fn copies(&mut self) -> usize {
        let loss = if self.calm { 0 } else { self.scenario.loss_percent };
        match self.random.random_range(0..100) {
            draw if draw < loss => 0,
            draw if draw < 2 * loss => 2,
            _ => 1,
        }
    }
}
