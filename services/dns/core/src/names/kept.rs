//! What was given by hand, over restarts of all services of the host.
//!
//! Names of containers come back with their containers: one that died meanwhile, or has another address, does not get them.

use std::{collections::BTreeMap, net::IpAddr};

use crdts::CmRDT;
use weft_types::ContainerId;

use super::{MAX_RECORDS_PER_ORIGIN, Names, RegisterError};
use crate::{Change, Given, Holder, InvalidName, MAX_NAMES, NameRecord, Needs, Origin, Records, by_hand, nobody};

/// A record that is not answered before what it needs is there.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) record: NameRecord,
    needs: Needs,
}

impl Names {
    /// Takes in what [`Self::given`] returned before a restart, before anything else is. Those names are given again, at once or
    /// when the container that they need is registered; what an earlier process published of names by hand does not count then.
    ///
    /// # Errors
    /// [`RegisterError`], if this is nothing that was given.
    pub fn restore(&mut self, given: Vec<Given>) -> Result<(), RegisterError> {
        if given.len() > MAX_RECORDS_PER_ORIGIN {
            return Err(RegisterError::TooManyRecords);
        }
        self.restored = true;
        let mut at_once = Vec::new();
        for Given { holder, address, names, needs } in given {
            let key = by_hand::key(&holder, address).ok_or_else(|| RegisterError::NotAContainer(holder.to_string()))?;
            if names.len() > MAX_NAMES {
                return Err(InvalidName::TooManyNames { count: names.len() }.into());
            }
            let record = NameRecord::new(names, [address], true);
            match needs {
                Needs::Nothing => at_once.push((key, Some(record))),
                Needs::Container | Needs::Address => drop(self.waiting.insert(key, Waiting { record, needs })),
            }
        }
        self.change_own(at_once);
        Ok(())
    }

    /// Returns what was given by hand on this host, to be kept over restarts.
    #[must_use]
    pub fn given(&self) -> Vec<Given> {
        let waiting = self.waiting.iter().map(|(key, waiting)| (key, &waiting.record, Some(waiting.needs)));
        let answered = self.records.of(Origin::Local).map(|(key, record)| (key, record, None));
        let given = waiting.chain(answered).filter_map(|(key, record, needs)| {
            let holder: ContainerId = Holder::of(key).given_by_hand_to()?.parse().ok()?;
            let address = *record.addresses().first()?;
            let needs = needs.unwrap_or_else(|| self.needs(&holder, address));
            Some((key, Given { holder, address, names: record.names().to_vec(), needs }))
        });
        given.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// Returns what names by hand rest on that are answered now.
    fn needs(&self, holder: &ContainerId, address: IpAddr) -> Needs {
        match self.records.get(Origin::Local, holder).filter(|_| *holder != nobody()) {
            None => Needs::Nothing,
            Some(registered) if registered.addresses().contains(&address) => Needs::Address,
            Some(_) => Needs::Container,
        }
    }

    /// Returns a copy that has this host's own names alone, to try on it what a change comes to.
    #[must_use]
    pub fn trial(&self) -> Self {
        let own = self.records.of(Origin::Local).map(|(key, record)| (key.clone(), Some(record.clone())));
        let mut records = Records::default();
        records.apply(Change { origin: Origin::Local, complete: true, entries: own.collect() });
        let trial = Self::new(self.zone.clone(), self.range);
        Self { records, adopted: self.adopted, restored: self.restored, waiting: self.waiting.clone(), ..trial }
    }

    /// Takes out what waited for a container that is registered, and returns the records that it leads to.
    pub(super) fn take_waiting(
        &mut self,
        container: &ContainerId,
        registered: &NameRecord,
    ) -> Vec<(ContainerId, Option<NameRecord>)> {
        let waited = self.waiting.extract_if(.., |key, _| Holder::of(key).id == container.as_str());
        let there = waited.filter(|(_, Waiting { record, needs })| {
            let is_there = |address| registered.addresses().contains(address);
            *needs != Needs::Address || record.addresses().iter().all(is_there)
        });
        there.map(|(key, waiting)| (key, Some(waiting.record.with_health(registered.is_healthy())))).collect()
    }
}
