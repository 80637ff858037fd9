//! Frames that tell neighbours which MAC an address has now.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_types::MacAddress;

/// Returns the announcements of all `addresses`.
#[must_use]
pub fn announcements(mac: MacAddress, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    addresses.iter().map(|address| announcement(mac, *address)).collect()
}

/// Returns the Ethernet frame that announces `address` at `mac`.
///
/// For IPv4 an ARP announcement (RFC 5227, section 2.3), for IPv6 an unsolicited neighbour advertisement with the override
/// flag (RFC 4861, section 7.2.6). Both make neighbours replace what they knew.
#[must_use]
pub fn announcement(mac: MacAddress, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_announcement(mac, address),
        IpAddr::V6(address) => neighbour_advertisement(mac, address),
    }
}

fn arp_announcement(mac: MacAddress, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(MacAddress::BROADCAST, mac, 0x0806);
    // Ethernet, IPv4, their lengths, request (RFC 826).
    frame.extend([0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac.octets());
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn neighbour_advertisement(mac: MacAddress, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    // Type 136, code 0, checksum below, override flag.
    let mut advertisement = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    advertisement.extend(address.octets());
    // Option: target link-layer address, one unit of eight bytes.
    advertisement.extend([2, 1]);
    advertisement.extend(mac.octets());
    let length = u8::try_from(advertisement.len()).expect("an advertisement has 32 bytes");

    let mut pseudo_header = Vec::from(address.octets());
    pseudo_header.extend(ALL_NODES.octets());
    pseudo_header.extend([0, 0, 0, length, 0, 0, 0, ICMPV6]);
    let sum = checksum(pseudo_header.iter().chain(&advertisement));
    advertisement[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet(MacAddress::new([0x33, 0x33, 0, 0, 0, 1]), mac, 0x86dd);
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(advertisement);
    frame
}

fn ethernet(to: MacAddress, from: MacAddress, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(to.octets());
    frame.extend(from.octets());
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// The internet checksum (RFC 1071) of an even number of bytes.
fn checksum<'a>(bytes: impl Iterator<Item = &'a u8>) -> u16 {
    let mut sum = 0u32;
    for (position, byte) in bytes.enumerate() {
        sum += u32::from(*byte) << if position % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 7]);

    #[test]
    fn an_arp_announcement_names_its_own_address_twice() {
        let frame = announcement(MAC, "10.32.0.1".parse().expect("valid"));
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[28..32], frame[38..42]);
        assert_eq!(frame[22..28], MAC.octets());
    }

    #[test]
    fn an_advertisement_has_a_valid_checksum() {
        let frame = announcement(MAC, "fd12:3456:789a:c::a20:1".parse().expect("valid"));
        let mut covered = frame[22..54].to_vec();
        covered.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        covered.extend(&frame[54..]);
        assert_eq!(frame.len(), 86);
        assert_eq!(checksum(covered.iter()), 0, "a sum over data with its checksum is zero");
    }
}
