//! The real ipam process, over its socket, beside a router that only gossips.

mod common;
mod disk;
mod user;

use std::{collections::BTreeSet, fs, time::Duration};

use common::{Host, PATIENCE, Routers};
use weft_proto::ipam::v1 as pb;

#[tokio::test(flavor = "multi_thread")]
async fn addresses_survive_kill_9_and_the_absence_of_the_router() {
    let routers = Routers::default();
    let host = Host::new(1);
    let router = routers.start(host.sockets(), host.peer, &[]);
    let process = host.start(&[]).await;
    let first = host.allocate("c1", None).await.expect("a founder has addresses");
    assert_eq!(first.0, "10.32.0.1/12");
    assert!(first.1.starts_with("fd") && first.1.ends_with(":c::a20:1/108"), "{first:?}");
    assert_eq!(host.allocate("c2", Some("10.32.1.0/24")).await.expect("another subnet").0, "10.32.1.1/24");
    drop(process);
    drop(router);

    let _process = host.start(&[]).await;
    assert_eq!(host.allocate("c1", None).await.expect("as before"), first);
    assert_eq!(host.allocate("c3", None).await.expect("the router is not needed").0, "10.32.0.2/12");
    let freed = host.client().free(pb::FreeRequest { container_id: "c1".into(), addresses: Vec::new() }).await;
    assert_eq!(freed.expect("freed").into_inner().freed.len(), 1);
    assert_eq!(host.allocate("c4", None).await.expect("what was freed is free").0, "10.32.0.1/12");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_a_time_share_few_commits() {
    let routers = Routers::default();
    let host = Host::new(1);
    let _router = routers.start(host.sockets(), host.peer, &[]);
    let process = host.start(&[]).await;
    host.allocate("first", None).await.expect("a founder has addresses");
    // Counted by the size of what the process wrote to its store: every commit writes whole pages.
    let written = || {
        let io = fs::read_to_string(format!("/proc/{}/io", process.id())).expect("the kernel accounts for IO");
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("it has this line").to_owned();
        line.parse::<u64>().expect("a number")
    };
    let before = written();
    host.allocate("one", None).await.expect("an address");
    let for_one = written() - before;

    let before = written();
    let client = host.client();
    let calls = (0..200).map(|number| {
        let mut client = client.clone();
        let request = pb::AllocateRequest { container_id: format!("c{number}"), subnet: None, timeout_millis: 0 };
        tokio::spawn(async move { client.allocate(request).await.expect("an address").into_inner() })
    });
    let mut addresses = BTreeSet::new();
    for call in calls.collect::<Vec<_>>() {
        let v4 = call.await.expect("no panic").address.and_then(|address| address.v4).expect("an address");
        assert!(addresses.insert(v4.address.expect("an address").octets), "an address was given twice");
    }
    let for_all = written() - before;
    assert!(for_all < 60 * for_one.max(4096), "200 requests wrote {for_all} bytes, one {for_one}");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_join_one_ring() {
    let routers = Routers::default();
    let hosts = [Host::new(1), Host::new(2), Host::new(3)];
    let peers = hosts.each_ref().map(|host| host.peer);
    for (name, targets) in [
        ("the others join the first", [vec![], vec![peers[0]], vec![peers[0]]]),
        ("all know each other", [vec![peers[1], peers[2]], vec![peers[0], peers[2]], vec![peers[0], peers[1]]]),
    ] {
        let mut running = Vec::new();
        for (host, targets) in hosts.iter().zip(&targets) {
            let router = routers.start(host.sockets(), host.peer, targets);
            running.push((host.start(&[]).await, router));
        }
        let mut seen = BTreeSet::new();
        let mut prefixes = BTreeSet::new();
        for host in &hosts {
            for container in ["a", "b"] {
                let (v4, v6) = host.allocate(container, Some("10.32.5.0/24")).await.expect(name);
                assert!(seen.insert(v4.clone()), "{name}: {v4} was given twice");
                prefixes.insert(v6[..14].to_owned());
            }
        }
        assert_eq!(prefixes.len(), 1, "{name}: all twins share the prefix");
        let taken = seen.first().expect("there are some").clone();
        let request = pb::ClaimRequest {
            container_id: "thief".into(),
            address: Some(taken.parse::<ipnet::Ipv4Net>().expect("valid").into()),
            timeout_millis: 5000,
        };
        for host in &hosts {
            let status = host.client().claim(request.clone()).await.expect_err("taken");
            assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
            assert_eq!(
                status.metadata().get("weft-reason").map(|reason| reason.as_bytes()),
                Some(&b"address_taken"[..])
            );
            assert!(status.message().contains("already in use by the container"), "{}", status.message());
        }
        drop(running);
        for host in &hosts {
            fs::remove_dir_all(host.state()).expect("the stores can be removed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_away_keeps_its_name_over_a_restart() {
    let routers = Routers::default();
    let hosts = [Host::new(1), Host::new(2)];
    let mut running = Vec::new();
    for (host, targets) in hosts.iter().zip([vec![], vec![hosts[0].peer]]) {
        let router = routers.start(host.sockets(), host.peer, &targets);
        running.push((host.start(&[]).await, router));
    }
    for host in &hosts {
        host.allocate("a", None).await.expect("the second joins the first");
    }
    drop(running);
    let [host, away] = &hosts;
    let _router = routers.start(host.sockets(), host.peer, &[]);
    let _process = host.start(&[]).await;
    host.allocate("b", None).await.expect("the router was heard");
    let status = host.client().get_status(pb::GetStatusRequest {}).await.expect("it answers").into_inner();
    let share = status.shares.iter().find(|share| share.peer_name == Some(away.peer.into())).expect("it owns some");
    assert_eq!((share.reachable, share.nickname.clone()), (false, format!("host-{}", away.peer)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_is_explained_in_time() {
    let routers = Routers::default();
    let host = Host::new(1);
    let _router = routers.start(host.sockets(), host.peer, &[]);
    let _process = host.start(&["--ipalloc-range", "10.9.0.0/30"]).await;
    for container in ["a", "b"] {
        host.allocate(container, None).await.expect("two fit");
    }
    let mut request = pb::AllocateRequest { container_id: "c".into(), subnet: None, timeout_millis: 60_000 };
    let status = host.client().allocate(request.clone()).await.expect_err("full");
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.message().starts_with("all addresses of 10.9.0.0/30 are in use (2)"), "{}", status.message());
    request.timeout_millis = 60_001;
    assert_eq!(host.client().allocate(request).await.expect_err("too long").code(), tonic::Code::InvalidArgument);
    let status = host.allocate("c", Some("10.10.0.0/24")).await.expect_err("elsewhere");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(status.message().contains("outside the address range 10.9.0.0/30"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_fit_ends_ipam_with_one_sentence() {
    let routers = Routers::default();
    let host = Host::new(1);
    let router = routers.start(host.sockets(), host.peer, &[]);
    let process = host.start(&[]).await;
    host.allocate("a", None).await.expect("a founder has addresses");
    drop(process);
    drop(router);
    let stored = fs::read(host.state().join("ipam.redb")).expect("readable");

    let other_range = ends(&host, &["--ipalloc-range", "10.64.0.0/12"]).await;
    assert!(
        other_range.contains("is for the range 10.32.0.0/12") && other_range.contains("10.64.0.0/12"),
        "{other_range}"
    );

    let stranger = Host::new(9).peer;
    let router = routers.start(host.sockets(), stranger, &[]);
    let other_peer = ends(&host, &[]).await;
    assert!(other_peer.contains("belongs to the peer 01010101") && other_peer.contains("09090909"), "{other_peer}");
    drop(router);

    fs::write(host.state().join("ipam.redb"), &stored[..stored.len() / 3]).expect("writable");
    let damaged = ends(&host, &[]).await;
    assert!(damaged.contains("the address store") && damaged.contains("ipam.redb"), "{damaged}");
    let left = fs::read(host.state().join("ipam.redb")).expect("readable");
    assert!(left == stored[..stored.len() / 3], "what is damaged is left as it is");
}

/// Starts ipam, which has to end with exit code 1, and returns the line that it ends with.
async fn ends(host: &Host, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::from(host.command(arguments));
    let ended = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output());
    let output = ended.await.expect("it ends").expect("it can be started");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.lines().last().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_by_the_exit_code() {
    let routers = Routers::default();
    let host = Host::new(1);
    assert!(!host.command(&["--health"]).status().expect("it can be started").success());
    let _router = routers.start(host.sockets(), host.peer, &[]);
    let _process = host.start(&[]).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !host.command(&["--health"]).status().expect("it can be started").success() {
        assert!(tokio::time::Instant::now() < deadline, "ipam does not get healthy");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
