//! The allocator by itself: what one host does with what it is told.

use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use prost::Message as _;
use weft_ipam_core::{
    Allocator, Creation, Entry, Event, PeerInfo, Reachability, Refusal, RequestId, RingState, Settings, State, Transmit,
};
use weft_proto::ipam::v1 as pb;
use weft_types::{ContainerId, PeerName};

const TIMEOUT: Duration = Duration::from_secs(5);

struct Host {
    ipam: Allocator,
    now: Instant,
    transmits: Vec<Transmit>,
}

fn peer(number: u8) -> PeerName {
    PeerName::from_public_key([number; 32])
}

fn net(text: &str) -> Ipv4Net {
    text.parse().expect("valid")
}

fn container(text: &str) -> ContainerId {
    text.parse().expect("valid")
}

fn reachability(peers: &[u8], targets: &[u8]) -> Reachability {
    let info = |number: &u8| PeerInfo { peer: peer(*number), name: format!("host{number}"), nickname: String::new() };
    Reachability {
        peers: peers.iter().map(info).collect(),
        target_count: targets.len() as u32,
        targets_given: !targets.is_empty(),
        target_peers: targets.iter().map(|number| peer(*number)).collect(),
    }
}

impl Host {
    #[expect(clippy::disallowed_methods, reason = "only differences to it are ever looked at")]
    fn new(number: u8, creation: Creation) -> Self {
        let range = net("10.32.0.0/24");
        let settings = Settings { peer: peer(number), range, default_subnet: range, creation };
        let ipam = Allocator::new(settings, State::new(number.into()), number.into());
        Self { ipam, now: Instant::now(), transmits: Vec::new() }
    }

    fn founder() -> Self {
        let mut host = Self::new(1, Creation::Elect { voters: None });
        host.ipam.handle_connected(Vec::new(), reachability(&[1, 2], &[]), host.now);
        host.drain();
        host
    }

    /// Saves at once whatever is to be saved.
    fn drain(&mut self) -> Vec<Event> {
        self.ipam.handle_timeout(self.now);
        while let Some(commit) = self.ipam.poll_commit(self.now) {
            self.ipam.handle_saved(commit.number);
        }
        self.transmits.extend(std::iter::from_fn(|| self.ipam.poll_transmit()));
        std::iter::from_fn(|| self.ipam.poll_event()).collect()
    }

    fn answer(&mut self, request: RequestId) -> Option<Result<String, Refusal>> {
        self.drain().into_iter().find_map(|event| match event {
            Event::Granted { request: of, address } if of == request => Some(Ok(address.v4.to_string())),
            Event::Refused { request: of, refusal } if of == request => Some(Err(refusal)),
            Event::Granted { .. }
            | Event::Refused { .. }
            | Event::Freed { .. }
            | Event::Lost { .. }
            | Event::Moved { .. }
            | Event::RingReady(_) => None,
        })
    }

    /// Lets time pass until the request is answered.
    fn answer_in_time(&mut self, request: RequestId) -> Result<String, Refusal> {
        loop {
            if let Some(answer) = self.answer(request) {
                return answer;
            }
            let (at, _) = self.ipam.poll_timeout().expect("a request waits");
            self.now = self.now.max(at);
        }
    }

    fn allocate(&mut self, holder: &str, subnet: Option<&str>) -> Option<Result<String, Refusal>> {
        let request = self.ipam.allocate(container(holder), subnet.map(net), TIMEOUT, self.now);
        self.answer(request)
    }

    fn claim(&mut self, holder: &str, address: &str) -> Option<Result<String, Refusal>> {
        let request = self.ipam.claim(container(holder), net(address), TIMEOUT, self.now);
        self.answer(request)
    }

    /// Reports that another peer of the same ring publishes a run.
    fn hear_run(&mut self, from: u8, network: &str, owner: u8, epoch: u32, version: u64) {
        let (info, _) = self.ipam.ring().expect("there is a ring");
        let info = pb::RingInfo {
            ring_id: info.id.0.to_vec(),
            range_start: info.range.network().into(),
            range_length: info.range.prefix_len().into(),
            ula_prefix: info.ula.octets().to_vec(),
        };
        let (start, end) = (u32::from(net(network).network()), u64::from(u32::from(net(network).broadcast())) + 1);
        let owner = pb::Owner { peer: vec![owner; 32], store: owner.into() };
        let run = pb::Run { start, end, owner: Some(owner), epoch, version };
        let entries = [
            Entry { key: b"ring".to_vec(), value: Some(info.encode_to_vec()) },
            Entry { key: format!("run/{start:08x}").into_bytes(), value: Some(run.encode_to_vec()) },
        ];
        self.ipam.handle_update(peer(from), false, &entries);
    }

