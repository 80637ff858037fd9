//! Clock, hosts, control connections and the gossip of links.

mod check;
mod datagrams;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use weft_router_core::{
    path::{Paths, cost::LinkCost},
    route::Routes,
};
use weft_types::PeerName;

use super::{Scenario, Summary, Violation, network::Network};
use datagrams::{Came, Datagram};

/// What full frames need, in bytes of the sealed datagram.
const WANTED: usize = 1451;
/// Silence after which a control connection is closed.
const SILENCE: Duration = Duration::from_secs(3);
/// How often a host looks at what its links cost.
const LOOK: Duration = Duration::from_millis(500);
/// How long changes of links wait for others.
const HOLD: Duration = Duration::from_millis(50);
/// Between turns of those who send data.
const TURN: Duration = Duration::from_millis(100);
/// Datagrams that a busy pair sends in a turn.
const BURST: u64 = 5;
/// More wake-ups of one pair at one moment than this are a loop.
const MAX_WAKES: u32 = 100;

/// What one host knows of another.
struct Pair {
    paths: Paths,
    /// When the paths are to be woken, and how often that was at this very moment.
    wake: Option<Duration>,
    woken: (Duration, u32),
    link_cost: LinkCost,
    /// What is published of the link.
    published: Option<u32>,
    /// Whether there is a control connection.
    connected: bool,
    busy: bool,
    /// Datagrams that came from there, by the way they came.
    received: BTreeMap<Came, u64>,
    sent: u64,
    newest: u64,
    /// When data came from there last.
    heard: Option<Duration>,
}

/// Links that an origin publishes, with the number of the change.
type Links = (u64, BTreeMap<PeerName, u32>);

struct Host {
    /// By number; the host's own is not used.
    pairs: Vec<Pair>,
    routes: Routes,
    known: Vec<Links>,
    publishing: bool,
}

enum What {
    Wake {
        host: usize,
        peer: usize,
    },
    Arrive {
        at: usize,
        from: usize,
        came: Came,
        datagram: Datagram,
    },
    /// Both ends have finished a handshake, or give a connection up, if that still fits.
    Connect {
        a: usize,
        b: usize,
        connected: bool,
        change: u64,
    },
    Publish {
        host: usize,
    },
    News {
        at: usize,
        from: usize,
        origin: usize,
        links: Links,
    },
    Look,
    Send,
}

/// Everything there is.
pub struct World {
    scenario: Scenario,
    random: StdRng,
    start: Instant,
    now: Duration,
    queue: BTreeMap<(Duration, u64), What>,
    queued: u64,
    network: Network,
    hosts: Vec<Host>,
    /// When the network changed last, and how often it did.
    changed: (Duration, u64),
    /// When somebody published other links last.
    published: Duration,
    summary: Summary,
    violation: Option<Violation>,
}

