use proptest::prelude::*;

use super::*;

fn owner(number: u8) -> Owner {
    Owner { peer: PeerName::from_public_key([number; 32]), store: 1 }
}

fn range(start: u32, end: u64) -> AddressRange {
    AddressRange::new(start, end).expect("valid")
}

fn fact(epoch: u32, version: u64, number: u8) -> Fact {
    Fact { epoch, version, owner: owner(number) }
}

#[test]
fn the_greater_fact_holds() {
    let table = [
        ("a newer version wins", fact(0, 1, 1), fact(0, 2, 2), 2),
        ("an older version loses", fact(0, 2, 1), fact(0, 1, 2), 1),
        ("an epoch beats any version", fact(0, 99, 1), fact(1, 0, 2), 2),
        ("what comes back from the dead loses", fact(1, 0, 2), fact(0, 99, 1), 2),
        ("two takeovers at a time: one of them, whoever looks", fact(1, 0, 1), fact(1, 0, 2), 2),
    ];
    for (what, ours, theirs, winner) in table {
        for (first, second) in [(ours, theirs), (theirs, ours)] {
            let mut ring = Ring::default();
            ring.learn(range(0, 8), first);
            ring.learn(range(0, 8), second);
            assert_eq!(ring.fact(3).map(|fact| fact.owner), Some(owner(winner)), "{what}");
        }
    }
}

#[test]
fn a_newer_fact_splits_an_older_run() {
    let mut ring = Ring::shared("10.0.0.0/28".parse().expect("valid"), &[owner(1)]);
    let start = 0x0a00_0000;
    let facts = ring.grant(range(start + 4, u64::from(start) + 8), owner(1), owner(2));
    assert_eq!(facts, [(range(start + 4, u64::from(start) + 8), fact(0, 1, 2))]);
    let runs: Vec<_> = ring.runs().map(|(run, fact)| (run.start() - start, run.size(), fact)).collect();
    assert_eq!(runs, [(0, 4, fact(0, 0, 1)), (4, 4, fact(0, 1, 2)), (8, 8, fact(0, 0, 1))]);

    ring.grant(range(start + 4, u64::from(start) + 8), owner(2), owner(1));
    assert!(ring.consolidate(owner(1)));
    assert_eq!(ring.len(), 1, "what one peer owns again is one run");
    assert_eq!(ring.fact(start), Some(fact(0, 2, 1)));
    assert!(!ring.consolidate(owner(1)));
}

#[test]
fn a_share_is_aligned_and_everybody_has_one() {
    let owners = [owner(1), owner(2), owner(3)];
    let ring = Ring::shared("10.32.0.0/12".parse().expect("valid"), &owners);
    let shares: Vec<_> = ring.runs().map(|(run, fact)| (run.size(), fact.owner)).collect();
    assert_eq!(shares, [(1 << 19, owners[0]), (1 << 18, owners[1]), (1 << 18, owners[2])]);
    let more = Ring::shared("10.0.0.0/30".parse().expect("valid"), &(1..=7).map(owner).collect::<Vec<_>>());
    assert_eq!(more.len(), 4, "more peers than addresses: some start with none");
}

#[test]
fn a_takeover_takes_all_and_only_what_the_dead_owned() {
    let mut ring = Ring::shared("10.0.0.0/28".parse().expect("valid"), &[owner(1), owner(2)]);
    let before = ring.clone();
    let facts = ring.take_over(owner(2).peer, owner(1));
    assert_eq!(facts.iter().map(|(run, _)| run.size()).sum::<u64>(), 8);
    assert!(ring.runs().all(|(_, fact)| fact.owner == owner(1)));

    let mut returned = before;
    returned.grant(range(0x0a00_0008, 0x0a00_000a), owner(2), owner(3));
    ring.merge(returned);
    assert!(ring.runs().all(|(_, fact)| fact.owner == owner(1)), "what the dead gave away since does not count");
}

#[test]
fn the_ends_of_the_address_space_are_addresses_like_others() {
    let mut ring = Ring::default();
    assert!(ring.learn(range(0, 1 << 32), fact(0, 0, 1)));
    assert!(ring.learn(range(u32::MAX, 1 << 32), fact(0, 1, 2)));
    assert!(ring.learn(range(0, 1), fact(0, 1, 2)));
    assert!(!ring.learn(range(0, 1 << 32), fact(0, 0, 1)));
    assert_eq!(ring.len(), 3);
    assert_eq!(ring.fact(u32::MAX), Some(fact(0, 1, 2)));
    assert!(ring.covers(range(0, 1 << 32), fact(0, 0, 1)));
}

