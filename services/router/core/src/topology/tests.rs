use proptest::{collection::btree_set, prelude::*};

use super::*;

fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}

fn peers(numbers: &[u8]) -> BTreeSet<PeerName> {
    numbers.iter().copied().map(peer).collect()
}

/// What the peer `local` sees when it and all others publish these links.
fn seen_by(local: u8, links: &BTreeSet<(u8, u8)>) -> Topology {
    let remotes = |of: u8| -> BTreeSet<PeerName> {
        let ends = links.iter().flat_map(|(one, other)| [(*one, *other), (*other, *one)]);
        ends.filter(|(one, other)| *one == of && one != other).map(|(_, other)| peer(other)).collect()
    };
    let mut topology = Topology::new(peer(local));
    topology.set_neighbours(remotes(local));
    for origin in 0..PEERS {
        topology.set_links(peer(origin), remotes(origin));
    }
    topology
}

const PEERS: u8 = 8;

#[test]
fn a_link_counts_when_both_ends_publish_it() {
    let mut topology = Topology::new(peer(0));
    topology.set_neighbours(peers(&[1]));
    assert!(topology.is_reachable(peer(1)), "our own connections need no confirmation");
    topology.set_links(peer(1), peers(&[0, 2]));
    assert!(!topology.is_reachable(peer(2)) && topology.is_claimed(peer(2)));
    topology.set_links(peer(2), peers(&[1]));
    assert_eq!((topology.is_reachable(peer(2)), topology.next_hop(peer(2))), (true, Some(peer(1))));
    topology.set_links(peer(1), peers(&[0]));
    assert!(!topology.is_reachable(peer(2)));
}

#[test]
fn what_others_say_of_our_own_links_does_not_count() {
    let mut topology = Topology::new(peer(0));
    topology.set_links(peer(1), peers(&[0]));
    assert!(!topology.is_reachable(peer(1)));
    assert!(!topology.set_links(peer(0), peers(&[1])));
    assert!(!topology.is_reachable(peer(1)));
}

#[test]
fn the_way_has_the_fewest_links_and_prefers_lower_names() {
    let mut topology = seen_by(0, &BTreeSet::from([(0, 1), (1, 2), (2, 3), (0, 4), (4, 3), (0, 5), (5, 3)]));
    assert_eq!(topology.next_hop(peer(3)), Some(peer(4)));
    assert_eq!(topology.next_hop(peer(2)), Some(peer(1)));
    assert_eq!(topology.next_hop(peer(0)), None);
    assert_eq!(topology.children(peer(0)), Some(&[peer(1), peer(4), peer(5)][..]));
    assert_eq!(topology.children(peer(1)), Some(&[peer(4), peer(5)][..]));
}

#[test]
fn only_news_is_news() {
    let mut topology = Topology::new(peer(0));
    assert!(topology.set_neighbours(peers(&[1])));
    assert!(!topology.set_neighbours(peers(&[1])));
    assert!(topology.set_links(peer(1), peers(&[0])));
    assert!(!topology.set_links(peer(1), peers(&[0])));
    assert!(topology.set_links(peer(1), peers(&[])));
    assert!(!topology.set_links(peer(1), peers(&[])));
}

#[test]
fn nobody_can_tell_who_has_news_of_a_peer_that_is_cut_off() {
    let mut topology = seen_by(0, &BTreeSet::from([(0, 1), (2, 3)]));
    assert_eq!(topology.children(peer(2)), None);
    assert_eq!(topology.children(peer(1)), Some(&[][..]));
}

proptest! {
    /// Where all peers see the same links, news of any origin comes to each peer that a chain of links leads to, once.
    #[test]
    fn news_comes_to_each_peer_once(links in btree_set((0..PEERS, 0..PEERS), 0..20), origin in 0..PEERS) {
        let mut views: Vec<Topology> = (0..PEERS).map(|local| seen_by(local, &links)).collect();
        let mut received = BTreeMap::from([(peer(origin), 1)]);
        let mut waiting = vec![peer(origin)];
        while let Some(at) = waiting.pop() {
            let view = &mut views[usize::from(at.as_bytes()[0])];
            for child in view.children(peer(origin)).expect("news came here over links").to_vec() {
                *received.entry(child).or_insert(0) += 1;
                prop_assert!(received.len() <= usize::from(PEERS) && received[&child] == 1);
                waiting.push(child);
            }
        }
        let reachable: BTreeSet<PeerName> = views[usize::from(origin)].reachable().chain([peer(origin)]).collect();
        prop_assert_eq!(received.into_keys().collect::<BTreeSet<_>>(), reachable);
    }

    /// Following next hops leads to the destination, and not in circles.
    #[test]
    fn next_hops_lead_there(links in btree_set((0..PEERS, 0..PEERS), 0..20), from in 0..PEERS, to in 0..PEERS) {
        let views: Vec<Topology> = (0..PEERS).map(|local| seen_by(local, &links)).collect();
        prop_assume!(from != to && views[usize::from(from)].is_reachable(peer(to)));
        let mut at = peer(from);
        for _ in 0..PEERS {
            if at == peer(to) {
                break;
            }
            at = views[usize::from(at.as_bytes()[0])].next_hop(peer(to)).expect("reachable");
        }
        prop_assert_eq!(at, peer(to));
    }
}
