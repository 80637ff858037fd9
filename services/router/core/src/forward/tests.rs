use super::*;

const HERE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const THERE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);
const OTHER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 3]);
const PEER: PeerName = PeerName::from_public_key([1; 32]);
const TWIN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const OTHER_TWIN: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
const MULTICAST: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const OTHER_PEER: PeerName = PeerName::from_public_key([2; 32]);

fn address(last: u8) -> IpAddr {
    [10, 32, 0, last].into()
}

fn switch() -> Switch {
    Switch::new(Arc::new(ForwardingTable {
        macs: [(THERE, PEER), (OTHER, OTHER_PEER)].into(),
        addresses: [(address(2), THERE), (address(3), OTHER), (TWIN.into(), THERE), (OTHER_TWIN.into(), OTHER)].into(),
        members: [PEER, OTHER_PEER].into(),
        local_macs: [HERE].into(),
        local_addresses: [address(1)].into(),
    }))
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
    assert_eq!(outbound(&frame(MacAddress::BROADCAST, HERE, 0x0800, &packet)), Verdict::Flood);
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
    assert_eq!(outbound(&ask(1)), Verdict::Flood, "an announcement");
    assert_eq!(outbound(&ask(77)), Verdict::Flood, "nobody is known to have it");
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

    let link_local: Ipv6Addr = "fe80::2".parse().expect("valid");
    let from = |source, next_header, rest: &[u8]| frame(HERE, THERE, 0x86dd, &ipv6(source, next_header, rest));
    for source in [Ipv6Addr::UNSPECIFIED, link_local, TWIN] {
        assert_eq!(switch.inbound(&PEER, &from(source, 6, &[0; 20])), Ok(()), "{source}");
    }
    for source in [OTHER_TWIN, MULTICAST, Ipv6Addr::LOCALHOST] {
        let verdict = switch.inbound(&PEER, &from(source, 6, &[0; 20]));
        assert_eq!(verdict, Err(DropReason::SpoofedAddress), "{source}");
    }
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
