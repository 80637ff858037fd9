use super::*;

const BRIDGE: u32 = 7;
const NAME: &str = "weft";
const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);

fn link(vni: u32, used: bool) -> TrustedLink {
    TrustedLink {
        vni,
        local: [192, 0, 2, 1].into(),
        remote: [192, 0, 2, 2].into(),
        sources: Arc::new([(MAC, [[10, 32, 0, 1].into()].into()), (OTHER, BTreeSet::new())].into()),
        used,
    }
}

fn desired(links: &[TrustedLink]) -> DesiredTrusted {
    DesiredTrusted { enabled: true, mtu: 1400, links: links.to_vec() }
}

/// A kernel that does what it is told.
#[derive(Default)]
struct Host {
    observed: ObservedTrusted,
    next: u32,
}

impl Host {
    fn new() -> Self {
        Self { observed: ObservedTrusted { bridge: Some(BRIDGE), ..ObservedTrusted::default() }, next: 10 }
    }

    /// Applies what differs until nothing does, and returns all that was applied.
    fn settle(&mut self, desired: &DesiredTrusted) -> Vec<TrustedChange> {
        let mut all = Vec::new();
        for _ in 0..8 {
            let changes = trusted_difference(NAME, desired, &self.observed);
            if changes.is_empty() {
                return all;
            }
            changes.iter().for_each(|change| self.apply(change));
            all.extend(changes);
        }
        panic!("it never ends: {all:?}");
    }

    fn apply(&mut self, change: &TrustedChange) {
        let observed = &mut self.observed;
        let known = observed.links.iter_mut();
        let find = |index: u32| known.into_iter().find(|link| link.index == index).expect("it is there");
        match change {
            TrustedChange::CreateLink(link) => {
                assert!(observed.tables == trusted_tables(NAME), "a device before its filter");
                observed.links.push(ObservedLink {
                    index: self.next,
                    name: link.name(),
                    kind: "vxlan".into(),
                    alias: None,
                    mac: None,
                    mtu: 1400,
                    up: false,
                    tx_queue_length: 0,
                    master: None,
                    peer_index: None,
                    peer_namespace: None,
                    makes_addresses: Some(true),
                    bridge: None,
                    port: None,
                    vxlan: Some(link.settings()),
                    forwards: false,
                });
                self.next += 1;
            }
            TrustedChange::DeleteLink { index, .. } => {
                observed.links.retain(|link| link.index != *index);
                observed.forwarding.retain(|entry| entry.port != *index);
            }
            TrustedChange::SetLink { index, master, mtu, .. } => {
                let link = find(*index);
                link.alias = Some(ALIAS.into());
                (link.master, link.mtu, link.up, link.makes_addresses) = (Some(*master), *mtu, true, Some(false));
                link.port = Some(ObservedPort { learning: true, isolated: false, unicast_flood: true, ..PORT });
            }
            TrustedChange::SetPort { index, settings, .. } => find(*index).port = Some(*settings),
            TrustedChange::AddForwarding(entry) => {
                assert_eq!(find(entry.port).port, Some(PORT), "frames before the port is as it should be");
                observed.forwarding.insert(*entry);
            }
            TrustedChange::RemoveForwarding(entry) => assert!(observed.forwarding.remove(entry)),
            TrustedChange::RemoveTable(family, name) => {
                observed.tables.retain(|table| (table.family, &table.name) != (*family, name));
            }
            TrustedChange::ReplaceTable(table) => {
                observed.tables.retain(|other| other.family != table.family);
                observed.tables.push(table.clone());
                observed.tables.sort_by_key(|table| table.family);
                observed.keys.retain(|(family, _), _| *family != table.family);
            }
            TrustedChange::ChangeSet { family, set, add, remove, .. } => {
                let keys = observed.keys.entry((*family, set.clone())).or_default();
                keys.extend(add.iter().cloned());
                keys.retain(|key| !remove.contains(key));
            }
        }
    }
}

#[test]
fn a_host_that_trusts_nobody_needs_nothing_and_loses_what_is_left() {
    let mut host = Host::new();
    assert_eq!(host.settle(&DesiredTrusted::default()), []);
    host.settle(&desired(&[link(1, true)]));
    assert!(!host.settle(&DesiredTrusted::default()).is_empty());
    assert!(host.observed.links.is_empty() && host.observed.tables.is_empty());
}

