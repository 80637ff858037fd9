//! Clock, disks and network, and the hosts on them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use weft_ipam_core::{
    Allocator, Commit, Creation, Event, PeerInfo, Reachability, Record, RequestId, Settings, State, Transmit,
};
use weft_types::{AddressRange, ContainerId, PeerName};

use super::{
    Founding, Scenario, Summary, Violation,
    model::Model,
    router::{self, Published, Router},
};

/// A host: what survives a crash, and what does not.
struct Host {
    peer: PeerName,
    creation: Creation,
    targets: Vec<usize>,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    router: Router,
    router_up: bool,
    /// Hosts of one side reach each other.
    side: u8,
    process: Option<Process>,
    /// Counts processes, so that what was meant for an earlier one is dropped.
    life: u64,
}

struct Process {
    ipam: Allocator,
    subscribed: bool,
    commit: Option<Commit>,
    wake: Option<Duration>,
}

enum What {
    Wake { host: usize, life: u64 },
    Saved { host: usize, life: u64 },
    Subscribe { host: usize, life: u64 },
    Start { host: usize },
    StartRouter { host: usize },
    Announce { host: usize, generation: u64 },
    Digest { to: usize, digest: BTreeMap<usize, Published> },
    Message { from: usize, to: usize, payload: Vec<u8> },
    Gossip,
    Request,
    Fault,
}

/// Everything there is.
pub struct World {
    scenario: Scenario,
    range: Ipv4Net,
    random: StdRng,
    start: Instant,
    now: Duration,
    queue: BTreeMap<(Duration, u64), What>,
    queued: u64,
    hosts: Vec<Host>,
    model: Model,
    containers: u64,
    calm: bool,
    summary: Summary,
}

const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

