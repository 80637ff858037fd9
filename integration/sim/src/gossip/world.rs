//! Clock, network and disks, and the hosts on them.

mod check;
mod connections;
mod process;
mod revocations;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use weft_router_core::{
    gossip::Entry,
    mesh::{ConnectionId, DialId, Introduced, Mesh, Problem, Revocation, Told},
    target::Target,
};
use weft_types::PeerName;

use super::{
    Scenario, Shape, Summary, Violation,
    model::{Model, View},
    network::{Barriers, Pipe},
};

/// Channel of the services.
const CHANNEL: &str = "names";
/// Within this after all is healed, everybody knows everything. The longest pause between tries is most of it.
const CALM: Duration = Duration::from_secs(60);
/// How soon a cut shows in who is reachable: silence, and one second for the news to travel.
const NOTICED: Duration = Duration::from_secs(4);
/// How soon whoever is out dials somebody who is in: the pause after a final refusal, and the slowest handshake.
const TOLD: Duration = Duration::from_secs(20);
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
    /// What survives in it: generation, known channels.
    disk: (u64, BTreeSet<String>),
    /// Revocations survive in it too, and what was said of the host's own key.
    revocations: (Vec<Revocation>, Option<Told>),
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
    Revoke,
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
                revocations: (Vec::new(), None),
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
        if world.scenario.revoke_millis > 0 {
            world.at(Duration::from_secs(4), What::Revoke);
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
        let held = self.held_revocations();
        let deadline = self.now + CALM;
        while let Err(missing) = self.check_converged() {
            if self.now >= deadline {
                return Err(missing);
            }
            self.run_for(Duration::from_millis(500))?;
        }
        self.run_for(Duration::from_secs(8))?;
        self.check_converged()?;
        if self.scenario.revoke_millis > 0 {
            // Whoever is out may have to try once more to be told.
            self.run_for(TOLD)?;
            self.check_revocations(&held)?;
        }
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
            What::Revoke => {
                if !self.calm {
                    let delay = self.delay(0, 2 * self.scenario.revoke_millis);
                    self.at(delay, What::Revoke);
                    return self.revoke_any();
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
