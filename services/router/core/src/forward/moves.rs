//! Which addresses are at another MAC than before.

use std::{collections::BTreeMap, net::IpAddr};

use weft_types::MacAddress;

use super::ForwardingTable;

/// Addresses that are remembered though nobody has them.
const MOST: usize = 65_536;

/// Remembers at which MAC each address was, because containers of this host do: where an address is another container's now,
/// they would send to the old one until they doubt it, up to a minute later.
///
/// The new holder announces itself, but mostly before gossip has told where it lives, so that its frames are still dropped.
#[derive(Debug, Default)]
pub struct Moves {
    /// No MAC: the address was one of this host's.
    known: BTreeMap<IpAddr, Option<MacAddress>>,
}

impl Moves {
    /// Takes a new table, and returns the addresses that are to be announced on this host, with their MACs.
    pub fn follow(&mut self, table: &ForwardingTable) -> Vec<(IpAddr, MacAddress)> {
        let differs =
            |address: &IpAddr, mac: MacAddress| self.known.get(address).is_some_and(|last| *last != Some(mac));
        let remote = table.addresses.iter().map(|(address, mac)| (*address, *mac));
        let moved = remote.clone().filter(|(address, mac)| differs(address, *mac)).collect();
        self.known.extend(remote.map(|(address, mac)| (address, Some(mac))));
        self.known.extend(table.local_addresses.iter().map(|address| (*address, None)));
        if self.known.len() > MOST {
            let current =
                |address: &IpAddr| table.addresses.contains_key(address) || table.local_addresses.contains(address);
            self.known.retain(|address, _| current(address));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);

    fn address(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        [10, 32, high, low].into()
    }

    fn remote(number: u16, mac: MacAddress) -> ForwardingTable {
        ForwardingTable { addresses: [(address(number), mac)].into(), ..ForwardingTable::default() }
    }

    #[test]
    fn an_address_that_somebody_else_has_now_is_announced_once() {
        let mut moves = Moves::default();
        assert_eq!(moves.follow(&remote(1, ONE)), [], "nobody knew it before");
        assert_eq!(moves.follow(&ForwardingTable::default()), []);
        assert_eq!(moves.follow(&remote(1, ONE)), [], "its host was cut off");
        assert_eq!(moves.follow(&ForwardingTable::default()), []);
        assert_eq!(moves.follow(&remote(1, OTHER)), [(address(1), OTHER)]);
        assert_eq!(moves.follow(&remote(1, OTHER)), []);
        assert_eq!(moves.follow(&remote(1, ONE)), [(address(1), ONE)]);
    }

    #[test]
    fn an_address_that_was_this_hosts_is_announced() {
        let mut moves = Moves::default();
        let local = ForwardingTable { local_addresses: [address(1)].into(), ..ForwardingTable::default() };
        assert_eq!(moves.follow(&local), []);
        assert_eq!(moves.follow(&remote(1, ONE)), [(address(1), ONE)]);
        assert_eq!(moves.follow(&local), [], "the container announces itself");
    }

    #[test]
    fn no_more_than_enough_is_remembered() {
        let mut moves = Moves::default();
        for number in 0..=u16::MAX {
            moves.follow(&remote(number, ONE));
        }
        let last = ForwardingTable { addresses: [([10, 33, 0, 0].into(), ONE)].into(), ..ForwardingTable::default() };
        moves.follow(&last);
        assert_eq!(moves.known.len(), 1);
    }
}
