//! Receives the sockets that containers ask from the router.
//!
//! The router opens them in the namespace of the anycast address, where this process could not, and sends them over a Unix
//! socket: one message of one byte, the version of this exchange, with two descriptors, a bound UDP socket and a TCP
//! listener. The connection stays open; when it ends, the router is asked again, and the sockets in use go on to be served.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    net::{TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketType, recvmsg, sockopt};
use tokio::{
    io::Interest,
    net::{TcpListener, UdpSocket, UnixStream},
    time::sleep,
};
use weft_service::Result;

use crate::{handler::Handler, listener::Listener, problems::Part, state::State};

/// Name of the router's socket in the folder of all services' sockets.
pub(crate) const SOCKET: &str = "dns-sockets.sock";

/// The version of the exchange that this process understands.
const VERSION: u8 = 1;

/// Waiting times between two tries to reach the router.
const RETRY: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(2);

/// Receives sockets and serves them. Never returns.
pub(crate) async fn receive(path: PathBuf, handler: Handler, state: Arc<State>) {
    let mut listener = Listener::default();
    let mut wait = *RETRY.start();
    loop {
        let received = connect_and_serve(&path, &mut listener, &handler, &state, &mut wait).await;
        if let Err(error) = received {
            tracing::debug!(error = format!("{error:#}"), "no sockets from the router");
            if !listener.has_sockets() {
                let message =
                    format!("containers' queries are not answered, because the router gave no sockets: {error:#}");
                state.problems.set(Part::Sockets, message);
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(*RETRY.end());
    }
}

/// Serves what comes over one connection, until it ends.
async fn connect_and_serve(
    path: &Path,
    listener: &mut Listener,
    handler: &Handler,
    state: &Arc<State>,
    wait: &mut Duration,
) -> Result {
    let stream = UnixStream::connect(path).await.with_context(|| format!("failed to connect to {}", path.display()))?;
    while let Some((udp, tcp)) = stream.async_io(Interest::READABLE, || receive_pair(&stream)).await? {
        let (udp, tcp) = checked(udp, tcp)?;
        listener.swap(udp, tcp, handler, state)?;
        *wait = *RETRY.start();
    }
    Ok(())
}

/// Receives one message; `None` when the connection ended.
fn receive_pair(stream: &UnixStream) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let mut version = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut version)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    let odd = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    if version[0] != VERSION {
        return Err(odd(format!(
            "the router speaks version {} of the exchange, this dns version {VERSION}",
            version[0]
        )));
    }
    match (descriptors.pop(), descriptors.pop(), descriptors.pop()) {
        (Some(tcp), Some(udp), None) => Ok(Some((udp, tcp))),
        _ => Err(odd("the router's message does not hold two sockets".to_owned())),
    }
}

/// Makes sure that the descriptors are what they should be, and ready for the runtime.
fn checked(udp: OwnedFd, tcp: OwnedFd) -> Result<(UdpSocket, TcpListener)> {
    if sockopt::socket_type(&udp)? != SocketType::DGRAM || sockopt::socket_type(&tcp)? != SocketType::STREAM {
        bail!("the router's message does not hold a UDP and a TCP socket");
    }
    let (udp, tcp) = (StdUdpSocket::from(udp), StdTcpListener::from(tcp));
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
}
