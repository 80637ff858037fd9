//! What the packet path knows of each peer: sessions, ways, counters.

use std::{
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_router_core::{
    datagram::{HOP_LIMIT, Relayed, ShortName},
    fit::Limits,
    path::{Choice, Paths, Via, cost::LinkCost},
    session::{EstablishedSession, SessionIndex},
};
use weft_types::PeerName;

use super::{
    arrivals::Arrivals,
    facility::Facility,
    sessions::Sessions,
    socket::DataSocket,
    statistics::{PathView, PeerCounters, Traffic},
    transmit::{Carrier, Destination},
};
use crate::control::Stream;

/// How long after its last frame a path counts as carrying traffic.
const BUSY: Duration = Duration::from_secs(2);
/// How long after its last frame a peer counts as in use: ways over others are then kept ready beside a direct one.
const USED: Duration = Duration::from_secs(60);
/// How old what is shown of ways may get.
const SHOWN: Duration = Duration::from_secs(1);

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: PeerName,
    pub(super) short: ShortName,
    pub(super) sessions: Sessions,
    pub(super) paths: Paths,
    pub(super) arrivals: Arrivals,
    /// Where frames go.
    pub(super) destination: Option<Rc<Destination>>,
    /// Where datagrams go that are handed on, and those to others that the peer hands on.
    pub(super) link: Option<Rc<Destination>>,
    /// Takes datagrams that go inside the control connection.
    pub(super) stream: Option<Stream>,
    /// Ways over others, each with its number of links.
    pub(super) relays: Vec<(PeerName, u8)>,
    /// Where the peer sees our datagrams come from.
    pub(super) observed: Option<SocketAddr>,
    /// What was told of the link.
    pub(super) link_told: Option<super::LinkState>,
    pub(super) link_cost: LinkCost,
    pub(super) counters: Arc<PeerCounters>,
    pub(super) sent: Traffic,
    pub(super) received: Traffic,
    /// Whether `sent` or `received` wait to be added to `counters`.
    pub(super) dirty: bool,
    /// When the last frame was sent.
    pub(super) last_frame: Option<Instant>,
    shown: Option<Instant>,
    batch: u16,
    content: u32,
}

impl Peer {
    fn new(name: PeerName, counters: Arc<PeerCounters>, wanted: usize, now: Instant) -> Self {
        let mut paths = Paths::new(now);
        paths.set_wanted(wanted);
        Self {
            name,
            short: name.into(),
            sessions: Sessions::default(),
            paths,
            arrivals: Arrivals::default(),
            destination: None,
            link: None,
            stream: None,
            relays: Vec::new(),
            observed: None,
            link_told: None,
            link_cost: LinkCost::default(),
            counters,
            sent: Traffic::default(),
            received: Traffic::default(),
            dirty: false,
            last_frame: None,
            shown: None,
            batch: 0,
            content: 0,
        }
    }

    /// Numbers the next batch.
    pub(super) fn next_batch(&mut self) -> u16 {
        self.batch = self.batch.wrapping_add(1);
        self.batch
    }

    /// Numbers the next content that is cut in parts.
    pub(super) fn next_content(&mut self) -> u32 {
        self.content = self.content.wrapping_add(1);
        self.content
    }

    /// Takes the ways over others that there are now.
    pub(super) fn set_relays(&mut self, relays: &[(PeerName, u8)], now: Instant) {
        if self.relays != relays {
            self.relays = relays.to_vec();
            self.offer_relays(now);
        }
    }

    /// Has the ways over others tried while the peer is in use or nothing else works, so that peers with which nobody
    /// exchanges anything cost little.
    pub(super) fn offer_relays(&mut self, now: Instant) {
        let wanted = self.link.is_none() || self.carried_a_frame(USED, now);
        self.paths.set_relays(if wanted { &self.relays } else { &[] }, now);
    }

    fn carried_a_frame(&self, within: Duration, now: Instant) -> bool {
        self.last_frame.is_some_and(|last| now.saturating_duration_since(last) < within)
    }

    /// Lets time pass for the ways.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.paths.set_busy(self.carried_a_frame(BUSY, now));
        self.offer_relays(now);
        self.paths.handle_timeout(now);
    }

    /// Shows others the ways, at once or if they were not shown for a while.
    pub(super) fn show(&mut self, at_once: bool, now: Instant) {
        if at_once || self.shown.is_none_or(|shown| now.saturating_duration_since(shown) >= SHOWN) {
            self.shown = Some(now);
            self.counters.set_path(PathView {
                via: self.paths.choice().map(|choice| choice.via),
                round_trip: self.paths.round_trip(),
                candidates: self.paths.candidates().collect(),
            });
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let path = self.sessions.can_seal().then(|| self.paths.poll_timeout()).flatten();
        path.into_iter().chain(self.sessions.poll_timeout()).min()
    }

    /// Tells whether [`Peer::handle_timeout`] is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.sessions.can_seal() && self.paths.poll_timeout().is_some_and(|due| due <= now)
    }
}

