//! By which ways a peer's datagrams come, and how many.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use weft_router_core::path::Via;
use weft_types::PeerName;

/// Ways of one peer that are counted; the one that was silent longest goes first.
const WAYS: usize = 8;
/// How often a way that goes on being used counts as news.
const REFRESH: Duration = Duration::from_secs(1);
/// For how long an endpoint is a neighbour's after its last authentic datagram. Ways that are not in use are probed every 5 s, of a crowd every 20.
const NEIGHBOUR: Duration = Duration::from_secs(60);
/// Endpoints of neighbours that are remembered; nothing is relayed from further ones.
const ENDPOINTS: usize = 8192;

/// What came from one peer.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    ways: Vec<Arrival>,
    /// Which of them the last datagram came by.
    current: usize,
}

#[derive(Debug)]
struct Arrival {
    via: Via,
    received: u64,
    noted: Instant,
}

impl Arrivals {
    /// Counts an authentic datagram. Tells whether that is news: another way than before, or the same after a while.
    pub(super) fn count(&mut self, via: Via, now: Instant) -> bool {
        if let Some(current) = self.ways.get_mut(self.current)
            && current.via == via
        {
            current.received += 1;
            let is_news = now.saturating_duration_since(current.noted) >= REFRESH;
            if is_news {
                current.noted = now;
            }
            return is_news;
        }
        self.change(via, now);
        true
    }

    fn change(&mut self, via: Via, now: Instant) {
        if let Some(known) = self.ways.iter().position(|arrival| arrival.via == via) {
            self.current = known;
            self.ways[known].received += 1;
            self.ways[known].noted = now;
            return;
        }
        if self.ways.len() >= WAYS
            && let Some(oldest) = (0..self.ways.len()).min_by_key(|index| self.ways[*index].noted)
        {
            self.ways.swap_remove(oldest);
        }
        self.current = self.ways.len();
        self.ways.push(Arrival { via, received: 1, noted: now });
    }

    /// Returns how many datagrams came by a way.
    pub(super) fn received(&self, via: Via) -> u64 {
        self.ways.iter().find(|arrival| arrival.via == via).map_or(0, |arrival| arrival.received)
    }
}

/// Whose endpoints are whose, for those who hand on datagrams: only neighbours may have us do so.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    endpoints: HashMap<SocketAddr, (PeerName, Instant)>,
}

impl Neighbours {
    /// Notes that an authentic datagram of a peer came straight from an endpoint.
    pub(super) fn note(&mut self, endpoint: SocketAddr, peer: PeerName, now: Instant) {
        if self.endpoints.len() >= ENDPOINTS && !self.endpoints.contains_key(&endpoint) {
            self.endpoints.retain(|_, (_, noted)| now.saturating_duration_since(*noted) < NEIGHBOUR);
            if self.endpoints.len() >= ENDPOINTS {
                return;
            }
        }
        self.endpoints.insert(endpoint, (peer, now));
    }

    /// Returns whose the endpoint is.
    pub(super) fn at(&self, endpoint: SocketAddr, now: Instant) -> Option<PeerName> {
        let (peer, noted) = self.endpoints.get(&endpoint)?;
        (now.saturating_duration_since(*noted) < NEIGHBOUR).then_some(*peer)
    }

    /// Forgets the endpoints of a peer.
    pub(super) fn remove(&mut self, peer: PeerName) {
        self.endpoints.retain(|_, (known, _)| *known != peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PeerName = PeerName::from_public_key([1; 32]);

    fn endpoint(number: u32) -> SocketAddr {
        SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + number), 6783))
    }

    #[test]
    fn each_way_is_counted_by_itself_and_few_are_kept() {
        let now = crate::now();
        let mut arrivals = Arrivals::default();
        let (direct, relay) = (Via::Direct(endpoint(1)), Via::Relay(ONE));
        assert!(arrivals.count(direct, now), "the first is news");
        assert!(!arrivals.count(direct, now));
        assert!(arrivals.count(relay, now), "another way is news");
        assert!(arrivals.count(direct, now));
        assert!(arrivals.count(direct, now + REFRESH), "news after a while");
        assert_eq!((arrivals.received(direct), arrivals.received(relay)), (4, 1));
        assert_eq!(arrivals.received(Via::Stream), 0);
        for number in 2..100 {
            arrivals.count(Via::Direct(endpoint(number)), now + 2 * REFRESH);
        }
        assert_eq!(arrivals.ways.len(), WAYS);
        assert_eq!(arrivals.received(Via::Direct(endpoint(99))), 1);
    }

    #[test]
    fn an_endpoint_is_a_neighbours_for_a_while_only() {
        let now = crate::now();
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.at(endpoint(1), now), None);
        neighbours.note(endpoint(1), ONE, now);
        assert_eq!(neighbours.at(endpoint(1), now), Some(ONE));
        assert_eq!(neighbours.at(endpoint(1), now + NEIGHBOUR), None);
        for number in 0..2 * ENDPOINTS as u32 {
            neighbours.note(endpoint(number), ONE, now);
        }
        assert!(neighbours.endpoints.len() <= ENDPOINTS);
        neighbours.remove(ONE);
        assert_eq!(neighbours.at(endpoint(1), now), None);
    }
}
