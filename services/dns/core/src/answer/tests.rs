use std::{collections::BTreeMap, time::Instant};

use proptest::prelude::*;
use weft_types::PeerName;

use super::*;
use crate::{Peer, Snapshot};

const LOCAL: PeerName = PeerName::from_public_key([1; 32]);
const FRIEND: PeerName = PeerName::from_public_key([2; 32]);
const LOST: PeerName = PeerName::from_public_key([3; 32]);

#[expect(clippy::disallowed_methods, reason = "tests need some moment to start from")]
fn now() -> Instant {
    Instant::now()
}

fn record(names: &Names, host_names: &[&str], addresses: &[&str], healthy: bool) -> NameRecord {
    let host_names: Vec<_> = host_names.iter().map(|name| (*name).to_owned()).collect();
    let addresses: Vec<_> = addresses.iter().map(|address| address.parse().expect("valid")).collect();
    names.zone().record(&host_names, &addresses, healthy).expect("valid")
}

/// A mesh of this host, a friend, and a peer that cannot be reached.
fn names() -> Names {
    let mut names = Names::new(Zone::new("weft.internal", 1).expect("valid"), "10.32.0.0/12".parse().expect("valid"));
    let container = |id: &str| id.parse().expect("valid");
    let own = record(&names, &["db", "a.sub"], &["10.32.0.1", "fd00:1:2:c::a20:1"], true);
    names.register(container("c1"), own).expect("room");
    let sick = record(&names, &["web", "sick"], &["10.32.0.9"], false);
    let web = record(&names, &["web"], &["10.40.0.2"], true);
    let also_web = record(&names, &["web"], &["10.40.0.3"], true);
    let lost = record(&names, &["web", "lost", "x.lostsub"], &["10.44.0.1"], true);
    names.register(container("c2"), sick).expect("room");
    let origins = BTreeMap::from([
        (FRIEND, vec![(container("f1"), web), (container("f2"), also_web)]),
        (LOST, vec![(container("l1"), lost)]),
    ]);
    let reachable = [LOCAL, FRIEND].map(|peer| (peer, Peer::default())).into();
    names.handle_snapshot(Snapshot { local: LOCAL, origins, reachable }, now());
    names
}

fn ask(names: &Names, name: &str, record_type: RecordType) -> Answer {
    names.answer(&Name::from_ascii(name).expect("valid"), record_type, 7)
}

/// Writes an answer as "code: data data", sorted.
fn shown(answer: Answer) -> String {
    match answer {
        Answer::Upstream => "upstream".to_owned(),
        Answer::Local(reply) => {
            assert_eq!(reply.answers.is_empty(), !reply.authority.is_empty(), "negative replies carry the SOA record");
            let mut data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
            data.sort();
            format!("{:?}: {}", reply.code, data.join(" "))
        }
    }
}

#[test]
fn addresses_on_this_host_come_first_on_request() {
    let order = |names: &Names, seed| match names.answer(&Name::from_ascii("web.").expect("valid"), RecordType::A, seed)
    {
        Answer::Local(reply) => reply.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>(),
        Answer::Upstream => Vec::new(),
    };
    let first = |names: &Names| (0..100).map(|seed| order(names, seed)[0].clone()).collect::<BTreeSet<_>>();
    let mut names = names();
    let near = record(&names, &["web"], &["10.32.0.3", "10.32.0.4"], true);
    names.register("c3".parse().expect("valid"), near).expect("room");
    assert_eq!(first(&names).len(), 4, "all in turn");
    let mut names = names.with_local_first(true);
    assert_eq!(first(&names).into_iter().collect::<Vec<_>>(), ["10.32.0.3", "10.32.0.4"]);
    assert_eq!(order(&names, 1).len(), 4, "the others follow");
    let sick = record(&names, &["web"], &["10.32.0.3", "10.32.0.4"], false);
    names.register("c3".parse().expect("valid"), sick).expect("room");
    assert_eq!(
        first(&names).into_iter().collect::<Vec<_>>(),
        ["10.40.0.2", "10.40.0.3"],
        "health counts before nearness"
    );
}

