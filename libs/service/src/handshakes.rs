//! Handshakes with who connects: never more than a few at a time, and new ones find room.
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

/// Bits of an IPv6 address that are the network's: who has one address has all of those (RFC 6177, section 2).
const NETWORK: u32 = 64;

/// The handshakes that are under way. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Handshakes(Arc<Mutex<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    most: usize,
    /// By number: the oldest first.
    all: BTreeMap<u64, Begun>,
    next: u64,
}

#[derive(Debug)]
struct Begun {
    source: IpAddr,
    /// Dropped to say that it is over; nothing for a place that is kept.
    going_on: Option<oneshot::Sender<()>>,
}

impl Handshakes {
    /// Makes room for `most` at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(UnderWay { most, all: BTreeMap::new(), next: 0 })))
    }

    /// Begins one with a client at the address, and ends another if there is no room; nothing if all places are kept.
    #[must_use]
    pub fn begin(&self, client: IpAddr) -> Option<Handshake> {
        let (going_on, ended) = oneshot::channel();
        let mut under_way = self.lock();
        while under_way.all.len() >= under_way.most {
            under_way.end_one()?;
        }
        let number = under_way.next;
        under_way.next += 1;
        under_way.all.insert(number, Begun { source: source(client), going_on: Some(going_on) });
        Some(Handshake { all: self.clone(), number, client, ended })
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    /// Ends the oldest of the source that has most; of several such sources, the oldest of all. Nothing if none can be ended.
    fn end_one(&mut self) -> Option<Begun> {
        let mut of_sources = BTreeMap::<IpAddr, (usize, u64)>::new();
        for (number, begun) in self.all.iter().filter(|(_, begun)| begun.going_on.is_some()) {
            of_sources.entry(begun.source).or_insert((0, *number)).0 += 1;
        }
        let chosen = of_sources.into_values().max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest)));
        chosen.and_then(|(_, oldest)| self.all.remove(&oldest))
    }
}

/// One that is under way, until this is dropped.
#[derive(Debug)]
pub struct Handshake {
    all: Handshakes,
    number: u64,
    client: IpAddr,
    ended: oneshot::Receiver<()>,
}

impl Handshake {
    /// Returns what `agreed` does, or nothing once another needed the room.
    pub async fn unless_ended<T>(&mut self, agreed: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = &mut self.ended => None,
            result = agreed => Some(result),
        }
    }

    /// Keeps the place until this is dropped, whoever needs it.
    pub fn keep(&mut self) {
        // Also if another took it at this very moment: then there is one more for a while.
        self.all.lock().all.insert(self.number, Begun { source: source(self.client), going_on: None });
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().all.remove(&self.number);
    }
}

/// Returns what all addresses of one client have in common: IPv4's whole, IPv6's network.
#[must_use]
pub fn source(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - NETWORK))).into(),
        ipv4 => ipv4,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const MOST: usize = 256;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    impl Handshakes {
        fn begin_from(&self, clients: impl IntoIterator<Item = IpAddr>) -> Vec<Handshake> {
            clients.into_iter().map(|client| self.begin(client).expect("none is kept")).collect()
        }
    }

    fn is_under_way(handshake: &Handshake) -> bool {
        handshake.all.lock().all.contains_key(&handshake.number)
    }

    #[test]
    fn one_source_makes_room_for_itself() {
        let handshakes = Handshakes::new(MOST);
        let early = handshakes.begin(address("192.0.2.2")).expect("room");
        let strangers = handshakes.begin_from([address("192.0.2.1"); MOST + 9]);
        let late = handshakes.begin(address("192.0.2.3")).expect("room");
        assert!(is_under_way(&early) && is_under_way(&late));
        let ended = strangers.iter().take_while(|stranger| !is_under_way(stranger)).count();
        assert_eq!(ended, 11, "the oldest, and as few as can be");
        assert_eq!(handshakes.lock().all.len(), MOST);
        drop((early, strangers, late));
        assert!(handshakes.lock().all.is_empty());
    }

    #[test]
    fn of_many_sources_the_oldest_makes_room() {
        let handshakes = Handshakes::new(MOST);
        let clients = (0..MOST).map(|number| Ipv6Addr::from_bits((number as u128) << 64 | 7).into());
        let strangers = handshakes.begin_from(clients);
        let _one = handshakes.begin(address("192.0.2.1")).expect("room");
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
        let handshakes = Handshakes::new(MOST);
        assert_eq!(handshakes.begin(address("::1")).expect("room").unless_ended(ready(1)).await, Some(1));
        assert!(handshakes.lock().all.is_empty());
        let mut slow = handshakes.begin(address("::1")).expect("room");
        let strangers = handshakes.begin_from([address("::1"); MOST]);
        assert_eq!(slow.unless_ended(pending::<()>()).await, None);
        assert_eq!(handshakes.lock().all.len(), MOST);
        drop(strangers);
    }

    #[test]
    fn what_is_kept_makes_room_for_nobody() {
        let handshakes = Handshakes::new(2);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(address);
        let (mut kept, old) = (handshakes.begin(one).expect("room"), handshakes.begin(other).expect("room"));
        kept.keep();
        let mut newest = handshakes.begin(one).expect("another makes room");
        assert!(is_under_way(&kept) && !is_under_way(&old));
        newest.keep();
        assert!(handshakes.begin(other).is_none());
        drop(kept);
        assert!(handshakes.begin(other).is_some());
    }

    #[test]
    fn what_is_kept_too_late_is_kept_all_the_same() {
        let handshakes = Handshakes::new(1);
        let mut late = handshakes.begin(address("::1")).expect("room");
        let _other = handshakes.begin(address("::1")).expect("room");
        late.keep();
        assert!(handshakes.begin(address("::1")).is_none());
    }
}
