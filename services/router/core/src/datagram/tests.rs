use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

const KEY: SessionKey = SessionKey([7; 32]);

fn sealed(sealer: &mut Sealer, content: &[u8]) -> Vec<u8> {
    let mut slot = vec![0; HEADER + content.len() + TAG];
    slot[HEADER..HEADER + content.len()].copy_from_slice(content);
    sealer.seal(&mut slot).expect("fresh");
    slot
}

fn open<'a>(opener: &mut Opener, datagram: &'a mut [u8]) -> Result<Opened<'a>, OpenError> {
    let header = Header::decode(datagram).expect("sealed");
    opener.open(header, datagram)
}

#[test]
fn a_datagram_opens_once() {
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let mut sealer = Sealer::new(cipher, &KEY, SessionIndex(0xabcdef));
        let mut opener = Opener::new(cipher, &KEY);
        let mut first = sealed(&mut sealer, b"first");
        let mut second = sealed(&mut sealer, b"second");
        let mut again = first.clone();
        assert_eq!(Header::decode(&second), Some(Header { receiver: SessionIndex(0xabcdef), counter: 1 }));

        let opened = open(&mut opener, &mut second).expect("authentic");
        assert_eq!((&*opened.content, opened.newest), (&b"second"[..], true));
        let opened = open(&mut opener, &mut first).expect("authentic");
        assert_eq!((&*opened.content, opened.newest), (&b"first"[..], false));
        assert_eq!(open(&mut opener, &mut again).expect_err("seen"), OpenError::Replayed);
    }
}

#[test]
fn any_changed_bit_is_noticed() {
    let mut sealer = Sealer::new(Cipher::Aes256Gcm, &KEY, SessionIndex(1));
    let datagram = sealed(&mut sealer, b"content");
    for bit in 0..datagram.len() * 8 {
        let mut damaged = datagram.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Some(header) = Header::decode(&damaged) {
            let mut opener = Opener::new(Cipher::Aes256Gcm, &KEY);
            assert!(opener.open(header, &mut damaged).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn an_exhausted_session_seals_no_more() {
    let mut sealer = Sealer::new(Cipher::Aes256Gcm, &KEY, SessionIndex(1));
    sealer.next = SEAL_LIMIT - 1;
    let mut slot = [0; HEADER + 1 + TAG];
    assert_eq!(sealer.seal(&mut slot), Ok(()));
    assert_eq!(sealer.seal(&mut slot), Err(Exhausted));
}

#[test]
fn a_full_segment_fits_an_ipv6_underlay_of_1500() {
    const { assert!(40 + 8 + HEADER + SEGMENT_HEADER + 1414 + TAG <= 1500) };
}

proptest! {
    #[test]
    fn garbage_is_refused_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Content::decode(&mut bytes.clone());
        let _ = Relayed::decode(&bytes);
        if let Some(header) = Header::decode(&bytes) {
            prop_assert!(Opener::new(Cipher::Aes256Gcm, &KEY).open(header, &mut bytes).is_err());
        }
    }

    #[test]
    fn frames_round_trip(start in any::<u16>(), offset in any::<u8>(), mut frame in prop::collection::vec(any::<u8>(), 0..50)) {
        let checksum = Checksum { start, offset };
        let mut bytes = [&checksum.encode()[..], &frame].concat();
        prop_assert_eq!(Content::decode(&mut bytes), Some(Content::Frame(checksum, &mut frame)));
    }

    #[test]
    fn segments_round_trip(
        kind in 0..3usize, id in any::<u16>(), index in any::<u16>(), size in any::<u16>(), transport in any::<u8>(),
        last in any::<bool>(), mut slice in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let batch = [Batch::Tcp4, Batch::Tcp6, Batch::Udp][kind];
        let header = SegmentHeader { batch, id, index, size, transport, last };
        let mut bytes = [&header.encode()[..], &slice].concat();
        prop_assert_eq!(Content::decode(&mut bytes), Some(Content::Segment(header, &mut slice)));
    }

    #[test]
    fn probes_round_trip(
        token in any::<[u8; 16]>(), received in any::<u64>(), ip in any::<std::net::IpAddr>(), port in 1..=u16::MAX,
        observed in any::<bool>(), length in PROBE_QUESTION..1500,
    ) {
        let ip = ip.to_canonical();
        let source = (observed && !ip.is_unspecified()).then_some(SocketAddr::new(ip, port));
        for probe in [Probe::Question { token }, Probe::Answer { token, received, source }] {
            let mut bytes = vec![7; length];
            probe.encode(&mut bytes);
            prop_assert_eq!(Content::decode(&mut bytes), Some(Content::Probe(probe)));
        }
    }

    #[test]
    fn a_probe_cut_short_is_none(token in any::<[u8; 16]>(), length in 1..PROBE_QUESTION) {
        let mut bytes = vec![0; PROBE_QUESTION];
        Probe::Question { token }.encode(&mut bytes);
        prop_assert_eq!(Content::decode(&mut bytes[..length]), None);
    }

    #[test]
    fn relayed_headers_round_trip(
        hop_limit in 0..=HOP_LIMIT, destination in any::<[u8; 8]>(), source in any::<[u8; 8]>(),
        inner in prop::collection::vec(any::<u8>(), SMALLEST..80),
    ) {
        let header = Relayed { hop_limit, destination: ShortName(destination), source: ShortName(source) };
        let bytes = [&header.encode()[..], &inner].concat();
        prop_assert_eq!(Relayed::decode(&bytes), Some(header));
        prop_assert_eq!(Relayed::decode(&bytes[..RELAYED + SMALLEST - 1]), None);
        prop_assert!(Header::decode(&bytes).is_none(), "nothing is both");
    }
}

#[test]
fn a_relayed_datagram_crosses_as_many_links_as_its_limit() {
    let name = ShortName::from(weft_types::PeerName::from_public_key([1; 32]));
    let mut header = Relayed { hop_limit: 3, destination: name, source: name };
    let mut links = 1;
    while let Some(next) = header.next_hop() {
        links += 1;
        header = next;
    }
    assert_eq!(links, 3);
    assert_eq!(Relayed { hop_limit: 0, ..header }.next_hop(), None);
}