    /// Reports that a peer says how many addresses of a network it has free.
    fn hear_free(&mut self, from: u8, network: &str, version: u64, free: u64) {
        let (start, end) = (u32::from(net(network).network()), u64::from(u32::from(net(network).broadcast())) + 1);
        let spans = vec![pb::FreeSpan { start, end, free }];
        let report = pb::FreeReport { version, store: from.into(), spans }.encode_to_vec();
        self.ipam.handle_update(peer(from), false, &[Entry { key: b"free".to_vec(), value: Some(report) }]);
    }

    /// Returns the messages that were sent to other peers.
    fn sent(&mut self) -> Vec<(PeerName, pb::RingMessage)> {
        self.transmits
            .drain(..)
            .filter_map(|transmit| match transmit {
                Transmit::Send { peer, payload } => {
                    Some((peer, pb::RingMessage::decode(payload.as_slice()).expect("valid")))
                }
                Transmit::Publish { .. } => None,
            })
            .collect()
    }
}

#[test]
fn an_address_goes_to_one_container_and_the_same_container_gets_it_again() {
    let mut host = Host::founder();
    let granted = |text: &str| Some(Ok(text.to_owned()));
    assert_eq!(host.allocate("a", None), granted("10.32.0.1/24"));
    assert_eq!(host.allocate("b", None), granted("10.32.0.2/24"));
    assert_eq!(host.allocate("a", None), granted("10.32.0.1/24"));
    assert_eq!(host.allocate("a", Some("10.32.0.128/25")), granted("10.32.0.129/25"));
    assert_eq!(host.claim("b", "10.32.0.2/24"), granted("10.32.0.2/24"), "what one holds can be claimed");
    assert!(
        matches!(host.claim("c", "10.32.0.1/24"), Some(Err(Refusal::Taken { holder, .. })) if holder.contains(" a "))
    );
    host.ipam.free(&container("a"), &[]);
    assert_eq!(host.allocate("c", None), granted("10.32.0.1/24"), "the lowest free one");
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    let mut host = Host::founder();
    let table = [
        (Some("10.33.0.0/24"), "out_of_range"),
        (Some("10.32.0.4/31"), "subnet_too_small"),
        (Some("10.32.0.1/25"), "host_bits"),
    ];
    for (subnet, reason) in table {
        let refusal = host.allocate("a", subnet).expect("at once").expect_err("refused");
        assert_eq!(refusal.reason(), reason);
    }
    for address in ["10.32.0.0/24", "10.32.0.255/24", "192.0.2.0/24"] {
        let refusal = host.claim("a", address).expect("at once").expect_err("refused");
        assert_eq!(refusal.reason(), "not_for_containers", "{address}");
    }
}

#[test]
fn nothing_is_answered_or_sent_before_it_is_saved() {
    let mut host = Host::founder();
    let first = host.ipam.allocate(container("a"), None, TIMEOUT, host.now);
    let commit = host.ipam.poll_commit(host.now).expect("an allocation is saved");
    let again = host.ipam.allocate(container("a"), None, TIMEOUT, host.now);
    assert_eq!(host.ipam.poll_event(), None, "neither the first, nor who asks for the same");
    host.ipam.handle_saved(commit.number);
    let answered: Vec<_> = std::iter::from_fn(|| host.ipam.poll_event()).collect();
    let of = |event: &Event| match event {
        Event::Granted { request, .. } => Some(*request),
        Event::Refused { .. }
        | Event::Freed { .. }
        | Event::Lost { .. }
        | Event::Moved { .. }
        | Event::RingReady(_) => None,
    };
    assert_eq!(answered.iter().filter_map(of).collect::<Vec<_>>(), [first, again]);
}

