use super::*;

const HERE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const THERE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);
const OTHER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 3]);
const PEER: PeerName = PeerName::from_public_key([1; 32]);
const TWIN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const OTHER_TWIN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
const MULTICAST: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const OTHER_PEER: PeerName = PeerName::from_public_key([2; 32]);
/// In another subnet, here and elsewhere.
const APART: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 4]);
const FAR_APART: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 5]);
/// Here, and in both.
const BOTH: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 6]);
const APART_PEER: PeerName = PeerName::from_public_key([3; 32]);
/// Of local experiments (IEEE 802-2014, section 9.2.4).
const UNKNOWN_KIND: u16 = 0x88b5;

fn address(last: u8) -> IpAddr {
    [10, 32, 0, last].into()
}

fn subnets(texts: &[&str]) -> BTreeSet<IpNet> {
    texts.iter().map(|text| text.parse().expect("a subnet")).collect()
}

fn switch() -> Switch {
    let (common, apart) = (subnets(&["10.32.0.0/12"]), subnets(&["10.99.0.0/24"]));
    let both = common.union(&apart).copied().collect();
    Switch::new(Arc::new(ForwardingTable {
        macs: [(THERE, PEER), (OTHER, OTHER_PEER), (FAR_APART, APART_PEER)].into(),
        addresses: [
            (address(2), THERE),
            (address(3), OTHER),
            (TWIN.into(), THERE),
            (OTHER_TWIN.into(), OTHER),
            ([10, 99, 0, 5].into(), FAR_APART),
        ]
        .into(),
        subnets: [
            (HERE, common.clone()),
            (THERE, common.clone()),
            (OTHER, common),
            (APART, apart.clone()),
            (FAR_APART, apart),
            (BOTH, both),
        ]
        .into(),
        local_macs: [HERE, APART, BOTH].into(),
        local_addresses: [address(1)].into(),
        routers: [OTHER].into(),
        allowed: [THERE, OTHER]
            .map(|mac| (mac, "10.32.0.1,10.32.0.2,10.32.0.100,fd00::64".parse().expect("valid")))
            .into(),
    }))
}

/// Returns who gets what is for all, if that is the verdict.
fn flooded(frame: &[u8]) -> Option<Vec<PeerName>> {
    let switch = switch();
    match switch.outbound(frame, &mut Vec::new()) {
        Verdict::Flood(group) => Some(switch.members(group).to_vec()),
        Verdict::Unicast(_) | Verdict::Answer | Verdict::Ignore | Verdict::Drop(_) => None,
    }
}

fn frame(destination: MacAddress, source: MacAddress, ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&destination.octets()[..], &source.octets(), &ethertype.to_be_bytes(), packet].concat()
}

fn ipv4(source: u8, protocol: u8, ports: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 32, 0, source, 10, 32, 0, 9];
    packet.extend(ports);
    packet.extend([0, 8, 0, 0]);
    packet
}

fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1];
    packet.extend(sender);
    packet.extend([0; 6]);
    packet.extend(target);
    packet
}

fn outbound(frame: &[u8]) -> Verdict {
    switch().outbound(frame, &mut Vec::new())
}

#[test]
fn known_destinations_go_to_their_peer_and_groups_to_all() {
    let packet = ipv4(1, 6, [0; 4]);
    assert_eq!(outbound(&frame(THERE, HERE, 0x0800, &packet)), Verdict::Unicast(PEER));
    assert_eq!(flooded(&frame(MacAddress::BROADCAST, HERE, 0x0800, &packet)), Some(vec![PEER, OTHER_PEER]));
    assert_eq!(outbound(&frame(HERE, HERE, 0x0800, &packet)), Verdict::Ignore);
    let unknown = MacAddress::new([2, 9, 9, 9, 9, 9]);
    let verdict = outbound(&frame(unknown, HERE, 0x0800, &packet));
    assert_eq!(verdict, Verdict::Drop(DropReason::UnknownDestination));
}

#[test]
fn questions_are_answered_ignored_or_passed_on() {
    let ask = |target: u8| frame(MacAddress::BROADCAST, HERE, 0x0806, &arp(1, [10, 32, 0, 1], [10, 32, 0, target]));
    let mut answer = Vec::new();
    assert_eq!(switch().outbound(&ask(2), &mut answer), Verdict::Answer);
    assert_eq!(answer[6..12], THERE.octets());
    assert!(flooded(&ask(1)).is_some(), "an announcement");
    assert!(flooded(&ask(77)).is_some(), "nobody is known to have it");
    let probe = frame(MacAddress::BROADCAST, HERE, 0x0806, &arp(1, [0; 4], [10, 32, 0, 1]));
    assert_eq!(outbound(&probe), Verdict::Ignore, "answered on this host");
}

