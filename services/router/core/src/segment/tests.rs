use proptest::prelude::*;

use super::*;

/// A batch as the kernel hands it over, and where its headers are.
#[derive(Debug, Clone)]
struct Sample {
    batch: Batch,
    ipv6: bool,
    transport: usize,
    headers: usize,
    size: u16,
    frame: Vec<u8>,
}

fn sample() -> impl Strategy<Value = Sample> {
    let kind = prop_oneof![
        Just((Batch::Tcp4, false)),
        Just((Batch::Tcp6, true)),
        Just((Batch::Udp, false)),
        Just((Batch::Udp, true))
    ];
    let noise = prop::collection::vec(any::<u8>(), 120);
    (kind, noise, 0..=10usize, any::<bool>(), 1..1500u16, 1..20_000usize, any::<u8>()).prop_map(
        |((batch, ipv6), noise, options, vlan, size, length, fill)| {
            build(batch, ipv6, &noise, options, vlan, size, length, fill)
        },
    )
}

#[expect(clippy::too_many_arguments, reason = "each is one property of the sample")]
fn build(
    batch: Batch,
    ipv6: bool,
    noise: &[u8],
    options: usize,
    vlan: bool,
    size: u16,
    length: usize,
    fill: u8,
) -> Sample {
    let length = length.min(usize::from(size) * 64);
    let mut frame = noise[..12].to_vec();
    if vlan {
        frame.extend([0x81, 0, noise[12], noise[13]]);
    }
    frame.extend(if ipv6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes());
    let network = frame.len();
    let udp = batch == Batch::Udp;
    let transport_header = if udp { 8 } else { 20 + 4 * options };
    let total = transport_header + length;
    let protocol = if udp { PROTOCOL_UDP } else { PROTOCOL_TCP };
    if ipv6 {
        frame.extend([0x60, noise[14], noise[15], noise[16]]);
        frame.extend((total as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        frame.extend(&noise[20..52]);
    } else {
        frame.extend([0x45, noise[14]]);
        frame.extend((20 + total as u16).to_be_bytes());
        frame.extend([noise[15], noise[16], 0x40, 0, 64, protocol, 0, 0]);
        frame.extend(&noise[20..28]);
        let checksum = !fold(sum(&frame[network..]));
        put(&mut frame, network + 10, checksum);
    }
    let transport = frame.len();
    frame.extend(&noise[52..56]);
    if udp {
        frame.extend((total as u16).to_be_bytes());
        frame.extend([0, 0]);
    } else {
        frame.extend(&noise[56..64]);
        frame.extend([((5 + options) << 4) as u8, noise[64]]);
        frame.extend([noise[65], noise[66], 0, 0, noise[67], noise[68]]);
        frame.extend(&noise[70..70 + 4 * options]);
    }
    let headers = frame.len();
    frame.extend((0..length).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ fill));
    let pseudo = pseudo_sum(ipv6, network, protocol, total, &frame);
    put(&mut frame, transport + usize::from(batch.checksum_offset()), fold(pseudo));
    Sample { batch, ipv6, transport, headers, size, frame }
}

fn pseudo_sum(ipv6: bool, network: usize, protocol: u8, length: usize, frame: &[u8]) -> u64 {
    let addresses = if ipv6 { network + 8..network + 40 } else { network + 12..network + 20 };
    sum(&frame[addresses]) + u64::from(protocol) + length as u64
}

/// Cuts as a host without any offload would have built the segments in the first place, checksums from scratch.
fn naive(sample: &Sample) -> Vec<Vec<u8>> {
    let udp = sample.batch == Batch::Udp;
    let chunks: Vec<&[u8]> = sample.frame[sample.headers..].chunks(sample.size.into()).collect();
    let network = if sample.ipv6 { sample.transport - 40 } else { sample.transport - 20 };
    let mut sequence = u32::from_be_bytes(*sample.frame[sample.transport + 4..].first_chunk().expect("headers"));
    let mut segments = Vec::new();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut segment = [&sample.frame[..sample.headers], chunk].concat();
        let length = segment.len() - sample.transport;
        if sample.ipv6 {
            put(&mut segment, network + 4, length as u16);
        } else {
            put(&mut segment, network + 2, 20 + length as u16);
            let id = word(&segment, network + 4).expect("headers").wrapping_add(index as u16);
            put(&mut segment, network + 4, id);
            put(&mut segment, network + 10, 0);
            let checksum = !fold(sum(&segment[network..network + 20]));
            put(&mut segment, network + 10, checksum);
        }
        if udp {
            put(&mut segment, sample.transport + 4, length as u16);
        } else {
            segment[sample.transport + 4..sample.transport + 8].copy_from_slice(&sequence.to_be_bytes());
            sequence = sequence.wrapping_add(chunk.len() as u32);
            if index > 0 {
                segment[sample.transport + 13] &= !CWR;
            }
            if index + 1 < chunks.len() {
                segment[sample.transport + 13] &= !(FIN | PUSH);
            }
        }
        let field = sample.transport + usize::from(sample.batch.checksum_offset());
        put(&mut segment, field, 0);
        let protocol = if udp { PROTOCOL_UDP } else { PROTOCOL_TCP };
        let total = pseudo_sum(sample.ipv6, network, protocol, length, &segment) + sum(&segment[sample.transport..]);
        let checksum = !fold(total);
        put(&mut segment, field, if checksum == 0 { 0xffff } else { checksum });
        segments.push(segment);
    }
    segments
}

