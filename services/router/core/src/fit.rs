//! Makes frames fit a path that carries less than they need.
//!
//! TCP adapts by itself: connections agree on segments that fit ([`clamp_mss`]), and what is under way when a path shrinks is
//! cut after fewer bytes of payload. Who may be told to send less is told, as a router would; what can't be is cut in parts
//! and joined again ([`Parts`], [`Joiner`]). Format of parts: `docs/wire-protocol.md`, section 4.6.

mod join;
mod mss;
mod packet;
mod part;
mod told;
mod too_big;

use std::time::Instant;

pub use self::{
    join::{JoinError, Joiner},
    mss::clamp_mss,
    part::{LEAST_PART, PART_HEADER, PartHeader, Parts},
};
use self::{
    packet::{ETHERNET, Packet},
    told::{Claim, Told},
};
use crate::{
    datagram::{Batch, Checksum, FRAME_HEADER, HEADER, SEGMENT_HEADER, TAG},
    segment::{Cut, MalformedBatch},
    virtio::Offload,
};

/// The least payload that segments of TCP are cut to, in bytes: where not even this fits, headers are most of what is sent.
const LEAST_SEGMENT: usize = 256;

/// What a path carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    content: usize,
    proven: bool,
}

impl Limits {
    /// Describes a path whose largest sealed datagram has `largest` bytes. `proven` says that nothing larger passes, so that
    /// senders may be told; until it does, they are not, because what they are told holds for minutes.
    #[must_use]
    pub const fn new(largest: usize, proven: bool) -> Self {
        Self { content: largest.saturating_sub(HEADER + TAG), proven }
    }

    /// Returns the length of the largest content of a datagram, in bytes.
    #[must_use]
    pub const fn content(self) -> usize {
        self.content
    }

    /// Returns the length of the largest IP packet that fits one datagram, also as a slice of a batch, in bytes: the path's MTU
    /// as containers see it.
    #[must_use]
    pub const fn packet(self) -> usize {
        self.content.saturating_sub(SEGMENT_HEADER + ETHERNET)
    }
}

/// How a frame is sent.
#[derive(Debug, Clone, Copy)]
pub enum Fit<'a> {
    /// As it is.
    Frame,
    /// In slices, each of which fits. They may be smaller than the sender's kernel asked for.
    Slices(Cut<'a>),
    /// In [`Parts`].
    FrameInParts,
    /// Each slice as a frame of its own, those that do not fit in [`Parts`].
    SlicesInParts(Cut<'a>),
    /// Not at all: its sender is told that it is too big.
    Refused,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// How it is sent.
    pub fit: Fit<'a>,
    /// Whether a frame was written that tells its sender to send less; it goes to the TAP.
    pub answered: bool,
}

impl<'a> Decision<'a> {
    const fn unanswered(fit: Fit<'a>) -> Self {
        Self { fit, answered: false }
    }
}

/// Decides about frames, and remembers who was told what.
#[derive(Debug, Default)]
pub struct Fitter {
    told: Told,
}

impl Fitter {
    /// Decides how a frame is sent over a path. If its sender is to be told to send less, `answer` gets the frame that says
    /// so.
    ///
    /// No TCP connection stalls, whether its ends heed what they are told or not, because TCP is always sent: in smaller
    /// segments where the checksum is undone, so that cutting costs nothing, else in parts. Other unicast that
    /// must not be fragmented is refused, as its senders expect who look for the largest packet themselves; only those that have
    /// been told so often that they must be deaf are served in parts.
    ///
    /// # Errors
    /// [`MalformedBatch`] if the headers of a batch do not agree with `offload`.
    pub fn decide<'a>(
        &mut self,
        limits: Limits,
        offload: Offload,
        frame: &'a [u8],
        now: Instant,
        answer: &mut Vec<u8>,
    ) -> Result<Decision<'a>, MalformedBatch> {
        let Some((batch, size)) = offload.batch else {
            return Ok(self.decide_single(limits, offload.checksum, frame, now, answer));
        };
        let cut = Cut::new(batch, offload.checksum.start, size, frame)?;
        if SEGMENT_HEADER + cut.slice_length(0) <= limits.content {
            return Ok(Decision::unanswered(Fit::Slices(cut)));
        }
        if batch != Batch::Udp {
            let smaller = segment_size(limits, cut.headers()).map(|size| cut.with_size(size));
            return Ok(Decision::unanswered(smaller.map_or(Fit::SlicesInParts(cut), Fit::Slices)));
        }
        let mut first = vec![0; cut.slice_length(0)];
        cut.write(0, &mut first);
        let claim = self.tell(limits, &first, now, answer);
        let fit = if claim == Some(Claim::Refusal) { Fit::Refused } else { Fit::SlicesInParts(cut) };
        Ok(Decision { fit, answered: claim.is_some() })
    }

    fn decide_single<'a>(
        &mut self,
        limits: Limits,
        checksum: Checksum,
        frame: &'a [u8],
        now: Instant,
        answer: &mut Vec<u8>,
    ) -> Decision<'a> {
        if FRAME_HEADER + frame.len() <= limits.content {
            return Decision::unanswered(Fit::Frame);
        }
        if let Some(cut) = smaller_segments(limits, checksum, frame) {
            return Decision::unanswered(Fit::Slices(cut));
        }
        let claim = self.tell(limits, frame, now, answer);
        let fit = if claim == Some(Claim::Refusal) { Fit::Refused } else { Fit::FrameInParts };
        Decision { fit, answered: claim.is_some() }
    }

    /// Writes what tells a packet's sender to send less, if it may be told now, and says whether that refuses the packet.
    fn tell(&mut self, limits: Limits, frame: &[u8], now: Instant, answer: &mut Vec<u8>) -> Option<Claim> {
        if !limits.proven {
            return None;
        }
        let packet = Packet::parse(frame)?;
        let mtu = too_big::mtu(&packet, limits.packet());
        if !too_big::is_tellable(&packet, frame, mtu) {
            return None;
        }
        let sent_anyway = packet.is_tcp() || packet.destination.is_multicast() || too_big::is_multicast(frame);
        let claim = if sent_anyway { Claim::Hint } else { Claim::Refusal };
        self.told.permits(claim, packet.source, packet.destination, mtu, now).then(|| {
            too_big::write(&packet, frame, mtu, answer);
            claim
        })
    }
}

/// Returns the payload of segments behind `headers` bytes that fit the path.
fn segment_size(limits: Limits, headers: usize) -> Option<u16> {
    let size = limits.content.checked_sub(SEGMENT_HEADER + headers)?;
    (size >= LEAST_SEGMENT).then(|| u16::try_from(size).unwrap_or(u16::MAX))
}

/// Cuts a single TCP segment as if the kernel had handed it over as a batch. Segments that mean something by where they start
/// or end are left alone.
fn smaller_segments(limits: Limits, checksum: Checksum, frame: &[u8]) -> Option<Cut<'_>> {
    let packet = Packet::parse(frame)?;
    let batch = if packet.is_ipv6() { Batch::Tcp6 } else { Batch::Tcp4 };
    let header = packet.tcp(frame)?;
    let undone = usize::from(checksum.start) == header.at && checksum.offset == batch.checksum_offset();
    if !undone || packet.is_fragment || header.flags & (packet::SYN | packet::RST | packet::URG) != 0 {
        return None;
    }
    Cut::new(batch, checksum.start, segment_size(limits, header.end)?, frame).ok()
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
