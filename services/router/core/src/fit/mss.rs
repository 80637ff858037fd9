//! Keeps new TCP connections to segments that fit.

use super::packet::{IPV4, IPV6, Packet, SYN, word};
use crate::{datagram::Checksum, segment::fold};

/// Length of a TCP header without options, in bytes.
const TCP_HEADER: usize = 20;
/// Offset of the checksum in a TCP header, in bytes.
const CHECKSUM: usize = 16;

// Kinds of options (RFC 9293, section 3.1).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const SEGMENT_SIZE: u8 = 2;

/// Lowers the largest segment that a SYN or SYN-ACK offers to what fits IP packets of `largest_packet` bytes, and never raises
/// it. Returns whether it did.
///
/// An offer binds who receives it, so it has to fit the other direction's path: call this for frames that leave by the limits
/// of the path that they take, and for frames that arrive by those of the way back.
///
/// `checksum` is what the frame's carrier says: where the checksum is still undone, it does not cover the options yet. Other
/// frames, later fragments, and headers or options that are malformed stay as they are. The value counts no options (RFC 6691):
/// segments with some are that much shorter.
pub fn clamp_mss(frame: &mut [u8], checksum: Checksum, largest_packet: usize) -> bool {
    let Some(packet) = Packet::parse(frame) else { return false };
    let Some(header) = packet.tcp(frame).filter(|header| header.flags & SYN != 0) else { return false };
    let headers = if packet.is_ipv6() { IPV6 } else { IPV4 } + TCP_HEADER;
    let limit = u16::try_from(largest_packet.saturating_sub(headers)).unwrap_or(u16::MAX);
    let (start, end) = (header.at + TCP_HEADER, header.end);
    if !is_well_formed(&frame[start..end]) {
        return false;
    }
    let mut lowered = false;
    let mut at = start;
    while let Some((kind, length)) = next_option(&frame[at..end]) {
        let offered = if kind == SEGMENT_SIZE { word(frame, at + 2) } else { None };
        if let Some(offered) = offered.filter(|offered| *offered > limit) {
            frame[at + 2..at + 4].copy_from_slice(&limit.to_be_bytes());
            if checksum.start == 0 {
                // A value at an odd offset lies across two of the words that are summed (RFC 1071, section 2).
                let is_odd = (at - header.at) % 2 == 1;
                let [old, new] = [offered, limit].map(|value| if is_odd { value.swap_bytes() } else { value });
                update(frame, header.at + CHECKSUM, old, new);
            }
            lowered = true;
        }
        at += length;
    }
    lowered
}

/// Returns kind and length of the first option, unless the list ends here or is malformed.
fn next_option(options: &[u8]) -> Option<(u8, usize)> {
    match options {
        [] | [END, ..] => None,
        [NO_OPERATION, ..] => Some((NO_OPERATION, 1)),
        [kind, length, ..] => {
            let length = usize::from(*length);
            let fits = length >= 2 && length <= options.len() && (*kind != SEGMENT_SIZE || length == 4);
            fits.then_some((*kind, length))
        }
        [_] => None,
    }
}

fn is_well_formed(mut options: &[u8]) -> bool {
    while let Some((_, length)) = next_option(options) {
        options = &options[length..];
    }
    matches!(options, [] | [END, ..])
}

/// Makes a checksum right for a word that changed (RFC 1624, equation 3).
fn update(frame: &mut [u8], field: usize, old: u16, new: u16) {
    let checksum = word(frame, field).unwrap_or(0);
    let sum = u64::from(!checksum) + u64::from(!old) + u64::from(new);
    frame[field..field + 2].copy_from_slice(&(!fold(sum)).to_be_bytes());
}

#[cfg(test)]
mod tests;
