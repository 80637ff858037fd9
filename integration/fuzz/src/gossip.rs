//! Changes of origins, applied to a store.

use std::collections::BTreeMap;

use weft_router_core::{
    gossip::{Assembler, Delta, DeltaEntry, Entry, Neighbour, Position, Store},
    mesh::ControlMessage,
};

use crate::{
    Bounds, Target,
    input::{Input, pause, peer, piece, start},
};

/// Deltas, from whomever, and what the store then says.
pub(crate) const DELTAS: Target =
    Target { name: "gossip", bounds: Bounds { memory_bytes: 4 << 20, allocations: 200_000 }, run: gossip, seeds };

fn gossip(input: &[u8]) {
    let mut input = Input::new(input);
    let mut store = Store::new(peer(1), 1, 1);
    let entry = Entry { key: b"own".as_slice().into(), value: Some(b"value".as_slice().into()) };
    store.publish("names", true, vec![entry], start()).expect("within limits");
    let (mut assembler, mut neighbour, mut now) = (Assembler::default(), Neighbour::default(), start());
    let mut known = BTreeMap::new();
    while !input.is_empty() {
        now += pause(input.byte());
        match ControlMessage::decode(input.piece()) {
            Ok(ControlMessage::Delta(delta)) => {
                let Ok(Some(delta)) = assembler.push(delta) else { continue };
                let origin = delta.origin;
                // As the mesh does: nobody else changes our own entries.
                if origin != peer(1) {
                    let _ = store.apply(delta, now);
                }
                let at = store.position(origin);
                let before = known.insert(origin, at).flatten();
                assert!(before.is_none_or(|before| at.is_some_and(|at| at >= before)), "an origin never goes back");
            }
            Ok(ControlMessage::Vector { origins, .. }) => {
                neighbour.handle_vector(&origins, &store);
                for known in origins.iter().filter(|known| known.origin == peer(1)) {
                    store.raise_above(known.at);
                }
            }
            Ok(_) | Err(_) => {}
        }
        store.prune(now);
    }
    assert_eq!(store.value(peer(1), "names", b"own").map(|value| &value[..]), Some(&b"value"[..]));
    check(&mut store, &mut neighbour);
}

/// What a store says brings another one to where it is.
fn check(store: &mut Store, neighbour: &mut Neighbour) {
    while neighbour.poll(store, peer(1), None).is_some() {}
    let mut other = Store::new(peer(9), 1, 9);
    for origin in store.origins().collect::<Vec<_>>() {
        let Some(delta) = store.delta_since(origin, None) else { continue };
        if origin != peer(9) && !store.is_forgotten(origin) {
            let at = delta.at;
            other.apply(delta, start()).expect("what a store says is within limits");
            assert_eq!(other.position(origin), Some(at));
        }
    }
    let _ = (store.digest(), store.vector());
}

/// Returns what an origin says as it comes, changes something, and takes something back.
pub(crate) fn deltas() -> Vec<Delta> {
    let entry = |key: &'static [u8], version, value: Option<&'static [u8]>| DeltaEntry {
        channel: "names".to_owned(),
        key: key.into(),
        version,
        value: value.map(Into::into),
    };
    let delta = |version, base_version, complete, entries| Delta {
        origin: peer(2),
        at: Position::new(1 << 16, version).expect("within limits"),
        base_version,
        complete,
        entries,
        part: 0,
        parts: 1,
    };
    vec![
        delta(2, 0, true, vec![entry(b"a", 1, Some(b"1")), entry(b"b", 2, Some(b"2"))]),
        delta(3, 2, false, vec![entry(b"a", 3, Some(b"3"))]),
        delta(4, 3, false, vec![entry(b"b", 4, None)]),
    ]
}

fn seeds() -> Vec<Vec<u8>> {
    let said = |delta: &Delta| [vec![1], piece(&ControlMessage::Delta(delta.clone()).encode())].concat();
    let deltas = deltas();
    let mut parts = [deltas[0].clone(), deltas[0].clone()];
    for (part, delta) in (0..).zip(&mut parts) {
        (delta.part, delta.parts) = (part, 2);
        delta.entries.swap_remove(part as usize);
    }
    vec![deltas.iter().flat_map(said).collect(), parts.iter().flat_map(said).collect(), said(&deltas[2])]
}
