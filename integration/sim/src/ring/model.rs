//! What containers were told, kept by the plainest means.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use weft_ipam_core::{DualAddress, RequestId};
use weft_types::ContainerId;

use super::Violation;

/// A request of a host's running process.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) container: ContainerId,
    pub(super) deadline: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    holders: BTreeMap<Ipv4Addr, (usize, ContainerId)>,
    live: BTreeMap<usize, BTreeMap<ContainerId, BTreeSet<DualAddress>>>,
    pub(super) removed: BTreeMap<usize, BTreeSet<ContainerId>>,
    open: BTreeMap<(usize, RequestId), Open>,
}

/// How late an answer may be: what is being saved has to be on disk first.
const GRACE: Duration = Duration::from_millis(500);

impl Model {
    pub(super) fn asked(&mut self, host: usize, request: RequestId, container: &ContainerId, deadline: Duration) {
        self.live.entry(host).or_default().entry(container.clone()).or_default();
        self.open.insert((host, request), Open { container: container.clone(), deadline });
    }

    /// A container is gone: from this moment on nothing is its.
    pub(super) fn removed(&mut self, host: usize, container: &ContainerId) {
        if let Some(addresses) = self.live.get_mut(&host).and_then(|live| live.remove(container)) {
            for address in addresses {
                self.holders.remove(&address.v4.addr());
            }
        }
        self.removed.entry(host).or_default().insert(container.clone());
    }

    /// A host is there no more, or its containers lose the network.
    pub(super) fn left(&mut self, host: usize) {
        for container in self.live(host).map(|(container, _)| container.clone()).collect::<Vec<_>>() {
            self.removed(host, &container);
        }
    }

    pub(super) fn granted(&mut self, host: usize, request: RequestId, address: DualAddress) -> Result<(), Violation> {
        let Some(open) = self.open.remove(&(host, request)) else {
            return Err(Violation(format!("host {host} answered a request that nobody made: {request:?}")));
        };
        let Some(held) = self.live.entry(host).or_default().get_mut(&open.container) else { return Ok(()) };
        held.insert(address);
        let holder = (host, open.container);
        match self.holders.insert(address.v4.addr(), holder.clone()) {
            Some(other) if other != holder => {
                Err(Violation(format!("{} is held by {other:?} and by {holder:?}", address.v4)))
            }
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn refused(&mut self, host: usize, request: RequestId) -> Result<(), Violation> {
        match self.open.remove(&(host, request)) {
            Some(_) => Ok(()),
            None => Err(Violation(format!("host {host} refused a request that nobody made: {request:?}"))),
        }
    }

    /// The process of a host died: who waited for it waits no more.
    pub(super) fn crashed(&mut self, host: usize) {
        self.open.retain(|(of, _), _| *of != host);
    }

    /// Checks that nobody has waited for too long.
    pub(super) fn check_deadlines(&self, now: Duration) -> Result<(), Violation> {
        match self.open.iter().find(|(_, open)| open.deadline + GRACE < now) {
            Some((request, open)) => Err(Violation(format!("{request:?} is not answered: {open:?}, now {now:?}"))),
            None => Ok(()),
        }
    }

    pub(super) fn live(&self, host: usize) -> impl Iterator<Item = (&ContainerId, &BTreeSet<DualAddress>)> {
        self.live.get(&host).into_iter().flatten()
    }
}