#[test]
fn who_comes_back_from_the_dead_gives_up_what_was_taken_over() {
    let mut host = Host::founder();
    host.allocate("a", None);
    host.allocate("b", Some("10.32.0.128/25"));
    host.hear_run(2, "10.32.0.0/25", 2, 1, 0);
    let lost: Vec<_> = host
        .drain()
        .into_iter()
        .filter_map(|event| match event {
            Event::Lost { container, owner, .. } => Some((container, owner)),
            Event::Granted { .. }
            | Event::Refused { .. }
            | Event::Freed { .. }
            | Event::Moved { .. }
            | Event::RingReady(_) => None,
        })
        .collect();
    assert_eq!(lost, [(container("a"), peer(2))]);
    assert_eq!(host.ipam.lookup(&container("a")), []);
    assert_eq!(host.ipam.lookup(&container("b")).len(), 1, "what was not taken over stays");
    let problems = host.ipam.status(host.now).problems;
    assert!(problems.iter().any(|problem| problem.reason == "addresses_lost" && problem.message.contains("10.32.0.1")));
    assert_eq!(host.allocate("c", None), Some(Ok("10.32.0.128/24".into())), "only what is still owned is given");

    host.hear_run(3, "10.32.0.0/25", 1, 0, 99);
    host.drain();
    let (_, ring) = host.ipam.ring().expect("there is a ring");
    assert_eq!(ring.fact(0x0a20_0001).map(|fact| fact.owner.peer), Some(peer(2)), "no version beats an epoch");
}

#[test]
fn a_claim_of_anothers_address_asks_its_owner_and_ends_with_its_word() {
    let mut host = Host::founder();
    host.hear_run(2, "10.32.0.128/25", 2, 0, 5);
    host.drain();
    let request = host.ipam.claim(container("a"), net("10.32.0.200/24"), TIMEOUT, host.now);
    assert_eq!(host.answer(request), None);
    let sent = host.sent();
    let [(to, message)] = sent.as_slice() else { panic!("one message: {sent:?}") };
    assert_eq!(*to, peer(2));
    let denial = |request_id| pb::RingMessage {
        request_id,
        kind: Some(pb::ring_message::Kind::Denial(pb::SpaceDenial { container_id: "z".into() })),
        ..message.clone()
    };
    host.ipam.handle_message(peer(2), &denial(message.request_id ^ 1).encode_to_vec(), host.now).expect("valid");
    assert_eq!(host.answer(request), None, "the denial of something else ends nothing");
    host.ipam.handle_message(peer(2), &denial(message.request_id).encode_to_vec(), host.now).expect("valid");
    let refusal = host.answer(request).expect("answered").expect_err("denied");
    assert_eq!(refusal.to_string(), "the address 10.32.0.200/24 is already in use by the container z of host2");
}

/// A host that has given away all addresses of a subnet, and knows of another subnet whose owner has none.
fn full(small: &str, other: &str) -> Host {
    let mut host = Host::founder();
    for holder in ["a", "b"] {
        host.allocate(holder, Some(small)).expect("at once").expect("two fit");
    }
    host.hear_run(2, other, 2, 0, 5);
    host.hear_free(2, other, 1, 0);
    host.drain();
    host
}

#[test]
fn what_nobody_has_is_refused_soon() {
    let (small, other) = ("10.32.0.4/30", "10.32.0.128/30");
    for subnet in [small, other] {
        let mut host = full(small, other);
        let began = host.now;
        let request = host.ipam.allocate(container("c"), Some(net(subnet)), TIMEOUT, host.now);
        let refusal = host.answer_in_time(request).expect_err("full");
        assert_eq!((refusal.reason(), host.now - began), ("exhausted", Duration::from_secs(2)), "{subnet}");

        let began = host.now;
        let short = Duration::from_millis(100);
        let request = host.ipam.allocate(container("d"), Some(net(subnet)), short, host.now);
        let refusal = host.answer_in_time(request).expect_err("full");
        assert_eq!((refusal.reason(), host.now - began), ("exhausted", short), "{subnet}: no later than asked for");
    }

    // What another host owns is asked for until it says that it has none.
    let mut host = Host::founder();
    host.hear_run(2, other, 2, 0, 5);
    let request = host.ipam.allocate(container("d"), Some(net(other)), TIMEOUT, host.now);
    host.now += TIMEOUT / 2;
    assert_eq!(host.answer(request), None);
    host.hear_free(2, other, 1, 0);
    assert_eq!(host.answer(request).expect("now").expect_err("full").reason(), "exhausted");

    let mut host = full(small, other);
    host.ipam.handle_disconnected();
    let request = host.ipam.allocate(container("f"), Some(net(small)), TIMEOUT, host.now);
    host.now += TIMEOUT / 2;
    assert_eq!(host.answer(request), None, "the news of another host may be on their way");
}

