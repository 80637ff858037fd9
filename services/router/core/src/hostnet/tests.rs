use std::collections::BTreeSet;

use weft_types::MacAddress;

use super::*;

const BRIDGE: u32 = 10;
const TAP: u32 = 11;
const DNS: u32 = 12;
const VETH: u32 = 13;
const MAC: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 9]);

fn desired() -> DesiredHost {
    DesiredHost {
        bridge: "weft".into(),
        bridge_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        mtu: 1400,
        tap: "weft-tap".into(),
        tap_queue_length: 64,
        dns_port: "weft-dns".into(),
        dns_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
        dns_index: Some(DNS),
        table: own_table("weft", &[6784]),
        exposed_by_ipv6: false,
    }
}

fn link(index: u32, name: &str, kind: &str) -> ObservedLink {
    ObservedLink {
        index,
        name: name.into(),
        kind: kind.into(),
        alias: Some(ALIAS.into()),
        mac: Some(MAC),
        mtu: 1400,
        up: true,
        tx_queue_length: 64,
        master: None,
        peer_index: None,
        peer_namespace: None,
        makes_addresses: Some(false),
        bridge: None,
        port: None,
        vxlan: None,
        forwards: true,
    }
}

fn port(index: u32, name: &str, kind: &str, role: PortRole) -> ObservedLink {
    ObservedLink {
        master: Some(BRIDGE),
        port: Some(role.settings()),
        peer_namespace: Some(0),
        peer_index: Some(2),
        ..link(index, name, kind)
    }
}

/// A host with one container on which nothing has to change.
fn right() -> ObservedHost {
    let desired = desired();
    let marker = PortMarker { container: "abc".parse().expect("an id"), mac: MAC, pid: 1 };
    let links = vec![
        link(1, "eth0", ""),
        ObservedLink {
            mac: Some(desired.bridge_mac),
            bridge: Some(ObservedBridge::DESIRED),
            ..link(BRIDGE, "weft", "bridge")
        },
        port(TAP, "weft-tap", "tun", PortRole::Tap),
        port(DNS, "weft-dns", "veth", PortRole::Local(desired.dns_mac)),
        ObservedLink { alias: Some(marker.to_string()), ..port(VETH, "vethwabc", "veth", PortRole::Local(MAC)) },
    ];
    let forward = ChainRef { family: Family::Ipv4, chain: "FORWARD".into() };
    ObservedHost {
        links,
        forwarding: [ForwardingEntry { port: DNS, mac: desired.dns_mac }, ForwardingEntry { port: VETH, mac: MAC }]
            .into(),
        sysctls: desired.sysctls().into_iter().map(|sysctl| (sysctl.path, sysctl.value)).collect(),
        table: Some(desired.table),
        chains: [(forward, vec![(7, accept_rule("weft"))])].into(),
    }
}

fn changed(index: u32, change: impl FnOnce(&mut ObservedLink)) -> Vec<Change> {
    let mut observed = right();
    change(observed.links.iter_mut().find(|link| link.index == index).expect("there"));
    difference(&desired(), &observed)
}

#[test]
fn nothing_changes_when_all_is_right() {
    assert_eq!(difference(&desired(), &right()), []);
}

#[test]
fn an_empty_host_gets_the_bridge_and_the_table_first() {
    let changes = difference(&DesiredHost { dns_index: None, ..desired() }, &ObservedHost::default());
    assert_eq!(changes, [Change::CreateBridge, Change::ReplaceTable(desired().table)]);
}

#[test]
fn each_wrong_setting_is_corrected_alone() {
    assert!(matches!(&changed(BRIDGE, |link| link.up = false)[..], [Change::SetLink { index: BRIDGE, mtu: None, .. }]));
    assert!(matches!(&changed(TAP, |link| link.mtu = 1500)[..], [Change::SetLink { index: TAP, mtu: Some(1400), .. }]));
    assert!(matches!(&changed(VETH, |link| link.master = None)[..], [Change::SetLink { master: Some(BRIDGE), .. }]));
    assert!(matches!(&changed(VETH, |link| link.port = None)[..], [Change::SetPort { index: VETH, .. }]));
    assert!(matches!(&changed(TAP, |l| l.makes_addresses = Some(true))[..], [Change::SetLink { quiet: true, .. }]));
    assert_eq!(changed(1, |link| link.up = false), [], "other links are not ours");
}

#[test]
fn leftovers_go_and_strangers_stay() {
    let deleted = |index| move |changes: Vec<Change>| changes.contains(&Change::DeleteLink { index, name: "x".into() });
    assert!(deleted(VETH)(changed(VETH, |link| {
        link.name = "x".into();
        link.peer_namespace = None;
    })));
    let mut observed = right();
    observed.links.push(link(99, "weft-dns", "veth"));
    let changes = difference(&DesiredHost { dns_index: None, ..desired() }, &observed);
    assert!(changes.contains(&Change::DeleteLink { index: 99, name: "weft-dns".into() }));
    assert!(changes.contains(&Change::CreateDnsPort));
    let changes = changed(BRIDGE, |link| link.kind = "bond".into());
    assert_eq!(changes, [], "a name that somebody else took is a problem, not ours to change");
}

#[test]
fn the_forwarding_table_is_exact() {
    let mut observed = right();
    let stale = ForwardingEntry { port: VETH, mac: MacAddress::new([2, 0, 0, 0, 0, 8]) };
    let foreign = ForwardingEntry { port: 1, mac: MAC };
    observed.forwarding = BTreeSet::from([stale, foreign, ForwardingEntry { port: DNS, mac: desired().dns_mac }]);
    let expected = [Change::RemoveForwarding(stale), Change::AddForwarding(ForwardingEntry { port: VETH, mac: MAC })];
    assert_eq!(difference(&desired(), &observed), expected);
}

#[test]
fn each_chain_that_frames_may_pass_has_one_marked_rule() {
    let mut observed = right();
    let user = ChainRef { family: Family::Ipv4, chain: "DOCKER-USER".into() };
    let forward = ChainRef { family: Family::Ipv4, chain: "FORWARD".into() };
    observed.chains.insert(user.clone(), Vec::new());
    let twice = vec![(7, accept_rule("weft")), (8, accept_rule("weft"))];
    observed.chains.insert(forward.clone(), twice);
    let insert = accept_rule("weft");
    let expected = [
        Change::MarkChain { chain: user, delete: vec![], insert: insert.clone() },
        Change::MarkChain { chain: forward, delete: vec![7, 8], insert },
    ];
    assert_eq!(difference(&desired(), &observed), expected);
}
