//! What comes by VXLAN to the router itself: probes, and batches of them.

use weft_router_core::{
    trusted::probe::{BATCH_HEADERS, Batches, Probe, SMALL, batch},
    virtio,
};

use crate::{
    Bounds, Target,
    input::{Input, piece},
};

/// Frames one after the other, each as it is and as the payload of a batch.
pub(crate) const PROBES: Target =
    Target { name: "vxlan-probes", bounds: Bounds { memory_bytes: 1 << 20, allocations: 20_000 }, run: probes, seeds };

fn probes(input: &[u8]) {
    let mut input = Input::new(input);
    let mut batches = Batches::default();
    while !input.is_empty() {
        let header: [u8; virtio::HEADER] = input.array();
        let frame = input.piece();
        if let Some(probe) = Probe::decode(frame) {
            let length = match probe {
                Probe::Question { length, .. } => length,
                Probe::Answer { .. } => frame.len(),
            };
            assert!(length <= frame.len());
            assert_eq!(Probe::decode(&probe.encode(length)), Some(probe));
        }
        for frame in [frame.to_vec(), carrying(frame)] {
            if let Some(token) = batches.receive(header, &frame) {
                assert!(frame.windows(token.len()).any(|bytes| bytes == token));
            }
        }
    }
}

/// Writes a frame of a batch with this payload; its checksum of TCP is for the kernel to vouch for.
fn carrying(payload: &[u8]) -> Vec<u8> {
    let (_, mut frame) = batch([0; 16], 1280).expect("a batch");
    frame.truncate(BATCH_HEADERS.into());
    frame.extend(payload);
    let total = u16::try_from(frame.len() - 14).expect("inputs are short");
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn seeds() -> Vec<Vec<u8>> {
    const VOUCHED: [u8; virtio::HEADER] = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let token = *b"sixteen bytes ok";
    let one = |header: [u8; virtio::HEADER], frame: &[u8]| [&header[..], &piece(frame)].concat();
    let (offload, whole) = batch(token, 300).expect("a batch");
    let payload = &whole[BATCH_HEADERS.into()..];
    vec![
        one([0; virtio::HEADER], &Probe::Question { token, length: 300 }.encode(300)),
        one([0; virtio::HEADER], &Probe::Answer { token }.encode(SMALL)),
        one(offload.encode(BATCH_HEADERS), &whole),
        one(offload.encode(BATCH_HEADERS), payload),
        payload.chunks(260).map(|segment| one(VOUCHED, segment)).collect::<Vec<_>>().concat(),
    ]
}
