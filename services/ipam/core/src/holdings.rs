//! Which container holds which address on this host.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use weft_types::{AddressRange, ContainerId};

/// How a container came to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It asked for any.
    Allocated,
    /// It asked for this one.
    Claimed,
}

/// An address that a container holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// The interface address: host bits set, prefix length of the subnet.
    pub address: Ipv4Net,
    /// How the container came to it.
    pub origin: Origin,
}

/// All holdings of the host, by container and by address. An address has at most one holder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holdings {
    by_container: BTreeMap<ContainerId, Vec<Holding>>,
    by_address: BTreeMap<u32, ContainerId>,
}

impl Holdings {
    pub(crate) fn holder(&self, address: Ipv4Addr) -> Option<&ContainerId> {
        self.by_address.get(&address.into())
    }

    pub(crate) fn of(&self, container: &ContainerId) -> &[Holding] {
        self.by_container.get(container).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ContainerId, &[Holding])> {
        self.by_container.iter().map(|(container, holdings)| (container, holdings.as_slice()))
    }

    /// Returns the addresses held inside `range`, in order.
    pub(crate) fn held_in(&self, range: AddressRange) -> impl Iterator<Item = u32> + '_ {
        self.by_address
            .range(range.start()..)
            .map(|(address, _)| *address)
            .take_while(move |address| u64::from(*address) < range.end())
    }

    pub(crate) fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Adds a holding. What the container holds already only changes its prefix length and origin.
    ///
    /// # Panics
    /// If another container holds the address.
    pub(crate) fn insert(&mut self, container: &ContainerId, holding: Holding) {
        let address = u32::from(holding.address.addr());
        let previous = self.by_address.insert(address, container.clone());
        assert!(previous.is_none_or(|previous| previous == *container), "an address has one holder");
        let held = self.by_container.entry(container.clone()).or_default();
        held.retain(|other| other.address.addr() != holding.address.addr());
        held.push(holding);
    }

    /// Removes what the container holds at `address`, if it does.
    pub(crate) fn remove(&mut self, container: &ContainerId, address: Ipv4Addr) -> Option<Holding> {
        let held = self.by_container.get_mut(container)?;
        let index = held.iter().position(|holding| holding.address.addr() == address)?;
        let holding = held.remove(index);
        if held.is_empty() {
            self.by_container.remove(container);
        }
        self.by_address.remove(&address.into());
        Some(holding)
    }
}
