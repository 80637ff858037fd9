use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};

use super::*;

fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "any instant will do; only differences count")]
    Instant::now()
}

fn entry(key: u8, value: Option<u8>) -> Entry {
    Entry { key: Bytes::copy_from_slice(&[key]), value: value.map(|value| Bytes::copy_from_slice(&[value])) }
}

fn contents(store: &Store, origin: PeerName) -> Vec<(Bytes, Bytes)> {
    store.entries(origin, "names").map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What `to` lacks of an origin that `from` knows.
fn lacking(from: &Store, to: &Store, origin: PeerName) -> Option<Delta> {
    from.delta_since(origin, to.position(origin))
}

fn publish(store: &mut Store, entries: Vec<Entry>, now: Instant) {
    store.publish("names", false, entries, now).expect("within limits");
}

#[test]
fn a_publication_is_one_version_and_no_change_is_none() {
    let mut store = Store::new(peer(1), 1, 0);
    let start = store.position(peer(1)).expect("known");
    publish(&mut store, vec![entry(1, Some(1)), entry(2, Some(2))], now());
    let after = store.position(peer(1)).expect("known");
    assert_eq!((after.generation, after.version), (start.generation, start.version + 1));
    let digest = store.digest();
    publish(&mut store, vec![entry(1, Some(1)), entry(3, None)], now());
    assert_eq!((store.position(peer(1)), store.digest()), (Some(after), digest));
}

#[test]
fn a_snapshot_deletes_what_it_leaves_out_in_its_channel_alone() {
    let mut store = Store::new(peer(1), 1, 0);
    publish(&mut store, vec![entry(1, Some(1)), entry(2, Some(2))], now());
    store.publish("ring", false, vec![entry(9, Some(9))], now()).expect("within limits");
    let changed = store.publish("names", true, vec![entry(2, Some(3))], now()).expect("within limits");
    assert_eq!(changed, [entry(1, None), entry(2, Some(3))]);
    assert_eq!(store.entries(peer(1), "ring").count(), 1);
    assert_eq!(store.entries(peer(1), "names").count(), 1);
}

#[test]
fn a_publication_beyond_a_limit_changes_nothing() {
    let mut store = Store::new(peer(1), 1, 0);
    let before = store.position(peer(1));
    let long = |length| Entry { key: Bytes::from_static(b"k"), value: Some(vec![0; length].into()) };
    let good = entry(1, Some(1));
    let error = store.publish("names", false, vec![good.clone(), long(limits::VALUE_LENGTH + 1)], now());
    assert!(matches!(error, Err(GossipError::ValueTooLong { .. })), "{error:?}");
    let key = Entry { key: vec![0; limits::KEY_LENGTH + 1].into(), value: None };
    assert!(store.publish("names", false, vec![good.clone(), key], now()).is_err());
    assert!(store.publish("Names", false, vec![good], now()).is_err());
    let many = (0..=limits::ORIGIN_LENGTH / limits::VALUE_LENGTH)
        .map(|key| Entry { key: key.to_be_bytes().to_vec().into(), ..long(limits::VALUE_LENGTH) })
        .collect();
    let error = store.publish("names", false, many, now());
    assert!(matches!(error, Err(GossipError::OriginTooLarge { .. })), "{error:?}");
    assert_eq!((store.position(peer(1)), store.entry_count(peer(1))), (before, 0));
}

#[test]
fn a_delta_after_a_gap_is_not_applied() {
    let (mut origin, mut other) = (Store::new(peer(1), 1, 0), Store::new(peer(2), 1, 0));
    publish(&mut origin, vec![entry(1, Some(1))], now());
    let first = origin.position(peer(1));
    publish(&mut origin, vec![entry(2, Some(2))], now());
    let late = origin.delta_since(peer(1), first).expect("news");
    assert_eq!(other.apply(late.clone(), now()), Ok(Outcome::Lacking));
    assert_eq!(other.position(peer(1)), None);
    let whole = lacking(&origin, &other, peer(1)).expect("news");
    assert!(whole.complete);
    assert!(matches!(other.apply(whole, now()), Ok(Outcome::Applied(_))));
    assert_eq!(other.apply(late, now()), Ok(Outcome::Known));
    assert_eq!(contents(&other, peer(1)), contents(&origin, peer(1)));

    publish(&mut origin, vec![entry(1, None)], now());
    let missed = origin.position(peer(1));
    publish(&mut origin, vec![entry(3, Some(3))], now());
    let (before, late) = (other.position(peer(1)), origin.delta_since(peer(1), missed).expect("news"));
    assert_eq!((other.apply(late, now()), other.position(peer(1))), (Ok(Outcome::Lacking), before));
}

#[test]
fn a_new_generation_replaces_all_and_reports_differences_alone() {
    let (mut origin, mut other) = (Store::new(peer(1), 1, 0), Store::new(peer(2), 1, 0));
    publish(&mut origin, vec![entry(1, Some(1)), entry(2, Some(2)), entry(3, Some(3))], now());
    other.apply(lacking(&origin, &other, peer(1)).expect("news"), now()).expect("valid");
    let mut restarted = Store::new(peer(1), 2, 0);
    publish(&mut restarted, vec![entry(2, Some(2)), entry(3, Some(4))], now());
    let outcome = other.apply(lacking(&restarted, &other, peer(1)).expect("news"), now());
    let change = ChannelChange { channel: "names".to_owned(), entries: vec![entry(1, None), entry(3, Some(4))] };
    assert_eq!(outcome, Ok(Outcome::Applied(vec![change])));
    let stale = origin.delta_since(peer(1), None).expect("news");
    assert_eq!(other.apply(stale, now()), Ok(Outcome::Known), "the earlier life is over");
}

#[test]
fn an_earlier_life_raises_the_generation_and_never_touches_entries() {
    let mut earlier = Store::new(peer(1), 7, 1);
    publish(&mut earlier, vec![entry(1, Some(1))], now());
    for (generation, instance) in [(3, 0), (7, 0), (7, 1)] {
        let mut later = Store::new(peer(1), generation, instance);
        let before = later.position(peer(1)).expect("known");
        let delta = earlier.delta_since(peer(1), None).expect("news");
        assert_eq!(later.apply(delta.clone(), now()), Ok(Outcome::Raised), "{generation} {instance}");
        let after = later.position(peer(1)).expect("known");
        assert!(after > delta.at && after > before);
        assert_eq!((later.own_generation(), contents(&later, peer(1)).len()), (8, 0));
        assert_eq!(later.apply(delta, now()), Ok(Outcome::Known));
    }
}

#[test]
fn two_lives_with_one_counter_are_told_apart() {
    let mut earlier = Store::new(peer(1), 4, 1);
    let mut other = Store::new(peer(2), 1, 0);
    publish(&mut earlier, vec![entry(1, Some(1))], now());
    other.apply(lacking(&earlier, &other, peer(1)).expect("news"), now()).expect("valid");
    let mut later = Store::new(peer(1), 4, 2);
    publish(&mut later, vec![entry(2, Some(2))], now());
    other.apply(lacking(&later, &other, peer(1)).expect("news"), now()).expect("valid");
    assert_eq!(contents(&other, peer(1)), contents(&later, peer(1)));
}

#[test]
fn who_missed_a_dropped_deletion_gets_everything() {
    let start = now();
    let (mut origin, mut other) = (Store::new(peer(1), 1, 0), Store::new(peer(2), 1, 0));
    publish(&mut origin, vec![entry(1, Some(1)), entry(2, Some(2))], start);
    other.apply(lacking(&origin, &other, peer(1)).expect("news"), start).expect("valid");
    publish(&mut origin, vec![entry(1, None)], start);
    assert!(!lacking(&origin, &other, peer(1)).expect("news").complete);
    origin.prune(start + limits::TOMBSTONE_AGE - Duration::from_secs(1));
    assert_eq!(origin.entry_count(peer(1)), 2);
    origin.prune(start + limits::TOMBSTONE_AGE);
    assert_eq!(origin.entry_count(peer(1)), 1);
    let delta = lacking(&origin, &other, peer(1)).expect("news");
    assert!(delta.complete);
    other.apply(delta, start).expect("valid");
    assert_eq!(contents(&other, peer(1)), contents(&origin, peer(1)));
}

#[test]
fn deletions_are_bounded_in_number() {
    let mut store = Store::new(peer(1), 1, 0);
    let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
    for number in 0..limits::TOMBSTONES as u32 + 10 {
        publish(&mut store, vec![Entry { key: key(number), value: Some(Bytes::new()) }], now());
        publish(&mut store, vec![Entry { key: key(number), value: None }], now());
    }
    assert_eq!(store.entry_count(peer(1)), limits::TOMBSTONES);
}

#[test]
fn a_forgotten_origin_is_not_brought_back_and_can_return() {
    let (mut origin, mut other) = (Store::new(peer(1), 1, 0), Store::new(peer(2), 1, 0));
    publish(&mut origin, vec![entry(1, Some(1))], now());
    let whole = lacking(&origin, &other, peer(1)).expect("news");
    other.apply(whole.clone(), now()).expect("valid");
    let digest = other.digest();
    assert_eq!(other.forget(peer(1)), [ChannelChange { channel: "names".to_owned(), entries: vec![entry(1, None)] }]);
    assert_eq!(other.digest(), digest, "who has not forgotten yet sees no difference");
    assert_eq!(other.apply(whole, now()), Ok(Outcome::Known));
    assert!(other.is_forgotten(peer(1)) && other.origins().all(|known| known != peer(1)));
    publish(&mut origin, vec![entry(2, Some(2))], now());
    let delta = lacking(&origin, &other, peer(1)).expect("it lives");
    assert_eq!(other.apply(delta, now()), Ok(Outcome::Lacking));
    other.apply(lacking(&origin, &other, peer(1)).expect("all of it"), now()).expect("valid");
    assert_eq!(contents(&other, peer(1)), contents(&origin, peer(1)));
}

#[test]
fn origins_are_bounded_and_forgotten_ones_make_room() {
    let mut store = Store::new(PeerName::from_public_key([255; 32]), 1, 0);
    let name = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        PeerName::from_public_key(key)
    };
    let delta = |number| {
        let mut origin = Store::new(name(number), 1, 0);
        publish(&mut origin, vec![entry(1, Some(1))], now());
        origin.delta_since(name(number), None).expect("news")
    };
    for number in 1..limits::ORIGINS {
        store.apply(delta(number), now()).expect("room");
    }
    let digest = store.digest();
    for surplus in 0..limits::SURPLUS + 10 {
        let left_out = store.apply(delta(limits::ORIGINS + surplus), now());
        assert_eq!(left_out, Ok(Outcome::LeftOut));
    }
    assert_eq!((store.digest(), store.position(name(limits::ORIGINS))), (digest, None));
    assert_eq!(store.vector().len(), limits::ORIGINS + limits::SURPLUS, "neighbours are told not to say it again");
    assert_eq!(store.surplus().count(), limits::SURPLUS);

    store.forget(name(5));
    store.prune(now());
    assert_eq!(store.surplus().count(), 0, "there is a place: neighbours may say it again");
    assert!(matches!(store.apply(delta(limits::ORIGINS), now()), Ok(Outcome::Applied(_))));
    assert_eq!(store.position(name(5)), None);
    assert_eq!(store.apply(delta(limits::ORIGINS + 1), now()), Ok(Outcome::LeftOut));
}

