//! What containers ask and what peers publish about names.

use std::{collections::BTreeMap, net::IpAddr};

use hickory_proto::serialize::binary::BinEncodable as _;
use hickory_server::{net::xfer::Protocol, server::Request};
use prost::Message as _;
use weft_dns_core::{Answer, Names, Peer, Snapshot, Zone};
use weft_proto::dns::v1 as pb;
use weft_types::ContainerId;

use crate::{
    Bounds, Target,
    input::{Input, pause, peer, piece, start},
};

/// Queries as they come by UDP and TCP, and what a host with two containers answers.
///
/// hickory reserves room for as many queries as a header claims, up to 65,535 of 168 bytes, before it reads them.
pub(crate) const QUERY: Target = Target {
    name: "dns-query",
    bounds: Bounds { memory_bytes: 12 << 20, allocations: 20_000 },
    run: query,
    seeds: queries,
};

/// Records of several peers over time, and what is answered from them.
pub(crate) const RECORDS: Target = Target {
    name: "dns-records",
    bounds: Bounds { memory_bytes: 1 << 20, allocations: 50_000 },
    run: records,
    seeds: record_seeds,
};

fn names() -> Names {
    let zone = Zone::new("weft.internal", 1).expect("a zone");
    let mut names = Names::new(zone, "10.32.0.0/12".parse().expect("a range"));
    let address = |number| [IpAddr::from([10, 32, 0, number]), [0xfd10, 0, 0, 0, 0, 0, 0, u16::from(number)].into()];
    for (container, name, number) in [("c1", "db", 1), ("c2", "web", 2), ("c3", "web", 3)] {
        let record = names.zone().record(&[name.to_owned()], &address(number), true).expect("a record");
        names.register(container.parse().expect("an id"), record).expect("few");
    }
    names
}

fn query(input: &[u8]) {
    let Ok(request) = Request::from_bytes(input.to_vec(), ([10, 32, 0, 1], 1234).into(), Protocol::Udp) else { return };
    let names = names();
    for query in request.queries.queries() {
        if let Answer::Local(reply) = names.answer(query.original().name(), query.query_type(), 7) {
            for record in reply.answers.iter().chain(&reply.authority) {
                assert!(!record.to_bytes().expect("what is answered can be written").is_empty());
            }
        }
    }
}

fn queries() -> Vec<Vec<u8>> {
    let query = |name: &[&str], kind: u8, more: &[u8]| {
        let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!more.is_empty())];
        for label in name {
            bytes.push(label.len() as u8);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.extend([0, 0, kind, 0, 1]);
        bytes.extend_from_slice(more);
        bytes
    };
    let reverse6 = [&["1"; 1][..], &["0"; 27], &["0", "1", "d", "f", "ip6", "arpa"]].concat();
    vec![
        query(&["db", "weft", "internal"], 1, &[]),
        query(&["web", "weft", "internal"], 28, &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]),
        query(&["WEB"], 255, &[]),
        query(&["weft", "internal"], 6, &[]),
        query(&["1", "0", "32", "10", "in-addr", "arpa"], 12, &[]),
        query(&reverse6, 12, &[]),
        query(&["example", "com"], 16, &[]),
    ]
}

fn records(input: &[u8]) {
    let mut input = Input::new(input);
    let mut names = names();
    let mut now = start();
    let reachable = |count: u8| {
        let info = |number| Peer { name: format!("peer{number}"), nickname: String::new() };
        (2..2 + count % 4).map(|number| (peer(number), info(number))).collect::<BTreeMap<_, _>>()
    };
    names.handle_snapshot(Snapshot { local: peer(1), origins: BTreeMap::new(), reachable: reachable(3) }, now);
    while !input.is_empty() {
        let [origin, time, how] = input.array();
        now += pause(time);
        if how & 2 != 0 {
            names.handle_reachable(reachable(origin));
        }
        let (key, value) = (input.piece(), input.piece());
        let Some(container) = std::str::from_utf8(key).ok().and_then(|key| key.parse::<ContainerId>().ok()) else {
            continue;
        };
        let record = pb::NameRecord::decode(value).ok().map(|message| {
            let addresses: Vec<_> = message.addresses.iter().filter_map(|address| address.try_into().ok()).collect();
            names.zone().foreign_record(&message.names, &addresses, !message.unhealthy)
        });
        if let Some(name) = record.as_ref().and_then(|record| record.names().first()) {
            assert!(names.zone().contains(name), "a peer decides about names below the zone alone");
        }
        names.handle_change(peer(2 + origin % 3), how & 1 != 0, vec![(container, record)]);
        names.handle_timeout(now);
        while names.poll_publication().is_some() {}
    }
    let views: Vec<_> = names.views().flat_map(|view| view.record.names().to_vec()).collect();
    for name in views {
        assert!(matches!(names.answer(&name.into(), hickory_proto::rr::RecordType::A, 7), Answer::Local(_)));
    }
    assert!(
        names.views().filter(|view| view.origin.is_none_or(|origin| origin == peer(1))).count() >= 3,
        "our own stay"
    );
}

fn record_seeds() -> Vec<Vec<u8>> {
    let seed = |container: &str, names: &[&str], unhealthy| {
        let message = pb::NameRecord {
            container_id: container.to_owned(),
            names: names.iter().map(ToString::to_string).collect(),
            addresses: vec![IpAddr::from([10, 32, 0, 9]).into(), IpAddr::from([0xfd10, 0, 0, 0, 0, 0, 0, 9]).into()],
            unhealthy,
        };
        [vec![0, 0, 0], piece(container.as_bytes()), piece(&message.encode_to_vec())].concat()
    };
    vec![
        seed("c9", &["db.weft.internal."], false),
        [seed("c9", &["web.weft.internal.", "x.weft.internal."], true), seed("c9", &[], false)].concat(),
        seed("c9", &["example.com."], false),
    ]
}
