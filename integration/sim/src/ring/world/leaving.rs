//! Hosts that leave for good, with a word or without, and who takes what they owned.

use rand::{Rng as _, seq::IndexedRandom as _};
use weft_ipam_core::{Creation, RequestId};
use weft_types::{AddressRange, PeerName};

use super::{Duration, Host, What, World};
use crate::ring::{Violation, router::Router};

/// How long a reset waits for who is to have the addresses.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// So many hosts stay at least.
const STAYING: usize = 3;

impl World {
    /// One host leaves, or somebody takes over what one that left owned.
    pub(super) fn leave(&mut self) -> Result<(), Violation> {
        let all_have_a_ring = self
            .present()
            .all(|host| self.hosts[host].process.as_ref().is_some_and(|process| process.ipam.ring().is_some()));
        let staying: Vec<usize> = self.present().filter(|host| self.hosts[*host].resetting.is_none()).collect();
        let Some(host) = staying.choose(&mut self.random).copied().filter(|_| all_have_a_ring) else { return Ok(()) };
        match self.random.random_range(0..10) {
            0..4 if staying.len() > STAYING => {
                self.reset(host)?;
                // Another one at the same time, or a moment later.
                let other = staying.choose(&mut self.random).copied().filter(|other| *other != host);
                if let Some(other) =
                    other.filter(|_| staying.len() > STAYING + 1 && self.random.random_range(0..3) == 0)
                {
                    self.reset(other)?;
                }
                Ok(())
            }
            4..6 if staying.len() > STAYING => {
                self.summary.died += 1;
                self.go(host);
                Ok(())
            }
            _ => {
                let gone: Vec<PeerName> = self.hosts.iter().filter(|host| host.gone).map(|host| host.peer).collect();
                let dead = gone.choose(&mut self.random).copied();
                dead.filter(|_| self.reaches_all_present(host)).map_or(Ok(()), |dead| self.take_over(host, dead))
            }
        }
    }

    /// Returns the hosts that have not left.
    pub(super) fn present(&self) -> impl Iterator<Item = usize> {
        (0..self.hosts.len()).filter(|host| !self.hosts[*host].gone)
    }

    pub(super) fn any_present(&mut self) -> Option<usize> {
        let present: Vec<usize> = self.present().collect();
        let number = self.random.random_range(0..present.len().max(1));
        present.get(number).copied()
    }

    /// An operator looks at that first.
    fn reaches_all_present(&self, host: usize) -> bool {
        let follows = |host: usize| self.hosts[host].process.as_ref().is_some_and(|process| process.subscribed);
        self.present().all(|other| follows(other) && (other == host || self.reaches(host, other)))
    }

    /// Containers lose the network, and the addresses go to somebody else.
    fn reset(&mut self, host: usize) -> Result<(), Violation> {
        self.summary.resets += 1;
        self.model.left(host);
        let now = self.instant();
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        self.hosts[host].resetting = Some(process.ipam.hand_over(HAND_OVER_TIMEOUT, now));
        self.step(host)
    }

    /// The reset's question about the addresses was answered: the host goes, whatever the answer.
    pub(super) fn handed_over(&mut self, host: usize, confirmed: bool) {
        if confirmed {
            self.summary.handed_over += 1;
        } else {
            self.summary.unconfirmed += 1;
        }
        self.hosts[host].confirmed = confirmed;
        self.hosts[host].resetting = None;
        self.go(host);
    }

    /// A host is there no more. Another one takes its place, with a key of its own.
    pub(super) fn go(&mut self, host: usize) {
        self.model.left(host);
        self.model.crashed(host);
        let left = &mut self.hosts[host];
        left.gone = true;
        left.process = None;
        left.resetting = None;
        let creation = Creation::Elect { voters: None };
        let targets: Vec<usize> = self.present().collect();
        self.hosts.push(Host { creation, targets, ..Host::new(self.hosts.len()) });
        let (router, start) = (self.delay(1, 200), self.delay(100, 3000));
        self.at(router, What::StopRouter { host });
        self.at(start, What::Start { host: self.hosts.len() - 1 });
        self.tell_reachability();
    }

