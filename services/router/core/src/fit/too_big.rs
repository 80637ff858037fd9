//! What tells a container that a packet was too big: ICMPv4 "fragmentation needed" (RFC 792, RFC 1191) and ICMPv6 "packet too
//! big" (RFC 4443, section 3.2).
//!
//! One switch joins all containers, so there is no router that could speak. The packet's own destination speaks instead:
//! Linux takes its word for the path to itself, and no reverse path filter objects, because the packet has just been sent
//! by the same interface. Multicast has no such address; there it is [`SPEAKER`], which no interface has. Receivers check
//! the packet that is quoted, not who quotes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{ETHERNET, ICMP, ICMPV6, IPV4, IPV6, Packet};
use crate::segment::{fold, sum};

/// No link that carries IPv6 has a smaller MTU (RFC 8200, section 5).
const LEAST_IPV6: usize = 1280;
/// Every host takes in IPv4 packets of this size (RFC 791); Linux heeds nothing below 552 bytes.
const LEAST_IPV4: usize = 576;
/// Length of an ICMP header, in bytes.
const HEADER: usize = 8;
/// Traffic class of messages about the network itself (RFC 1812, section 4.3.2.5).
const CONTROL: u8 = 0xc0;
const HOP_LIMIT: u8 = 64;

const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;
const REDIRECT: u8 = 137;

/// Who speaks where the packet's destination can't: a locally administered MAC ("weft") and its link-local address.
const SPEAKER_MAC: [u8; 6] = [0x02, 0x77, 0x65, 0x66, 0x74, 0x00];
/// See [`SPEAKER_MAC`].
const SPEAKER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0077, 0x65ff, 0xfe66, 0x7400);

/// Returns what the packet's sender is told that its packets may have at most, where the path carries `largest` bytes.
pub(super) fn mtu(packet: &Packet, largest: usize) -> u16 {
    let least = if packet.is_ipv6() { LEAST_IPV6 } else { LEAST_IPV4 };
    u16::try_from(largest.max(least)).unwrap_or(u16::MAX)
}

/// Tells whether a packet's sender may be told that it has more than `mtu` bytes: RFC 1812, section 4.3.2.7, and RFC 4443,
/// section 2.4 e, which permits it about multicast too. Of later fragments the sender is told with the first.
pub(super) fn is_tellable(packet: &Packet, frame: &[u8], mtu: u16) -> bool {
    let Some((protocol, at)) = packet.upper else { return false };
    let kind = frame.get(at).copied();
    let from_one = frame.get(6).is_some_and(|first| first & 1 == 0);
    let (names_one, is_error) = match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (
            is_host(source) && is_host(destination) && !is_multicast(frame),
            // Echoes, timestamps and router discovery; all else is an error, or unknown.
            protocol == ICMP && !kind.is_some_and(|kind| matches!(kind, 0 | 8 | 9 | 10 | 13..=18)),
        ),
        (IpAddr::V6(source), _) => (
            !(source.is_unspecified() || source.is_multicast() || source.is_loopback()),
            protocol == ICMPV6 && kind.is_none_or(|kind| kind < 128 || kind == REDIRECT),
        ),
        (IpAddr::V4(_), IpAddr::V6(_)) => (false, false),
    };
    packet.whole && packet.length > mtu.into() && names_one && !is_error && from_one
}

/// Tells whether a frame goes to more than one station.
pub(super) fn is_multicast(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 1 != 0)
}

/// Tells whether an address is one host's.
fn is_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && first != 127 && first < 224
}

/// Writes the frame that tells a packet's sender to send at most `mtu` bytes. The packet must be tellable.
pub(super) fn write(packet: &Packet, frame: &[u8], mtu: u16, answer: &mut Vec<u8>) {
    answer.clear();
    let multicast = is_multicast(frame);
    answer.extend(&frame[6..12]);
    answer.extend(if multicast { SPEAKER_MAC } else { *frame.first_chunk().unwrap_or(&SPEAKER_MAC) });
    answer.extend(&frame[12..ETHERNET]);
    let quoted = &frame[ETHERNET..ETHERNET + packet.length];
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => write4(destination, source, quoted, mtu, answer),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            write6(
                if multicast || destination.is_multicast() { SPEAKER } else { destination },
                source,
                quoted,
                mtu,
                answer,
            );
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
}

fn write4(from: Ipv4Addr, to: Ipv4Addr, quoted: &[u8], mtu: u16, answer: &mut Vec<u8>) {
    let quoted = &quoted[..quoted.len().min(LEAST_IPV4 - IPV4 - HEADER)];
    let network = answer.len();
    answer.extend([0x45, CONTROL]);
    answer.extend(((IPV4 + HEADER + quoted.len()) as u16).to_be_bytes());
    answer.extend([0, 0, 0x40, 0, HOP_LIMIT, ICMP, 0, 0]);
    answer.extend(from.octets());
    answer.extend(to.octets());
    complete(answer, network, network + 10, 0);
    let message = answer.len();
    answer.extend([UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0]);
    answer.extend(mtu.to_be_bytes());
    answer.extend(quoted);
    complete(answer, message, message + 2, 0);
}

fn write6(from: Ipv6Addr, to: Ipv6Addr, quoted: &[u8], mtu: u16, answer: &mut Vec<u8>) {
    let quoted = &quoted[..quoted.len().min(LEAST_IPV6 - IPV6 - HEADER)];
    let length = HEADER + quoted.len();
    answer.extend([0x60 | CONTROL >> 4, CONTROL << 4, 0, 0]);
    answer.extend((length as u16).to_be_bytes());
    answer.extend([ICMPV6, HOP_LIMIT]);
    let addresses = answer.len();
    answer.extend(from.octets());
    answer.extend(to.octets());
    let pseudo = sum(&answer[addresses..]) + length as u64 + u64::from(ICMPV6);
    let message = answer.len();
    answer.extend([PACKET_TOO_BIG, 0, 0, 0]);
    answer.extend(u32::from(mtu).to_be_bytes());
    answer.extend(quoted);
    complete(answer, message, message + 2, pseudo);
}

/// Fills in a checksum over everything from `start`, whose field holds zeroes.
fn complete(bytes: &mut [u8], start: usize, field: usize, pseudo: u64) {
    let checksum = !fold(sum(&bytes[start..]) + pseudo);
    bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}