impl World {
    /// Makes the hosts of a scenario, none of them started.
    #[must_use]
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let count = scenario.hosts;
        let peer = |host: usize| PeerName::from_public_key([host as u8 + 1; 32]);
        let hosts = (0..count).map(|host| {
            let founder = match scenario.founding {
                Founding::Star => host == 0,
                Founding::TwoFounders => host < 2,
                Founding::Everybody | Founding::Voters | Founding::Seeds | Founding::Observer => false,
            };
            let star = matches!(scenario.founding, Founding::Star | Founding::TwoFounders);
            let targets = match (founder, star) {
                (true, _) => Vec::new(),
                (false, true) => vec![0],
                (false, false) => (0..count).filter(|other| *other != host).collect(),
            };
            let creation = match scenario.founding {
                Founding::Voters => Creation::Elect { voters: Some(count as u32) },
                Founding::Seeds => Creation::Seeds(vec![peer(0).to_hex(), format!("host{}", 1)]),
                Founding::Observer if host + 1 == count => Creation::Observe,
                Founding::Star | Founding::Everybody | Founding::Observer | Founding::TwoFounders => {
                    Creation::Elect { voters: None }
                }
            };
            Host {
                peer: peer(host),
                creation,
                targets,
                disk: BTreeMap::new(),
                router: Router::default(),
                router_up: true,
                side: 0,
                process: None,
                life: 0,
            }
        });
        let hosts = hosts.collect();
        let range = Ipv4Net::new_assert([10, 32, 0, 0].into(), scenario.prefix_length);
        let mut world = Self {
            range,
            start: epoch(),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            queued: 0,
            hosts,
            model: Model::default(),
            containers: 0,
            calm: false,
            summary: Summary::default(),
            scenario,
            random: StdRng::seed_from_u64(random.random()),
        };
        for host in 0..count {
            let delay = world.delay(0, 1500);
            world.at(delay, What::Start { host });
        }
        world.at(Duration::from_millis(50), What::Gossip);
        world.at(Duration::from_millis(100), What::Request);
        if world.scenario.fault_millis > 0 {
            world.at(Duration::from_millis(200), What::Fault);
        }
        world
    }

    /// Lets everything go wrong for the scenario's time.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run_trouble(&mut self) -> Result<(), Violation> {
        self.run_until(Duration::from_secs(self.scenario.seconds))
    }

    /// Heals everything, and checks that all hosts agree and that whoever asks gets an address while there is one.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run_calm(&mut self) -> Result<(), Violation> {
        self.calm = true;
        for host in 0..self.hosts.len() {
            self.hosts[host].side = 0;
            if !self.hosts[host].router_up {
                self.start_router(host);
            }
            if self.hosts[host].process.is_none() {
                self.start_process(host)?;
            }
        }
        self.tell_reachability();
        self.run_until(self.now + Duration::from_secs(10))?;
        self.check_agreement()?;

        let usable = AddressRange::from(self.range).size() as usize - 2;
        // A container whose answer got lost in a crash may hold an address that it was never told.
        let held = self.hosts.iter().filter_map(|host| host.process.as_ref());
        let held: usize = held.flat_map(|process| process.ipam.allocations()).map(|(_, held)| held.len()).sum();
        let room = usable.saturating_sub(held);
        let refused = self.summary.refused;
        for host in (0..self.hosts.len()).take(room) {
            let container = self.new_container(host);
            self.allocate(host, &container, Duration::from_secs(9))?;
        }
        self.run_until(self.now + Duration::from_secs(10))?;
        if self.summary.refused > refused {
            return Err(Violation(format!("with {room} free addresses and no trouble, a host got none")));
        }
        Ok(())
    }

    /// Returns what the run was like so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Returns the ring ids of all running hosts, none for those without a ring.
    #[must_use]
    pub fn ring_ids(&self) -> Vec<Option<weft_ipam_core::RingId>> {
        let ring = |host: &Host| host.process.as_ref()?.ipam.ring().map(|(info, _)| info.id);
        self.hosts.iter().map(ring).collect()
    }

    /// Returns the problems that a host's status names.
    pub fn problems(&mut self, host: usize) -> Vec<String> {
        let now = self.instant();
        let process = self.hosts[host].process.as_mut();
        let problems = process.map(|process| process.ipam.status(now).problems).unwrap_or_default();
        problems.into_iter().map(|problem| problem.message).collect()
    }

    fn check_agreement(&mut self) -> Result<(), Violation> {
        if self.scenario.founding == Founding::TwoFounders {
            return Ok(());
        }
        let ids = self.ring_ids();
        if ids.iter().any(|id| *id != ids[0] || id.is_none()) {
            let now = self.instant();
            let waiting: Vec<_> = self
                .hosts
                .iter_mut()
                .filter_map(|host| Some(host.process.as_mut()?.ipam.status(now)))
                .map(|status| (status.state, status.voters, status.voters_heard))
                .collect();
            return Err(Violation(format!("after the calm the rings are {ids:?}, {waiting:?}")));
        }
        let rings: Vec<_> = self.hosts.iter().filter_map(|host| Some(host.process.as_ref()?.ipam.ring()?.1)).collect();
        if rings.iter().any(|ring| **ring != *rings[0]) {
            return Err(Violation(format!("after the calm the hosts know different things: {rings:#?}")));
        }
        Ok(())
    }

    fn run_until(&mut self, end: Duration) -> Result<(), Violation> {
        while let Some(entry) = self.queue.first_entry() {
            let at = entry.key().0;
            if at > end {
                break;
            }
            let what = entry.remove();
            self.now = at;
            self.perform(what)?;
            self.check_owners()?;
            self.model.check_deadlines(self.now)?;
        }
        self.now = end;
        Ok(())
    }

    /// Checks that no two running hosts take one address for theirs.
    fn check_owners(&self) -> Result<(), Violation> {
        let mut owned: Vec<(weft_ipam_core::RingId, AddressRange, usize)> = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            let Some(process) = &host.process else { continue };
            let Some((info, ring)) = process.ipam.ring() else { continue };
            let spans = ring.owned_in(process.ipam.owner(), self.range.into());
            owned.extend(spans.into_iter().map(|span| (info.id, span, number)));
        }
        owned.sort();
        let pairs = owned.windows(2).map(|pair| (pair[0], pair[1]));
        let double = pairs
            .filter(|(first, second)| first.0 == second.0)
            .find(|(first, second)| first.1.intersection(second.1).is_some());
        match double {
            Some(((_, span, host), (_, other_span, other))) => {
                Err(Violation(format!("host {host} owns {span}, host {other} {other_span}")))
            }
            None => Ok(()),
        }
    }

    fn perform(&mut self, what: What) -> Result<(), Violation> {
        match what {
            What::Wake { host, life } => {
                let (now, due) = (self.instant(), self.now);
                if let Some(process) = self.process(host, life).filter(|process| process.wake == Some(due)) {
                    process.wake = None;
                    process.ipam.handle_timeout(now);
                    return self.step(host);
                }
                Ok(())
            }
            What::Saved { host, life } => self.saved(host, life),
            What::Subscribe { host, life } => {
                if self.hosts[host].router_up && self.process(host, life).is_some_and(|process| !process.subscribed) {
                    self.subscribe(host);
                    return self.step(host);
                }
                Ok(())
            }
            What::Start { host } => {
                if self.hosts[host].process.is_none() {
                    self.start_process(host)
                } else {
                    Ok(())
                }
            }
            What::StartRouter { host } => {
                if !self.hosts[host].router_up {
                    self.start_router(host);
                    self.tell_reachability();
                }
                Ok(())
            }
            What::Announce { host, generation } => {
                let router = &mut self.hosts[host].router;
                router.announced |= router.generation == generation;
                Ok(())
            }
            What::Digest { to, digest } => self.digest(to, digest),
            What::Message { from, to, payload } => {
                let (source, now) = (self.hosts[from].peer, self.instant());
                let up = self.hosts[to].router_up;
                let Some(process) = self.hosts[to].process.as_mut().filter(|process| process.subscribed && up) else {
                    return Ok(());
                };
                process.ipam.handle_message(source, &payload, now).map_err(|error| Violation(error.to_string()))?;
                self.step(to)
            }
            What::Gossip => {
                for host in 0..self.hosts.len() {
                    let other = self.random.random_range(0..self.hosts.len());
                    self.send_digest(host, other);
                }
                let delay = self.delay(50, 300);
                self.at(delay, What::Gossip);
                Ok(())
            }
            What::Request => {
                if !self.calm {
                    let millis = self.scenario.request_millis;
                    let delay = self.delay(0, 2 * millis);
                    self.at(delay, What::Request);
                    self.request()?;
                }
                Ok(())
            }
            What::Fault => {
                if !self.calm {
                    let millis = self.scenario.fault_millis;
                    let delay = self.delay(0, 2 * millis);
                    self.at(delay, What::Fault);
                    self.fault()?;
                }
                Ok(())
            }
        }
    }

    /// Lets a host's ipam go on, as its shell would.
    fn step(&mut self, host: usize) -> Result<(), Violation> {
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

    fn event(&mut self, host: usize, event: Event) -> Result<(), Violation> {
        match event {
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
            Event::Freed { .. } | Event::RingReady(_) => Ok(()),
        }
    }

    fn transmit(&mut self, host: usize, transmit: Transmit) {
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

    fn saved(&mut self, host: usize, life: u64) -> Result<(), Violation> {
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

    fn start_process(&mut self, host: usize) -> Result<(), Violation> {
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
        new.process = Some(Process { ipam, subscribed: false, commit: None, wake: None });
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

    fn crash(&mut self, host: usize) {
        let Some(process) = self.hosts[host].process.take() else { return };
        self.summary.crashes += 1;
        self.model.crashed(host);
        // What was being written is there or not.
        if let Some(commit) = process.commit.filter(|_| self.random.random()) {
            write(&mut self.hosts[host].disk, commit.records);
        }
        let delay = self.delay(10, 2000);
        self.at(delay, What::Start { host });
    }

    fn subscribe(&mut self, host: usize) {
        let reachability = self.reachability(host);
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
        process.ipam.handle_connected(origins, reachability);
    }

    fn digest(&mut self, to: usize, digest: BTreeMap<usize, Published>) -> Result<(), Violation> {
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

    fn request(&mut self) -> Result<(), Violation> {
        let host = self.random.random_range(0..self.hosts.len());
        if self.hosts[host].process.is_none() {
            return Ok(());
        }
        let live: Vec<ContainerId> = self.model.live(host).map(|(container, _)| container.clone()).collect();
        let choice = self.random.random_range(0..100);
        match choice {
            0..50 => {
                let container = self.new_container(host);
                self.allocate(host, &container, REQUEST_TIMEOUT)
            }
            50..65 => {
                let container = self.new_container(host);
                let inside = self.random.random_range(0..AddressRange::from(self.range).size() as u32);
                let address = u32::from(self.range.network()) + inside;
                let address = Ipv4Net::new_assert(address.into(), self.range.prefix_len());
                let (now, deadline) = (self.instant(), self.now + REQUEST_TIMEOUT);
                if let Some(process) = &mut self.hosts[host].process {
                    let request: RequestId = process.ipam.claim(container.clone(), address, REQUEST_TIMEOUT, now);
                    self.model.asked(host, request, &container, deadline);
                }
                self.step(host)
            }
            65..75 if !live.is_empty() => {
                let again = live[self.random.random_range(0..live.len())].clone();
                self.allocate(host, &again, REQUEST_TIMEOUT)
            }
            _ if !live.is_empty() => {
                let gone = live[self.random.random_range(0..live.len())].clone();
                self.model.removed(host, &gone);
                if let Some(process) = &mut self.hosts[host].process {
                    process.ipam.free(&gone, &[]);
                }
                self.step(host)
            }
            _ => Ok(()),
        }
    }

    fn allocate(&mut self, host: usize, container: &ContainerId, timeout: Duration) -> Result<(), Violation> {
        let (now, deadline) = (self.instant(), self.now + timeout);
        let small = self.scenario.prefix_length <= 26 && !self.calm && self.random.random_range(0..3) == 0;
        let subnet = small.then(|| {
            let block = self.random.random_range(0..AddressRange::from(self.range).size() as u32 / 8);
            Ipv4Net::new_assert((u32::from(self.range.network()) + block * 8).into(), 29)
        });
        if let Some(process) = &mut self.hosts[host].process {
            let request = process.ipam.allocate(container.clone(), subnet, timeout, now);
            self.model.asked(host, request, container, deadline);
        }
        self.step(host)
    }

    fn fault(&mut self) -> Result<(), Violation> {
        let host = self.random.random_range(0..self.hosts.len());
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

    fn stop_router(&mut self, host: usize) {
        self.hosts[host].router_up = false;
        if let Some(process) = self.hosts[host].process.as_mut().filter(|process| process.subscribed) {
            process.subscribed = false;
            process.ipam.handle_disconnected();
        }
        let delay = self.delay(10, 2000);
        self.at(delay, What::StartRouter { host });
        self.tell_reachability();
    }

    fn start_router(&mut self, host: usize) {
        self.hosts[host].router_up = true;
        self.hosts[host].router.restart();
        let generation = self.hosts[host].router.generation;
        self.at(Duration::from_secs(3), What::Announce { host, generation });
        let life = self.hosts[host].life;
        let delay = self.delay(1, 300);
        self.at(delay, What::Subscribe { host, life });
    }

    fn tell_reachability(&mut self) {
        for host in 0..self.hosts.len() {
            let reachability = self.reachability(host);
            if let Some(process) = self.hosts[host].process.as_mut().filter(|process| process.subscribed) {
                process.ipam.handle_reachability(reachability);
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

    fn reachability(&mut self, host: usize) -> Reachability {
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

    fn reaches(&self, from: usize, to: usize) -> bool {
        let (from, to) = (&self.hosts[from], &self.hosts[to]);
        from.peer != to.peer && from.router_up && to.router_up && from.side == to.side
    }

    fn send_digest(&mut self, from: usize, to: usize) {
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
    fn copies(&mut self) -> usize {
        let loss = if self.calm { 0 } else { self.scenario.loss_percent };
        match self.random.random_range(0..100) {
            draw if draw < loss => 0,
            draw if draw < 2 * loss => 2,
            _ => 1,
        }
    }

    fn new_container(&mut self, host: usize) -> ContainerId {
        self.containers += 1;
        format!("h{host}-c{}", self.containers).parse().expect("letters, digits and a hyphen")
    }

    fn process(&mut self, host: usize, life: u64) -> Option<&mut Process> {
        let host = &mut self.hosts[host];
        host.process.as_mut().filter(|_| host.life == life)
    }

    fn delay(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.random_range(least..=most))
    }

    fn at(&mut self, delay: Duration, what: What) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), what);
    }

    fn instant(&self) -> Instant {
        self.start + self.now
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

#[expect(clippy::disallowed_methods, reason = "only differences to it are ever looked at")]
fn epoch() -> Instant {
    Instant::now()
}
