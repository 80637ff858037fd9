//! VXLAN with one trusted peer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use weft_router_core::{
    hostnet::{self, TrustedLink, vxlan_name},
    trusted::{
        Agreed, Kind, Request, Way,
        probe::{self, Batches, Probe},
    },
    virtio,
};
use weft_types::PeerName;

use super::socket::{Arrival, Sockets};
use crate::entropy;

/// How soon sockets that could not be opened, or broke, are opened again.
const RETRY: Duration = Duration::from_millis(300);

/// What there is of one pair.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) agreed: Agreed,
    pub(super) vni: u32,
    pub(super) way: Way,
    /// Whether it was used when that was asked last.
    used: bool,
    sockets: Option<(u64, Sockets)>,
    /// When they may be opened.
    open_due: Instant,
    batches: Batches,
    refused: String,
}

impl Link {
    pub(super) fn new(agreed: Agreed, vni: u32, mtu: u16, now: Instant) -> Self {
        Self {
            agreed,
            vni,
            way: Way::new(mtu, entropy::number().to_be_bytes(), now),
            used: false,
            sockets: None,
            open_due: now,
            batches: Batches::default(),
            refused: String::new(),
        }
    }

    /// Returns what the kernel should have for it, where this lives at the peer.
    pub(super) fn desired(&self, sources: Arc<hostnet::Sources>) -> TrustedLink {
        let Agreed { local, remote } = self.agreed;
        TrustedLink { vni: self.vni, local, remote, sources, used: self.way.is_used() }
    }

    /// Tells whether it is used, if that has changed.
    pub(super) fn take_change(&mut self) -> Option<bool> {
        let used = self.way.is_used();
        (std::mem::replace(&mut self.used, used) != used).then_some(used)
    }

    /// Returns the number of its sockets.
    pub(super) fn number(&self) -> Option<u64> {
        self.sockets.as_ref().map(|(number, _)| *number)
    }

    /// Returns why its sockets cannot be opened; empty if they can.
    pub(super) fn refused(&self) -> &str {
        &self.refused
    }

    pub(super) fn wants_sockets(&self, now: Instant) -> bool {
        self.sockets.is_none() && self.open_due <= now
    }

    pub(super) fn open(&mut self, peer: PeerName, number: u64, arrivals: &mpsc::Sender<Arrival>, now: Instant) {
        match Sockets::open(&vxlan_name(self.vni), peer, number, arrivals) {
            Ok(sockets) => {
                self.sockets = Some((number, sockets));
                self.refused.clear();
            }
            Err(error) => {
                self.refused = format!("{error:#}");
                self.open_due = now + RETRY;
            }
        }
    }

    /// Closes the sockets, to open them anew.
    pub(super) fn close(&mut self, now: Instant) {
        self.sockets = None;
        self.open_due = now + RETRY;
    }

    pub(super) fn handle_probe(&mut self, probe: Probe, now: Instant) {
        match probe {
            Probe::Question { token, length } => self.send(Probe::Answer { token }, length),
            Probe::Answer { token } => self.way.handle_answer(token, now),
        }
    }

    pub(super) fn handle_batch(&mut self, header: [u8; virtio::HEADER], frame: &[u8]) {
        if let Some(token) = self.batches.receive(header, frame) {
            self.send(Probe::Answer { token }, probe::SMALL);
        }
    }

    fn send(&self, probe: Probe, length: usize) {
        if let Some((_, sockets)) = &self.sockets {
            sockets.send(probe, length);
        }
    }

    /// Sends what is due and notices what got lost.
    pub(super) fn handle_timeout(&mut self, mtu: u16, now: Instant) {
        self.way.handle_timeout(now);
        while let Some(Request { token, kind }) = self.way.poll_request(now) {
            let Some((_, sockets)) = &self.sockets else { continue };
            let ask = |length| sockets.send(Probe::Question { token, length }, length);
            match kind {
                Kind::Small => ask(probe::SMALL),
                Kind::Full => ask(probe::full(mtu)),
                Kind::Batch => sockets.send_batch(token, mtu),
            }
        }
    }

    /// Returns when [`Link::handle_timeout`] is due. Sockets that could not be opened wait for the next question, which is due within
    /// a second.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.way.poll_timeout()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[tokio::test]
    async fn sockets_that_cannot_be_opened_keep_nobody_busy() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let mut now = crate::trusted::now();
        let mut link = Link::new(Agreed { local: address, remote: address }, 0x00ab_cdef, 1400, now);
        let (arrivals, _waiting) = mpsc::channel(1);
        link.open(PeerName::from_public_key([1; 32]), 1, &arrivals, now);
        assert!(link.refused().contains("weft-vxabcdef is missing"), "{}", link.refused());
        // Nobody opens them while the kernel has no device.
        for _ in 0..10 {
            link.handle_timeout(1400, now);
            assert!(link.poll_timeout() > now, "it would never sleep");
            now = link.poll_timeout();
        }
        assert!(link.wants_sockets(now));
    }
}
