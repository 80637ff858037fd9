//! Half-open ranges of IPv4 addresses.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// A half-open range of IPv4 addresses, `[start, end)`, never empty.
///
/// Kept as numbers, because the ring splits, joins and compares ranges. The end is a `u64`: a range may reach the last
/// address of all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    start: u32,
    end: u64,
}

/// The bounds do not make a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a range ends after its start and by 2^32: got [{start}, {end})")]
pub struct InvalidRange {
    /// First address asked for.
    pub start: u32,
    /// End asked for, exclusive.
    pub end: u64,
}

impl AddressRange {
    /// Makes the range of all addresses from `start` up to, but not including, `end`.
    ///
    /// # Errors
    /// [`InvalidRange`] if it would be empty or end after 2^32.
    pub fn new(start: u32, end: u64) -> Result<Self, InvalidRange> {
        if u64::from(start) < end && end <= 1 << 32 {
            Ok(Self { start, end })
        } else {
            Err(InvalidRange { start, end })
        }
    }

    /// Returns the first address.
    #[must_use]
    pub const fn start(self) -> u32 {
        self.start
    }

    /// Returns the end, exclusive.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Returns how many addresses the range has, at least one.
    #[must_use]
    pub fn size(self) -> u64 {
        self.end - u64::from(self.start)
    }

    /// Tells whether `address` lies in the range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        self.start <= address && u64::from(address) < self.end
    }

    /// Tells whether all of `other` lies in the range.
    #[must_use]
    pub fn contains_range(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Returns what both ranges share, if anything.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end)).ok()
    }
}

impl From<Ipv4Net> for AddressRange {
    fn from(net: Ipv4Net) -> Self {
        let end = u64::from(u32::from(net.broadcast())) + 1;
        Self { start: net.network().into(), end }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = u32::try_from(self.end - 1).map_or(Ipv4Addr::BROADCAST, Ipv4Addr::from);
        write!(f, "{}-{last}", Ipv4Addr::from(self.start))
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u32, end: u64) -> AddressRange {
        AddressRange::new(start, end).expect("valid")
    }

    #[test]
    fn the_whole_space_is_a_range() {
        let all = AddressRange::from("0.0.0.0/0".parse::<Ipv4Net>().expect("valid"));
        assert_eq!(all.size(), 1 << 32);
        assert!(all.contains(Ipv4Addr::BROADCAST));
        assert_eq!(all.to_string(), "0.0.0.0-255.255.255.255");
    }

    #[test]
    fn empty_ranges_are_refused() {
        assert!(AddressRange::new(7, 7).is_err());
        assert!(AddressRange::new(7, (1 << 32) + 1).is_err());
    }

    #[test]
    fn neighbours_share_nothing() {
        assert_eq!(range(0, 8).intersection(range(8, 16)), None);
        assert_eq!(range(0, 9).intersection(range(8, 16)), Some(range(8, 9)));
    }
}
