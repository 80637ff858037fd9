//! Clock, network and disks, and the hosts on them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ipnet::Ipv4Net;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use weft_router_core::{
    gossip::Entry,
    mesh::{
        ConnectionId, ControlMessage, DialId, Event, Introduced, LINKS_CHANNEL, Mesh, MeshConfig, PEERS_CHANNEL,
        Problem, Timing,
    },
    target::{DialAddress, Target},
};
use weft_types::PeerName;

use super::{
    Scenario, Shape, Summary, Violation,
    model::{Model, View},
    network::{Barriers, End, Item, Pipe},
};

/// Channel of the services.
const CHANNEL: &str = "names";
/// Within this after all is healed, everybody knows everything. The longest pause between tries is most of it.
const CALM: Duration = Duration::from_secs(60);
/// How soon a cut shows in who is reachable: silence, and one second for the news to travel.
const NOTICED: Duration = Duration::from_secs(4);
/// More wake-ups of one host at one moment than this are a loop.
const MAX_WAKES: u32 = 1000;

/// Messages sent, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Heartbeats and their echoes.
    pub heartbeats: u64,
    /// Digests.
    pub digests: u64,
    /// Version vectors.
    pub vectors: u64,
    /// Parts of deltas.
    pub deltas: u64,
    /// All others.
    pub others: u64,
}

struct Host {
    peer: PeerName,
    targets: Vec<Target>,
    /// Generation and known channels survive in it.
    disk: (u64, BTreeSet<String>),
    process: Option<Process>,
    /// Counts processes, so that what was meant for an earlier one is dropped.
    life: u64,
    /// Whether the host's kernel answers.
    powered: bool,
}

struct Process {
    mesh: Mesh,
    view: View,
    wake: Option<Duration>,
    wakes: u32,
}

enum What {
    Wake {
        host: usize,
        life: u64,
    },
    Start {
        host: usize,
    },
    PublishAll {
        host: usize,
        life: u64,
    },
    /// A dial reaches the other host, or fails.
    Accept {
        from: usize,
        life: u64,
        dial: DialId,
        to: Option<usize>,
    },
    /// The dialling side has finished the handshake.
    Dialled {
        pipe: u64,
        dial: DialId,
        introduced: Box<Introduced>,
    },
    Arrive {
        pipe: u64,
        end: usize,
    },
    Publish,
    Fault,
}

/// Everything there is.
pub struct World {
    scenario: Scenario,
    random: StdRng,
    start: Instant,
    now: Duration,
    queue: BTreeMap<(Duration, u64), What>,
    queued: u64,
    hosts: Vec<Host>,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    barriers: Barriers,
    model: Model,
    calm: bool,
    traffic: Traffic,
    summary: Summary,
}

impl World {
    /// Makes the hosts of a scenario and starts them one after another.
    #[must_use]
    pub fn new(scenario: Scenario, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let count = scenario.hosts;
        let mut barriers = Barriers::default();
        for (a, b) in pairs(count).filter(|(a, b)| a + 1 != *b) {
            let apart = match scenario.shape {
                Shape::Full => false,
                Shape::Chain => true,
                Shape::Sparse => random.random_bool(0.5),
            };
            if apart {
                barriers.forbid(a, b);
            }
        }
        let hosts = (0..count).map(|host| {
            let target: usize = if scenario.shape == Shape::Full { 0 } else { host.saturating_sub(1) };
            let target = address(target).ip().to_string().parse().expect("an address names a peer");
            Host {
                peer: PeerName::from_public_key(random.random()),
                targets: vec![target],
                disk: (0, BTreeSet::new()),
                process: None,
                life: 0,
                powered: true,
            }
        });
        let hosts = hosts.collect();
        let mut world = Self {
            start: epoch(),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            queued: 0,
            hosts,
            pipes: BTreeMap::new(),
            next_pipe: 1,
            barriers,
            model: Model::default(),
            calm: false,
            traffic: Traffic::default(),
            summary: Summary::default(),
            scenario,
            random: StdRng::seed_from_u64(random.random()),
        };
        for host in 0..count {
            let delay = world.delay(0, 1500);
            world.at(delay, What::Start { host });
        }
        if world.scenario.publish_millis > 0 {
            world.at(Duration::from_millis(100), What::Publish);
        }
        if world.scenario.fault_millis > 0 {
            world.at(Duration::from_secs(2), What::Fault);
        }
        world
    }

