//! What containers of two hosts say to each other, and how it goes.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use weft_proto::router::v1::{DataPath, GetStatusResponse, PathKind};

use crate::lab::{DEADLINE, Host, Namespace, reaches};

/// Drops what a host receives that matches.
pub(crate) fn block(host: &Host, matched: &str) {
    let chain = "add chain inet cut in { type filter hook prerouting priority -300 ; }";
    host.namespace.nft(&format!("add table inet cut ; {chain} ; add rule inet cut in {matched} drop"));
}

pub(crate) fn unblock(host: &Host) {
    host.namespace.nft("delete table inet cut");
}

/// Returns the way of data to a host.
pub(crate) fn way<'a>(status: &'a GetStatusResponse, to: &str) -> Option<&'a DataPath> {
    let peer = status.peers.iter().find(|peer| peer.nickname == to)?;
    peer.data_paths.iter().find(|way| way.in_use)
}

pub(crate) fn goes(status: &GetStatusResponse, to: &str, kind: PathKind) -> bool {
    way(status, to).is_some_and(|way| way.kind() == kind)
}

/// Waits until frames pass between two containers.
pub(crate) async fn pass(from: &Namespace, to: &Namespace, address: Ipv4Addr) {
    let waiting = async {
        while !tokio::task::block_in_place(|| reaches(from, to, address)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.expect("frames pass in time");
}

/// Sends a stream from one container to another and back.
pub(crate) fn transfer(from: &Namespace, to: &Namespace, address: Ipv4Addr, length: usize) {
    let listener = to.run(move || TcpListener::bind((address, 7001)).expect("listen"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut received = vec![0; length];
        stream.read_exact(&mut received).expect("all of it");
        stream.write_all(&received).expect("sent back");
    });
    from.run(move || {
        let mut stream = TcpStream::connect_timeout(&(address, 7001).into(), DEADLINE).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let sent: Vec<u8> = (0..length).map(|index| (index * 7 % 251) as u8).collect();
        let mut writer = stream.try_clone().expect("cloned");
        let data = sent.clone();
        let writing = std::thread::spawn(move || writer.write_all(&data).expect("sent"));
        let mut received = vec![0; length];
        stream.read_exact(&mut received).expect("all of it back");
        assert!(sent == received, "it comes back as it was sent");
        writing.join().expect("written");
    });
    server.join().expect("served");
}