#[test]
fn who_takes_the_place_of_a_removed_container_gets_its_address() {
    let (small, other) = ("10.32.0.4/30", "10.32.0.128/30");
    let mut host = full(small, other);
    let request = host.ipam.allocate(container("c"), Some(net(small)), TIMEOUT, host.now);
    assert_eq!(host.answer(request), None);
    host.now += Duration::from_millis(1900);
    host.ipam.free(&container("a"), &[]);
    assert_eq!(host.answer(request), Some(Ok("10.32.0.5/30".into())));

    // The same where another host removed it, whose report is late.
    let request = host.ipam.allocate(container("d"), Some(net(other)), TIMEOUT, host.now);
    assert_eq!(host.answer(request), None);
    assert_eq!(host.sent(), [], "nobody has any");
    host.now += Duration::from_millis(1900);
    host.hear_free(2, other, 2, 1);
    assert_eq!(host.answer(request), None);
    assert_eq!(host.sent().iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [peer(2)], "it is asked");
    host.now += Duration::from_millis(900);
    host.hear_run(2, "10.32.0.129/32", 1, 0, 6);
    assert_eq!(host.answer(request), Some(Ok("10.32.0.129/30".into())));
}

#[test]
fn an_unreachable_owner_is_named_when_the_time_is_over() {
    let mut host = Host::founder();
    host.hear_run(2, "10.32.0.0/24", 2, 0, 5);
    host.drain();
    host.ipam.handle_reachability(reachability(&[1], &[]), host.now);
    let any = host.ipam.allocate(container("a"), None, TIMEOUT, host.now);
    assert_eq!(host.answer(any), None);
    assert_eq!(host.sent(), [], "nobody can be asked");
    let this = host.ipam.claim(container("b"), net("10.32.0.9/24"), TIMEOUT + TIMEOUT, host.now);
    host.now += TIMEOUT;
    let refusal = host.answer(any).expect("in time").expect_err("refused").to_string();
    assert_eq!(refusal, "the free addresses of 10.32.0.0/24 are owned by peers that cannot be reached: host2");
    host.now += TIMEOUT;
    let refusal = host.answer(this).expect("in time").expect_err("refused").to_string();
    assert_eq!(refusal, "the address 10.32.0.9/24 is owned by the peer host2, which cannot be reached");
}

#[test]
fn addresses_outside_the_range_are_checked_against_what_is_known() {
    let mut host = Host::new(1, Creation::Observe);
    assert_eq!(host.claim("a", "192.0.2.1/24"), Some(Ok("192.0.2.1/24".into())), "no ring is needed");
    let claim = pb::ExternalClaim { container_id: "far".into() }.encode_to_vec();
    let entry = Entry { key: b"external/192.0.2.2".to_vec(), value: Some(claim) };
    host.ipam.handle_connected(vec![(peer(2), vec![entry])], reachability(&[1, 2], &[2]), host.now);
    let refusal = host.claim("b", "192.0.2.2/24").expect("at once").expect_err("taken").to_string();
    assert_eq!(refusal, "the address 192.0.2.2/24 is already in use by the container far of host2");
    host.drain();
    let published = host.transmits.iter().any(|transmit| match transmit {
        Transmit::Publish { entries, .. } => entries.iter().any(|entry| entry.key == b"external/192.0.2.1"),
        Transmit::Send { .. } => false,
    });
    assert!(published, "others are told");
}

#[test]
fn voters_that_are_counted_differently_do_not_count() {
    let mut host = Host::new(1, Creation::Elect { voters: None });
    let ballot = |voters| pb::Ballot { voters, store: 2, ..pb::Ballot::default() };
    let entry = |voters| Entry { key: b"ballot".to_vec(), value: Some(ballot(voters).encode_to_vec()) };
    host.ipam.handle_connected(vec![(peer(2), vec![entry(3)])], reachability(&[1, 2], &[2]), host.now);
    host.drain();
    let status = host.ipam.status(host.now);
    assert_eq!((status.state, status.voters, status.voters_heard), (RingState::Electing, 2, 1));
    assert!(status.problems[0].message.starts_with("host2 counts 3 voters for the address ring, this host 2:"));
    let request = host.ipam.allocate(container("a"), None, TIMEOUT, host.now);
    host.now += TIMEOUT;
    let refusal = host.answer(request).expect("in time").expect_err("no ring");
    assert_eq!(refusal.reason(), "no_ring");
    assert!(refusal.to_string().contains("host2 counts 3 voters"), "{refusal}");

    host.ipam.handle_update(peer(2), false, &[entry(2)]);
    host.drain();
    assert_eq!(host.ipam.status(host.now).voters_heard, 2);
}