/// All peers, by number.
#[derive(Debug)]
pub(super) struct Peers {
    /// How others name us in datagrams that they hand on.
    local: ShortName,
    slots: Vec<Option<Peer>>,
    by_name: HashMap<PeerName, usize>,
    by_index: HashMap<SessionIndex, usize>,
}

impl Peers {
    pub(super) fn new(local: PeerName) -> Self {
        Self { local: local.into(), slots: Vec::new(), by_name: HashMap::new(), by_index: HashMap::new() }
    }

    /// Returns how others name us in datagrams that they hand on.
    pub(super) const fn local(&self) -> ShortName {
        self.local
    }

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

    pub(super) fn get(&self, id: usize) -> Option<&Peer> {
        self.slots.get(id)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: usize) -> Option<&mut Peer> {
        self.slots.get_mut(id)?.as_mut()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Peer)> {
        self.slots.iter_mut().enumerate().filter_map(|(id, peer)| Some((id, peer.as_mut()?)))
    }

    /// Returns the number of a peer, which is added if it is new. `wanted` is the datagram that full frames need, in bytes.
    pub(super) fn ensure(
        &mut self,
        name: PeerName,
        counters: impl FnOnce() -> Arc<PeerCounters>,
        wanted: usize,
        now: Instant,
    ) -> usize {
        if let Some(id) = self.find(&name) {
            return id;
        }
        let id = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if id == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[id] = Some(Peer::new(name, counters(), wanted, now));
        self.by_name.insert(name, id);
        id
    }

    /// Adds a session to a peer.
    pub(super) fn install(&mut self, id: usize, session: &EstablishedSession, now: Instant) {
        let Some(peer) = self.slots.get_mut(id).and_then(Option::as_mut) else { return };
        self.by_index.insert(session.local_index, id);
        peer.sessions.install(session, now);
        peer.paths.restart(now);
    }

    /// Forgets a peer and returns the indices of its sessions.
    pub(super) fn remove(&mut self, name: &PeerName) -> Vec<SessionIndex> {
        let Some(peer) = self.by_name.remove(name).and_then(|id| self.slots[id].take()) else { return Vec::new() };
        let indices: Vec<_> = peer.sessions.indices().collect();
        for index in &indices {
            self.by_index.remove(index);
        }
        indices
    }