#[test]
fn what_must_not_leave_is_dropped() {
    let resolver = frame(MacAddress::BROADCAST, HERE, 0x0806, &arp(1, [10, 32, 0, 1], RESOLVER.octets()));
    assert_eq!(outbound(&resolver), Verdict::Drop(DropReason::LinkLocal));
    let stp = frame(MacAddress::new([1, 0x80, 0xc2, 0, 0, 0]), HERE, 0x0026, &[0; 40]);
    assert_eq!(outbound(&stp), Verdict::Drop(DropReason::LinkLocal));
    let offer = frame(MacAddress::BROADCAST, HERE, 0x0800, &ipv4(1, 17, [0, 67, 0, 68]));
    assert_eq!(outbound(&offer), Verdict::Drop(DropReason::ForbiddenService));
    let mut advertisement = vec![0; 48];
    advertisement[6] = 58;
    advertisement[40] = 134;
    let advertisement = frame(MacAddress::new([0x33, 0x33, 0, 0, 0, 1]), HERE, 0x86dd, &advertisement);
    assert_eq!(outbound(&advertisement), Verdict::Drop(DropReason::ForbiddenService));
}

#[test]
fn only_a_host_that_routes_sends_for_who_is_outside_of_the_overlay() {
    let switch = switch();
    let from = |peer, source, packet: &[u8]| switch.inbound(&peer, &frame(HERE, source, 0x0800, packet));
    assert_eq!(from(OTHER_PEER, OTHER, &ipv4(200, 6, [0; 4])), Ok(()));
    for lives in [1, 2] {
        assert_eq!(from(OTHER_PEER, OTHER, &ipv4(lives, 6, [0; 4])), Err(DropReason::SpoofedAddress), "{lives} lives");
    }
    let twins = [(Ipv6Addr::LOCALHOST, false), (TWIN, false), ("2001:db8::1".parse().expect("valid"), true)];
    for (source, passes) in twins {
        let packet = frame(HERE, OTHER, 0x86dd, &ipv6(source, 6, &[0; 20]));
        assert_eq!(switch.inbound(&OTHER_PEER, &packet).is_ok(), passes, "{source}");
    }
    let question = arp(1, [10, 32, 0, 200], [10, 32, 0, 1]);
    let question = frame(HERE, OTHER, 0x0806, &question);
    assert_eq!(switch.inbound(&OTHER_PEER, &question), Err(DropReason::SpoofedAddress), "it is no neighbour");
}

#[test]
fn peers_speak_for_their_own_containers_only() {
    let switch = switch();
    let from = |source, address| frame(HERE, source, 0x0800, &ipv4(address, 6, [0; 4]));
    assert_eq!(switch.inbound(&PEER, &from(THERE, 2)), Ok(()));
    assert_eq!(switch.inbound(&PEER, &from(THERE, 200)), Err(DropReason::SpoofedAddress), "nobody is known to have it");
    assert_eq!(switch.inbound(&PEER, &from(OTHER, 3)), Err(DropReason::SpoofedSource));
    assert_eq!(switch.inbound(&PEER, &from(HERE, 2)), Err(DropReason::SpoofedSource));
    assert_eq!(switch.inbound(&PEER, &from(THERE, 3)), Err(DropReason::SpoofedAddress));
    assert_eq!(switch.inbound(&PEER, &from(THERE, 1)), Err(DropReason::SpoofedAddress));
}

fn ipv6(source: Ipv6Addr, next_header: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next_header, 255];
    packet.extend(source.octets());
    packet.extend(MULTICAST.octets());
    packet.extend(rest);
    packet
}

fn advertisement(target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.octets());
    message
}