#[test]
fn free_counts_do_not_churn() {
    let mut host = Host::founder();
    host.transmits.clear();
    for number in 0..100 {
        host.allocate(&format!("c{number}"), None);
    }
    assert!(host.transmits.len() <= 1, "{} publications for 100 of 256 addresses", host.transmits.len());
}

/// Returns what came of moving addresses: the other peer's name and how many, or why not.
fn moved(host: &mut Host, request: RequestId) -> Option<Result<(String, u64), Refusal>> {
    host.drain().into_iter().find_map(|event| match event {
        Event::Moved { request: of, peer, addresses } if of == request => {
            Some(Ok((peer.map(|peer| peer.name).unwrap_or_default(), addresses)))
        }
        Event::Refused { request: of, refusal } if of == request => Some(Err(refusal)),
        Event::Moved { .. }
        | Event::Granted { .. }
        | Event::Refused { .. }
        | Event::Freed { .. }
        | Event::Lost { .. }
        | Event::RingReady(_) => None,
    })
}

fn take_over(host: &mut Host, peer: &str) -> Result<(String, u64), Refusal> {
    let request = host.ipam.take_over(peer, host.now);
    moved(host, request).expect("answered at once")
}

/// Lets so many seconds pass.
fn wait(host: &mut Host, seconds: u64) {
    host.now += Duration::from_secs(seconds);
    host.drain();
}

#[test]
fn what_a_dead_peer_owned_is_taken_over_and_a_live_ones_is_not() {
    let mut host = Host::founder();
    host.hear_run(2, "10.32.0.128/25", 2, 1, 1);
    host.drain();
    assert!(matches!(take_over(&mut host, "host2"), Err(Refusal::NotGone { why, .. }) if why.contains("reset")));
    assert!(matches!(take_over(&mut host, "host1"), Err(Refusal::NotGone { why, .. }) if why.contains("this host")));
    assert!(matches!(take_over(&mut host, "nobody"), Err(Refusal::OwnsNothing { .. })));
    host.ipam.handle_disconnected();
    let key = peer(2).to_hex();
    assert!(matches!(take_over(&mut host, &key), Err(Refusal::NotGone { why, .. }) if why.contains("router")));
    host.ipam.handle_connected(Vec::new(), reachability(&[1], &[]), host.now);
    wait(&mut host, 60);
    assert_eq!(take_over(&mut host, "host2"), Ok(("host2".to_owned(), 128)));
    assert!(matches!(take_over(&mut host, "host2"), Err(Refusal::OwnsNothing { .. })), "once");
    let granted = host.allocate("a", Some("10.32.0.128/25")).expect("answered").expect("its own now");
    // It comes back from the dead, and says what it knows.
    host.hear_run(2, "10.32.0.128/25", 2, 1, 7);
    assert_eq!(host.drain(), []);
    assert_eq!(host.allocate("a", Some("10.32.0.128/25")), Some(Ok(granted)));
}

/// A router that has just started reaches nobody yet, and one that lost its links reaches nobody for a while.
#[test]
fn who_was_lost_a_moment_ago_is_not_gone_for_good() {
    let mut host = Host::founder();
    host.hear_run(2, "10.32.0.128/25", 2, 1, 1);
    host.ipam.handle_disconnected();
    wait(&mut host, 100);
    host.ipam.handle_connected(Vec::new(), reachability(&[1], &[]), host.now);
    let refused = take_over(&mut host, "host2");
    assert!(matches!(&refused, Err(Refusal::TooSoon { left, .. }) if *left == Duration::from_secs(60)), "{refused:?}");

    wait(&mut host, 50);
    let refused = take_over(&mut host, "host2").expect_err("it may come back").to_string();
    assert!(
        refused.contains("host2") && refused.contains("for 50 s") && refused.contains("again in 10 s"),
        "{refused}"
    );
    host.ipam.handle_reachability(reachability(&[1, 2, 3], &[]), host.now);
    wait(&mut host, 50);
    host.ipam.handle_reachability(reachability(&[1, 3], &[]), host.now);
    wait(&mut host, 59);
    // Others that come and go do not count.
    host.ipam.handle_reachability(reachability(&[1], &[]), host.now);
    let refused = take_over(&mut host, "host2");
    assert!(matches!(&refused, Err(Refusal::TooSoon { left, .. }) if *left == Duration::from_secs(1)), "{refused:?}");
    wait(&mut host, 1);
    // Who comes back may have something that the dead one gave it.
    host.ipam.handle_reachability(reachability(&[1, 3], &[]), host.now);
    let refused = take_over(&mut host, "host2");
    assert!(matches!(&refused, Err(Refusal::TooSoon { left, .. }) if *left == Duration::from_secs(10)), "{refused:?}");
    wait(&mut host, 10);
    assert_eq!(take_over(&mut host, "host2"), Ok(("host2".to_owned(), 128)));
}

