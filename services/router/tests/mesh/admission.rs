//! Who is let in: keys that were revoked, passwords that change.

use std::{fs, path::Path};

use weft_proto::router::v1::{ReloadPasswordRequest, RevokePeersRequest, RevokePeersResponse};

use super::*;

const FIRST: &str = "open sesame";
const SECOND: &str = "a better one";

fn given<'a>(current: &'a str, old: Option<&'a str>) -> Vec<&'a str> {
    let old = old.map(|old| ["--password-old", old]);
    [&["--password", current][..], old.as_ref().map_or(&[], |old| &old[..])].concat()
}

async fn revoke(host: &Host, name: &str) -> Result<RevokePeersResponse, String> {
    let request = RevokePeersRequest { peers: vec![name.to_owned()] };
    let answer = host.peers().revoke_peers(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.message().to_owned())
}

fn is_revoked(status: &GetStatusResponse, nickname: &str) -> bool {
    let lost = status.peers.iter().find(|peer| peer.nickname == nickname);
    let connected = status.connections.iter().any(|connection| connection.nickname == nickname);
    lost.is_some_and(|peer| peer.state() == PeerState::Revoked) && !connected
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_host_is_cut_off_and_nobody_new_gets_in_with_its_password() {
    let mut lab = Lab::new();
    let mut hosts = [lab.host(), lab.host(), lab.host()];
    let first = hosts[0].address();
    for (index, host) in hosts.iter_mut().enumerate() {
        let peers = if index == 0 { vec![] } else { vec!["--peers", first.as_str()] };
        host.start(&with(SECRET, &peers));
    }
    for host in &hosts {
        host.until("all are connected", |status| connected(status, 2)).await;
    }
    let [one, two, lost] = [Namespace::new(), Namespace::new(), Namespace::new()];
    for (host, container, name, address) in [
        (&hosts[0], &one, "one", "10.32.0.1/12"),
        (&hosts[1], &two, "two", "10.32.0.2/12"),
        (&hosts[2], &lost, "lost", "10.32.0.3/12"),
    ] {
        host.attach(container, name, address).await;
    }
    let (to_two, to_lost) = (Ipv4Addr::new(10, 32, 0, 2), Ipv4Addr::new(10, 32, 0, 3));
    pass(&one, &two, to_two).await;
    pass(&one, &lost, to_lost).await;

    assert!(revoke(&hosts[1], "host9").await.expect_err("nobody").contains("no peer host9 is known"));
    assert!(revoke(&hosts[1], "host2").await.expect_err("itself").contains("cannot revoke itself"));
    let answer = revoke(&hosts[1], "host3").await.expect("revoked");
    assert!(answer.next.contains("set a new WEFT_PASSWORD"), "{}", answer.next);
    for host in &hosts[..2] {
        let status = host.until("the lost host is out", |status| is_revoked(status, "host3")).await;
        assert!(says(&status, "password_known_to_revoked", "set a new WEFT_PASSWORD"), "{:?}", status.problems);
    }
    assert!(!tokio::task::block_in_place(|| reaches(&one, &lost, to_lost)), "frames still pass");
    assert!(!tokio::task::block_in_place(|| reaches(&lost, &two, to_two)), "frames still come");
    pass(&one, &two, to_two).await;
    hosts[2].until("it says so itself", |status| says(status, "revoked", "no host lets it in")).await;

    // Restarts change nothing, also of the one that knows it from others, and of the lost one without a peer.
    hosts[0].kill();
    hosts[0].start(&with(SECRET, &["--peers", &hosts[1].address()]));
    hosts[0].until("the others go on", |status| connected(status, 1) && is_revoked(status, "host3")).await;
    pass(&one, &two, to_two).await;
    hosts[2].kill();
    hosts[2].start(SECRET);
    hosts[2].until("it says so itself again", |status| says(status, "revoked", "no host lets it in")).await;
    assert!(!tokio::task::block_in_place(|| reaches(&lost, &two, to_two)), "frames come again");

    // A new host is refused with the password of before, on both sides, and let in with another.
    let mut new = lab.host();
    new.start(&with(SECRET, &["--peers", &first]));
    new.until("the sentence", |status| says(status, "unknown_key", "host4) is new to")).await;
    hosts[0].until("the sentence", |status| says(status, "unknown_key", "host4) is new to")).await;
    hosts[0].kill();
    hosts[0].start(&given(SECOND, Some(FIRST)));
    hosts[1].until("members go on", |status| connected(status, 1)).await;
    new.until("not with the old one", |status| says(status, "unknown_key", "with the old password")).await;
    new.kill();
    new.start(&with(&given(SECOND, None), &["--peers", &first]));
    new.until("it is in", |status| connected(status, 1)).await;
    let status = hosts[0].until("it is in", |status| connected(status, 2)).await;
    assert!(!says(&status, "password_known_to_revoked", ""), "{:?}", status.problems);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_changes_host_by_host_and_all_stay_connected() {
    let mut lab = Lab::new();
    let mut hosts = [lab.host(), lab.host(), lab.host()];
    let addresses = [hosts[0].address(), hosts[1].address()];
    let peers = |index: usize| if index == 0 { vec!["--peers", &addresses[1]] } else { vec!["--peers", &addresses[0]] };
    for (index, host) in hosts.iter_mut().enumerate() {
        host.start(&with(SECRET, &peers(index)));
    }
    for host in &hosts {
        host.until("all are connected", |status| connected(status, 2)).await;
    }
    for index in [1, 0, 2] {
        hosts[index].kill();
        hosts[index].start(&with(&given(SECOND, Some(FIRST)), &peers(index)));
        for host in &hosts {
            host.until("all are connected again", |status| connected(status, 2)).await;
        }
        if index == 1 {
            hosts[1].until("who is left", |status| says(status, "old_password", "still used by")).await;
            hosts[2].until("it is left", |status| says(status, "old_password", "this host still uses")).await;
        }
    }
    for host in &hosts {
        host.until("it is done", |status| says(status, "old_password", "it is dropped within")).await;
    }
    for (index, host) in hosts.iter_mut().enumerate() {
        host.kill();
        host.start(&with(&given(SECOND, None), &peers(index)));
    }
    for host in &hosts {
        host.until("nothing is left to say", |status| {
            connected(status, 2) && !status.problems.iter().any(|problem| problem.message.contains("assword"))
        })
        .await;
    }
}

/// Has a router read its password again; returns whether it changed, or why not.
async fn reload(host: &Host) -> Result<bool, String> {
    let answer = host.peers().reload_password(ReloadPasswordRequest {}).await;
    answer.map(|answer| answer.into_inner().changed).map_err(|status| status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_changes_while_routers_run() {
    let mut lab = Lab::new();
    let mut hosts = [lab.host(), lab.host(), lab.host()];
    let first = hosts[0].address();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let files = [0, 1, 2].map(|index| folder.path().join(format!("password{index}")));
    let write = |file: &Path, text: &str| fs::write(file, text).expect("written");
    for (index, (host, file)) in hosts.iter_mut().zip(&files).enumerate() {
        write(file, FIRST);
        let given = ["--password-file", file.to_str().expect("plain")];
        let peers = if index == 0 { vec![] } else { vec!["--peers", first.as_str()] };
        host.start(&with(&given, &peers));
    }
    for host in &hosts {
        host.until("all are connected", |status| connected(status, 2)).await;
    }
    assert_eq!(reload(&hosts[1]).await, Ok(false), "nothing to do");
    // What makes no sense changes nothing.
    for (text, sentence) in [("", "is no password"), ("short", "has 5 bytes"), ("a\nb\nc", "more than two lines")] {
        write(&files[1], text);
        let error = reload(&hosts[1]).await.expect_err("refused");
        assert!(error.contains(sentence), "{error}");
    }
    fs::remove_file(&files[1]).expect("removed");
    let error = reload(&hosts[1]).await.expect_err("refused");
    assert!(error.contains("failed to read the password from") && error.contains("password1"), "{error}");
    let process = hosts[1].process();

    for index in [1, 0] {
        write(&files[index], SECOND);
        assert_eq!(reload(&hosts[index]).await, Ok(true));
        for host in &hosts {
            let status = host.until("all stay connected", |status| connected(status, 2)).await;
            assert!(!says(&status, "wrong_password", ""), "{:?}", status.problems);
        }
    }
    assert_eq!(hosts[1].process(), process);
    hosts[1].until("who is left", |status| says(status, "old_password", "still used by")).await;
    hosts[2].until("it is left", |status| says(status, "old_password", "this host still uses")).await;
    // Who has the old one alone, and was a member, comes in again; who is new does not.
    hosts[2].kill();
    let given = ["--password", FIRST, "--peers", first.as_str()];
    hosts[2].start(&given);
    hosts[2].until("it is back", |status| connected(status, 2)).await;
    let mut stranger = lab.host();
    stranger.start(&given);
    stranger.until("not with the old one", |status| says(status, "unknown_key", "with the old password")).await;
    // A router that has no file says so.
    let error = reload(&hosts[2]).await.expect_err("refused");
    assert!(error.contains("WEFT_PASSWORD_FILE"), "{error}");
    stranger.stop();
    // A slip does not lose the password that the others have.
    write(&files[0], "a third one");
    let error = reload(&hosts[0]).await.expect_err("refused");
    assert!(error.contains("a change of the password is under way"), "{error}");
    hosts[0].until("all are connected", |status| connected(status, 2)).await;
}