#[test]
fn filters_stand_until_the_last_device_is_gone() {
    let mut host = Host::new();
    host.settle(&desired(&[link(1, true)]));
    // A device that the kernel does not delete.
    for _ in 0..3 {
        let changes = trusted_difference(NAME, &DesiredTrusted::default(), &host.observed);
        assert!(matches!(changes[..], [TrustedChange::DeleteLink { .. }]), "{changes:?}");
    }
    host.settle(&DesiredTrusted::default());
    assert!(host.observed.links.is_empty() && host.observed.tables.is_empty());
}

#[test]
fn a_device_is_made_when_it_is_a_port_that_is_up() {
    let mut host = Host::new();
    let (wanted, other) = (link(1, false), link(2, false));
    let desired = desired(std::slice::from_ref(&wanted));
    assert!(!host.observed.is_made(&desired, &wanted));
    host.settle(&desired);
    assert!(host.observed.is_made(&desired, &wanted) && !host.observed.is_made(&desired, &other));
    let moved = TrustedLink { remote: [192, 0, 2, 9].into(), ..wanted.clone() };
    assert!(!host.observed.is_made(&desired, &moved), "it leads elsewhere");
    host.observed.links[0].up = false;
    assert!(!host.observed.is_made(&desired, &wanted));
}

#[test]
fn filters_stand_before_any_peer_is_there() {
    let mut host = Host::new();
    host.settle(&desired(&[]));
    assert_eq!(host.observed.tables, trusted_tables(NAME));
    assert!(host.observed.links.is_empty());
}

#[test]
fn frames_go_there_only_while_it_is_used() {
    let mut host = Host::new();
    host.settle(&desired(&[link(1, false)]));
    assert_eq!(host.observed.links.len(), 1);
    assert!(host.observed.forwarding.is_empty());
    assert_eq!(host.settle(&desired(&[link(1, true)])).len(), 2, "one entry for each MAC, and nothing else");
    assert_eq!(host.observed.forwarding.iter().map(|entry| entry.mac).collect::<Vec<_>>(), [MAC, OTHER]);
    host.settle(&desired(&[link(1, false)]));
    assert!(host.observed.forwarding.is_empty());
}

#[test]
fn a_peer_that_moves_gets_another_device() {
    let mut host = Host::new();
    host.settle(&desired(&[link(1, true)]));
    let moved = TrustedLink { remote: [192, 0, 2, 9].into(), ..link(1, true) };
    let changes = host.settle(&desired(std::slice::from_ref(&moved)));
    assert!(matches!(changes.first(), Some(TrustedChange::DeleteLink { .. })), "{changes:?}");
    assert_eq!(host.observed.links[0].vxlan, Some(moved.settings()));
    let peers = &host.observed.keys[&(Family::Inet, "peers4".to_owned())];
    assert_eq!(peers.iter().collect::<Vec<_>>(), [&vec![192, 0, 2, 9, 0, 0, 1, 0]]);
}

#[test]
fn what_others_change_is_put_right() {
    let mut host = Host::new();
    let desired = desired(&[link(1, true), link(2, true)]);
    host.settle(&desired);
    let whole = host.observed.clone();
    let damages: [fn(&mut ObservedTrusted); 7] = [
        |host| host.tables.clear(),
        |host| host.keys.clear(),
        |host| host.links[0].up = false,
        |host| host.links[0].master = None,
        |host| host.links[0].port.as_mut().expect("a port").learning = true,
        |host| host.forwarding.clear(),
        |host| host.links[0].vxlan.as_mut().expect("VXLAN").learning = true,
    ];
    for damage in damages {
        damage(&mut host.observed);
        assert!(!host.settle(&desired).is_empty());
        assert_eq!((&host.observed.tables, &host.observed.keys), (&whole.tables, &whole.keys));
        assert_eq!(host.observed.forwarding.len(), whole.forwarding.len());
        assert_eq!(host.observed.links.len(), 2);
    }
    host.observed.links.push(ObservedLink { name: "weft-other".into(), index: 99, ..host.observed.links[0].clone() });
    assert_eq!(host.settle(&desired), [], "another's device is none of ours");
}

#[test]
fn keys_have_the_lengths_that_their_sets_say() {
    let six = TrustedLink { remote: "fd00::2".parse().expect("valid"), ..link(2, true) };
    let mut with_six = link(1, true);
    Arc::make_mut(&mut with_six.sources).entry(MAC).or_default().insert("fd10::1".parse().expect("valid"));
    let keys = keys(&[with_six, six]);
    for table in trusted_tables(NAME) {
        for set in table.sets {
            let length = set.key.iter().map(|part| usize::from(part.units()) * 4).sum::<usize>();
            let present = &keys[&(table.family, set.name.clone())];
            assert!(!present.is_empty() && present.iter().all(|key| key.len() == length), "{}", set.name);
        }
    }
}