impl World {
    /// Makes the hosts of a scenario, which start to look for each other.
    #[must_use]
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let network = Network::draw(scenario, &mut random);
        let start = epoch();
        let count = scenario.hosts;
        let mut pair = |host: usize, peer: usize| {
            let mut paths = Paths::new(start);
            paths.set_wanted(WANTED);
            if host != peer {
                paths.set_endpoints(&network.endpoints(peer), start);
            }
            let busy = random.random_bool(0.3);
            paths.set_busy(busy);
            Pair {
                paths,
                wake: None,
                woken: (Duration::ZERO, 0),
                link_cost: LinkCost::default(),
                published: None,
                connected: false,
                busy,
                received: BTreeMap::new(),
                sent: 0,
                newest: 0,
                heard: None,
            }
        };
        let hosts = (0..count)
            .map(|host| Host {
                pairs: (0..count).map(|peer| pair(host, peer)).collect(),
                routes: Routes::new(name(host)),
                known: vec![Links::default(); count],
                publishing: false,
            })
            .collect();
        let mut world = Self {
            scenario: scenario.clone(),
            random,
            start,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            queued: 0,
            network,
            hosts,
            changed: (Duration::ZERO, 0),
            published: Duration::ZERO,
            summary: Summary::default(),
            violation: None,
        };
        for (host, peer) in world.all_pairs() {
            world.schedule(host, peer);
        }
        world.at(LOOK, What::Look);
        world.at(TURN, What::Send);
        world.connect_all();
        world
    }

    /// Returns what happened so far.
    #[must_use]
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    fn all_pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.hosts.len();
        (0..count).flat_map(move |host| (0..count).filter(move |peer| *peer != host).map(move |peer| (host, peer)))
    }

    fn moment(&self) -> Instant {
        self.start + self.now
    }

    fn at(&mut self, delay: Duration, what: What) {
        self.queue.insert((self.now + delay, self.queued), what);
        self.queued += 1;
    }

    /// Changes something of the network.
    pub fn change(&mut self) {
        for _ in 0..self.random.random_range(1..=3) {
            self.network.change(&self.scenario, &mut self.random);
            self.summary.changes += 1;
        }
        self.changed = (self.now, self.changed.1 + 1);
        self.connect_all();
    }

    /// Has control connections come up where they can, and be given up where they cannot go on.
    fn connect_all(&mut self) {
        for (a, b) in self.all_pairs().filter(|(a, b)| a < b) {
            let connected = self.network.has_tcp(a, b);
            let pause = if connected { Duration::from_millis(self.random.random_range(100..1500)) } else { SILENCE };
            self.at(pause, What::Connect { a, b, connected, change: self.changed.1 });
            // What was lost in a cut that nobody noticed is sent again.
            if connected && self.hosts[a].pairs[b].connected {
                self.tell_everything(a, b);
                self.tell_everything(b, a);
            }
        }
    }

    fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        let end = self.now + time;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), what) = entry.remove_entry();
            self.now = at;
            self.happen(what);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        self.now = end;
        Ok(())
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Wake { host, peer } => self.wake(host, peer),
            What::Arrive { at, from, came, datagram } => self.arrive(at, from, came, datagram),
            What::Connect { a, b, connected, change } => {
                if change == self.changed.1 && self.hosts[a].pairs[b].connected != connected {
                    self.set_connected(a, b, connected);
                    self.set_connected(b, a, connected);
                }
            }
            What::Publish { host } => self.publish(host),
            What::News { at, from, origin, links } => self.learn(at, from, origin, links),
            What::Look => {
                for host in 0..self.hosts.len() {
                    self.look_at_links(host);
                }
                self.at(LOOK, What::Look);
            }
            What::Send => {
                for (host, peer) in self.all_pairs() {
                    let count = if self.hosts[host].pairs[peer].busy { BURST } else { 1 };
                    for _ in 0..count {
                        self.send_data(host, peer);
                    }
                }
                self.at(TURN, What::Send);
            }
        }
    }

    fn wake(&mut self, host: usize, peer: usize) {
        let (now, moment) = (self.now, self.moment());
        let pair = &mut self.hosts[host].pairs[peer];
        if pair.wake != Some(now) {
            return;
        }
        pair.wake = None;
        pair.woken = (now, if pair.woken.0 == now { pair.woken.1 + 1 } else { 1 });
        if pair.woken.1 > MAX_WAKES {
            self.violation = Some(Violation(format!("host {host} never sleeps for {peer} at {now:?}")));
            return;
        }
        pair.paths.handle_timeout(moment);
        let mut probes = Vec::new();
        while let Some(probe) = pair.paths.poll_probe(moment) {
            probes.push(probe);
        }
        for probe in probes {
            self.send_probe(host, peer, probe);
        }
        self.after(host, peer);
    }

    /// Draws the conclusions from whatever was told to the paths of a pair.
    fn after(&mut self, host: usize, peer: usize) {
        while self.hosts[host].pairs[peer].paths.poll_event().is_some() {}
        let pair = &self.hosts[host].pairs[peer];
        if pair.connected && pair.published.is_some() != pair.paths.link().is_some() {
            self.look_at_links(host);
        }
        self.schedule(host, peer);
    }

    fn schedule(&mut self, host: usize, peer: usize) {
        let (now, start) = (self.now, self.start);
        let pair = &mut self.hosts[host].pairs[peer];
        let Some(due) = pair.paths.poll_timeout() else { return };
        let due = due.saturating_duration_since(start).max(now);
        if pair.wake.is_none_or(|wake| due < wake) {
            pair.wake = Some(due);
            self.at(due - now, What::Wake { host, peer });
        }
    }

    fn set_connected(&mut self, host: usize, peer: usize, connected: bool) {
        let moment = self.moment();
        let pair = &mut self.hosts[host].pairs[peer];
        pair.connected = connected;
        pair.paths.set_stream(connected, moment);
        if connected {
            self.tell_everything(host, peer);
        }
        self.look_at_links(host);
        self.after(host, peer);
    }

    fn tell_everything(&mut self, host: usize, peer: usize) {
        for origin in 0..self.hosts.len() {
            let links = self.hosts[host].known[origin].clone();
            self.tell(host, peer, origin, links);
        }
    }

    /// Brings what a host publishes of its links up to date.
    fn look_at_links(&mut self, host: usize) {
        let moment = self.moment();
        let mut changed = false;
        for pair in &mut self.hosts[host].pairs {
            let link = pair.paths.link().filter(|_| pair.connected);
            let published = link.map(|link| pair.link_cost.update(link.cost, moment));
            if published.is_none() {
                pair.link_cost.reset();
            }
            changed |= pair.published != published;
            pair.published = published;
        }
        if !changed {
            return;
        }
        let links: BTreeMap<PeerName, u32> = self.links(host);
        self.hosts[host].routes.set_neighbours(links);
        self.reroute(host);
        if !self.hosts[host].publishing {
            self.hosts[host].publishing = true;
            self.at(HOLD, What::Publish { host });
        }
    }

    fn links(&self, host: usize) -> BTreeMap<PeerName, u32> {
        let pairs = self.hosts[host].pairs.iter().enumerate();
        pairs.filter_map(|(peer, pair)| Some((name(peer), pair.published?))).collect()
    }

    fn publish(&mut self, host: usize) {
        let links = self.links(host);
        self.summary.published += links.len() as u64;
        self.published = self.now;
        let own = &mut self.hosts[host];
        own.publishing = false;
        own.known[host] = (own.known[host].0 + 1, links);
        let links = own.known[host].clone();
        self.tell_all(host, host, host, links);
    }

    fn tell_all(&mut self, host: usize, except: usize, origin: usize, links: Links) {
        for peer in 0..self.hosts.len() {
            if peer != except && self.hosts[host].pairs[peer].connected {
                self.tell(host, peer, origin, links.clone());
            }
        }
    }

    fn tell(&mut self, host: usize, peer: usize, origin: usize, links: Links) {
        if self.network.has_tcp(host, peer) {
            let delay = self.network.wire(host, peer).delay;
            self.at(delay, What::News { at: peer, from: host, origin, links });
        }
    }

    fn learn(&mut self, at: usize, from: usize, origin: usize, links: Links) {
        if origin == at || self.hosts[at].known[origin].0 >= links.0 {
            return;
        }
        self.hosts[at].known[origin] = links.clone();
        if self.hosts[at].routes.set_links(name(origin), links.1.clone()) {
            self.reroute(at);
        }
        self.tell_all(at, from, origin, links);
    }

    /// Tells the paths to all others over whom they are reached.
    fn reroute(&mut self, host: usize) {
        let moment = self.moment();
        for peer in (0..self.hosts.len()).filter(|peer| *peer != host) {
            let own = &mut self.hosts[host];
            let relays = own.routes.next_hops(name(peer));
            own.pairs[peer].paths.set_relays(&relays, moment);
            while own.pairs[peer].paths.poll_event().is_some() {}
            self.schedule(host, peer);
        }
    }
}

pub(super) fn name(host: usize) -> PeerName {
    PeerName::from_public_key([host as u8; 32])
}

fn number(peer: PeerName) -> usize {
    usize::from(peer.as_bytes()[0])
}

#[expect(clippy::disallowed_methods, reason = "any moment will do as the zero of the virtual clock")]
fn epoch() -> Instant {
    Instant::now()
}
