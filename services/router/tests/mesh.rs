//! Routers as processes on hosts of their own: what people do with them, and what they are told when it does not work.
//!
//! Needs root, for network namespaces; no other network is touched.

#[path = "mesh/admission.rs"]
mod admission;
#[path = "common/files.rs"]
mod files;
#[path = "mesh/lab.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod lab;

use std::{net::Ipv4Addr, time::Duration};

use lab::{DEADLINE, Host, Lab, Namespace, reaches};
use weft_metrics::{
    shared,
    testing::{self, Scrape},
};
use weft_proto::{
    client::Service,
    router::v1::{
        AddTargetsRequest, ConnectionState, Entry, GetStatusResponse, PathKind, PeerState, PublishRequest,
        SubscribeRequest, SubscribeResponse, TargetState, subscribe_response::Kind,
    },
};

const SECRET: &[&str] = &["--password", "open sesame"];

fn with<'a>(first: &[&'a str], second: &[&'a str]) -> Vec<&'a str> {
    [first, second].concat()
}

/// Tells whether data flows to so many peers.
fn connected(status: &GetStatusResponse, count: usize) -> bool {
    let established = |state: i32| state == i32::from(ConnectionState::Established);
    status.connections.iter().filter(|connection| established(connection.state)).count() == count
}

fn says(status: &GetStatusResponse, reason: &str, sentence: &str) -> bool {
    status.problems.iter().any(|problem| problem.reason == reason && problem.message.contains(sentence))
}

/// Waits until frames pass between two containers.
async fn pass(from: &Namespace, to: &Namespace, address: Ipv4Addr) {
    let waiting = async {
        while !tokio::task::block_in_place(|| reaches(from, to, address)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("frames pass in time");
}

fn two_hosts(first: &[&str], second: &[&str]) -> (Lab, Host, Host) {
    let mut lab = Lab::new();
    let (mut a, mut b) = (lab.host(), lab.host());
    a.start(first);
    b.start(&with(second, &["--peers", &a.address()]));
    (lab, a, b)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_carry_frames_and_survive_the_death_of_a_router() {
    let (_lab, a, mut b) = two_hosts(SECRET, SECRET);
    let status = b.until("data flows", |status| connected(status, 1)).await;
    assert_eq!(status.targets[0].state, i32::from(TargetState::Connected));
    assert_eq!(status.connections[0].nickname, "host1");
    a.until("data flows", |status| connected(status, 1)).await;

    let (one, two) = (Namespace::new(), Namespace::new());
    a.attach(&one, "one", "10.32.0.1/12").await;
    b.attach(&two, "two", "10.32.0.2/12").await;
    let address = Ipv4Addr::new(10, 32, 0, 2);
    pass(&one, &two, address).await;

    b.kill();
    let options = with(SECRET, &["--peers", "192.168.77.1"]);
    b.start(&options);
    b.until("data flows again", |status| connected(status, 1)).await;
    pass(&one, &two, address).await;
    let attachments = b.attachments().list_attachments(weft_proto::router::v1::ListAttachmentsRequest {}).await;
    assert_eq!(attachments.expect("answered").into_inner().attachments.len(), 1, "the attachment was remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_find_each_other_and_hear_what_one_publishes() {
    let mut lab = Lab::new();
    let (mut a, mut b, mut c) = (lab.host(), lab.host(), lab.host());
    a.start(SECRET);
    b.start(&with(SECRET, &["--peers", &a.address()]));
    c.start(&with(SECRET, &["--peers", &a.address()]));
    for host in [&a, &b, &c] {
        host.until("all are connected", |status| connected(status, 2)).await;
    }
    let mut heard =
        b.gossip().subscribe(SubscribeRequest { channel: "test".into() }).await.expect("served").into_inner();
    assert!(matches!(next(&mut heard).await, Kind::Snapshot(snapshot) if snapshot.reachable.len() == 3));
    let entry = Entry { key: b"key".into(), value: Some(b"value".into()) };
    let publish = PublishRequest { channel: "test".into(), snapshot: true, entries: vec![entry.clone()] };
    c.gossip().publish(publish).await.expect("published");
    loop {
        if let Kind::Update(update) = next(&mut heard).await {
            assert_eq!(update.entries, [entry]);
            break;
        }
    }
    c.stop();
    let unreachable = i32::from(PeerState::Unreachable);
    a.until("one left", |status| status.peers.iter().filter(|peer| peer.state == unreachable).count() == 1).await;
}

async fn next(heard: &mut tonic::Streaming<SubscribeResponse>) -> Kind {
    let message = tokio::time::timeout(DEADLINE, heard.message()).await.expect("a message in time");
    message.expect("the stream is well").expect("the stream goes on").kind.expect("a kind")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_is_named_on_both_sides_and_in_the_target() {
    let (_lab, a, b) = two_hosts(SECRET, &["--password", "something else"]);
    let sentence = "the password differs from that of 192.168.77.";
    a.until("the sentence", |status| says(status, "wrong_password", sentence)).await;
    let status = b.until("the sentence", |status| says(status, "wrong_password", sentence)).await;
    assert_eq!(status.targets[0].problem.as_ref().expect("a problem").reason, "wrong_password");
    assert!(status.connections.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_or_the_same_name_is_named_on_both_sides() {
    let ranges = two_hosts(SECRET, &with(SECRET, &["--ipalloc-range", "10.48.0.0/12"]));
    let same = with(SECRET, &["--name", "twin"]);
    let names = two_hosts(&same, &same);
    for ((_lab, a, b), reason, word) in [(ranges, "address_range", "10.48.0.0/12"), (names, "same_name", "twin")] {
        for host in [&a, &b] {
            host.until("the sentence", |status| says(status, reason, word)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_comes_later_is_reached_without_being_asked_for_again() {
    let mut lab = Lab::new();
    let (mut a, mut b) = (lab.host(), lab.host());
    a.start(SECRET);
    a.until("it answers", |_| true).await;
    let request = AddTargetsRequest { targets: vec![b.address()], replace: false };
    a.peers().add_targets(request).await.expect("added");
    let address = b.address();
    a.until("unreachable", |status| says(status, "unreachable", &address)).await;
    b.start(SECRET);
    a.until("connected", |status| connected(status, 1)).await;
    a.kill();
    a.start(SECRET);
    a.until("connected again, by the persisted target", |status| connected(status, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_ends_with_one_sentence() {
    let mut lab = Lab::new();
    let mut host = lab.host();
    assert!(host.fails(&[]).contains("--insecure-no-password"));
    assert!(host.fails(&with(SECRET, &["--ipalloc-range", "10.32.0.1/12"])).contains("did you mean 10.32.0.0/12"));
    assert!(host.fails(&["--password-file", "/nowhere/at/all"]).contains("/nowhere/at/all"));
    let collision = host.fails(&with(SECRET, &["--ipalloc-range", "192.168.0.0/16"]));
    assert!(collision.contains("192.168.77.0/24 by eth0"), "{collision}");
    let holder = host.namespace.run(|| std::net::TcpListener::bind("0.0.0.0:6783").expect("free"));
    let port = host.fails(SECRET);
    assert!(port.contains("cannot listen on 0.0.0.0:6783: another process uses the port"), "{port}");
    drop(holder);
    host.start(SECRET);
    host.until("it answers", |_| true).await;
    let sockets = host.sockets();
    assert!(host.fails(SECRET).contains(&sockets.display().to_string()));
    // Without its socket the router runs all the same.
    std::fs::remove_file(Service::Router.socket(&sockets)).expect("removed");
    let holder = format!("taken there by the process {} (weft-router)", host.process());
    let removal = host.fails(&["--remove"]);
    assert!(removal.contains("nothing was removed") && removal.contains(&holder), "{removal}");
    let second = host.fails(SECRET);
    assert!(second.contains("only one can") && second.contains(&holder), "{second}");
    host.namespace.ip("link show weft-tap");
    host.stop();
    tokio::time::timeout(Duration::from_secs(5), async {
        while host.status().await.is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it has stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tap_device_ends_the_router_and_the_next_makes_it_anew() {
    let mut lab = Lab::new();
    let mut host = lab.host();
    host.start_quietly(SECRET);
    host.until("it answers", |_| true).await;
    host.namespace.ip("link delete weft-tap");
    let said = host.gives_up().await;
    assert!(said.contains("the TAP device weft-tap was deleted: restarting makes it anew"), "{said}");
    host.start(SECRET);
    host.until("it answers", |_| true).await;
    host.namespace.ip("link show weft-tap");
}

/// Asks for a page at the scrape address of a host.
fn page(host: &Host, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let answer = host.namespace.run(move || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect("127.0.0.1:6782")?;
        stream.set_read_timeout(Some(DEADLINE))?;
        std::io::Write::write_all(&mut stream, request.as_bytes())?;
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer)?;
        Ok(answer)
    });
    let answer = answer.expect("metrics are served");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    (head.to_owned(), body.to_owned())
}

fn scrape(host: &Host) -> Scrape {
    let (head, body) = page(host, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("text/plain; version=0.0.4"), "{head}");
    testing::read(&body).unwrap_or_else(|error| panic!("{error} in\n{body}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_has_every_metric_and_says_which_services_are_away() {
    let (_lab, a, b) = two_hosts(SECRET, SECRET);
    for host in [&a, &b] {
        let by_udp = |status: &GetStatusResponse| status.connections.iter().any(|to| to.path() == PathKind::DirectUdp);
        host.until("data flows by UDP", by_udp).await;
    }
    let (one, two) = (Namespace::new(), Namespace::new());
    a.attach(&one, "one", "10.32.0.1/12").await;
    b.attach(&two, "two", "10.32.0.2/12").await;
    pass(&one, &two, Ipv4Addr::new(10, 32, 0, 2)).await;

    let first = tokio::task::block_in_place(|| scrape(&a));
    let second = tokio::task::block_in_place(|| scrape(&a));
    let all = [shared::FAMILIES, weft_router::metrics::FAMILIES].concat();
    // Of trusted peers there are none.
    let vxlan = ["weft_router_peer_vxlan_frames_total", "weft_router_peer_vxlan_bytes_total"];
    let rarely = [shared::PROBLEM_AGE.name, shared::TRACE_SPANS.name, vxlan[0], vxlan[1]];
    let there: Vec<&str> = second.families().collect();
    let missing: Vec<&str> =
        all.iter().map(|family| family.name).filter(|name| !there.contains(name) && !rarely.contains(name)).collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert!(there.iter().all(|name| all.iter().any(|family| family.name == *name)), "not defined: {there:?}");

    let up = |service: &str| second.sum("weft_up", &[("service", service)]) as u64;
    assert_eq!((up("router"), up("ipam"), up("dns"), up("docker-proxy")), (1, 0, 0, 0));
    let count = |name: &str, labels: &[(&str, &str)]| second.sum(name, labels) as u64;
    assert_eq!(count("weft_router_peers", &[("state", "connected")]), 1);
    assert_eq!(count("weft_router_peer_path", &[("path", "direct_udp")]), 1);
    assert_eq!(count("weft_router_attachments", &[]), 1);
    assert!(count("weft_router_frames_total", &[("direction", "sent")]) >= 1);
    assert!(count("weft_router_rekeys_total", &[]) >= 1);
    assert!(count("weft_router_control_bytes_total", &[("direction", "received"), ("kind", "gossip")]) > 0);
    let round_trip = second.sum("weft_router_peer_round_trip_seconds", &[]);
    assert!(round_trip > 0.0 && round_trip < 1.0, "{round_trip}");
    for counter in ["weft_router_sealed_bytes_total", "weft_router_control_messages_total", "process_cpu_seconds_total"]
    {
        assert!(second.sum(counter, &[]) >= first.sum(counter, &[]), "{counter} shrinks");
    }

    let (head, body) = tokio::task::block_in_place(|| page(&a, "/healthz"));
    assert!(head.starts_with("HTTP/1.1 503") && body.starts_with("router: ready\nipam: "), "{head}{body}");
    assert!(tokio::task::block_in_place(|| page(&a, "/other")).0.starts_with("HTTP/1.1 404"));
    let (head, body) = tokio::task::block_in_place(|| page(&a, "/status/peers"));
    assert!(head.starts_with("HTTP/1.1 503") && body.contains("docker-proxy"), "{head}{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_address_in_use_is_a_problem_until_it_is_free() {
    let mut lab = Lab::new();
    let mut host = lab.host();
    let holder = host.namespace.run(|| std::net::TcpListener::bind("127.0.0.1:6782").expect("free"));
    host.start(SECRET);
    let sentence = "metrics are not served on 127.0.0.1:6782";
    host.until("the sentence", |status| says(status, "no_metrics", sentence)).await;
    drop(holder);
    host.until("it is solved", |status| !says(status, "no_metrics", sentence)).await;
    let scrape = tokio::task::block_in_place(|| scrape(&host));
    assert_eq!(scrape.sum("weft_problems", &[("service", "router")]) as u64, 0);
}