#[test]
fn the_table_of_answers() {
    use RecordType as T;
    let names = names();
    for (name, record_type, expected) in [
        ("db.weft.internal.", T::A, "NoError: 10.32.0.1"),
        ("DB.Weft.INTERNAL.", T::A, "NoError: 10.32.0.1"),
        ("db.weft.internal.", T::AAAA, "NoError: fd00:1:2:c::a20:1"),
        ("db.weft.internal.", T::ANY, "NoError: 10.32.0.1 fd00:1:2:c::a20:1"),
        ("db.weft.internal.", T::MX, "NoError: "),
        ("db.weft.internal.", T::HTTPS, "NoError: "),
        ("db.", T::A, "NoError: 10.32.0.1"),
        ("nobody.", T::A, "NXDomain: "),
        ("com.", T::NS, "NXDomain: "),
        ("nobody.weft.internal.", T::A, "NXDomain: "),
        ("x.db.weft.internal.", T::A, "NXDomain: "),
        ("a.sub.weft.internal.", T::A, "NoError: 10.32.0.1"),
        ("sub.weft.internal.", T::A, "NoError: "),
        // Unhealthy containers wait behind healthy ones; the last of a name answers all the same.
        ("web.weft.internal.", T::A, "NoError: 10.40.0.2 10.40.0.3"),
        ("sick.weft.internal.", T::A, "NoError: 10.32.0.9"),
        // What cannot be reached is not there.
        ("lost.weft.internal.", T::A, "NXDomain: "),
        ("lostsub.weft.internal.", T::A, "NXDomain: "),
        ("1.0.44.10.in-addr.arpa.", T::PTR, "NXDomain: "),
        // The zone's own names.
        ("weft.internal.", T::NS, "NoError: ns.dns.weft.internal."),
        ("weft.internal.", T::A, "NoError: "),
        ("ns.dns.weft.internal.", T::A, "NoError: 169.254.83.53"),
        ("dns.weft.internal.", T::A, "NoError: "),
        ("53.83.254.169.in-addr.arpa.", T::PTR, "NoError: ns.dns.weft.internal."),
        // Reverse.
        ("1.0.32.10.in-addr.arpa.", T::PTR, "NoError: db.weft.internal."),
        ("1.0.32.10.IN-ADDR.ARPA.", T::PTR, "NoError: db.weft.internal."),
        ("1.0.32.10.in-addr.arpa.", T::A, "NoError: "),
        ("2.0.32.10.in-addr.arpa.", T::PTR, "NXDomain: "),
        ("0.32.10.in-addr.arpa.", T::PTR, "upstream"),
        ("8.8.8.8.in-addr.arpa.", T::PTR, "upstream"),
        ("256.0.32.10.in-addr.arpa.", T::PTR, "upstream"),
        (
            "1.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.c.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.",
            T::PTR,
            "NoError: db.weft.internal.",
        ),
        ("2.0.0.0.0.2.a.0.0.0.0.0.0.0.0.0.c.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa.", T::PTR, "NXDomain: "),
        ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", T::PTR, "upstream"),
        // Everything else.
        ("example.org.", T::A, "upstream"),
        ("internal.example.", T::A, "upstream"),
        ("notweft.internal.", T::A, "upstream"),
        ("localhost.", T::A, "upstream"),
        (".", T::NS, "upstream"),
    ] {
        assert_eq!(shown(ask(&names, name, record_type)), expected, "{name} {record_type}");
    }
}

#[test]
fn answers_repeat_the_querys_letter_case() {
    let Answer::Local(reply) = ask(&names(), "WEB.weft.INTERNAL.", RecordType::A) else { panic!("ours") };
    for record in &reply.answers {
        assert_eq!(record.name.to_ascii(), "WEB.weft.INTERNAL.");
        assert_eq!(record.ttl, 1);
    }
}

#[test]
fn seeds_balance_the_order() {
    let names = names();
    let first = |seed| {
        let Answer::Local(reply) = names.answer(&Name::from_ascii("web.").expect("valid"), RecordType::A, seed) else {
            panic!("ours")
        };
        reply.answers[0].data.to_string()
    };
    let firsts: BTreeSet<_> = (0..64).map(first).collect();
    assert_eq!(firsts.len(), 2, "both come first at times");
    assert_eq!(first(5), first(5));
}

#[test]
fn the_soa_record_bounds_negative_caching() {
    let Answer::Local(reply) = ask(&names(), "nobody.", RecordType::A) else { panic!("ours") };
    let RData::SOA(soa) = &reply.authority[0].data else { panic!("an SOA record") };
    assert_eq!((reply.authority[0].name.to_ascii().as_str(), soa.minimum), ("weft.internal.", 1));
}

proptest! {
    /// Whatever is asked: names of the zone and single labels never leave, answers fit the question, and nothing panics.
    #[test]
    fn answers_fit_the_question(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..12), 0..6),
        below in any::<bool>(),
        kind in any::<u16>(),
        seed in any::<u64>(),
    ) {
        let mut name = Name::from_labels(labels.iter().map(Vec::as_slice)).expect("short enough");
        if below {
            name.set_fqdn(false);
            name = name.append_domain(&Name::from_ascii("Weft.Internal.").expect("valid")).expect("short enough");
        }
        name.set_fqdn(true);
        let record_type = RecordType::from(kind);
        match names().answer(&name, record_type, seed) {
            Answer::Upstream => prop_assert!(!below && name.iter().count() != 1),
            Answer::Local(reply) => {
                prop_assert_eq!(reply.answers.is_empty(), !reply.authority.is_empty());
                for record in reply.answers {
                    prop_assert!(record.name.eq_case(&name));
                    prop_assert!(record_type == RecordType::ANY || record.record_type() == record_type);
                }
            }
        }
    }
}