#[test]
fn addresses_in_the_answers_of_peers_are_checked_too() {
    let switch = switch();
    let arp = |operation, sender| frame(HERE, THERE, 0x0806, &arp(operation, sender, [10, 32, 0, 1]));
    assert_eq!(switch.inbound(&PEER, &arp(2, [10, 32, 0, 2])), Ok(()));
    assert_eq!(switch.inbound(&PEER, &arp(1, [0; 4])), Ok(()), "a probe");
    for (operation, sender) in [(2, [0; 4]), (2, [10, 32, 0, 3]), (1, [10, 32, 0, 200]), (1, [224, 0, 0, 1])] {
        assert_eq!(switch.inbound(&PEER, &arp(operation, sender)), Err(DropReason::SpoofedAddress), "{sender:?}");
    }

    let (link_local, foreign) = (THERE.link_local(), OTHER.link_local());
    let from = |source, next_header, rest: &[u8]| frame(HERE, THERE, 0x86dd, &ipv6(source, next_header, rest));
    for source in [Ipv6Addr::UNSPECIFIED, link_local, TWIN] {
        assert_eq!(switch.inbound(&PEER, &from(source, 6, &[0; 20])), Ok(()), "{source}");
    }
    for source in [OTHER_TWIN, MULTICAST, Ipv6Addr::LOCALHOST, foreign] {
        let verdict = switch.inbound(&PEER, &from(source, 6, &[0; 20]));
        assert_eq!(verdict, Err(DropReason::SpoofedAddress), "{source}");
    }
    let foreign_target = from(link_local, ICMPV6, &advertisement(foreign));
    assert_eq!(switch.inbound(&PEER, &foreign_target), Err(DropReason::SpoofedAddress));
    let stranger = frame(HERE, OTHER, 0x86dd, &ipv6(link_local, 6, &[0; 20]));
    assert_eq!(switch.inbound(&PEER, &stranger), Err(DropReason::SpoofedSource));

    let behind_options = |message: Vec<u8>| [vec![ICMPV6, 0, 1, 4, 0, 0, 0, 0], message].concat();
    for (target, verdict) in [(TWIN, Ok(())), (link_local, Ok(())), (OTHER_TWIN, Err(DropReason::SpoofedAddress))] {
        let plain = from(link_local, ICMPV6, &advertisement(target));
        assert_eq!(switch.inbound(&PEER, &plain), verdict, "{target}");
        let hidden = from(link_local, DESTINATION_OPTIONS, &behind_options(advertisement(target)));
        assert_eq!(switch.inbound(&PEER, &hidden), verdict, "{target} behind an extension header");
    }
    let hidden = from(link_local, DESTINATION_OPTIONS, &behind_options(vec![ROUTER_ADVERTISEMENT; 16]));
    assert_eq!(switch.inbound(&PEER, &hidden), Err(DropReason::ForbiddenService));
}

#[test]
fn what_no_container_can_have_is_nobodys_even_when_published() {
    let impossible = ["224.0.0.1", "127.0.0.1", "169.254.83.53"].map(|text| text.parse::<IpAddr>().expect("valid"));
    let table = ForwardingTable {
        macs: [(THERE, PEER)].into(),
        addresses: impossible.map(|address| (address, THERE)).into(),
        subnets: [HERE, THERE].map(|mac| (mac, subnets(&["10.32.0.0/12"]))).into(),
        local_macs: [HERE].into(),
        ..ForwardingTable::default()
    };
    let switch = Switch::new(Arc::new(table));
    for address in impossible {
        let IpAddr::V4(address) = address else { unreachable!("all are IPv4") };
        let mut packet = ipv4(0, 6, [0; 4]);
        packet[12..16].copy_from_slice(&address.octets());
        let verdict = switch.inbound(&PEER, &frame(HERE, THERE, 0x0800, &packet));
        assert_eq!(verdict, Err(DropReason::SpoofedAddress), "{address}");
    }
}

#[test]
fn an_allowed_address_is_whose_it_is_now_and_never_takes_one_that_was_given() {
    let switch = switch();
    let float = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x64);
    for (peer, mac, local) in [(PEER, THERE, THERE.link_local()), (OTHER_PEER, OTHER, OTHER.link_local())] {
        let from = |kind, packet: &[u8]| switch.inbound(&peer, &frame(HERE, mac, kind, packet));
        let announced = frame(MacAddress::BROADCAST, mac, 0x0806, &arp(1, [10, 32, 0, 100], [10, 32, 0, 100]));
        assert_eq!(switch.inbound(&peer, &announced), Ok(()));
        assert_eq!(from(0x0806, &arp(2, [10, 32, 0, 100], [10, 32, 0, 1])), Ok(()));
        assert_eq!(from(0x0800, &ipv4(100, 6, [0; 4])), Ok(()));
        assert_eq!(from(0x86dd, &ipv6(float, 6, &[0; 20])), Ok(()));
        assert_eq!(from(0x86dd, &ipv6(local, ICMPV6, &advertisement(float))), Ok(()));
        assert_eq!(from(0x0800, &ipv4(1, 6, [0; 4])), Err(DropReason::SpoofedAddress), "it is our own");
    }
    let of_nobody = frame(HERE, THERE, 0x0800, &ipv4(101, 6, [0; 4]));
    assert_eq!(switch.inbound(&PEER, &of_nobody), Err(DropReason::SpoofedAddress));
    let of_another = frame(HERE, OTHER, 0x0800, &ipv4(2, 6, [0; 4]));
    assert_eq!(switch.inbound(&OTHER_PEER, &of_another), Err(DropReason::SpoofedAddress), "it is another's own");
    let stranger = frame(HERE, FAR_APART, 0x0806, &arp(1, [10, 32, 0, 100], [10, 32, 0, 100]));
    assert!(switch.inbound(&APART_PEER, &stranger).is_err());
    // Who has it now answers for itself.
    let question = frame(MacAddress::BROADCAST, HERE, 0x0806, &arp(1, [10, 32, 0, 1], [10, 32, 0, 100]));
    assert_eq!(flooded(&question), Some(vec![PEER, OTHER_PEER]));
}

