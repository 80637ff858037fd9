use super::*;

const HERE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const THERE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 2]);
const OTHER: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 3]);
const PEER: PeerName = PeerName::from_public_key([1; 32]);
const OTHER_PEER: PeerName = PeerName::from_public_key([2; 32]);

fn address(last: u8) -> IpAddr {
    [10, 32, 0, last].into()
}

fn switch() -> Switch {
    Switch::new(Arc::new(ForwardingTable {
        macs: [(THERE, PEER), (OTHER, OTHER_PEER)].into(),
        addresses: [(address(2), THERE), (address(3), OTHER)].into(),
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
    assert_eq!(switch.inbound(&PEER, &from(THERE, 200)), Ok(()), "nobody's address: routed traffic");
    assert_eq!(switch.inbound(&PEER, &from(OTHER, 3)), Err(DropReason::SpoofedSource));
    assert_eq!(switch.inbound(&PEER, &from(HERE, 2)), Err(DropReason::SpoofedSource));
    assert_eq!(switch.inbound(&PEER, &from(THERE, 3)), Err(DropReason::SpoofedAddress));
    assert_eq!(switch.inbound(&PEER, &from(THERE, 1)), Err(DropReason::SpoofedAddress));
}

#[test]
fn cut_frames_never_panic() {
    let switch = switch();
    let whole = [
        frame(THERE, HERE, 0x0800, &ipv4(1, 17, [0; 4])),
        frame(THERE, HERE, 0x0806, &arp(1, [10, 32, 0, 1], [10, 32, 0, 2])),
        frame(THERE, HERE, 0x86dd, &[0; 64]),
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
