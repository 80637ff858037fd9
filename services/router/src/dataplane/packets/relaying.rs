//! Datagrams that neighbours hand on: for us, or for others, who alone can open them.

use std::{ops::Range, time::Instant};

use weft_router_core::{
    datagram::{RELAYED, Relayed},
    forward::DropReason,
    path::Via,
};

use super::{Packets, inbound::Source};

impl Packets {
    /// Takes a relayed datagram: opens it if it is for us, else hands it on, nearer to its destination and never back.
    pub(super) fn take_relayed(
        &mut self,
        buffer: &mut [u8],
        datagram: Range<usize>,
        from: Source,
        now: Instant,
    ) -> Result<(), DropReason> {
        let bytes = &buffer[datagram.clone()];
        let header = Relayed::decode(bytes).ok_or(DropReason::MalformedDatagram)?;
        let neighbour = match from {
            Source::Endpoint(source) => self.neighbours.at(source, now),
            Source::Stream(peer) => {
                let known = self.peers.find(&peer).and_then(|id| self.peers.get(id));
                known.filter(|peer| peer.stream.is_some()).map(|peer| peer.name)
            }
        };
        let neighbour = neighbour.ok_or(DropReason::NotNeighbour)?;
        if header.destination == self.peers.local() {
            let inside = datagram.start + RELAYED..datagram.end;
            return self.inbound(buffer, inside, Via::Relay(neighbour), None, now);
        }
        let next = header.next_hop().ok_or(DropReason::HopLimit)?;
        let hop = self.routes.next_hop(header.destination, neighbour).ok_or(DropReason::NoRoute)?;
        let link = self.peers.find(&hop).and_then(|id| self.peers.get(id)?.link.clone()).ok_or(DropReason::NoRoute)?;
        if !self.transmit.has_room(bytes.len()) {
            self.flush(now);
        }
        let slot = self.transmit.slot(&link, bytes.len());
        slot[..RELAYED].copy_from_slice(&next.encode());
        slot[RELAYED..].copy_from_slice(&bytes[RELAYED..]);
        self.relayed.datagrams += 1;
        self.relayed.bytes += bytes.len() as u64;
        Ok(())
    }
}