/// Width of the space that properties are checked on, address by address.
const WIDTH: u32 = 24;

fn any_facts() -> impl Strategy<Value = Vec<(AddressRange, Fact)>> {
    let one = (0..WIDTH, 1..=WIDTH, 0..3_u32, 0..4_u64, 1..4_u8).prop_map(|(start, length, epoch, version, number)| {
        (range(start, u64::from((start + length).min(WIDTH))), fact(epoch, version, number))
    });
    prop::collection::vec(one, 0..12)
}

/// What a ring has to say, by the plainest means: one cell for each address.
fn plain(facts: &[(AddressRange, Fact)]) -> Vec<Option<Fact>> {
    (0..WIDTH)
        .map(|address| {
            let about = facts.iter().filter(|(range, _)| range.contains(address.into()));
            about.map(|(_, fact)| *fact).max()
        })
        .collect()
}

fn merged(mut ring: Ring, other: &Ring) -> Ring {
    ring.merge(other.clone());
    ring
}

proptest! {
    #[test]
    fn a_ring_is_the_greatest_fact_of_each_address(facts in any_facts()) {
        let ring: Ring = facts.iter().copied().collect();
        let known: Vec<_> = (0..WIDTH).map(|address| ring.fact(address)).collect();
        prop_assert_eq!(known, plain(&facts));
        let mut end = None;
        for (run, fact) in ring.runs() {
            prop_assert!(end.is_none_or(|(end, before)| end < u64::from(run.start()) || (end == u64::from(run.start()) && before != fact)));
            end = Some((run.end(), fact));
        }
    }

    #[test]
    fn merge_is_a_join(a in any_facts(), b in any_facts(), c in any_facts()) {
        let [a, b, c] = [a, b, c].map(|facts| facts.into_iter().collect::<Ring>());
        prop_assert_eq!(merged(a.clone(), &b), merged(b.clone(), &a));
        prop_assert_eq!(merged(merged(a.clone(), &b), &c), merged(a.clone(), &merged(b, &c)));
        prop_assert_eq!(merged(a.clone(), &a), a);
    }

    #[test]
    fn learning_says_whether_it_was_news(facts in any_facts(), new in any_facts()) {
        let mut ring: Ring = facts.into_iter().collect();
        for (range, fact) in new {
            let before = ring.clone();
            let covered = before.covers(range, fact);
            prop_assert_eq!(ring.learn(range, fact), !covered);
            prop_assert_eq!(ring == before, covered);
        }
    }

    /// Owners grant, facts reach others in any order, in parts, again and again: never do two call an address theirs.
    #[test]
    fn no_address_ever_has_two_owners(steps in prop::collection::vec((0..3_usize, 0..3_usize, 0..WIDTH, 1..8_u32, any::<prop::sample::Index>()), 0..80)) {
        let peers = [owner(1), owner(2), owner(3)];
        let mut rings = [(); 3].map(|()| Ring::default());
        for ring in &mut rings {
            ring.share(range(0, WIDTH.into()), &peers);
        }
        let mut said: Vec<(AddressRange, Fact)> = Vec::new();
        for (from, to, start, length, choice) in steps {
            let wanted = range(start, u64::from((start + length).min(WIDTH)));
            match rings[from].owned_in(peers[from], wanted).first() {
                Some(block) if from != to => said.extend(rings[from].grant(*block, peers[from], peers[to])),
                _ => {
                    rings[from].consolidate(peers[from]);
                }
            }
            if !said.is_empty() {
                let (run, fact) = said[choice.index(said.len())];
                let part = run.intersection(wanted).unwrap_or(run);
                rings[to].learn(part, fact);
            }
            for address in 0..WIDTH {
                let owners = (0..3).filter(|peer| rings[*peer].fact(address).is_some_and(|fact| fact.owner == peers[*peer]));
                prop_assert!(owners.count() <= 1, "{} has two owners", address);
            }
        }
    }
}