#[test]
fn what_others_publish_is_bounded_in_bytes_and_leaves_the_own_alone() {
    let start = now();
    let large = |number: u8, value: usize| {
        let mut origin = Store::new(peer(number), 1, 0);
        let value = Bytes::from(vec![0; value]);
        let entries = (0u8..255).map(|key| Entry { key: Bytes::copy_from_slice(&[key]), value: Some(value.clone()) });
        publish(&mut origin, entries.collect(), start);
        origin
    };
    let whole = |origin: &Store, number| origin.delta_since(peer(number), None).expect("news");
    let mut store = Store::new(peer(0), 1, 0);
    for number in 1..=17 {
        let value = match number {
            1 => 60,
            17 => 4,
            _ => 64,
        };
        let outcome = store.apply(whole(&large(number, value * 1024), number), start);
        assert!(matches!(outcome, Ok(Outcome::Applied(_))), "{number}: {outcome:?}");
    }
    let mut last = large(18, 64 * 1024);
    let before = whole(&last, 18).at;
    assert_eq!(store.apply(whole(&last, 18), start), Ok(Outcome::LeftOut));
    publish(&mut last, vec![entry(1, Some(1))], start);
    let later = last.delta_since(peer(18), Some(before)).expect("news");
    let after = later.at;
    assert_eq!(store.apply(later, start), Ok(Outcome::LeftOut), "nobody is asked for what there is no room for");
    assert!(store.vector().contains(&OriginVersion { origin: peer(18), at: after }));

    // A known origin that outgrows the rest stays as it was known.
    let mut grown = large(1, 60 * 1024);
    let value = Some(Bytes::from(vec![0; 32 * 1024]));
    let more = (0..30u8).map(|key| Entry { key: Bytes::copy_from_slice(&[255, key]), value: value.clone() });
    publish(&mut grown, more.collect(), start);
    let outcome = store.apply(lacking(&grown, &store, peer(1)).expect("news"), start);
    assert_eq!(outcome, Ok(Outcome::LeftOut));
    assert_eq!(contents(&store, peer(1)).len(), 255);
    assert_eq!(store.surplus().collect::<Vec<_>>(), [peer(1), peer(18)]);
    publish(&mut store, vec![entry(1, Some(1))], start);

    store.forget(peer(2));
    store.prune(start);
    assert_eq!(store.surplus().count(), 0);
    assert!(matches!(store.apply(whole(&last, 18), start), Ok(Outcome::Applied(_))));
    assert_eq!(store.apply(lacking(&grown, &store, peer(1)).expect("news"), start), Ok(Outcome::LeftOut));
    store.prune(start + limits::SURPLUS_AGE);
    assert_eq!(store.surplus().count(), 0, "from time to time it is tried again");
}

