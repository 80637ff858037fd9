//! What the packet path knows of each peer: sessions, endpoints, counters.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_router_core::{
    datagram::{Header, OpenError, Opened, Opener, REKEY_AFTER, Sealer},
    forward::DropReason,
    path::{Paths, Via},
    session::{AGE_LIMIT, EstablishedSession, SessionIndex},
};
use weft_types::PeerName;

use super::{
    socket::DataSocket,
    statistics::{PeerCounters, Traffic},
    transmit::{Destination, may_batch},
};

/// How long a replaced session stays after its last datagram: some were under way, and where two agreements crossed, the
/// other side may seal with the one that we replaced.
const GRACE: Duration = Duration::from_secs(10);
/// Sessions of one peer besides the one that seals; the oldest goes first.
const OTHER_SESSIONS: usize = 4;
/// Datagrams between requests for new keys.
const REKEY_REPEAT: u64 = 1 << 24;

#[derive(Debug)]
struct Session {
    index: SessionIndex,
    sealer: Sealer,
    opener: Opener,
    /// When the keys must be gone, in use or not.
    too_old: Instant,
    expires: Option<Instant>,
    rekey_at: u64,
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: PeerName,
    pub(super) paths: Paths,
    pub(super) destination: Option<Destination>,
    pub(super) counters: Arc<PeerCounters>,
    pub(super) sent: Traffic,
    pub(super) received: Traffic,
    /// Whether `sent` or `received` wait to be added to `counters`.
    pub(super) dirty: bool,
    /// When the last frame was sent.
    pub(super) last_frame: Option<Instant>,
    /// Whether another session seals since the last look.
    pub(super) promoted: bool,
    pub(super) refused_until: Option<Instant>,
    batch: u16,
    current: Option<Session>,
    others: Vec<Session>,
}

impl Peer {
    fn new(name: PeerName, counters: Arc<PeerCounters>, now: Instant) -> Self {
        Self {
            name,
            paths: Paths::new(now),
            destination: None,
            counters,
            sent: Traffic::default(),
            received: Traffic::default(),
            dirty: false,
            last_frame: None,
            promoted: false,
            refused_until: None,
            batch: 0,
            current: None,
            others: Vec::new(),
        }
    }

    pub(super) fn has_session(&self) -> bool {
        self.current.is_some()
    }

    /// Numbers the next batch.
    pub(super) fn next_batch(&mut self) -> u16 {
        self.batch = self.batch.wrapping_add(1);
        self.batch
    }

    /// Seals a datagram in place; see [`Sealer::seal`].
    pub(super) fn seal(&mut self, slot: &mut [u8]) -> Result<(), DropReason> {
        let session = self.current.as_mut().ok_or(DropReason::NoSession)?;
        session.sealer.seal(slot).map_err(|_| DropReason::SessionExhausted)
    }

    /// Tells whether the keys have sealed enough, once for every further while.
    pub(super) fn wants_rekey(&mut self) -> bool {
        match &mut self.current {
            Some(session) if session.sealer.sealed() >= session.rekey_at => {
                session.rekey_at = session.sealer.sealed() + REKEY_REPEAT;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Opens a datagram in place. The first one of a session that we did not ask for makes it the one that seals.
    pub(super) fn open<'a>(
        &mut self,
        header: Header,
        datagram: &'a mut [u8],
        now: Instant,
    ) -> Result<Opened<'a>, DropReason> {
        let reason = |error| match error {
            OpenError::Replayed => DropReason::Replayed,
            OpenError::NotAuthentic => DropReason::NotAuthentic,
        };
        if let Some(current) = &mut self.current
            && current.index == header.receiver
        {
            return current.opener.open(header, datagram).map_err(reason);
        }
        let position = self.others.iter().position(|session| session.index == header.receiver);
        let position = position.ok_or(DropReason::UnknownSession)?;
        let opened = self.others[position].opener.open(header, datagram).map_err(reason)?;
        if let Some(expires) = &mut self.others[position].expires {
            *expires = now + GRACE;
            return Ok(Opened { newest: false, ..opened });
        }
        let session = self.others.remove(position);
        self.promote(session, now);
        Ok(opened)
    }

    fn install(&mut self, session: Session, at_once: bool, now: Instant) {
        for other in &mut self.others {
            other.expires.get_or_insert(now + GRACE);
        }
        if at_once || self.current.is_none() {
            self.promote(session, now);
        } else {
            self.others.push(session);
        }
    }

    fn promote(&mut self, session: Session, now: Instant) {
        self.promoted = true;
        if let Some(mut old) = self.current.replace(session) {
            old.expires = Some(now + GRACE);
            self.others.push(old);
        }
    }

    /// Removes the sessions whose time is over, and those that are too many.
    fn expire(&mut self, now: Instant, removed: &mut Vec<SessionIndex>) {
        if let Some(old) = self.current.take_if(|session| session.too_old <= now) {
            removed.push(old.index);
            self.paths.handle_keys_lost(now);
        }
        let too_many = self.others.len().saturating_sub(OTHER_SESSIONS);
        removed.extend(self.others.drain(..too_many).map(|session| session.index));
        self.others.retain(|session| {
            let over = session.too_old <= now || session.expires.is_some_and(|expires| expires <= now);
            if over {
                removed.push(session.index);
            }
            !over
        });
    }

    /// Returns where datagrams go.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        match self.paths.choice()?.via {
            Via::Direct(endpoint) => Some(endpoint),
            Via::Relay(_) | Via::Stream => None,
        }
    }

    /// Brings `destination` in line with the path in use.
    pub(super) fn update_destination(&mut self, id: usize, socket: &DataSocket, now: Instant) {
        let endpoint = self.endpoint();
        let batched = may_batch(socket, self.refused_until, now);
        self.destination = endpoint.and_then(|endpoint| socket.address_of(endpoint)).map(|address| Destination {
            address,
            batched,
            peer: id,
        });
        self.counters.set_path(endpoint.zip(self.paths.round_trip()));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let path = self.has_session().then(|| self.paths.poll_timeout()).flatten();
        let expiry = self.others.iter().filter_map(|session| session.expires);
        let age = self.current.iter().chain(&self.others).map(|session| session.too_old);
        path.into_iter().chain(expiry).chain(age).min()
    }
}

