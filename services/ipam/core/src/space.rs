//! Free space: what the ring gives to us and no container holds. Nothing is stored, so it cannot differ from the ring.

use ipnet::Ipv4Net;
use weft_types::AddressRange;

use crate::{
    holdings::Holdings,
    ring::{Owner, Ring},
};

/// Returns the addresses of `subnet` that containers may have: without its first (network) and last (broadcast).
pub(crate) fn usable(subnet: Ipv4Net) -> Option<AddressRange> {
    let all = AddressRange::from(subnet);
    AddressRange::new(all.start().checked_add(1)?, all.end() - 1).ok()
}

/// Returns the free gaps of `owner`, the local one, inside `range`.
pub(crate) fn gaps(ring: &Ring, holdings: &Holdings, owner: Owner, range: AddressRange) -> Vec<AddressRange> {
    let mut gaps = Vec::new();
    for span in ring.owned_in(owner, range) {
        let mut start = Some(span.start());
        for held in holdings.held_in(span) {
            if let Some(start) = start {
                gaps.extend(AddressRange::new(start, held.into()).ok());
            }
            start = held.checked_add(1);
        }
        if let Some(start) = start {
            gaps.extend(AddressRange::new(start, span.end()).ok());
        }
    }
    gaps
}

/// Returns the lowest free address inside `range`.
pub(crate) fn lowest_free(ring: &Ring, holdings: &Holdings, owner: Owner, range: AddressRange) -> Option<u32> {
    for span in ring.owned_in(owner, range) {
        let mut candidate = u64::from(span.start());
        for held in holdings.held_in(span) {
            if candidate < u64::from(held) {
                break;
            }
            candidate = u64::from(held) + 1;
        }
        if candidate < span.end() {
            return u32::try_from(candidate).ok();
        }
    }
    None
}

/// Chooses what to give to a peer that needs addresses of `wanted`: the largest aligned free block there, or the upper half
/// of it when it is more than half of all that is free there. Only addresses that containers may have count.
pub(crate) fn donation(
    ring: &Ring,
    holdings: &Holdings,
    owner: Owner,
    wanted: AddressRange,
    usable: AddressRange,
) -> Option<AddressRange> {
    let gaps = gaps(ring, holdings, owner, wanted);
    let use_of = |range: AddressRange| range.intersection(usable).map_or(0, AddressRange::size);
    let free: u64 = gaps.iter().map(|gap| use_of(*gap)).sum();
    let block = gaps
        .into_iter()
        .flat_map(aligned_blocks)
        .filter(|block| use_of(*block) > 0)
        .max_by_key(|block| (use_of(*block), block.start()))?;
    if use_of(block) * 2 <= free || block.size() == 1 {
        return Some(block);
    }
    let middle = u64::from(block.start()) + block.size() / 2;
    let upper = AddressRange::new(u32::try_from(middle).ok()?, block.end()).ok()?;
    if use_of(upper) > 0 { Some(upper) } else { AddressRange::new(block.start(), middle).ok() }
}

/// Cuts a range into the fewest blocks whose size is a power of two and divides their start.
fn aligned_blocks(range: AddressRange) -> Vec<AddressRange> {
    let mut blocks = Vec::new();
    let mut start = u64::from(range.start());
    while start < range.end() {
        let alignment = if start == 0 { 1 << 32 } else { start & start.wrapping_neg() };
        let left = range.end() - start;
        let largest = 1 << (63 - left.leading_zeros());
        let end = start + alignment.min(largest);
        blocks.extend(u32::try_from(start).ok().and_then(|start| AddressRange::new(start, end).ok()));
        start = end;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use weft_types::PeerName;

    use super::*;
    use crate::{Holding, Origin, ring::Fact};

    const ME: Owner = Owner { peer: PeerName::from_public_key([1; 32]), store: 1 };

    fn net(text: &str) -> Ipv4Net {
        text.parse().expect("valid")
    }

    fn whole(range: &str, held: &[&str]) -> (Ring, Holdings) {
        let mut ring = Ring::default();
        ring.learn(net(range).into(), Fact { epoch: 0, version: 0, owner: ME });
        let mut holdings = Holdings::default();
        for address in held {
            let container = format!("c{address}").replace('/', "_").parse().expect("valid");
            holdings.insert(&container, Holding { address: net(address), origin: Origin::Allocated });
        }
        (ring, holdings)
    }

    #[test]
    fn the_lowest_usable_address_comes_first() {
        let (ring, holdings) = whole("10.0.0.0/29", &["10.0.0.1/29", "10.0.0.2/29", "10.0.0.4/29"]);
        let range = usable(net("10.0.0.0/29")).expect("big enough");
        assert_eq!(lowest_free(&ring, &holdings, ME, range), Some(0x0a00_0003));
        let (ring, holdings) = whole("10.0.0.0/30", &["10.0.0.1/30", "10.0.0.2/30"]);
        let range = usable(net("10.0.0.0/30")).expect("big enough");
        assert_eq!(lowest_free(&ring, &holdings, ME, range), None);
        assert_eq!(usable(net("10.0.0.0/31")), None);
    }

    #[test]
    fn a_donor_gives_an_aligned_half_and_even_its_last() {
        let table = [
            ("10.0.0.0/24", &[][..], Some("10.0.0.128-10.0.0.255")),
            ("10.0.0.0/30", &["10.0.0.1/30"], Some("10.0.0.2-10.0.0.2")),
            ("10.0.0.0/30", &["10.0.0.2/30"], Some("10.0.0.1-10.0.0.1")),
            ("10.0.0.0/30", &["10.0.0.1/30", "10.0.0.2/30"], None),
            ("10.0.0.0/24", &["10.0.0.130/24"], Some("10.0.0.64-10.0.0.127")),
        ];
        for (range, held, expected) in table {
            let (ring, holdings) = whole(range, held);
            let usable = usable(net(range)).expect("big enough");
            let block = donation(&ring, &holdings, ME, net(range).into(), usable);
            assert_eq!(block.map(|block| block.to_string()).as_deref(), expected, "{range} {held:?}");
        }
    }

    #[test]
    fn blocks_are_aligned() {
        let range = AddressRange::new(3, 17).expect("valid");
        let blocks: Vec<_> = aligned_blocks(range).iter().map(|block| (block.start(), block.size())).collect();
        assert_eq!(blocks, [(3, 1), (4, 4), (8, 8), (16, 1)]);
    }
}
