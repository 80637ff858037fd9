//! Taking connections.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use weft_router_core::handshake::{Handshake, HandshakeError};
use weft_service::handshakes::{self, Handshakes};

use super::{
    ControlEvent, Shared, connection,
    throttle::{FAILURE_PAUSE, Throttle},
};
use crate::socket::limit_segments;

/// Handshakes that may go on at a time with those who connect.
pub(super) const HANDSHAKES: usize = 64;

/// Listens on `port` of `host`, or of all addresses of both families.
///
/// # Errors
/// One sentence that names the port and what to do.
pub fn bind(host: Option<IpAddr>, port: u16) -> anyhow::Result<TcpListener> {
    let open = |address: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(host.is_some())?;
        }
        limit_segments(&socket)?;
        socket.bind(&address.into())?;
        socket.listen(256)?;
        TcpListener::from_std(socket.into())
    };
    let v4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let (address, listener) = match host {
        Some(host) => (SocketAddr::new(host, port), open(SocketAddr::new(host, port))),
        None => match open(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
            // Without IPv6 there is no such family, or no such address.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => (v4, open(v4)),
            outcome => (v4, outcome),
        },
    };
    match listener {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(anyhow::anyhow!("cannot listen on {address}: another process uses the port; stop it or set WEFT_PORT"))
        }
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Err(anyhow::anyhow!(
            "cannot listen on {address}: the host does not have that address; correct WEFT_ROUTER_HOST"
        )),
        listener => listener.with_context(|| format!("cannot listen on {address}")),
    }
}

pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let handshakes = Handshakes::new(HANDSHAKES);
    let throttle = Arc::new(Throttle::default());
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let two_passwords = shared.passwords().is_some_and(|passwords| passwords.has_old());
        let permitted = throttle.permits(remote.ip(), two_passwords, clock());
        match permitted.then(|| handshakes.begin(remote.ip())).flatten() {
            Some(place) => {
                tokio::spawn(take(Arc::clone(&shared), Arc::clone(&throttle), place, stream, remote));
            }
            None => refuse(&stream),
        }
    }
}

/// Serves one that connected, until its connection ends.
async fn take(
    shared: Arc<Shared>,
    throttle: Arc<Throttle>,
    mut place: handshakes::Handshake,
    stream: TcpStream,
    remote: SocketAddr,
) {
    match place.unless_ended(connection::shake_hands(&shared, stream, remote, None)).await {
        Some(Ok(established)) => {
            drop(place);
            throttle.forgive(remote.ip());
            established.run().await;
        }
        Some(Err(failure)) => {
            let wrong = failure.error == Some(HandshakeError::WrongPassword);
            if wrong {
                // So that many at once do not guess faster: whoever comes now gets no place that a wrong password has.
                place.keep();
                throttle.punish(remote.ip(), clock());
            }
            // Who has another password to try is no problem yet.
            if failure.next_pair.is_none() {
                let event = ControlEvent::Refused { remote: remote.ip(), problem: failure.problem };
                // An error means that the process is ending.
                let _ = shared.events.send(event).await;
            }
            if wrong {
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
        None => tracing::debug!(%remote, "a connection without a handshake made room for another"),
    }
}

fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Tells an initiator to come again, if that goes without waiting, and closes.
fn refuse(stream: &TcpStream) {
    // A new socket has room for some bytes; whoever does not get them sees a closed connection.
    let _ = stream.try_write(&Handshake::busy());
}