#[test]
fn contradictions_are_refused_and_change_nothing() {
    let mut origin = Store::new(peer(1), 1, 0);
    publish(&mut origin, vec![entry(1, Some(1))], now());
    publish(&mut origin, vec![entry(2, Some(2))], now());
    let good = origin.delta_since(peer(1), None).expect("news");
    let breaks: [fn(&mut Delta); 7] = [
        |delta| delta.parts = 0,
        |delta| delta.part = delta.parts,
        |delta| delta.base_version = delta.at.version + 1,
        |delta| delta.entries[0].version = delta.at.version + 1,
        |delta| delta.entries.push(delta.entries[0].clone()),
        |delta| delta.entries[0].channel = "no channel".to_owned(),
        |delta| {
            delta.complete = false;
            delta.entries[0].version = 0;
        },
    ];
    let mut other = Store::new(peer(2), 1, 0);
    for (number, damage) in breaks.into_iter().enumerate() {
        let mut delta = good.clone();
        damage(&mut delta);
        assert!(other.apply(delta, now()).is_err(), "damage {number}");
        assert_eq!(other.position(peer(1)), None, "damage {number}");
    }
    assert!(Position::new(limits::NUMBER, 0).is_err() && Position::new(0, limits::NUMBER).is_err());
}

#[test]
fn large_deltas_travel_in_parts_and_apply_as_a_whole() {
    let mut origin = Store::new(peer(1), 1, 0);
    let value = Bytes::from(vec![7; limits::VALUE_LENGTH]);
    let entries = (0..20u8).map(|key| Entry { key: vec![key].into(), value: Some(value.clone()) }).collect();
    publish(&mut origin, entries, now());
    let parts = origin.delta_since(peer(1), None).expect("news").into_parts();
    assert!(parts.len() > 1);
    let most = limits::PART_LENGTH + limits::VALUE_LENGTH + 1024;
    assert!(parts.iter().all(|part| part.entries.iter().map(DeltaEntry::length).sum::<usize>() < most));
    let mut assembler = Assembler::default();
    let (last, others) = parts.split_last().expect("parts");
    for part in others {
        assert_eq!(assembler.push(part.clone()), Ok(None));
    }
    let whole = assembler.push(last.clone()).expect("in order").expect("the last");
    let mut other = Store::new(peer(2), 1, 0);
    other.apply(whole, now()).expect("valid");
    assert_eq!(contents(&other, peer(1)), contents(&origin, peer(1)));

    assert!(assembler.push(last.clone()).is_err(), "a part alone");
    assembler.push(parts[0].clone()).expect("the first");
    assert_eq!(assembler.push(parts[0].clone()), Ok(None), "a delta may begin anew");
    let foreign = Delta { origin: peer(3), ..parts[1].clone() };
    assert!(assembler.push(foreign).is_err(), "parts of two deltas");
}