fn cut(sample: &Sample, id: u16) -> Vec<(SegmentHeader, Vec<u8>)> {
    let cut = Cut::new(sample.batch, sample.transport as u16, sample.size, &sample.frame).expect("well formed");
    let slice = |index| {
        let mut slice = vec![0xee; cut.slice_length(index)];
        cut.write(index, &mut slice);
        (cut.header(id, index), slice)
    };
    (0..cut.count()).map(slice).collect()
}

/// Joins all neighbours, then cuts and completes the results again, as the receiving kernel would.
fn receive(slices: &[(SegmentHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut frames: Vec<(Join, Vec<u8>)> = Vec::new();
    for (header, slice) in slices {
        if let Some((join, payload)) = frames.last_mut()
            && join.push(*header, slice)
        {
            payload.extend(&slice[join.payload_offset()..]);
            continue;
        }
        let join = Join::new(*header, slice).expect("well formed");
        let payload = slice[join.payload_offset()..].to_vec();
        frames.push((join, payload));
    }
    let mut segments = Vec::new();
    for (mut join, payload) in frames {
        let (headers, joined) = join.finish();
        let frame = [headers, &payload].concat();
        let complete = |mut segment: Vec<u8>| {
            assert!(complete_checksum(joined.checksum, &mut segment));
            segment
        };
        match joined.batch {
            None => segments.push(complete(frame)),
            Some((batch, size)) => {
                let sample = Sample {
                    batch,
                    ipv6: false,
                    transport: joined.checksum.start.into(),
                    headers: joined.headers.into(),
                    size,
                    frame,
                };
                segments.extend(cut(&sample, 0).into_iter().map(|(_, slice)| complete(slice)));
            }
        }
    }
    segments
}

proptest! {
    #[test]
    fn every_slice_alone_is_the_segment_that_the_kernel_would_have_built(sample in sample()) {
        for ((_, mut slice), expected) in cut(&sample, 5).into_iter().zip(naive(&sample)) {
            let checksum = Checksum { start: sample.transport as u16, offset: sample.batch.checksum_offset() };
            prop_assert!(complete_checksum(checksum, &mut slice));
            prop_assert_eq!(slice, expected);
        }
    }

    #[test]
    fn all_slices_joined_are_the_batch(sample in sample()) {
        let slices = cut(&sample, 9);
        let mut join = Join::new(slices[0].0, &slices[0].1).expect("well formed");
        for (header, slice) in &slices[1..] {
            prop_assert!(!join.is_complete());
            prop_assert!(join.push(*header, slice));
        }
        prop_assert!(join.is_complete());
        let (headers, joined) = join.finish();
        prop_assert_eq!(joined.batch, (slices.len() > 1).then_some((sample.batch, sample.size)));
        prop_assert_eq!(usize::from(joined.headers), sample.headers);
        // The two zeroes of one's complement are equal.
        let field = sample.transport + usize::from(sample.batch.checksum_offset());
        let normal = |bytes: &[u8]| bytes[field..field + 2] == [0xff; 2] || bytes[field..field + 2] == [0; 2];
        if normal(headers) {
            prop_assert!(normal(&sample.frame));
        } else {
            prop_assert_eq!(headers, &sample.frame[..sample.headers]);
        }
    }

    #[test]
    fn losing_slices_loses_their_segments_only(sample in sample(), lost in prop::collection::vec(any::<bool>(), 64)) {
        let arrived = |index: &usize| !lost[*index % lost.len()];
        let slices = cut(&sample, 1);
        let expected = naive(&sample);
        let kept: Vec<_> = (0..slices.len()).filter(arrived).map(|index| slices[index].clone()).collect();
        let segments: Vec<_> = (0..slices.len()).filter(arrived).map(|index| expected[index].clone()).collect();
        prop_assert_eq!(receive(&kept), segments);
    }

    #[test]
    fn slices_of_two_batches_never_mix(a in sample(), b in sample()) {
        let mut slices = cut(&a, 1);
        slices.extend(cut(&b, 2));
        let mut expected = naive(&a);
        expected.extend(naive(&b));
        prop_assert_eq!(receive(&slices), expected);
    }

    #[test]
    fn garbage_never_panics(
        mut sample in sample(), at in 0..120usize, value in any::<u8>(), transport in any::<u16>(), length in 0..200usize,
    ) {
        let at = at.min(sample.frame.len() - 1);
        sample.frame[at] = value;
        sample.frame.truncate(sample.headers + length);
        let frame = &sample.frame;
        for transport in [transport % 80, sample.transport as u16] {
            if let Ok(cut) = Cut::new(sample.batch, transport, sample.size, frame) {
                for index in 0..cut.count() {
                    cut.write(index, &mut vec![0; cut.slice_length(index)]);
                }
            }
            let transport = transport as u8;
            let header = SegmentHeader { batch: sample.batch, id: 0, index: 0, size: sample.size, transport, last: false };
            if let Some(mut join) = Join::new(header, frame) {
                let _ = join.push(SegmentHeader { index: 1, ..header }, frame);
                join.finish();
            }
        }
        let _ = complete_checksum(Checksum { start: transport, offset: value }, &mut sample.frame);
    }
}