/// Returns the version of the facts that were granted last, and to whom.
fn granted(host: &mut Host) -> (PeerName, u64) {
    let sent = host.sent();
    let mut grants = sent.iter().filter_map(|(to, message)| match &message.kind {
        Some(pb::ring_message::Kind::Grant(grant)) => Some((*to, grant.runs.first()?.version)),
        Some(_) | None => None,
    });
    grants.next_back().unwrap_or_else(|| panic!("no grant: {sent:?}"))
}

/// A host that shares the ring with host 2, each having a half.
fn half() -> Host {
    let mut host = Host::founder();
    host.hear_run(2, "10.32.0.128/25", 2, 1, 1);
    host.hear_free(2, "10.32.0.128/25", 1, 126);
    host.allocate("a", None).expect("answered").expect("free");
    host.sent();
    host
}

#[test]
fn who_leaves_gives_all_to_somebody_who_says_that_it_has_it() {
    let mut host = half();
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, request), None, "nobody has said yet that it has it");
    assert!(host.ipam.lookup(&container("a")).is_empty());
    let (to, version) = granted(&mut host);
    assert_eq!(to, peer(2));
    assert_eq!(host.allocate("b", None), Some(Err(Refusal::Leaving)));
    host.hear_run(2, "10.32.0.0/25", 2, 0, version);
    assert_eq!(moved(&mut host, request), Some(Ok(("host2".to_owned(), 128))));
    let (_, ring) = host.ipam.ring().expect("there is a ring");
    assert!(ring.runs().all(|(_, fact)| fact.owner.peer == peer(2)));
    let again = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, again), Some(Ok(("host2".to_owned(), 128))), "it is told again");
}

/// Whoever asks again, after the answer was too late or before there was one, learns what became of the same addresses.
#[test]
fn who_asks_again_whether_all_was_given_waits_for_the_same() {
    let mut host = half();
    let first = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, first), None);
    let (_, version) = granted(&mut host);
    host.now += TIMEOUT / 2;
    let second = host.ipam.hand_over(TIMEOUT, host.now);
    let events = host.drain();
    let unconfirmed = |event: &Event, of: RequestId| matches!(event, Event::Refused { request, refusal: Refusal::NotConfirmed { peer } } if *request == of && peer.name == "host2");
    assert!(matches!(events.as_slice(), [refused] if unconfirmed(refused, first)), "{events:?}");
    assert_eq!(granted(&mut host), (peer(2), version), "the message may have been lost");

    host.now += TIMEOUT;
    let events = host.drain();
    assert!(matches!(events.as_slice(), [refused] if unconfirmed(refused, second)), "{events:?}");
    assert_eq!(host.ipam.poll_timeout().map(|(_, why)| why), None, "nothing is waited for");

    let third = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, third), None, "they are with somebody who has not said so");
    host.hear_run(2, "10.32.0.0/25", 2, 0, version);
    assert_eq!(moved(&mut host, third), Some(Ok(("host2".to_owned(), 128))));
}

#[test]
fn who_leaves_is_told_when_nobody_takes_anything() {
    let mut alone = Host::founder();
    let request = alone.ipam.hand_over(TIMEOUT, alone.now);
    assert_eq!(moved(&mut alone, request), Some(Ok((String::new(), 0))), "the ring ends with its last host");

    let mut host = half();
    host.ipam.handle_reachability(reachability(&[1], &[]), host.now);
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, request), Some(Err(Refusal::NoHeir)));
    assert_eq!(host.ipam.lookup(&container("a")).len(), 1, "nothing was done");

    host.ipam.handle_reachability(reachability(&[1, 2], &[]), host.now);
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, request), None);
    host.now += TIMEOUT;
    assert!(matches!(moved(&mut host, request), Some(Err(Refusal::NotConfirmed { peer })) if peer.name == "host2"));
}