#[test]
fn joined_parts_are_bounded() {
    let mut assembler = Assembler::default();
    let value = Some(Bytes::from(vec![0; limits::VALUE_LENGTH]));
    let part = |part| Delta {
        origin: peer(1),
        at: Position { generation: 1, version: 1 },
        base_version: 0,
        complete: true,
        entries: vec![
            DeltaEntry { channel: "names".to_owned(), key: Bytes::new(), version: 1, value: value.clone() };
            4
        ],
        part,
        parts: limits::PARTS,
    };
    let refused = (0..limits::PARTS).find_map(|number| assembler.push(part(number)).err());
    assert_eq!(refused, Some(GossipError::OriginTooLarge { origin: peer(1) }));
}

#[test]
fn a_neighbour_is_told_what_it_lacks_once() {
    let mut store = Store::new(peer(1), 1, 0);
    let mut neighbour = Neighbour::default();
    publish(&mut store, vec![entry(1, Some(1))], now());
    neighbour.handle_vector(&[], &store);
    let first = neighbour.poll(&store, peer(1), None).expect("all");
    assert!(first.complete);
    assert_eq!(neighbour.poll(&store, peer(1), None), None);

    for value in 2..5 {
        publish(&mut store, vec![entry(1, Some(value))], now());
        neighbour.offer(peer(1), store.position(peer(1)).expect("known"));
    }
    assert_eq!(neighbour.poll(&store, peer(1), Some(peer(1))), None, "held back");
    let joined = neighbour.poll(&store, peer(1), None).expect("news");
    assert_eq!(
        (joined.base_version, joined.at, joined.entries.len()),
        (first.at.version, Position { version: first.at.version + 3, ..first.at }, 1)
    );
    assert_eq!(neighbour.poll(&store, peer(1), None), None);

    publish(&mut store, vec![entry(1, Some(9))], now());
    let at = store.position(peer(1)).expect("known");
    neighbour.handle_known(peer(1), at);
    neighbour.offer(peer(1), at);
    assert_eq!(neighbour.poll(&store, peer(1), None), None, "it told us itself");
}