#[test]
fn only_members_of_one_subnet_exchange_frames_of_whatever_kind() {
    let switch = switch();
    let outbound =
        |destination, source, kind| switch.outbound(&frame(destination, source, kind, &[0; 46]), &mut Vec::new());
    let foreign = Verdict::Drop(DropReason::ForeignSubnet);
    assert_eq!(outbound(THERE, HERE, UNKNOWN_KIND), Verdict::Unicast(PEER));
    assert_eq!(outbound(FAR_APART, HERE, UNKNOWN_KIND), foreign);
    assert_eq!(outbound(THERE, APART, UNKNOWN_KIND), foreign);
    assert_eq!(outbound(THERE, BOTH, UNKNOWN_KIND), Verdict::Unicast(PEER));
    assert_eq!(outbound(FAR_APART, BOTH, UNKNOWN_KIND), Verdict::Unicast(APART_PEER));
    assert_eq!(outbound(THERE, THERE, UNKNOWN_KIND), Verdict::Drop(DropReason::SpoofedSource), "it does not live here");
    let all = |source| flooded(&frame(MacAddress::BROADCAST, source, UNKNOWN_KIND, &[0; 46]));
    assert_eq!(all(APART), Some(vec![APART_PEER]));
    assert_eq!(all(BOTH), Some(vec![PEER, OTHER_PEER, APART_PEER]));
    let ask = |target| frame(MacAddress::BROADCAST, HERE, 0x0806, &arp(1, [10, 32, 0, 1], target));
    assert_eq!(switch.outbound(&ask([10, 99, 0, 5]), &mut Vec::new()), foreign, "a question too");

    let inbound =
        |peer, destination, source| switch.inbound(&peer, &frame(destination, source, UNKNOWN_KIND, &[0; 46]));
    assert_eq!(inbound(PEER, HERE, THERE), Ok(()));
    assert_eq!(inbound(PEER, BOTH, THERE), Ok(()));
    assert_eq!(inbound(PEER, APART, THERE), Err(DropReason::ForeignSubnet));
    assert_eq!(inbound(APART_PEER, HERE, FAR_APART), Err(DropReason::ForeignSubnet));
    assert_eq!(inbound(PEER, FAR_APART, THERE), Err(DropReason::UnknownDestination), "it does not live here");
    assert_eq!(inbound(PEER, MacAddress::BROADCAST, THERE), Ok(()), "the kernel tells the ports apart");
}

#[test]
fn what_is_for_all_of_a_subnet_that_nobody_here_is_in_is_dropped() {
    let table = ForwardingTable {
        macs: [(THERE, PEER)].into(),
        subnets: [(HERE, subnets(&["10.32.0.0/12"])), (THERE, subnets(&["10.99.0.0/24"]))].into(),
        local_macs: [HERE].into(),
        ..ForwardingTable::default()
    };
    let verdict =
        Switch::new(Arc::new(table)).inbound(&PEER, &frame(MacAddress::BROADCAST, THERE, UNKNOWN_KIND, &[0; 46]));
    assert_eq!(verdict, Err(DropReason::ForeignSubnet));
}

#[test]
fn tagged_frames_pass_in_no_direction() {
    let packet = ipv4(2, 6, [0; 4]);
    for tag in [0x8100, 0x88a8] {
        let tagged = |destination, source| frame(destination, source, tag, &[&[0, 0, 8, 0][..], &packet].concat());
        assert_eq!(switch().inbound(&PEER, &tagged(HERE, THERE)), Err(DropReason::VlanTagged));
        assert_eq!(outbound(&tagged(THERE, HERE)), Verdict::Drop(DropReason::VlanTagged));
    }
}

#[test]
fn cut_frames_never_panic() {
    let switch = switch();
    let whole = [
        frame(THERE, HERE, 0x0800, &ipv4(1, 17, [0; 4])),
        frame(THERE, HERE, 0x0806, &arp(1, [10, 32, 0, 1], [10, 32, 0, 2])),
        frame(THERE, HERE, 0x86dd, &[0; 64]),
        frame(HERE, THERE, 0x0806, &arp(2, [10, 32, 0, 2], [10, 32, 0, 1])),
        frame(
            HERE,
            THERE,
            0x86dd,
            &ipv6(TWIN, HOP_BY_HOP, &[&[ICMPV6; 1][..], &[0; 7], &advertisement(TWIN)].concat()),
        ),
    ];
    for frame in whole {
        for length in 0..frame.len() {
            let _ = switch.outbound(&frame[..length], &mut Vec::new());
            let _ = switch.inbound(&PEER, &frame[..length]);
        }
    }
}

#[test]
fn reasons_are_in_the_order_of_their_discriminants() {
    for (index, reason) in DropReason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
    }
}
