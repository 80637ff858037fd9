//! ipam on a disk that is full.

use std::{collections::BTreeMap, fs, io::Write as _, process::Stdio};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use weft_proto::ipam::v1 as pb;

use crate::common::{Host, PATIENCE, Routers};

/// A mount that only this thread and what it starts see; gone with the thread.
fn small_disk(host: &Host) {
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>).expect("ours");
    fs::create_dir_all(host.state()).expect("writable");
    mount(Some("tmpfs"), &host.state(), Some("tmpfs"), MsFlags::empty(), Some("size=6m")).expect("root may");
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_answered() {
    let routers = Routers::default();
    let host = Host::new(1);
    small_disk(&host);
    let _router = routers.start(host.sockets(), host.peer, &[]);
    let process = host.start(&[]).await;
    let mut given = BTreeMap::new();
    given.insert("c".to_owned(), host.allocate("c", None).await.expect("a founder has addresses"));
    let ballast = host.state().join("ballast");
    let mut file = fs::File::create(&ballast).expect("there is room");
    while file.write_all(&[0; 4096]).is_ok() {}
    drop(file);

    // Long ids fill what the store has in reserve.
    let mut failure = None;
    for number in 0..20_000 {
        let container = format!("c{number:0>60}");
        match host.allocate(&container, None).await {
            Ok(address) => drop(given.insert(container, address)),
            Err(status) => {
                failure = Some(status);
                break;
            }
        }
    }
    assert!(failure.is_some(), "the disk is full");
    let words = weft_proto::client::Service::Ipam.last_words(host.sockets());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let said = loop {
        match fs::read_to_string(&words) {
            Ok(said) if !said.is_empty() => break said,
            _ => assert!(tokio::time::Instant::now() < deadline, "it does not say why it ended"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(said.contains("make room there") && said.contains("No space left"), "{said}");
    drop(process);

    // While there is no room it may serve what it has, or end, but never asks for the store to be moved away.
    let mut command = tokio::process::Command::from(host.command(&[]));
    let again = command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("starts");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(2), again.wait_with_output()).await;
    if let Ok(ended) = ended {
        let text = String::from_utf8_lossy(&ended.expect("it runs").stderr).into_owned();
        assert!(text.contains("make room") && !text.contains("move it away"), "{text}");
    }

    fs::remove_file(&ballast).expect("there");
    let _process = host.start(&[]).await;
    for (container, address) in &given {
        let request = pb::LookupRequest { container_id: container.clone() };
        let found = host.client().lookup(request).await.expect("answers").into_inner().addresses;
        assert_eq!(found.len(), 1, "{container} had {address:?}");
    }
    assert_eq!(host.allocate("c", None).await.expect("as before"), given["c"]);
    host.allocate("late", None).await.expect("there is room again");
}