/// What a step of [`histories_converge`] does.
#[derive(Debug, Clone)]
enum Step {
    /// A store publishes.
    Publish { at: usize, entries: Vec<(u8, Option<u8>)>, snapshot: bool },
    /// The first store says what the second lacks of an origin; the delta stays on its way.
    Send { from: usize, to: usize, origin: usize },
    /// One of the deltas on their way arrives, and stays there if it is to come twice.
    Arrive { which: usize, again: bool },
    /// One of the deltas on their way is lost.
    Lose { which: usize },
    /// Time goes by; deletions are dropped.
    Prune { at: usize },
    /// A store loses its memory, perhaps its count of generations too.
    Restart { at: usize, counts: bool },
}

const STORES: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    let entries = vec((0..6u8, proptest::option::of(any::<u8>())), 0..4);
    prop_oneof![
        4 => (0..STORES, entries, any::<bool>()).prop_map(|(at, entries, s)| Step::Publish { at, entries, snapshot: s }),
        6 => (0..STORES, 0..STORES, 0..STORES).prop_map(|(from, to, origin)| Step::Send { from, to, origin }),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Step::Arrive { which, again }),
        1 => any::<usize>().prop_map(|which| Step::Lose { which }),
        1 => (0..STORES).prop_map(|at| Step::Prune { at }),
        1 => (0..STORES, any::<bool>()).prop_map(|(at, counts)| Step::Restart { at, counts }),
    ]
}

