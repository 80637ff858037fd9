//! What lies between hosts: wires with delay, loss, size and blocked directions, and NATs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use rand::{Rng as _, rngs::StdRng};

use super::Scenario;

/// Loss that counts as much, in permille.
pub(super) const MUCH: u32 = 50;
/// IPv6 and UDP headers.
const HEADERS: usize = 48;
/// Time that a NAT remembers whom a host has sent to.
const PINHOLE: Duration = Duration::from_secs(30);

/// Between two hosts. Directions: 0 from the lower number to the higher, 1 back.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) delay: Duration,
    pub(super) loss: [u32; 2],
    pub(super) mtu: usize,
    pub(super) batches: bool,
    pub(super) udp: [bool; 2],
    pub(super) tcp: bool,
    pub(super) cut: bool,
}

impl Wire {
    fn draw(scenario: &Scenario, random: &mut StdRng) -> Self {
        let mut percent = |share: u32| random.random_range(0..100) < share;
        let (reach, blocked, lossy) = (percent(scenario.density), percent(scenario.blocked), percent(scenario.lossy));
        let (tcp, batches, narrow) = (percent(80), percent(90), percent(25));
        Self {
            delay: draw_delay(scenario, random),
            loss: if lossy { draw_loss(random) } else { [0; 2] },
            mtu: if narrow { random.random_range(1124..1500) } else { [1500, 9000][random.random_range(0..2)] },
            batches,
            udp: if blocked { draw_blocked(random) } else { [true; 2] },
            tcp,
            cut: !reach,
        }
    }

    /// Returns the largest UDP payload.
    pub(super) const fn largest(&self) -> usize {
        self.mtu - HEADERS
    }
}

fn draw_delay(scenario: &Scenario, random: &mut StdRng) -> Duration {
    Duration::from_micros(random.random_range(100..=scenario.delay_millis * 1000))
}

fn draw_loss(random: &mut StdRng) -> [u32; 2] {
    let loss = random.random_range(120..300);
    [[loss, loss], [loss, 0], [0, loss]][random.random_range(0..3)]
}

fn draw_blocked(random: &mut StdRng) -> [bool; 2] {
    [[false, false], [true, false], [false, true]][random.random_range(0..3)]
}

/// All wires and NATs.
#[derive(Debug)]
pub(super) struct Network {
    wires: BTreeMap<(usize, usize), Wire>,
    /// Hosts behind a NAT.
    nat: BTreeSet<usize>,
    /// Those of them whose outside address others know.
    outside_known: BTreeSet<usize>,
    /// When whom behind a NAT sent to whom.
    pinholes: BTreeMap<(usize, usize), Duration>,
}

impl Network {
    pub(super) fn draw(scenario: &Scenario, random: &mut StdRng) -> Self {
        let mut network = Self {
            wires: BTreeMap::new(),
            nat: BTreeSet::new(),
            outside_known: BTreeSet::new(),
            pinholes: BTreeMap::new(),
        };
        for host in 0..scenario.hosts {
            if random.random_range(0..100) < scenario.nat {
                network.nat.insert(host);
                if random.random() {
                    network.outside_known.insert(host);
                }
            }
            for other in host + 1..scenario.hosts {
                network.wires.insert((host, other), Wire::draw(scenario, random));
            }
        }
        network
    }

    pub(super) fn wire(&self, a: usize, b: usize) -> &Wire {
        &self.wires[&(a.min(b), a.max(b))]
    }

    pub(super) fn wire_mut(&mut self, a: usize, b: usize) -> &mut Wire {
        self.wires.get_mut(&(a.min(b), a.max(b))).expect("every pair has a wire")
    }

    /// Changes one thing by chance.
    pub(super) fn change(&mut self, scenario: &Scenario, random: &mut StdRng) {
        let a = random.random_range(0..scenario.hosts);
        let b = (a + random.random_range(1..scenario.hosts)) % scenario.hosts;
        let kind = random.random_range(0..12);
        if kind == 0 {
            for other in (0..scenario.hosts).filter(|other| *other != a) {
                self.wire_mut(a, other).cut = true;
            }
            return;
        }
        let redrawn = Wire::draw(scenario, random);
        let wire = self.wire_mut(a, b);
        match kind {
            1..=3 => wire.cut = true,
            4..=5 => *wire = Wire { cut: false, ..redrawn },
            6 => wire.cut = false,
            7 => wire.udp = draw_blocked(random),
            8 => wire.delay = redrawn.delay,
            9 => wire.mtu = redrawn.mtu,
            10 => wire.batches = !wire.batches,
            _ => wire.loss = redrawn.loss,
        }
    }

    /// Where a host may be reached, as others are told.
    pub(super) fn endpoints(&self, host: usize) -> Vec<SocketAddr> {
        let mut endpoints = Vec::new();
        if self.nat.contains(&host) {
            endpoints.push((Ipv4Addr::new(10, 0, 0, host as u8), 6783).into());
        }
        if !self.nat.contains(&host) || self.outside_known.contains(&host) {
            endpoints.push(source(host));
        }
        endpoints
    }

    /// Returns whom a UDP datagram reaches, unless a NAT is in its way.
    pub(super) fn receiver(&self, from: usize, endpoint: SocketAddr, now: Duration) -> Option<usize> {
        let SocketAddr::V4(endpoint) = endpoint else { return None };
        let [192, 0, 2, host] = endpoint.ip().octets() else { return None };
        let host = usize::from(host);
        let open = !self.nat.contains(&host) || self.pinholes.get(&(host, from)).is_some_and(|at| now - *at < PINHOLE);
        (open && host != from).then_some(host)
    }

    /// Takes note that a host sends to an endpoint.
    pub(super) fn open_pinhole(&mut self, from: usize, endpoint: SocketAddr, now: Duration) {
        if let SocketAddr::V4(endpoint) = endpoint
            && let [192, 0, 2, host] = endpoint.ip().octets()
        {
            self.pinholes.insert((from, usize::from(host)), now);
        }
    }

    pub(super) fn passes(&self, from: usize, to: usize) -> bool {
        let wire = self.wire(from, to);
        !wire.cut && wire.udp[usize::from(from > to)]
    }

    pub(super) fn loss(&self, from: usize, to: usize) -> u32 {
        self.wire(from, to).loss[usize::from(from > to)]
    }

    /// Tells whether UDP passes between two hosts, once each has learnt where the other is.
    pub(super) fn has_udp(&self, a: usize, b: usize) -> bool {
        let hidden = |host: usize| self.nat.contains(&host) && !self.outside_known.contains(&host);
        let met = match (self.nat.contains(&a), self.nat.contains(&b)) {
            (true, true) => !hidden(a) && !hidden(b),
            _ => true,
        };
        met && self.passes(a, b) && self.passes(b, a)
    }

    /// Tells whether a control connection is possible.
    pub(super) fn has_tcp(&self, a: usize, b: usize) -> bool {
        let wire = self.wire(a, b);
        wire.tcp && !wire.cut && !(self.nat.contains(&a) && self.nat.contains(&b))
    }
}

/// The address that others see a host at.
pub(super) fn source(host: usize) -> SocketAddr {
    (Ipv4Addr::new(192, 0, 2, host as u8), 6783).into()
}
