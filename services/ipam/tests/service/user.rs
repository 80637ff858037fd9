//! ipam as a user of its own, started by root.

use std::{fs, os::unix::fs::MetadataExt as _};

use weft_proto::client::Service;

use crate::common::{Host, PATIENCE, Process, Routers};

const USER: &[&str] = &["--user", "67999"];

fn status(process: &Process, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.expect("the kernel reports it").split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_keeps_no_right_of_root_and_all_that_it_needs() {
    let routers = Routers::default();
    let host = Host::new(1);
    // As root, as earlier versions were.
    let router = routers.start(host.sockets(), host.peer, &[]);
    let process = host.start(&[]).await;
    let before = host.allocate("c1", None).await.expect("a founder has addresses");
    drop(process);
    drop(router);

    let process = host.start(USER).await;
    for (field, expected) in [("Uid", "67999 67999 67999 67999"), ("Gid", "67999 67999 67999 67999"), ("Groups", "")] {
        assert_eq!(status(&process, field), expected, "{field}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(&process, set), "0000000000000000", "{set}");
    }
    for path in [host.state(), host.state().join("ipam.redb")] {
        assert_eq!(fs::metadata(&path).expect("there").uid(), 67_999, "{}", path.display());
    }
    let socket = fs::metadata(Service::Ipam.socket(host.sockets())).expect("there");
    assert_eq!((socket.uid(), socket.mode() & 0o7777), (0, 0o660));
    assert_eq!(host.allocate("c1", None).await.expect("as before"), before);

    // A router that starts later is reached too.
    let _router = routers.start(host.sockets(), host.peer, &[]);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !routers.reached(host.peer) {
        assert!(tokio::time::Instant::now() < deadline, "the router is not reached");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(process);
    let _process = host.start(USER).await;
    assert_eq!(host.allocate("c1", None).await.expect("after a restart"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_last_words_are_left_where_only_root_may_write() {
    let routers = Routers::default();
    let host = Host::new(1);
    let router = routers.start(host.sockets(), host.peer, &[]);
    let process = host.start(USER).await;
    host.allocate("c1", None).await.expect("a founder has addresses");
    drop(process);
    drop(router);
    let words = Service::Ipam.last_words(host.sockets());
    let output =
        host.command(&[USER, &["--ipalloc-range", "10.64.0.0/12"]].concat()).output().expect("it can be started");
    assert_eq!(output.status.code(), Some(1));
    let left = fs::read_to_string(&words).expect("left");
    assert!(left.contains("is for the range 10.32.0.0/12"), "{left}");
    let _process = host.start(USER).await;
    assert_eq!(fs::read_to_string(&words).expect("there"), "");
}
