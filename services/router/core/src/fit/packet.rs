//! The IP packet of a frame, as far as fitting has to know it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of an Ethernet header, in bytes. Tagged frames do not get here.
pub(super) const ETHERNET: usize = 14;
/// Length of an IPv4 header without options, in bytes.
pub(super) const IPV4: usize = 20;
/// Length of an IPv6 header without extensions, in bytes.
pub(super) const IPV6: usize = 40;

// Protocol numbers as IANA assigns them.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

// Flags of TCP.
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const URG: u8 = 0x20;

// Flags and offset of an IPv4 fragment.
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Extension headers that are looked through at most; senders use two or three.
const EXTENSIONS: usize = 8;

/// An IP packet whose header agrees with the frame around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Length of the packet, in bytes.
    pub(super) length: usize,
    /// Whether nobody but its sender may fragment it.
    pub(super) whole: bool,
    /// Whether it is one of several fragments.
    pub(super) is_fragment: bool,
    /// The protocol above IP and where its header is in the frame. Later fragments have none, nor have packets with extension
    /// headers that are not known.
    pub(super) upper: Option<(u8, usize)>,
}

/// Where a TCP header is in a frame, and its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcpHeader {
    pub(super) at: usize,
    /// Where its options end and the payload starts.
    pub(super) end: usize,
    pub(super) flags: u8,
}

impl Packet {
    /// Reads the packet of an untagged frame.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let bytes = frame.get(ETHERNET..)?;
        match frame.get(12..ETHERNET)? {
            [0x08, 0x00] => Self::parse4(bytes),
            [0x86, 0xdd] => Self::parse6(bytes),
            _ => None,
        }
    }

    fn parse4(packet: &[u8]) -> Option<Self> {
        let header: &[u8; IPV4] = packet.first_chunk()?;
        let (headers, length) = (usize::from(header[0] & 0x0f) * 4, word(header, 2)?.into());
        if header[0] >> 4 != 4 || headers < IPV4 || length < headers || length > packet.len() {
            return None;
        }
        let fragment = word(header, 6)?;
        Some(Self {
            source: Ipv4Addr::from(*header[12..].first_chunk::<4>()?).into(),
            destination: Ipv4Addr::from(*header[16..].first_chunk::<4>()?).into(),
            length,
            whole: fragment & DONT_FRAGMENT != 0,
            is_fragment: fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0,
            upper: (fragment & FRAGMENT_OFFSET == 0).then_some((header[9], ETHERNET + headers)),
        })
    }

    fn parse6(packet: &[u8]) -> Option<Self> {
        let header: &[u8; IPV6] = packet.first_chunk()?;
        let length = IPV6 + usize::from(word(header, 4)?);
        if header[0] >> 4 != 6 || length > packet.len() {
            return None;
        }
        let (upper, is_fragment) = upper_layer(header[6], &packet[..length]);
        Some(Self {
            source: Ipv6Addr::from(*header[8..].first_chunk::<16>()?).into(),
            destination: Ipv6Addr::from(*header[24..].first_chunk::<16>()?).into(),
            length,
            whole: true,
            is_fragment,
            upper,
        })
    }

    pub(super) const fn is_ipv6(&self) -> bool {
        self.source.is_ipv6()
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.upper.is_some_and(|(protocol, _)| protocol == TCP)
    }

    /// Reads the TCP header, if the packet has a whole one.
    pub(super) fn tcp(&self, frame: &[u8]) -> Option<TcpHeader> {
        let (TCP, at) = self.upper? else { return None };
        let length = usize::from(frame.get(at + 12)? >> 4) * 4;
        let flags = *frame.get(at + 13)?;
        let end = at + length;
        (length >= 20 && end <= ETHERNET + self.length).then_some(TcpHeader { at, end, flags })
    }
}

/// Walks the extension headers of an IPv6 packet (RFC 8200, section 4); says too whether it is one of several fragments.
fn upper_layer(mut protocol: u8, packet: &[u8]) -> (Option<(u8, usize)>, bool) {
    let (mut at, mut is_fragment) = (IPV6, false);
    for _ in 0..EXTENSIONS {
        let Some(header) = packet.get(at..).and_then(<[u8]>::first_chunk::<8>) else { break };
        let length = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8 + usize::from(header[1]) * 8,
            FRAGMENT => {
                let fragment = u16::from_be_bytes([header[2], header[3]]);
                // Offset, and whether more follow; a packet may be a fragment all by itself.
                is_fragment = fragment & 0xfff9 != 0;
                if fragment & 0xfff8 != 0 {
                    return (None, true);
                }
                8
            }
            _ => return (Some((protocol, ETHERNET + at)), is_fragment),
        };
        protocol = header[0];
        at += length;
    }
    (None, is_fragment)
}

pub(super) fn word(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}
