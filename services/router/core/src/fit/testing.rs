//! Frames for tests.

use crate::segment::{fold, sum};

pub(super) const UDP: u8 = 17;
pub(super) const TCP: u8 = 6;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
/// Container 1, which sends.
pub(super) const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Container 2.
pub(super) const RECEIVER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame from container 1 to container 2, with DF, that has `transport` above IP, its checksum done where the protocol has
/// one. `extensions` stand between: IPv6 extension headers, whose first is of kind 60, or nothing.
pub(super) fn frame(ipv6: bool, protocol: u8, extensions: &[u8], transport: &[u8]) -> Vec<u8> {
    let mut frame = [RECEIVER, SENDER].concat();
    let length = extensions.len() + transport.len();
    if ipv6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend((length as u16).to_be_bytes());
        frame.extend([if extensions.is_empty() { protocol } else { 60 }, 64]);
        frame.extend([0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend([0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    } else {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + length as u16).to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0, 10, 32, 0, 1, 10, 32, 0, 2]);
    }
    frame.extend(extensions);
    frame.extend(transport);
    if let Some(offset) = checksum_offset(protocol) {
        let at = frame.len() - transport.len();
        frame[at + offset..at + offset + 2].fill(0);
        let checksum = !fold(sum(&frame[at..]) + pseudo(&frame, protocol, transport.len()));
        frame[at + offset..at + offset + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

/// Leaves the checksum of a frame whose transport header is at `at` undone, as a kernel does.
pub(super) fn undo_checksum(frame: &mut [u8], protocol: u8, at: usize) {
    let field = at + checksum_offset(protocol).expect("a protocol with a checksum");
    let undone = fold(pseudo(frame, protocol, frame.len() - at));
    frame[field..field + 2].copy_from_slice(&undone.to_be_bytes());
}

/// Tells whether the checksum of a frame whose transport header is at `at` is right.
pub(super) fn is_valid(frame: &[u8], protocol: u8, at: usize) -> bool {
    fold(sum(&frame[at..]) + pseudo(frame, protocol, frame.len() - at)) == 0xffff
}

/// The header of a TCP segment with its options, to be followed by payload.
pub(super) fn tcp(flags: u8, options: &[u8]) -> Vec<u8> {
    let mut header =
        vec![0x80, 1, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8, (((20 + options.len()) / 4) << 4) as u8, flags, 0xff, 0xf0];
    header.extend([0, 0, 0, 0]);
    header.extend(options);
    header
}

/// A UDP datagram with `length` bytes of payload.
pub(super) fn udp(length: usize) -> Vec<u8> {
    let mut datagram = vec![0x80, 1, 0, 7];
    datagram.extend((8 + length as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend((0..length).map(|index| index as u8));
    datagram
}

const fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        TCP => Some(16),
        UDP => Some(6),
        ICMPV6 => Some(2),
        _ => None,
    }
}

fn pseudo(frame: &[u8], protocol: u8, length: usize) -> u64 {
    let addresses = if frame[12] == 0x86 { 22..54 } else { 26..34 };
    sum(&frame[addresses]) + u64::from(protocol) + length as u64
}
