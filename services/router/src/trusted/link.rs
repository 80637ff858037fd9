//! VXLAN with one trusted peer.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use weft_router_core::{
    hostnet::VXLAN_PREFIX,
    trusted::{
        Agreed, Kind, Request, Way,
        probe::{self, Batches, Probe},
    },
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
            sockets: None,
            open_due: now,
            batches: Batches::default(),
            refused: String::new(),
        }
    }

    /// Returns the name of its device.
    pub(super) fn name(&self) -> String {
        format!("{VXLAN_PREFIX}{:06x}", self.vni)
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
        match Sockets::open(&self.name(), peer, number, arrivals) {
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

    pub(super) fn handle_batch(&mut self, flags: u8, frame: &[u8], mtu: u16) {
        if let Some(token) = self.batches.receive(flags, frame, mtu) {
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

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let open = self.sockets.is_none().then_some(self.open_due).filter(|_| !self.refused.is_empty());
        open.into_iter().chain([self.way.poll_timeout()]).min()
    }
}