/// The others have the ring without owning any of it: after this host nobody would own it.
#[test]
fn who_has_the_whole_ring_is_not_alone_in_it() {
    let whole = |peers: &[u8]| {
        let mut host = Host::founder();
        host.hear_run(2, "10.32.0.0/24", 1, 0, 0);
        host.hear_free(2, "10.32.0.0/24", 1, 0);
        host.drain();
        host.ipam.handle_reachability(reachability(peers, &[]), host.now);
        host.allocate("a", None).expect("answered").expect("free");
        host
    };
    let mut host = whole(&[1]);
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, request), Some(Err(Refusal::NoHeir)));
    assert_eq!(host.ipam.lookup(&container("a")).len(), 1, "nothing was done");

    let mut host = whole(&[1, 2]);
    host.ipam.handle_disconnected();
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, request), Some(Err(Refusal::NoHeir)), "without a router nobody is known");

    let mut host = whole(&[1, 2]);
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    let _ = moved(&mut host, request);
    assert_eq!(granted(&mut host).0, peer(2));
}

/// Tells whether the host says how much it has free.
fn offers(host: &mut Host) -> Option<bool> {
    let mut published = host.transmits.drain(..).filter_map(|transmit| match transmit {
        Transmit::Publish { entries, .. } => entries.into_iter().find(|entry| entry.key == b"free"),
        Transmit::Send { .. } => None,
    });
    published.next_back().map(|entry| entry.value.is_some())
}

#[test]
fn two_who_leave_at_a_time_do_not_inherit_from_each_other() {
    let mut host = half();
    // Host 2 has half of it, host 3 a little, and host 2 leaves: it says no more what it has free.
    host.hear_run(3, "10.32.0.64/26", 3, 1, 2);
    host.hear_free(3, "10.32.0.64/26", 1, 64);
    host.ipam.handle_reachability(reachability(&[1, 2, 3], &[]), host.now);
    host.ipam.handle_update(peer(2), false, &[Entry { key: b"free".to_vec(), value: None }]);
    host.drain();
    host.transmits.clear();
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, request), None);
    let transmits = host.transmits.clone();
    let (to, version) = granted(&mut host);
    assert_eq!(to, peer(3));
    host.transmits = transmits;
    assert_eq!(offers(&mut host), Some(false), "it says so itself");

    // What host 2 gave before it heard of that is passed on, and counts as given only when host 3 has it.
    host.hear_run(3, "10.32.0.0/26", 3, 0, version);
    host.hear_run(2, "10.32.0.128/25", 1, 1, 2);
    assert_eq!(moved(&mut host, request), None, "there is more now");
    let (to, passed_on) = granted_by_gossip(&host);
    assert_eq!(to, peer(3));
    host.hear_run(3, "10.32.0.128/25", 3, 1, passed_on);
    assert_eq!(moved(&mut host, request), Some(Ok(("host3".to_owned(), 192))));
}

/// Returns who owns the upper half, by what the host knows, and the version of that.
fn granted_by_gossip(host: &Host) -> (PeerName, u64) {
    let (_, ring) = host.ipam.ring().expect("there is a ring");
    let fact = ring.fact(net("10.32.0.128/25").network().into()).expect("known");
    (fact.owner.peer, fact.version)
}

/// Two are left and both leave: whoever was given the other's addresses cannot keep them.
#[test]
fn who_leaves_too_is_nobody_to_have_addresses() {
    let mut host = half();
    let request = host.ipam.hand_over(TIMEOUT, host.now);
    assert_eq!(moved(&mut host, request), None);
    let (_, version) = granted(&mut host);
    host.ipam.handle_update(peer(2), false, &[Entry { key: b"free".to_vec(), value: None }]);
    host.hear_run(2, "10.32.0.0/25", 2, 0, version);
    assert_eq!(moved(&mut host, request), None, "it leaves");
    host.now += TIMEOUT;
    assert!(matches!(moved(&mut host, request), Some(Err(Refusal::NotConfirmed { .. }))));
}