    fn take_over(&mut self, host: usize, dead: PeerName) -> Result<(), Violation> {
        let now = self.instant();
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let request = process.ipam.take_over(&dead.to_hex(), now);
        process.taking.insert(request);
        self.step(host)
    }

    /// Tells whether it was an operator who asked.
    pub(super) fn is_takeover(&mut self, host: usize, request: RequestId) -> bool {
        self.hosts[host].process.as_mut().is_some_and(|process| process.taking.remove(&request))
    }

    /// Has somebody take over what those who left without a word owned, and checks that then no address is lost.
    pub(super) fn take_over_the_rest(&mut self) -> Result<(), Violation> {
        self.check_confirmed()?;
        self.run_until(self.now + Duration::from_secs(61))?;
        let Some(taker) = self.present().next() else { return Ok(()) };
        let owners = self.owners_known_to(taker);
        for dead in owners.into_iter().filter(|owner| self.is_gone(*owner)).collect::<Vec<_>>() {
            let taken = self.summary.taken_over;
            self.take_over(taker, dead)?;
            self.run_until(self.now + Duration::from_secs(1))?;
            if self.summary.taken_over == taken {
                return Err(Violation(format!("host {taker} does not take over what {dead} owned, who left long ago")));
            }
        }
        self.run_until(self.now + Duration::from_secs(10))?;
        for host in self.present() {
            let Some(ring) = self.hosts[host].process.as_ref().and_then(|process| process.ipam.ring()) else {
                continue;
            };
            let known: u64 = ring.1.runs().map(|(run, _)| run.size()).sum();
            let lost: Vec<_> = ring.1.runs().filter(|(_, fact)| self.is_gone(fact.owner.peer)).collect();
            if known < AddressRange::from(self.range).size() || !lost.is_empty() {
                return Err(Violation(format!("host {host} knows of {known} addresses, nobody uses {lost:?}")));
            }
        }
        Ok(())
    }

    /// Checks that nothing is lost of what others said that they have: nobody takes who left that way for an owner. Who could not
    /// finish giving may have given to one of those.
    fn check_confirmed(&self) -> Result<(), Violation> {
        if self.summary.unconfirmed > 0 || self.summary.died > 0 || self.summary.crashes > 0 {
            return Ok(());
        }
        let confirmed = |peer: PeerName| self.hosts.iter().any(|host| host.confirmed && host.peer == peer);
        for host in self.present() {
            if let Some(owner) = self.owners_known_to(host).into_iter().find(|owner| confirmed(*owner)) {
                return Err(Violation(format!("host {host} says that {owner} owns addresses, who gave all away")));
            }
        }
        Ok(())
    }

    fn is_gone(&self, peer: PeerName) -> bool {
        self.hosts.iter().any(|host| host.gone && host.peer == peer)
    }

    fn owners_known_to(&self, host: usize) -> Vec<PeerName> {
        let ring = self.hosts[host].process.as_ref().and_then(|process| process.ipam.ring());
        let mut owners: Vec<PeerName> =
            ring.into_iter().flat_map(|(_, ring)| ring.runs()).map(|(_, fact)| fact.owner.peer).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }
}

impl Host {
    /// Makes a host that was never started and knows nobody.
    pub(super) fn new(number: usize) -> Self {
        Self {
            peer: peer(number),
            creation: Creation::Observe,
            targets: Vec::new(),
            disk: Default::default(),
            router: Router::default(),
            router_up: true,
            side: 0,
            process: None,
            life: 0,
            resetting: None,
            gone: false,
            confirmed: false,
        }
    }
}

pub(super) fn peer(host: usize) -> PeerName {
    PeerName::from_public_key([host as u8 + 1; 32])
}
