//! Hosts that are let in no more.

use std::{collections::BTreeSet, time::Duration};

use rand::Rng as _;
use weft_types::PeerName;

use super::World;
use crate::gossip::Violation;

/// How soon a host is out everywhere after somebody revoked it, where nothing is in the way of the news.
const NEWS: Duration = Duration::from_secs(1);
/// Hosts that stay, so that there is a mesh in the end.
const LEFT: usize = 2;

impl World {
    /// Has a host revoke another, and now and then that one the first, before either can have heard.
    pub(super) fn revoke_any(&mut self) -> Result<(), Violation> {
        let (by, whom) = self.pair();
        // The first ones are never revoked, so that somebody is left.
        if whom < LEFT || self.hosts[by].process.is_none() {
            return Ok(());
        }
        let fight = by >= LEFT && self.random.random_bool(0.5);
        self.revoke(by, whom)?;
        if fight { self.revoke(whom, by) } else { Ok(()) }
    }

    /// Has the first host revoke the last one, and checks that all let it in no more soon enough.
    ///
    /// # Errors
    /// A [`Violation`] if somebody does not.
    pub fn check_revocation(&mut self) -> Result<(), Violation> {
        let lost = self.hosts.len() - 1;
        self.revoke(0, lost)?;
        self.run_for(NEWS)?;
        let held = self.held_revocations();
        if held != BTreeSet::from([self.hosts[lost].peer]) {
            return Err(Violation(format!("{held:?} are revoked on the disks of the first two")));
        }
        let lost = self.hosts[lost].peer;
        for host in 0..self.hosts.len() - 1 {
            let Some(process) = &self.hosts[host].process else { continue };
            let connected = process.mesh.connections(self.start + self.now).iter().any(|c| c.identity.peer == lost);
            if !process.mesh.is_revoked(lost) || process.mesh.is_reachable(lost) || connected {
                return Err(Violation(format!("host {host} still lets the lost one in")));
            }
        }
        Ok(())
    }

    fn revoke(&mut self, by: usize, whom: usize) -> Result<(), Violation> {
        let key = self.hosts[whom].peer.to_hex();
        let now = self.start + self.now;
        if let Some(process) = &mut self.hosts[by].process {
            // Who has heard that it is out itself is refused.
            let _ = process.mesh.revoke(&[key], now);
        }
        self.drain(by)
    }

    /// Returns the hosts that nobody revoked who is not revoked by one of the hosts that stay.
    pub(super) fn members(&self) -> BTreeSet<usize> {
        let out = self.revoked_at(0);
        (0..self.hosts.len()).filter(|host| !out.contains(&self.hosts[*host].peer)).collect()
    }

    /// Returns what the disks of those hold that are in, and what none of them may forget.
    pub(super) fn held_revocations(&self) -> BTreeSet<PeerName> {
        let held = (0..LEFT).flat_map(|host| self.hosts[host].revocations.0.iter().map(|revocation| revocation.peer));
        held.collect()
    }

    fn revoked_at(&self, host: usize) -> BTreeSet<PeerName> {
        let process = self.hosts[host].process.as_ref();
        process.map(|process| process.mesh.revocations()).into_iter().flatten().map(|one| one.peer).collect()
    }

    /// Checks that all who are in let the same ones in no more, forgot none, and that the others know.
    pub(super) fn check_revocations(&mut self, held: &BTreeSet<PeerName>) -> Result<(), Violation> {
        let out = self.revoked_at(0);
        self.summary.revoked = out.len() as u64;
        if !held.is_subset(&out) {
            return Err(Violation(format!("{held:?} were revoked, and only {out:?} are still")));
        }
        for host in 0..self.hosts.len() {
            let Some(process) = &self.hosts[host].process else { continue };
            if out.contains(&self.hosts[host].peer) {
                if process.mesh.told().is_none() {
                    return Err(Violation(format!("host {host} does not know that it is out")));
                }
                continue;
            }
            let known = self.revoked_at(host);
            if known != out {
                return Err(Violation(format!("host {host} lets {known:?} in no more, others {out:?}")));
            }
            let full = self.hosts.first().and_then(|first| first.process.as_ref());
            if full.map(|process| process.mesh.revocations()) != Some(process.mesh.revocations()) {
                return Err(Violation(format!("host {host} says otherwise than others who revoked and when")));
            }
            for view in process.mesh.connections(self.start + self.now) {
                if out.contains(&view.identity.peer) {
                    return Err(Violation(format!("host {host} is connected with {}", view.identity.name)));
                }
            }
        }
        Ok(())
    }
}
