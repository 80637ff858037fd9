use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::gossip::Position;

fn peers() -> impl Strategy<Value = PeerName> {
    any::<[u8; 32]>().prop_map(PeerName::from_public_key)
}

fn positions() -> impl Strategy<Value = Position> {
    (0..limits::NUMBER, 0..limits::NUMBER).prop_map(|(generation, version)| Position { generation, version })
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn deltas() -> impl Strategy<Value = Delta> {
    let entries = vec(("[a-z0-9.-]{1,64}", bytes(256), option::of(bytes(300)), any::<prop::sample::Index>()), 0..5);
    let numbers = (positions(), any::<prop::sample::Index>(), any::<bool>());
    (peers(), numbers, entries, 1..=limits::PARTS, any::<prop::sample::Index>()).prop_map(
        |(origin, (at, base, complete), entries, parts, part)| {
            let at = Position { version: at.version + 1, ..at };
            let base_version = if complete { 0 } else { base.index(at.version as usize) as u64 };
            let version = |index: prop::sample::Index| {
                base_version + 1 + index.index((at.version - base_version) as usize) as u64
            };
            let entries = entries
                .into_iter()
                .map(|(channel, key, value, index)| DeltaEntry { channel, key, version: version(index), value })
                .collect();
            let part = part.index(parts as usize) as u32;
            Delta { origin, at, base_version, complete, entries, part, parts }
        },
    )
}

fn session_messages() -> impl Strategy<Value = SessionMessage> {
    use pb::session_message::Kind;
    let noise = || vec(any::<u8>(), 0..200);
    prop_oneof![
        (any::<u32>(), noise())
            .prop_map(|(receiver_index, noise)| Kind::Init(pb::SessionInit { receiver_index, noise })),
        (any::<u32>(), any::<u32>(), noise()).prop_map(|(answered_index, receiver_index, noise)| {
            Kind::Response(pb::SessionResponse { answered_index, receiver_index, noise })
        }),
    ]
    .prop_map(|kind| SessionMessage { kind: Some(kind) })
}

fn messages() -> impl Strategy<Value = ControlMessage> {
    let origins = vec((peers(), positions()).prop_map(|(origin, at)| OriginVersion { origin, at }), 0..5);
    let bodies = prop_oneof![
        ("[a-z0-9.-]{1,64}", bytes(300)).prop_map(|(channel, payload)| RoutedBody::Channel { channel, payload }),
        session_messages().prop_map(RoutedBody::Session),
    ];
    let reasons = (0..=11).prop_map(|number| {
        GoodbyeReason::from(pb::GoodbyeReason::try_from(number).expect("all numbers up to the last are reasons"))
    });
    prop_oneof![
        (any::<u64>(), any::<bool>()).prop_map(|(token, echo)| ControlMessage::Heartbeat { token, echo }),
        any::<[u8; 32]>().prop_map(ControlMessage::Digest),
        (origins, any::<bool>()).prop_map(|(origins, answer)| ControlMessage::Vector { origins, answer }),
        deltas().prop_map(ControlMessage::Delta),
        (peers(), peers(), 0..=MAX_HOPS, bodies).prop_map(|(source, destination, hops_left, body)| {
            ControlMessage::Routed(Routed { source, destination, hops_left, body })
        }),
        (reasons, "[a-z ]{0,80}").prop_map(|(reason, message)| ControlMessage::Goodbye(Goodbye { reason, message })),
        bytes(1600).prop_map(ControlMessage::Datagram),
    ]
}

proptest! {
    #[test]
    fn every_message_survives_the_wire(message in messages()) {
        prop_assert_eq!(ControlMessage::decode(&message.encode()), Ok(message));
    }

    /// What arrives may be anything: it is understood or refused.
    #[test]
    fn no_bytes_cause_a_panic(message in messages(), at in any::<prop::sample::Index>(), byte: u8, cut in any::<bool>()) {
        let mut bytes = message.encode();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
            bytes.truncate(if cut { at } else { bytes.len() });
        }
        let _ = ControlMessage::decode(&bytes);
    }
}

#[test]
fn later_kinds_are_passed_over() {
    // Field 99, length-delimited, empty.
    assert_eq!(ControlMessage::decode(&[0x9a, 0x06, 0x00]), Ok(ControlMessage::Unknown));
    assert_eq!(ControlMessage::decode(&[]), Ok(ControlMessage::Unknown));
}

#[test]
fn what_exceeds_a_limit_is_refused() {
    let too_long = vec![0; MAX_MESSAGE_LENGTH + 1];
    assert_eq!(ControlMessage::decode(&too_long), Err(ProtocolError::TooLong { length: too_long.len() }));

    let encoded = |kind| pb::ControlMessage { kind: Some(kind) }.encode_to_vec();
    use pb::control_message::Kind;
    let name = || Some(PeerName::from_public_key([1; 32]).into());
    let origin = pb::OriginVersion { origin: name(), generation: 1, version: 1 };
    let origins = vec![origin; limits::ORIGINS + limits::SURPLUS + 1];
    let routed = |kind| pb::Routed { source: name(), destination: name(), hops_left: 1, kind: Some(kind) };
    let payload = pb::ChannelMessage { channel: "ring".to_owned(), payload: vec![0; MAX_PAYLOAD_LENGTH + 1] };
    let delta = pb::GossipDelta { origin: name(), generation: 1, version: 1, parts: 1, ..pb::GossipDelta::default() };
    let entry = pb::GossipEntry { channel: "ring".to_owned(), version: 1, ..pb::GossipEntry::default() };
    let with = |entry| pb::GossipDelta { entries: vec![entry], ..delta.clone() };
    for kind in [
        Kind::GossipVector(pb::GossipVector { origins, answer: false }),
        Kind::GossipDigest(pb::GossipDigest { hash: vec![0; 31] }),
        Kind::GossipDelta(pb::GossipDelta { origin: None, ..delta.clone() }),
        Kind::GossipDelta(pb::GossipDelta { generation: limits::NUMBER, ..delta.clone() }),
        Kind::GossipDelta(pb::GossipDelta { parts: limits::PARTS + 1, ..delta.clone() }),
        Kind::GossipDelta(with(pb::GossipEntry { key: vec![0; limits::KEY_LENGTH + 1], ..entry.clone() })),
        Kind::GossipDelta(with(pb::GossipEntry { value: Some(vec![0; limits::VALUE_LENGTH + 1]), ..entry.clone() })),
        Kind::GossipDelta(with(pb::GossipEntry { channel: String::new(), ..entry })),
        Kind::Routed(routed(pb::routed::Kind::ChannelMessage(payload))),
        Kind::Routed(pb::Routed { source: None, ..pb::Routed::default() }),
    ] {
        let refused = ControlMessage::decode(&encoded(kind.clone()));
        assert!(refused.is_err(), "{kind:?}");
    }
}

#[test]
fn a_goodbye_cannot_paint_on_a_terminal() {
    let goodbye = pb::Goodbye { reason: 77, message: format!("\x1b[31mred\n{}", "é".repeat(1000)) };
    let kind = Some(pb::control_message::Kind::Goodbye(goodbye));
    let decoded = ControlMessage::decode(&pb::ControlMessage { kind }.encode_to_vec());
    let Ok(ControlMessage::Goodbye(goodbye)) = decoded else { panic!("a goodbye: {decoded:?}") };
    assert_eq!(goodbye.reason, GoodbyeReason::Unspecified);
    assert!(goodbye.message.starts_with("[31mredé") && goodbye.message.len() <= MAX_SENTENCE_LENGTH);
}
