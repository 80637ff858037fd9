use proptest::{collection::btree_map, prelude::*};

use super::*;

const PEERS: u8 = 8;

fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}

type Links = BTreeMap<(u8, u8), u32>;

fn links_of(of: u8, links: &Links) -> BTreeMap<PeerName, u32> {
    let ends = links.iter().flat_map(|((one, other), cost)| [(*one, *other, *cost), (*other, *one, *cost)]);
    ends.filter(|(one, other, _)| *one == of && one != other).map(|(_, other, cost)| (peer(other), cost)).collect()
}

/// What the peer `local` sees when it and all others publish these links.
fn seen_by(local: u8, links: &Links) -> Routes {
    let mut routes = Routes::new(peer(local));
    routes.set_neighbours(links_of(local, links));
    for origin in 0..PEERS {
        routes.set_links(peer(origin), links_of(origin, links));
    }
    routes
}

/// The lowest cost from each peer to the destination without one of them, by trying over and over.
fn costs(destination: u8, without: u8, links: &Links) -> BTreeMap<u8, u64> {
    let mut costs = BTreeMap::from([(destination, 0)]);
    for _ in 0..PEERS {
        for ((one, other), cost) in links {
            for (from, to) in [(*one, *other), (*other, *one)] {
                if let Some(rest) = costs.get(&to).copied().filter(|_| from != without && to != without) {
                    let known = costs.entry(from).or_insert(u64::MAX);
                    *known = (*known).min(rest + weight(*cost));
                }
            }
        }
    }
    costs
}

#[test]
fn a_link_counts_when_both_ends_publish_it() {
    let mut routes = Routes::new(peer(0));
    routes.set_neighbours(BTreeMap::from([(peer(1), 5)]));
    routes.set_links(peer(1), BTreeMap::from([(peer(2), 5)]));
    assert_eq!(routes.next_hops(peer(2)), []);
    routes.set_links(peer(2), BTreeMap::from([(peer(1), 5)]));
    assert_eq!(routes.next_hops(peer(2)), [(peer(1), 2)]);
    assert!(!routes.set_links(peer(0), BTreeMap::from([(peer(2), 1)])), "what others say of our own links");
    routes.set_links(peer(1), BTreeMap::new());
    assert_eq!(routes.next_hops(peer(2)), []);
}

#[test]
fn the_cheapest_way_is_first_and_the_dearer_end_counts() {
    let links = Links::from([((0, 1), 10), ((1, 3), 10), ((0, 2), 1), ((2, 3), 100), ((0, 3), 400)]);
    let mut routes = seen_by(0, &links);
    assert_eq!(routes.next_hops(peer(3)), [(peer(1), 2), (peer(2), 2)]);
    assert_eq!(routes.next_hop_for_relay(peer(3), peer(4)), Some(peer(1)));
    assert_eq!(routes.next_hop_for_relay(peer(3), peer(1)), Some(peer(2)));
    routes.set_links(peer(1), BTreeMap::from([(peer(0), 10), (peer(3), 5000)]));
    assert_eq!(routes.next_hops(peer(3)), [(peer(2), 2), (peer(1), 2)]);
    assert_eq!(routes.next_hop_for_relay(peer(3), peer(2)), Some(peer(3)));
}

#[test]
fn ways_end_at_the_hop_limit() {
    let chain: Links = (0..20).map(|number| ((number, number + 1), 1)).collect();
    let mut routes = Routes::new(peer(0));
    routes.set_neighbours(links_of(0, &chain));
    for origin in 1..=20 {
        routes.set_links(peer(origin), links_of(origin, &chain));
    }
    assert_eq!(routes.next_hops(peer(HOP_LIMIT)), [(peer(1), HOP_LIMIT)]);
    assert_eq!(routes.next_hops(peer(HOP_LIMIT + 1)), []);
}

fn links() -> impl Strategy<Value = Links> {
    btree_map((0..PEERS, 0..PEERS), prop_oneof![1..5u32, 1..2000u32], 0..20).prop_map(|links| {
        links.into_iter().filter(|((a, b), _)| a != b).map(|((a, b), cost)| ((a.min(b), a.max(b)), cost)).collect()
    })
}

proptest! {
    /// Where there is no link with the destination, the first of the first hops is that of the cheapest way, and the second
    /// that of one that costs more.
    #[test]
    fn first_hops_are_the_cheapest(mut links in links(), from in 0..PEERS, to in 0..PEERS) {
        prop_assume!(from != to);
        links.remove(&(from.min(to), from.max(to)));
        let costs = costs(to, from, &links);
        let own = links_of(from, &links);
        let total = |hop: &PeerName| {
            own.get(hop).zip(costs.get(&hop.as_bytes()[0])).map(|(own, rest)| weight(*own) + rest)
        };
        let found = seen_by(from, &links).next_hops(peer(to));
        let found: Vec<u64> = found.iter().filter_map(|(hop, _)| total(hop)).collect();
        let mut all: Vec<u64> = own.keys().filter_map(total).collect();
        all.sort_unstable();
        prop_assert_eq!(found.first(), all.first());
        prop_assert!(found.get(1).is_none_or(|second| all[1..].contains(second)));
    }

    /// Where all peers see the same links, a relayed datagram comes to its destination over as many links as were promised, and
    /// visits nobody twice.
    #[test]
    fn next_hops_lead_there(links in links(), from in 0..PEERS, to in 0..PEERS) {
        prop_assume!(from != to);
        for (first, hops) in seen_by(from, &links).next_hops(peer(to)) {
            let (mut at, mut before, mut taken) = (first, peer(from), 1);
            let mut visited = BTreeSet::from([peer(from)]);
            while at != peer(to) {
                prop_assert!(visited.insert(at) && taken <= HOP_LIMIT);
                let next = seen_by(at.as_bytes()[0], &links).next_hop_for_relay(peer(to), before);
                (before, at, taken) = (at, next.expect("a way goes on"), taken + 1);
            }
            prop_assert_eq!(taken, hops);
        }
    }
}