/// The stores, what travels between them, and what each published in its present life.
struct Lab {
    stores: Vec<Store>,
    counters: Vec<u64>,
    models: Vec<BTreeMap<Bytes, Bytes>>,
    travelling: Vec<(usize, Delta)>,
    instance: u64,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        Self {
            stores: (0..STORES).map(|at| Store::new(peer(at as u8), 1, at as u64)).collect(),
            counters: vec![1; STORES],
            models: vec![BTreeMap::new(); STORES],
            travelling: Vec::new(),
            instance: 100,
            now: now(),
        }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Publish { at, entries, snapshot } => {
                let entries: BTreeMap<_, _> = entries.into_iter().collect();
                let entries: Vec<Entry> = entries.into_iter().map(|(key, value)| entry(key, value)).collect();
                if snapshot {
                    self.models[at].clear();
                }
                for entry in &entries {
                    match &entry.value {
                        Some(value) => self.models[at].insert(entry.key.clone(), value.clone()),
                        None => self.models[at].remove(&entry.key),
                    };
                }
                self.stores[at].publish("names", snapshot, entries, self.now).expect("within limits");
            }
            Step::Send { from, to, origin } => {
                let delta = lacking(&self.stores[from], &self.stores[to], peer(origin as u8));
                self.travelling.extend(delta.map(|delta| (to, delta)));
            }
            Step::Arrive { which, again } => {
                if let Some((to, delta)) = self.pick(which, again) {
                    self.arrive(to, delta);
                }
            }
            Step::Lose { which } => {
                self.pick(which, false);
            }
            Step::Prune { at } => {
                self.now += limits::TOMBSTONE_AGE;
                self.stores[at].prune(self.now);
            }
            Step::Restart { at, counts } => {
                self.instance += 1;
                self.counters[at] = if counts { self.stores[at].own_generation() + 1 } else { 1 };
                self.stores[at] = Store::new(peer(at as u8), self.counters[at], self.instance);
                self.models[at].clear();
            }
        }
    }

    fn pick(&mut self, which: usize, again: bool) -> Option<(usize, Delta)> {
        let index = which.checked_rem(self.travelling.len())?;
        Some(if again { self.travelling[index].clone() } else { self.travelling.swap_remove(index) })
    }

    fn arrive(&mut self, to: usize, delta: Delta) {
        let own = contents(&self.stores[to], peer(to as u8));
        self.stores[to].apply(delta, self.now).expect("stores send nothing invalid");
        assert_eq!(contents(&self.stores[to], peer(to as u8)), own, "only the origin changes its own");
    }

    /// Lets everyone tell everyone what they lack, until nobody lacks anything.
    fn converge(&mut self) {
        for _ in 0..4 * STORES {
            let mut quiet = true;
            for (from, to) in (0..STORES).flat_map(|from| (0..STORES).map(move |to| (from, to))) {
                for known in self.stores[from].vector() {
                    if known.origin == peer(to as u8) {
                        self.stores[to].raise_above(known.at);
                    } else if let Some(delta) = lacking(&self.stores[from], &self.stores[to], known.origin) {
                        quiet = false;
                        self.arrive(to, delta);
                    }
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the stores never agree");
    }
}

proptest! {
    /// Whatever is lost, comes late, twice, or in another order, and whoever loses its memory: once everyone tells
    /// everyone what they lack, all know what each published last, and nothing else.
    #[test]
    fn histories_converge(steps in vec(step(), 0..80)) {
        let mut lab = Lab::new();
        for step in steps {
            lab.perform(step);
        }
        lab.converge();
        let digests: Vec<_> = lab.stores.iter_mut().map(Store::digest).collect();
        prop_assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
        for (origin, model) in lab.models.iter().enumerate() {
            let expected: Vec<_> = model.clone().into_iter().collect();
            for store in &lab.stores {
                prop_assert_eq!(&contents(store, peer(origin as u8)), &expected);
            }
        }
    }
}
