//! A host's ipam: its life, its disk, and what its shell does for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rand::Rng as _;
use weft_ipam_core::{Allocator, Event, Record, Settings, State, Transmit};
use weft_types::{ContainerId, PeerName};

use super::{Host, Process, What, World};
use crate::ring::{Violation, router};

impl World {
    /// Lets a host's ipam go on, as its shell would.
    pub(super) fn step(&mut self, host: usize) -> Result<(), Violation> {
        let (now, life) = (self.instant(), self.hosts[host].life);
        let disk_delay = self.delay(1, 40);
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        if process.commit.is_none()
            && let Some(commit) = process.ipam.poll_commit(now)
        {
            process.commit = Some(commit);
            self.at(disk_delay, What::Saved { host, life });
        }
        while let Some(transmit) = self.hosts[host].process.as_mut().and_then(|process| process.ipam.poll_transmit()) {
            self.transmit(host, transmit);
        }
        while let Some(event) = self.hosts[host].process.as_mut().and_then(|process| process.ipam.poll_event()) {
            self.event(host, event)?;
        }
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let due = process
            .ipam
            .poll_timeout()
            .map(|(at, _)| at.duration_since(self.start).max(self.now + Duration::from_millis(1)));
        if due != process.wake {
            process.wake = due;
            if let Some(due) = due {
                self.queued += 1;
                self.queue.insert((due, self.queued), What::Wake { host, life });
            }
        }
        Ok(())
    }

    pub(super) fn event(&mut self, host: usize, event: Event) -> Result<(), Violation> {
        match event {
            Event::Moved { request, .. } if self.hosts[host].resetting == Some(request) => {
                self.handed_over(host, true);
                Ok(())
            }
            Event::Refused { request, .. } if self.hosts[host].resetting == Some(request) => {
                self.handed_over(host, false);
                Ok(())
            }
            Event::Moved { request, .. } if self.is_takeover(host, request) => {
                self.summary.taken_over += 1;
                Ok(())
            }
            Event::Refused { request, .. } if self.is_takeover(host, request) => Ok(()),
            Event::Granted { request, address } => {
                self.summary.granted += 1;
                self.model.granted(host, request, address)
            }
            Event::Refused { request, .. } => {
                self.summary.refused += 1;
                self.model.refused(host, request)
            }
            Event::Lost { container, address, .. } => {
                Err(Violation(format!("{container} of host {host} lost {address} without a takeover")))
            }
            Event::Freed { .. } | Event::Moved { .. } | Event::RingReady(_) => Ok(()),
        }
    }

    pub(super) fn transmit(&mut self, host: usize, transmit: Transmit) {
        if !self.hosts[host].router_up {
            return;
        }
        match transmit {
            Transmit::Publish { snapshot, entries } => {
                self.summary.publications += 1;
                self.hosts[host].router.publish(snapshot, entries);
                for to in 0..self.hosts.len() {
                    self.send_digest(host, to);
                }
            }
            Transmit::Send { peer, payload } => {
                let Some(to) = self.hosts.iter().position(|host| host.peer == peer) else { return };
                if !self.reaches(host, to) {
                    return;
                }
                for _ in 0..self.copies() {
                    let delay = self.delay(1, 150);
                    self.at(delay, What::Message { from: host, to, payload: payload.clone() });
                }
            }
        }
    }

    pub(super) fn saved(&mut self, host: usize, life: u64) -> Result<(), Violation> {
        let Some(commit) = self.process(host, life).and_then(|process| process.commit.take()) else { return Ok(()) };
        write(&mut self.hosts[host].disk, commit.records);
        // Now and then a process dies when it has saved something and told nobody.
        if !self.calm && self.scenario.fault_millis > 0 && self.random.random_range(0..100) < 2 {
            self.crash(host);
            return Ok(());
        }
        if let Some(process) = &mut self.hosts[host].process {
            process.ipam.handle_saved(commit.number);
        }
        self.step(host)
    }

    pub(super) fn start_process(&mut self, host: usize) -> Result<(), Violation> {
        let seed = self.random.random();
        let new = &mut self.hosts[host];
        let state = if new.disk.is_empty() {
            let state = State::new(seed);
            write(&mut new.disk, state.records());
            state
        } else {
            State::from_records(&new.disk).map_err(|error| Violation(error.to_string()))?
        };
        let settings =
            Settings { peer: new.peer, range: self.range, default_subnet: self.range, creation: new.creation.clone() };
        let ipam = Allocator::new(settings, state, seed);
        for (container, addresses) in self.model.live(host) {
            let known = ipam.lookup(container);
            if let Some(lost) = addresses.iter().find(|address| !known.contains(address)) {
                return Err(Violation(format!("host {host} forgot that {container} has {lost:?}: {known:?}")));
            }
        }
        new.process = Some(Process { ipam, subscribed: false, commit: None, wake: None, taking: BTreeSet::new() });
        new.life += 1;
        // What the engine removed while ipam was away is given back now.
        let removed: Vec<ContainerId> = self.model.removed.get(&host).into_iter().flatten().cloned().collect();
        for container in removed {
            if let Some(process) = &mut self.hosts[host].process {
                process.ipam.free(&container, &[]);
            }
        }
        let life = self.hosts[host].life;
        let delay = self.delay(1, 300);
        self.at(delay, What::Subscribe { host, life });
        self.step(host)
    }

    pub(super) fn crash(&mut self, host: usize) {
        let Some(process) = self.hosts[host].process.take() else { return };
        self.summary.crashes += 1;
        self.model.crashed(host);
        // What was being written is there or not.
        if let Some(commit) = process.commit.filter(|_| self.random.random()) {
            write(&mut self.hosts[host].disk, commit.records);
        }
        if self.hosts[host].resetting.is_some() {
            // The command that resets it goes on without an answer.
            self.handed_over(host, false);
            return;
        }
        let delay = self.delay(10, 2000);
        self.at(delay, What::Start { host });
    }

    pub(super) fn subscribe(&mut self, host: usize) {
        let (now, reachability) = (self.instant(), self.reachability(host));
        let peers: Vec<PeerName> = self.hosts.iter().map(|host| host.peer).collect();
        let Host { router, process, peer, .. } = &mut self.hosts[host];
        let Some(process) = process else { return };
        let mut origins: Vec<_> = router
            .others
            .iter()
            .map(|(origin, published)| (peers[*origin], router::entries(&published.entries)))
            .collect();
        origins.push((*peer, router::entries(&router.own.entries)));
        router.told = router.others.iter().map(|(origin, published)| (*origin, published.entries.clone())).collect();
        process.subscribed = true;
        process.ipam.handle_connected(origins, reachability, now);
    }
}

fn write(disk: &mut BTreeMap<Vec<u8>, Vec<u8>>, records: Vec<Record>) {
    for (key, value) in records {
        match value {
            Some(value) => disk.insert(key, value),
            None => disk.remove(&key),
        };
    }
}