    /// Runs the time of trouble.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run_trouble(&mut self) -> Result<(), Violation> {
        self.run_until(Duration::from_secs(self.scenario.seconds))
    }

    /// Heals everything, and waits until everybody knows everything.
    ///
    /// # Errors
    /// The first [`Violation`]; one is that something is not known in time.
    pub fn run_calm(&mut self) -> Result<(), Violation> {
        self.calm = true;
        self.heal();
        for host in 0..self.hosts.len() {
            if self.hosts[host].process.is_none() {
                self.at(Duration::ZERO, What::Start { host });
            }
        }
        let deadline = self.now + CALM;
        while let Err(missing) = self.check_converged() {
            if self.now >= deadline {
                return Err(missing);
            }
            self.run_for(Duration::from_millis(500))?;
        }
        self.run_for(Duration::from_secs(8))?;
        self.check_converged()?;
        self.summary.deltas = self.traffic.deltas;
        Ok(())
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn run_for(&mut self, duration: Duration) -> Result<(), Violation> {
        self.run_until(self.now + duration)
    }

    /// Cuts links by chance, each with a probability, and checks that everybody knows soon enough who is left.
    ///
    /// # Errors
    /// A [`Violation`] if somebody does not.
    pub fn check_cut(&mut self, probability: f64) -> Result<(), Violation> {
        for (a, b) in pairs(self.hosts.len()) {
            if self.random.random_bool(probability) {
                self.barriers.cut(a, b);
            }
        }
        self.run_for(NOTICED)?;
        for host in 0..self.hosts.len() {
            let expected = self.barriers.component(host, self.hosts.len());
            self.check_reachable(host, &expected)?;
        }
        Ok(())
    }

    /// Publishes one change at a host.
    ///
    /// # Errors
    /// A [`Violation`] of the model.
    pub fn publish(&mut self, host: usize) -> Result<(), Violation> {
        let key = Bytes::from(vec![self.random.random_range(0..6_u8)]);
        let delete = self.random.random_bool(0.3);
        let entry = self.model.change(self.hosts[host].peer, key, delete);
        self.summary.published += 1;
        let now = self.start + self.now;
        if let Some(process) = &mut self.hosts[host].process {
            process.mesh.publish(CHANNEL, false, vec![entry], now).expect("it is within all limits");
        }
        self.drain(host)
    }

    /// Returns what was sent so far.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Returns what the run was like.
    #[must_use]
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// Checks that all know what all published last, and reach each other by single connections.
    ///
    /// # Errors
    /// A [`Violation`] names what somebody does not know.
    pub fn check_converged(&self) -> Result<(), Violation> {
        let all = (0..self.hosts.len()).collect();
        for host in 0..self.hosts.len() {
            let Some(process) = &self.hosts[host].process else {
                return Err(Violation(format!("host {host} does not run")));
            };
            self.check_reachable(host, &all)?;
            for (origin, from) in self.hosts.iter().enumerate() {
                for channel in [CHANNEL, PEERS_CHANNEL, LINKS_CHANNEL] {
                    let published = from.process.as_ref().map(|process| process.mesh.local_entries(channel));
                    let known = process.mesh.channel(channel).into_iter().find(|known| known.origin == from.peer);
                    let known = known.map(|known| known.entries);
                    if known != published {
                        return Err(Violation(format!(
                            "{channel} of host {origin}: host {host} knows {known:?}, published is {published:?}"
                        )));
                    }
                }
                let published = self.model.all(from.peer);
                let seen = process.view.all(from.peer);
                if seen != published {
                    return Err(Violation(format!("host {host} saw of {origin} {seen:?}, published is {published:?}")));
                }
            }
            let expected = (0..self.hosts.len()).filter(|other| *other != host && !self.barriers.between(host, *other));
            let expected: BTreeSet<PeerName> = expected.map(|other| self.hosts[other].peer).collect();
            let views = process.mesh.connections(self.start + self.now);
            let connected: BTreeSet<PeerName> = views.iter().map(|view| view.identity.peer).collect();
            if connected != expected {
                return Err(Violation(format!("host {host} has connections with {connected:?}, not {expected:?}")));
            }
        }
        for (a, b) in pairs(self.hosts.len()) {
            let joins = |pipe: &&Pipe| pipe.ends.iter().all(|end| end.open && [a, b].contains(&end.host));
            if self.pipes.values().filter(joins).count() > 1 {
                return Err(Violation(format!("hosts {a} and {b} have more than one connection")));
            }
        }
        Ok(())
    }

    fn check_reachable(&self, host: usize, expected: &BTreeSet<usize>) -> Result<(), Violation> {
        let Some(process) = &self.hosts[host].process else { return Ok(()) };
        let reachable: BTreeSet<PeerName> =
            process.mesh.reachable().into_iter().map(|identity| identity.peer).collect();
        let expected: BTreeSet<PeerName> = expected.iter().map(|other| self.hosts[*other].peer).collect();
        if reachable == expected {
            Ok(())
        } else {
            Err(Violation(format!("host {host} reaches {reachable:?}, the graph says {expected:?}")))
        }
    }

    fn heal(&mut self) {
        self.barriers.heal();
        let waiting: Vec<(u64, usize, usize)> = self
            .pipes
            .iter()
            .flat_map(|(pipe, state)| (0..2).map(|end| (*pipe, end, state.ends[end].sent.len())))
            .collect();
        for (pipe, end, count) in waiting {
            // What arrives twice finds nothing the second time.
            for _ in 0..count {
                self.at(Duration::ZERO, What::Arrive { pipe, end });
            }
        }
    }

    fn run_until(&mut self, end: Duration) -> Result<(), Violation> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), what) = entry.remove_entry();
            self.now = at;
            self.happen(what)?;
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: What) -> Result<(), Violation> {
        let now = self.start + self.now;
        match what {
            What::Wake { host, life } => {
                if let Some(process) = self.hosts[host].alive(life).filter(|process| process.wake == Some(self.now)) {
                    process.wake = None;
                    process.mesh.handle_timeout(now);
                    return self.drain(host);
                }
            }
            What::Start { host } => return self.start(host),
            What::PublishAll { host, life } => {
                let entries = self.model.all(self.hosts[host].peer);
                let entries = entries.into_iter().map(|(key, value)| Entry { key, value: Some(value) }).collect();
                if let Some(process) = self.hosts[host].alive(life) {
                    process.mesh.publish(CHANNEL, true, entries, now).expect("it is within all limits");
                    return self.drain(host);
                }
            }
            What::Accept { from, life, dial, to } => return self.accept(from, life, dial, to),
            What::Dialled { pipe, dial, introduced } => {
                let [end, other] = &mut self.pipes.get_mut(&pipe).expect("pipes stay").ends;
                let (host, life) = (end.host, end.life);
                let cut = self.barriers.between(host, other.host);
                end.open &= !cut;
                if let Some(process) = self.hosts[host].alive(life) {
                    if cut {
                        process.mesh.handle_dial_failed(dial, unreachable(), now);
                    } else {
                        process.mesh.handle_connected(ConnectionId(pipe), *introduced, now);
                    }
                    return self.drain(host);
                }
            }
            What::Arrive { pipe, end } => return self.arrive(pipe, end),
            What::Publish => {
                if !self.calm {
                    let delay = self.delay(0, 2 * self.scenario.publish_millis);
                    self.at(delay, What::Publish);
                    let host = self.random.random_range(0..self.hosts.len());
                    return self.publish(host);
                }
            }
            What::Fault => {
                if !self.calm {
                    let delay = self.delay(0, 2 * self.scenario.fault_millis);
                    self.at(delay, What::Fault);
                    self.fault();
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, host: usize) -> Result<(), Violation> {
        let seed = self.random.random();
        let instance = self.random.random();
        let now = self.start + self.now;
        let state = &mut self.hosts[host];
        if state.process.is_some() {
            return Ok(());
        }
        state.disk.0 += 1;
        state.life += 1;
        state.powered = true;
        let config = MeshConfig {
            local: state.peer,
            name: format!("host{host}"),
            nickname: format!("host{host}"),
            version: "1".to_owned(),
            instance,
            generation: state.disk.0,
            listen_port: address(host).port(),
            address_range: Ipv4Net::new_assert([10, 32, 0, 0].into(), 12),
            discovery: true,
            connection_limit: 100,
            known_channels: state.disk.1.clone(),
            seed,
            timing: Timing::default(),
        };
        let mesh = Mesh::new(config, state.targets.clone(), now);
        state.process = Some(Process { mesh, view: View::default(), wake: None, wakes: 0 });
        let life = state.life;
        let delay = self.delay(50, 2500);
        self.at(delay, What::PublishAll { host, life });
        self.drain(host)
    }

    /// The other side of a dial, if there is one, takes it.
    fn accept(&mut self, from: usize, life: u64, dial: DialId, to: Option<usize>) -> Result<(), Violation> {
        let now = self.start + self.now;
        if self.hosts[from].alive(life).is_none() {
            return Ok(());
        }
        let there =
            to.filter(|to| self.hosts[*to].process.is_some() && (*to == from || !self.barriers.between(from, *to)));
        let Some(to) = there else {
            if let Some(process) = self.hosts[from].alive(life) {
                process.mesh.handle_dial_failed(dial, unreachable(), now);
            }
            return self.drain(from);
        };
        let source = SocketAddr::new(address(from).ip(), self.random.random_range(32768..60000));
        let (random, other_random) = (self.random.random(), self.random.random());
        let introduce = |host: &Host, random, remote| {
            host.process.as_ref().map(|process| process.mesh.introduction(random, remote)).expect("it runs")
        };
        let outbound = Introduced {
            peer: self.hosts[to].peer,
            introduction: introduce(&self.hosts[to], other_random, source),
            local_random: random,
            remote: address(to),
            dial: Some(dial),
        };
        let inbound = Introduced {
            peer: self.hosts[from].peer,
            introduction: introduce(&self.hosts[from], random, address(to)),
            local_random: other_random,
            remote: source,
            dial: None,
        };
        let pipe = self.next_pipe;
        // Both ends of a connection with oneself would have one number in one mesh.
        self.next_pipe += 2;
        let end = |host: usize, life| End { host, life, open: true, last: self.now, sent: VecDeque::new() };
        let ends = [end(from, life), end(to, self.hosts[to].life)];
        self.pipes.insert(pipe, Pipe { ends });
        let delay = self.delay(1, self.scenario.delay_millis);
        let earliest = self.now + delay;
        self.pipes.get_mut(&pipe).expect("just made").ends[1].last = earliest;
        self.at(delay, What::Dialled { pipe, dial, introduced: Box::new(outbound) });
        if to == from {
            return Ok(());
        }
        if let Some(process) = &mut self.hosts[to].process {
            process.mesh.handle_connected(ConnectionId(pipe), inbound, now);
        }
        self.drain(to)
    }

    fn arrive(&mut self, pipe: u64, end: usize) -> Result<(), Violation> {
        let now = self.start + self.now;
        let state = self.pipes.get_mut(&pipe).expect("pipes stay");
        let (from, to) = (state.ends[end].host, state.ends[1 - end].host);
        if self.barriers.between(from, to) {
            return Ok(());
        }
        let Some(item) = state.ends[end].sent.pop_front() else { return Ok(()) };
        if !self.hosts[to].powered {
            return Ok(());
        }
        let (sender, receiver) = (state.ends[end].life, &mut state.ends[1 - end]);
        let (life, open) = (receiver.life, receiver.open);
        let id = ConnectionId(pipe);
        match item {
            Item::End => receiver.open = false,
            Item::Message { .. } if !open => self.send(pipe, 1 - end, Item::End),
            Item::Message { .. } => {}
        }
        if let Item::Message { counted: true, .. } = item
            && let Some(process) = self.hosts[from].alive(sender)
        {
            process.mesh.handle_transmitted(id, now);
            self.drain(from)?;
        }
        if open && let Some(process) = self.hosts[to].alive(life) {
            match item {
                Item::End => process.mesh.handle_disconnected(id, None, now),
                Item::Message { message, .. } => {
                    process.mesh.handle_message(id, message, now).map_err(|error| Violation(error.to_string()))?;
                }
            }
            self.drain(to)?;
        }
        Ok(())
    }

    fn fault(&mut self) {
        match self.random.random_range(0..10) {
            0..=3 => {
                let (a, b) = self.pair();
                self.summary.cuts += u64::from(self.barriers.cut(a, b));
            }
            4 => {
                let side: Vec<bool> = (0..self.hosts.len()).map(|_| self.random.random()).collect();
                for (a, b) in pairs(self.hosts.len()).filter(|(a, b)| side[*a] != side[*b]) {
                    self.summary.cuts += u64::from(self.barriers.cut(a, b));
                }
            }
            5..=6 => self.heal(),
            _ => {
                let host = self.random.random_range(0..self.hosts.len());
                self.crash(host);
            }
        }
    }

    fn crash(&mut self, host: usize) {
        let power = self.random.random_bool(0.4);
        let disk_lost = self.random.random_bool(0.2);
        let state = &mut self.hosts[host];
        if state.process.take().is_none() {
            return;
        }
        self.summary.crashes += 1;
        state.powered = !power;
        if disk_lost {
            state.disk = (0, BTreeSet::new());
            self.model.disk_lost(state.peer);
        }
        let life = state.life;
        let open: Vec<(u64, usize)> =
            self.pipes.iter().filter_map(|(pipe, state)| Some((*pipe, state.end_of(host, life)?))).collect();
        for (pipe, end) in open {
            self.pipes.get_mut(&pipe).expect("pipes stay").ends[end].open = false;
            if !power {
                self.send(pipe, end, Item::End);
            }
        }
        let delay = self.delay(100, 6000);
        self.at(delay, What::Start { host });
    }

    /// Does what a host's mesh wants, and sees to its waking.
    fn drain(&mut self, host: usize) -> Result<(), Violation> {
        let life = self.hosts[host].life;
        loop {
            let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
            if let Some(transmit) = process.mesh.poll_transmit() {
                self.count(&transmit.message);
                let pipe = transmit.connection.0;
                if let Some(end) = self.pipes.get(&pipe).and_then(|pipe| pipe.end_of(host, life)) {
                    self.send(pipe, end, Item::Message { message: transmit.message, counted: true });
                }
            } else if let Some(event) = process.mesh.poll_event() {
                self.act(host, life, event)?;
            } else {
                break;
            }
        }
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let due = process.mesh.poll_timeout().map(|(at, _)| at.saturating_duration_since(self.start));
        let due = due.map(|due| due.max(self.now));
        process.wakes = if due == Some(self.now) { process.wakes + 1 } else { 0 };
        if process.wakes > MAX_WAKES {
            return Err(Violation(format!("host {host} wants to be woken again and again")));
        }
        if process.wake != due {
            process.wake = due;
            if let Some(due) = due {
                self.at(due - self.now, What::Wake { host, life });
            }
        }
        Ok(())
    }

    fn act(&mut self, host: usize, life: u64, event: Event) -> Result<(), Violation> {
        match event {
            Event::Dial { dial, address: to, .. } => {
                let to = match to {
                    DialAddress::Endpoint(to) => (0..self.hosts.len()).find(|host| address(*host).ip() == to.ip()),
                    DialAddress::Name { .. } => None,
                };
                let lost = to.is_none_or(|to| to != host && self.barriers.between(host, to));
                let delay = if lost { self.delay(300, 1000) } else { self.delay(1, self.scenario.delay_millis) };
                self.at(delay, What::Accept { from: host, life, dial, to });
            }
            Event::Close { connection, goodbye, .. } => {
                if let Some(end) = self.pipes.get(&connection.0).and_then(|pipe| pipe.end_of(host, life)) {
                    self.pipes.get_mut(&connection.0).expect("pipes stay").ends[end].open = false;
                    if let Some(goodbye) = goodbye {
                        let message = ControlMessage::Goodbye(goodbye);
                        self.send(connection.0, end, Item::Message { message, counted: false });
                    }
                    self.send(connection.0, end, Item::End);
                }
            }
            Event::ChannelChanged { channel, origin, entries } if channel == CHANNEL => {
                let process = self.hosts[host].process.as_mut().expect("it spoke");
                let taken = process.view.take(origin, &entries, &self.model);
                taken.map_err(|violation| Violation(format!("host {host} at {:?}: {violation}", self.now)))?;
            }
            Event::KnownChannelsChanged { channels } => self.hosts[host].disk.1 = channels,
            Event::GenerationRaised { generation } => self.hosts[host].disk.0 = generation,
            Event::ChannelChanged { .. }
            | Event::PeerConnected { .. }
            | Event::PeerDisconnected { .. }
            | Event::ReachabilityChanged
            | Event::IncomingMessage { .. }
            | Event::IncomingSession { .. } => {}
        }
        Ok(())
    }

    /// Sends something from one end of a pipe; order is kept.
    fn send(&mut self, pipe: u64, end: usize, item: Item) {
        let delay = self.delay(1, self.scenario.delay_millis);
        let end_state = &mut self.pipes.get_mut(&pipe).expect("pipes stay").ends[end];
        end_state.last = end_state.last.max(self.now + delay);
        end_state.sent.push_back(item);
        let wait = end_state.last - self.now;
        self.at(wait, What::Arrive { pipe, end });
    }

    fn count(&mut self, message: &ControlMessage) {
        let count = match message {
            ControlMessage::Heartbeat { .. } => &mut self.traffic.heartbeats,
            ControlMessage::Digest(_) => &mut self.traffic.digests,
            ControlMessage::Vector { .. } => &mut self.traffic.vectors,
            ControlMessage::Delta(_) => &mut self.traffic.deltas,
            ControlMessage::Routed(_) | ControlMessage::Goodbye(_) | ControlMessage::Unknown => {
                &mut self.traffic.others
            }
        };
        *count += 1;
    }

    fn at(&mut self, delay: Duration, what: What) {
        self.queue.insert((self.now + delay, self.queued), what);
        self.queued += 1;
    }

    fn delay(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.random.random_range(from * 1000..=to.max(from) * 1000))
    }

    fn pair(&mut self) -> (usize, usize) {
        let count = self.hosts.len();
        let a = self.random.random_range(0..count);
        (a, (a + self.random.random_range(1..count)) % count)
    }
}

impl Host {
    fn alive(&mut self, life: u64) -> Option<&mut Process> {
        self.process.as_mut().filter(|_| self.life == life)
    }
}

fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}

fn address(host: usize) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, host as u8 + 1), 6783).into()
}

fn unreachable() -> Problem {
    Problem { reason: "unreachable", message: "nobody answers".to_owned(), is_final: false }
}

#[expect(clippy::disallowed_methods, reason = "any moment will do as the zero of the virtual clock")]
fn epoch() -> Instant {
    Instant::now()
}