/// All peers, by number.
#[derive(Debug, Default)]
pub(super) struct Peers {
    slots: Vec<Option<Peer>>,
    by_name: HashMap<PeerName, usize>,
    by_index: HashMap<SessionIndex, usize>,
}

impl Peers {
    /// Returns the number of a peer.
    pub(super) fn find(&self, name: &PeerName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns a bound of all numbers.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Returns the number of the peer that has a session.
    pub(super) fn of_session(&self, index: SessionIndex) -> Option<usize> {
        self.by_index.get(&index).copied()
    }

    pub(super) fn get_mut(&mut self, id: usize) -> Option<&mut Peer> {
        self.slots.get_mut(id)?.as_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Peer)> {
        self.slots.iter_mut().enumerate().filter_map(|(id, peer)| Some((id, peer.as_mut()?)))
    }

    /// Returns the number of a peer, which is added if it is new.
    pub(super) fn ensure(
        &mut self,
        name: PeerName,
        counters: impl FnOnce() -> Arc<PeerCounters>,
        now: Instant,
    ) -> usize {
        if let Some(id) = self.find(&name) {
            return id;
        }
        let id = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if id == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[id] = Some(Peer::new(name, counters(), now));
        self.by_name.insert(name, id);
        id
    }

    /// Adds a session to a peer.
    pub(super) fn install(&mut self, id: usize, session: &EstablishedSession, now: Instant) {
        let Some(peer) = self.slots.get_mut(id).and_then(Option::as_mut) else { return };
        self.by_index.insert(session.local_index, id);
        let own = Session {
            index: session.local_index,
            sealer: Sealer::new(session.cipher, &session.send_key, session.remote_index),
            opener: Opener::new(session.cipher, &session.receive_key),
            too_old: now + AGE_LIMIT,
            expires: None,
            rekey_at: REKEY_AFTER,
        };
        peer.install(own, session.initiator, now);
        peer.paths.restart(now);
    }

    /// Forgets a peer and returns the indices of its sessions.
    pub(super) fn remove(&mut self, name: &PeerName) -> Vec<SessionIndex> {
        let Some(peer) = self.by_name.remove(name).and_then(|id| self.slots[id].take()) else { return Vec::new() };
        let sessions = peer.current.into_iter().chain(peer.others);
        let indices: Vec<_> = sessions.map(|session| session.index).collect();
        for index in &indices {
            self.by_index.remove(index);
        }
        indices
    }

    /// Removes the sessions whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<SessionIndex> {
        let mut removed = Vec::new();
        for peer in self.slots.iter_mut().flatten() {
            peer.expire(now, &mut removed);
        }
        for index in &removed {
            self.by_index.remove(index);
        }
        removed
    }

    /// Returns when something is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.slots.iter().flatten().filter_map(Peer::poll_timeout).min()
    }
}

#[cfg(test)]
mod tests {
    use weft_router_core::{
        datagram::{HEADER, TAG},
        path::PathEvent,
        session::{Cipher, SessionKey},
    };

    use super::*;

    const FAR: PeerName = PeerName::from_public_key([9; 32]);

    /// One end of a pair, which knows the other as the only peer.
    struct End {
        peers: Peers,
        number: u8,
    }

    impl End {
        fn new(number: u8, now: Instant) -> Self {
            let mut peers = Peers::default();
            peers.ensure(FAR, Arc::default, now);
            Self { peers, number }
        }

        fn install(&mut self, generation: u8, initiator: u8, now: Instant) {
            let key = |from: u8| SessionKey([generation * 2 + from; 32]);
            let other = 1 - self.number;
            let session = EstablishedSession {
                peer: FAR,
                local_index: SessionIndex(generation.into()),
                remote_index: SessionIndex(generation.into()),
                cipher: Cipher::Aes256Gcm,
                send_key: key(self.number),
                receive_key: key(other),
                initiator: self.number == initiator,
            };
            self.peers.install(0, &session, now);
        }

