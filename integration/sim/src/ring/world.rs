//! Clock, disks and network, and the hosts on them.

mod check;
mod leaving;
mod network;
mod process;
mod wishes;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ipnet::Ipv4Net;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use weft_ipam_core::{Allocator, Commit, Creation, RequestId};
use weft_types::{AddressRange, PeerName};

use super::{
    Founding, Scenario, Summary, Violation,
    model::Model,
    router::{Published, Router},
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
    /// It is being reset, and waits for this answer.
    resetting: Option<RequestId>,
    /// It has left for good.
    gone: bool,
    /// It left when others had said that they have its addresses.
    confirmed: bool,
}

struct Process {
    ipam: Allocator,
    subscribed: bool,
    commit: Option<Commit>,
    wake: Option<Duration>,
    /// What an operator asked to take over.
    taking: BTreeSet<RequestId>,
}

enum What {
    Wake { host: usize, life: u64 },
    Saved { host: usize, life: u64 },
    Subscribe { host: usize, life: u64 },
    Start { host: usize },
    StartRouter { host: usize },
    StopRouter { host: usize },
    Announce { host: usize, generation: u64 },
    Digest { to: usize, digest: BTreeMap<usize, Published> },
    Message { from: usize, to: usize, payload: Vec<u8> },
    Gossip,
    Request,
    Fault,
    Leave,
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
                Founding::Seeds => Creation::Seeds(vec![leaving::peer(0).to_hex(), format!("host{}", 1)]),
                Founding::Observer if host + 1 == count => Creation::Observe,
                Founding::Star | Founding::Everybody | Founding::Observer | Founding::TwoFounders => {
                    Creation::Elect { voters: None }
                }
            };
            Host { creation, targets, ..Host::new(host) }
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
        if world.scenario.leave_millis > 0 {
            world.at(Duration::from_secs(5), What::Leave);
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
        for host in self.present().collect::<Vec<_>>() {
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
        if self.scenario.leave_millis > 0 {
            self.take_over_the_rest()?;
        }

        let usable = AddressRange::from(self.range).size() as usize - 2;
        // A container whose answer got lost in a crash may hold an address that it was never told.
        let held = self.hosts.iter().filter_map(|host| host.process.as_ref());
        let held: usize = held.flat_map(|process| process.ipam.allocations()).map(|(_, held)| held.len()).sum();
        let room = usable.saturating_sub(held);
        let refused = self.summary.refused;
        for host in self.present().take(room).collect::<Vec<_>>() {
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
                if self.hosts[host].process.is_none() && !self.hosts[host].gone {
                    self.start_process(host)
                } else {
                    Ok(())
                }
            }
            What::StartRouter { host } => {
                if !self.hosts[host].router_up && !self.hosts[host].gone {
                    self.start_router(host);
                    self.tell_reachability();
                }
                Ok(())
            }
            What::StopRouter { host } => {
                self.hosts[host].router_up = false;
                self.tell_reachability();
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
            What::Leave => {
                if !self.calm {
                    let millis = self.scenario.leave_millis;
                    let delay = self.delay(0, 2 * millis);
                    self.at(delay, What::Leave);
                    self.leave()?;
                }
                Ok(())
            }
        }
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

#[expect(clippy::disallowed_methods, reason = "only differences to it are ever looked at")]
fn epoch() -> Instant {
    Instant::now()
}