    /// Removes the sessions whose time is over.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<SessionIndex> {
        let mut removed = Vec::new();
        for peer in self.slots.iter_mut().flatten() {
            if peer.sessions.expire(now, &mut removed) {
                peer.paths.handle_keys_lost(now);
            }
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

    /// Returns where datagrams go that take this way to a peer; `None` where the way leads nowhere now.
    pub(super) fn destination(&self, id: usize, choice: Choice, socket: &DataSocket) -> Option<Destination> {
        let peer = self.get(id)?;
        let (carrier, relayed) = match choice.via {
            Via::Direct(endpoint) => (Carrier::Udp(socket.address_of(endpoint)?), None),
            Via::Stream => (Carrier::Stream(peer.stream.clone()?), None),
            Via::Relay(relay) => {
                let links = peer.relays.iter().find(|(name, _)| *name == relay).map_or(HOP_LIMIT, |(_, links)| *links);
                let header = Relayed {
                    hop_limit: links.saturating_add(SPARE_HOPS).min(HOP_LIMIT),
                    destination: peer.short,
                    source: self.local,
                };
                let link = self.get(self.find(&relay)?)?.link.as_ref()?;
                (link.carrier.clone(), Some(header.encode()))
            }
        };
        let is_batched = choice.batched && socket.uses(Facility::BatchedSend) && matches!(carrier, Carrier::Udp(_));
        Some(Destination {
            carrier,
            relayed,
            via: choice.via,
            limits: Limits::new(choice.largest, choice.proven),
            batched: is_batched,
            peer: id,
            own: true,
        })
    }

    /// Brings where datagrams go in line with the ways to a peer. Tells whether those that it hands on for us go elsewhere
    /// now.
    pub(super) fn update(&mut self, id: usize, socket: &DataSocket) -> bool {
        let Some(peer) = self.get(id) else { return false };
        let link = peer.paths.link_choice().and_then(|link| self.destination(id, link, socket));
        let destination = peer.paths.choice().and_then(|choice| self.destination(id, choice, socket));
        let Some(peer) = self.get_mut(id) else { return false };
        renew(&mut peer.destination, destination);
        renew(&mut peer.link, link.map(|link| Destination { own: false, ..link }))
    }
}

/// How many links more than the way has a relayed datagram may cross: the relays may know another way.
const SPARE_HOPS: u8 = 2;

/// Replaces a destination unless it is the same. Tells whether it was replaced.
fn renew(present: &mut Option<Rc<Destination>>, new: Option<Destination>) -> bool {
    let is_changed = present.as_deref() != new.as_ref();
    if is_changed {
        *present = new.map(Rc::new);
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use weft_router_core::{
        datagram::{HEADER, Header, TAG},
        forward::DropReason,
        path::PathEvent,
        session::{AGE_LIMIT, Cipher, SessionKey},
    };

    use super::{
        super::sessions::{GRACE, OTHER_SESSIONS},
        *,
    };

    const FAR: PeerName = PeerName::from_public_key([9; 32]);

    /// One end of a pair, which knows the other as the only peer.
    struct End {
        peers: Peers,
        number: u8,
    }

    impl End {
        fn new(number: u8, now: Instant) -> Self {
            let mut peers = Peers::new(FAR);
            peers.ensure(FAR, Arc::default, 1451, now);
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
            self.peers.get_mut(0).expect("added").sessions.seal(&mut slot).expect("has a session");
            slot
        }

        fn open(&mut self, mut datagram: Vec<u8>, now: Instant) -> Result<(), DropReason> {
            let header = Header::decode(&datagram).expect("sealed");
            let peer = self.peers.get_mut(0).expect("added");
            peer.sessions.open(header, &mut datagram, now).map(|_| ())
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
            assert_eq!(peer.sessions.seal(&mut [0; HEADER + 1 + TAG]), Err(DropReason::NoSession));
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
    fn of_several_answers_to_a_peer_that_started_anew_the_one_that_it_took_counts() {
        for taken in [2, 3, 4] {
            let (mut a, mut b, now) = pair();
            a.install(1, 0, now);
            b.install(1, 0, now);
            assert_eq!(b.open(a.seal(), now), Ok(()));
            let mut again = End::new(0, now);
            again.install(taken, 0, now);
            (2..=4).for_each(|generation| b.install(generation, 0, now));
            assert_eq!(b.sealing(), 1, "none has proved itself");
            assert_eq!(b.open(again.seal(), now), Ok(()));
            assert_eq!(b.sealing(), u32::from(taken));
            assert_eq!(again.open(b.seal(), now), Ok(()));
        }
    }

    #[test]
    fn a_late_datagram_of_an_earlier_agreement_takes_nothing_back() {
        let (mut a, mut b, now) = pair();
        let mut other = End::new(0, now);
        b.install(1, 0, now);
        b.install(2, 0, now);
        other.install(2, 0, now);
        b.install(3, 0, now);
        a.install(3, 0, now);
        assert_eq!(b.open(a.seal(), now), Ok(()));
        assert_eq!(b.open(other.seal(), now), Ok(()));
        assert_eq!(b.sealing(), 3);
    }

    proptest! {
        /// Whatever replaces what, and whatever opens in which order, a key seals each counter once: from 0 on, without a gap.
        #[test]
        fn no_counter_of_a_key_ever_comes_again(steps in prop::collection::vec((0..8_u8, any::<usize>()), 1..120)) {
            let (mut a, mut b, mut now) = pair();
            let mut ends = [&mut a, &mut b];
            let (mut generation, mut sent) = (0, Vec::<(usize, Vec<u8>)>::new());
            let mut counters: BTreeMap<(u8, u32), u64> = BTreeMap::new();
            for (step, which) in steps {
                match step {
                    // An agreement, which one side or both hear of.
                    0 | 1 => {
                        generation += 1;
                        let initiator = (which % 2) as u8;
                        for end in ends.iter_mut().filter(|end| step == 0 || usize::from(end.number) == which % 2) {
                            end.install(generation, initiator, now);
                        }
                    }
                    2 | 3 if !sent.is_empty() => {
                        let (to, datagram): (usize, Vec<u8>) = sent[which % sent.len()].clone();
                        let _ = ends[to].open(datagram, now);
                    }
                    4 => now += Duration::from_secs(which as u64 % 5),
                    5 => ends.iter_mut().for_each(|end| drop(end.peers.expire(now))),
                    _ => {
                        let from = which % 2;
                        if ends[from].peers.get(0).is_some_and(|peer| peer.sessions.can_seal()) {
                            let datagram = ends[from].seal();
                            let header = Header::decode(&datagram).expect("sealed");
                            let next = counters.entry((from as u8, header.receiver.0)).or_default();
                            prop_assert_eq!(header.counter, *next);
                            *next += 1;
                            sent.push((1 - from, datagram));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sessions_of_one_peer_stay_few() {
        let (mut a, _, now) = pair();
        for generation in 1..100 {
            a.install(generation, 0, now);
            a.peers.expire(now);
        }
        assert!(a.peers.get_mut(0).expect("added").sessions.others() <= OTHER_SESSIONS);
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