        fn seal(&mut self) -> Vec<u8> {
            let mut slot = vec![0; HEADER + 1 + TAG];
            self.peers.get_mut(0).expect("added").seal(&mut slot).expect("has a session");
            slot
        }

        fn open(&mut self, mut datagram: Vec<u8>, now: Instant) -> Result<(), DropReason> {
            let header = Header::decode(&datagram).expect("sealed");
            let peer = self.peers.get_mut(0).expect("added");
            peer.open(header, &mut datagram, now).map(|_| ())
        }

        fn sealing(&mut self) -> u32 {
            Header::decode(&self.seal()).expect("sealed").receiver.0
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the clock's start only; time then passes virtually")]
    fn pair() -> (End, End, Instant) {
        let now = Instant::now();
        (End::new(0, now), End::new(1, now), now)
    }

    #[test]
    fn the_responder_waits_for_the_initiators_first_datagram() {
        let (mut a, mut b, now) = pair();
        for end in [&mut a, &mut b] {
            end.install(1, 0, now);
            end.install(2, 0, now);
        }
        assert_eq!((a.sealing(), b.sealing()), (2, 1));
        let old = b.seal();
        assert_eq!(b.open(a.seal(), now), Ok(()));
        assert_eq!(b.sealing(), 2);
        assert_eq!(a.open(old, now), Ok(()), "what was under way still opens");

        assert_eq!(a.peers.expire(now + GRACE / 2), []);
        assert_eq!(a.peers.expire(now + GRACE), [SessionIndex(1)]);
        assert_eq!(b.peers.expire(now + GRACE), [SessionIndex(1)]);
        assert!(a.peers.of_session(SessionIndex(1)).is_none());
    }

    #[test]
    fn crossed_agreements_work_until_the_next_replaces_both() {
        let (mut a, mut b, mut now) = pair();
        a.install(1, 0, now);
        b.install(2, 1, now);
        a.install(2, 1, now);
        b.install(1, 0, now);
        let (to_b, to_a) = (a.seal(), b.seal());
        assert_eq!((b.open(to_b, now), a.open(to_a, now)), (Ok(()), Ok(())));
        for _ in 0..60 {
            now += Duration::from_secs(1);
            assert_eq!(a.peers.expire(now), []);
            assert_eq!(b.peers.expire(now), []);
            assert_eq!(b.open(a.seal(), now), Ok(()));
            assert_eq!(a.open(b.seal(), now), Ok(()));
        }
        b.install(3, 0, now);
        a.install(3, 0, now);
        assert_eq!(b.open(a.seal(), now), Ok(()));
        assert_eq!((a.sealing(), b.sealing()), (3, 3));
        assert_eq!(a.peers.expire(now + GRACE).len(), 2);
        assert_eq!(b.peers.expire(now + GRACE).len(), 2);
    }

    #[test]
    fn keys_that_nobody_replaces_are_gone_in_time() {
        let (mut a, mut b, now) = pair();
        a.install(1, 0, now);
        b.install(1, 0, now);
        let late = a.seal();
        assert_eq!(a.peers.poll_timeout().map(|due| due <= now + AGE_LIMIT), Some(true));
        assert_eq!(a.peers.expire(now + AGE_LIMIT - Duration::from_millis(1)), []);
        for end in [&mut a, &mut b] {
            assert_eq!(end.peers.expire(now + AGE_LIMIT), [SessionIndex(1)]);
            assert!(end.peers.of_session(SessionIndex(1)).is_none());
            let peer = end.peers.get_mut(0).expect("added");
            assert_eq!(peer.seal(&mut [0; HEADER + 1 + TAG]), Err(DropReason::NoSession));
            assert_eq!(peer.paths.poll_event(), Some(PathEvent::Down { via: None }));
            assert_eq!(end.peers.poll_timeout(), None, "nothing is left to wait for");
        }
        assert_eq!(b.open(late, now + AGE_LIMIT), Err(DropReason::UnknownSession));

        let later = now + 2 * AGE_LIMIT;
        a.install(2, 0, later);
        b.install(2, 0, later);
        assert_eq!(b.open(a.seal(), later), Ok(()), "new keys serve again");
    }

    #[test]
    fn sessions_of_one_peer_stay_few() {
        let (mut a, _, now) = pair();
        for generation in 1..100 {
            a.install(generation, 0, now);
            a.peers.expire(now);
        }
        assert!(a.peers.get_mut(0).expect("added").others.len() <= OTHER_SESSIONS);
    }

    #[test]
    fn a_removed_peer_leaves_nothing() {
        let (mut a, _, now) = pair();
        a.install(1, 0, now);
        a.install(2, 0, now);
        assert_eq!(a.peers.remove(&FAR).len(), 2);
        assert!(a.peers.find(&FAR).is_none() && a.peers.of_session(SessionIndex(1)).is_none());
    }
}
