//! TLS handshakes that are under way: never more than a few, and new ones always find room.
//!
//! Strangers cost little to make: each only connects, and says nothing. So when there is no room the newest takes that of
//! another: of the source that has most under way, the oldest. A stranger makes room for a stranger, then, and a client that
//! comes from elsewhere is not disturbed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Handshakes under way at a time.
const MOST: usize = 256;

/// Bits of an IPv6 address that are the network's: who has one address has all of those (RFC 6177, section 2).
const NETWORK: u32 = 64;

/// The handshakes that are under way. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Handshakes(Arc<Mutex<UnderWay>>);

#[derive(Debug, Default)]
struct UnderWay {
    /// By number: the oldest first.
    all: BTreeMap<u64, Begun>,
    next: u64,
}

#[derive(Debug)]
struct Begun {
    source: IpAddr,
    /// Dropped to say that it is over.
    _going_on: oneshot::Sender<()>,
}

impl Handshakes {
    /// Begins one with a client at the address, and ends another if there is no room.
    pub(super) fn begin(&self, client: IpAddr) -> Handshake {
        let (going_on, ended) = oneshot::channel();
        let mut under_way = self.lock();
        if under_way.all.len() >= MOST {
            under_way.end_one();
        }
        let number = under_way.next;
        under_way.next += 1;
        under_way.all.insert(number, Begun { source: source(client), _going_on: going_on });
        Handshake { all: self.clone(), number, ended }
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Ends the oldest of the source that has most; of several such sources, the oldest of all.
    fn end_one(&mut self) {
        let mut of_sources = BTreeMap::<IpAddr, (usize, u64)>::new();
        for (number, begun) in &self.all {
            of_sources.entry(begun.source).or_insert((0, *number)).0 += 1;
        }
        let chosen = of_sources.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
        if let Some((_, oldest)) = chosen {
            self.all.remove(&oldest);
        }
    }
}

/// One that is under way, until this is dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    all: Handshakes,
    number: u64,
    ended: oneshot::Receiver<()>,
}

impl Handshake {
    /// Returns what `agreed` does, or nothing once another needed the room.
    pub(super) async fn unless_ended<T>(mut self, agreed: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = &mut self.ended => None,
            result = agreed => Some(result),
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().all.remove(&self.number);
    }
}

/// Returns what all addresses of one client have in common.
fn source(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK))).into(),
        ipv4 => ipv4,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    impl Handshakes {
        fn begin_from(&self, clients: impl IntoIterator<Item = IpAddr>) -> Vec<Handshake> {
            clients.into_iter().map(|client| self.begin(client)).collect()
        }
    }

    fn is_under_way(handshake: &Handshake) -> bool {
        handshake.all.lock().all.contains_key(&handshake.number)
    }

    #[test]
    fn one_source_makes_room_for_itself() {
        let handshakes = Handshakes::default();
        let early = handshakes.begin(address("192.0.2.2"));
        let strangers = handshakes.begin_from([address("192.0.2.1"); MOST + 9]);
        let late = handshakes.begin(address("192.0.2.3"));
        assert!(is_under_way(&early) && is_under_way(&late));
        let ended = strangers.iter().take_while(|stranger| !is_under_way(stranger)).count();
        assert_eq!(ended, 11, "the oldest, and as few as can be");
        assert_eq!(handshakes.lock().all.len(), MOST);
        drop((early, strangers, late));
        assert!(handshakes.lock().all.is_empty());
    }

    #[test]
    fn of_many_sources_the_oldest_makes_room() {
        let handshakes = Handshakes::default();
        let clients = (0..MOST).map(|number| Ipv6Addr::from_bits((number as u128) << 64 | 7).into());
        let strangers = handshakes.begin_from(clients);
        let _one = handshakes.begin(address("192.0.2.1"));
        assert!(!is_under_way(&strangers[0]) && is_under_way(&strangers[1]));
    }

    #[test]
    fn a_network_is_one_source() {
        assert_eq!(source(address("2001:db8::1")), source(address("2001:db8::ffff:2:3:4")));
        assert_ne!(source(address("2001:db8::1")), source(address("2001:db8:0:1::1")));
        assert_eq!(source(address("::ffff:192.0.2.1")), address("192.0.2.1"));
        assert_ne!(source(address("192.0.2.1")), source(address("192.0.2.2")));
    }

    #[tokio::test]
    async fn what_is_done_is_over_and_what_is_ended_is_not_done() {
        let handshakes = Handshakes::default();
        assert_eq!(handshakes.begin(address("::1")).unless_ended(ready(1)).await, Some(1));
        assert!(handshakes.lock().all.is_empty());
        let slow = handshakes.begin(address("::1"));
        let strangers = handshakes.begin_from([address("::1"); MOST]);
        assert_eq!(slow.unless_ended(pending::<()>()).await, None);
        assert_eq!(handshakes.lock().all.len(), MOST);
        drop(strangers);
    }
}
