//! What has to be known in the end.

use std::collections::BTreeSet;

use rand::Rng as _;
use weft_router_core::mesh::{LINKS_CHANNEL, PEERS_CHANNEL};
use weft_types::PeerName;

use super::{CHANNEL, NOTICED, World, pairs};
use crate::gossip::{Violation, network::Pipe};

impl World {
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

    /// Checks that all know what all published last, and reach each other by single connections.
    ///
    /// # Errors
    /// A [`Violation`] names what somebody does not know.
    pub fn check_converged(&self) -> Result<(), Violation> {
        let all = self.members();
        for host in all.iter().copied() {
            let Some(process) = &self.hosts[host].process else {
                return Err(Violation(format!("host {host} does not run")));
            };
            self.check_reachable(host, &all)?;
            for (origin, from) in self.hosts.iter().enumerate().filter(|(origin, _)| all.contains(origin)) {
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
            let expected = all.iter().copied().filter(|other| *other != host && !self.barriers.between(host, *other));
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
}
