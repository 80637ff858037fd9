//! The name server's sockets: passed over a Unix socket, reached from an attached container.

use std::{
    io::IoSliceMut,
    net::{TcpListener, UdpSocket},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use weft_router::dns_port;
use weft_service::Shutdown;

use crate::support::{self, Container, Host, eventually, on_host, output};

/// Connects as the dns service does.
fn receive(path: &Path) -> (UnixStream, UdpSocket, TcpListener) {
    let stream = UnixStream::connect(path).expect("connected");
    stream.set_read_timeout(Some(support::DEADLINE)).expect("a time-out");
    let mut byte = [0];
    let mut space = nix::cmsg_space!([i32; 2]);
    let fds = {
        let mut content = [IoSliceMut::new(&mut byte)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut content, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
            .expect("a message");
        assert_eq!(message.bytes, 1);
        let mut fds = Vec::new();
        for control in message.cmsgs().expect("whole") {
            if let ControlMessageOwned::ScmRights(passed) = control {
                // SAFETY: the kernel just gave these descriptors to us alone.
                fds.extend(passed.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        fds
    };
    assert_eq!(byte, [dns_port::VERSION]);
    let [udp, tcp] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
    (stream, udp.into(), tcp.into())
}

#[test]
fn containers_reach_the_name_server_and_nothing_else_there() {
    on_host(|Host { kernel, .. }| async move {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(dns_port::SOCKET_NAME);
        let (stop, shutdown) = Shutdown::triggered();
        let serving = tokio::spawn({
            let (path, sockets) = (path.clone(), kernel.dns_sockets());
            async move { dns_port::serve(&path, sockets, shutdown).await }
        });
        eventually("the socket is there", || path.exists()).await;
        kernel.set_subnets(["10.32.0.0/12".parse().expect("a subnet")].into()).await.expect("set");
        kernel.prepare().await.expect("prepared");
        let one = Container::start("a1");
        kernel.attach(one.spec(&["10.32.0.1/12"])).await.expect("attached");

        for _ in 0..2 {
            let client = tokio::task::spawn_blocking({
                let path = path.clone();
                move || receive(&path)
            });
            let (stream, udp, tcp) = client.await.expect("received");
            assert_eq!(udp.local_addr().expect("bound").to_string(), "169.254.83.53:53");
            assert_eq!(tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));

            let asking = one.run(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                socket.connect("169.254.83.53:53").expect("a route");
                socket.set_read_timeout(Some(support::DEADLINE)).expect("a time-out");
                socket.send(b"who is db").expect("sent");
                socket
            });
            udp.set_nonblocking(false).expect("blocking");
            udp.set_read_timeout(Some(support::DEADLINE)).expect("a time-out");
            let (_, from) = udp.recv_from(&mut [0; 64]).expect("a question");
            assert_eq!(from.ip().to_string(), "10.32.0.1");
            udp.send_to(b"10.32.0.7", from).expect("sent");
            let mut answer = [0; 64];
            let length = asking.recv(&mut answer).expect("an answer");
            assert_eq!(&answer[..length], b"10.32.0.7");
            udp.set_nonblocking(true).expect("as it was");

            let connecting = one.run(|| {
                std::net::TcpStream::connect_timeout(
                    &"169.254.83.53:53".parse().expect("an address"),
                    Duration::from_secs(2),
                )
            });
            connecting.expect("the TCP listener answers");

            // A new port means new sockets, and the end of the connection says so.
            output("ip", &["link", "delete", "weft-dns"]);
            let ended = tokio::task::spawn_blocking(move || std::io::Read::read(&mut &stream, &mut [0; 1]));
            assert_eq!(ended.await.expect("read").expect("ended in time"), 0);
        }
        stop.request();
        serving.await.expect("no panic").expect("served");
    });
}
