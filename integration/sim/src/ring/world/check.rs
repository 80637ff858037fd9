//! What must hold of all hosts together.

use weft_ipam_core::RingId;
use weft_types::AddressRange;

use super::{Host, World};
use crate::ring::{Founding, Violation};

impl World {
    /// Returns the ring ids of all hosts that have not left, none for those without a ring.
    #[must_use]
    pub fn ring_ids(&self) -> Vec<Option<RingId>> {
        let ring = |host: &Host| host.process.as_ref()?.ipam.ring().map(|(info, _)| info.id);
        self.hosts.iter().filter(|host| !host.gone).map(ring).collect()
    }

    /// Returns the problems that a host's status names.
    pub fn problems(&mut self, host: usize) -> Vec<String> {
        let now = self.instant();
        let process = self.hosts[host].process.as_mut();
        let problems = process.map(|process| process.ipam.status(now).problems).unwrap_or_default();
        problems.into_iter().map(|problem| problem.message).collect()
    }

    pub(super) fn check_agreement(&mut self) -> Result<(), Violation> {
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

    /// Checks that no two running hosts take one address for theirs.
    pub(super) fn check_owners(&self) -> Result<(), Violation> {
        let mut owned: Vec<(RingId, AddressRange, usize)> = Vec::new();
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
}
