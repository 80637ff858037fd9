//! One try to connect with a peer.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use weft_router_core::{
    handshake::PasswordPair,
    mesh::{DialId, Problem},
    target::DialAddress,
};

use super::{
    ControlEvent, Shared,
    connection::{self, Dialled, Failure},
    resolve::resolve,
};
use crate::socket::limit_segments;

/// How long one address gets to answer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(4);
/// How long the resolver gets to answer.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn run(shared: Arc<Shared>, dial: DialId, address: DialAddress) {
    match join(&shared, dial, &address).await {
        Ok(established) => established.run().await,
        Err(problem) => report(&shared, dial, problem).await,
    }
}

/// Connects and shakes hands; where a password is being changed, with one pair of passwords after the other until one fits,
/// each on a connection of its own.
async fn join(shared: &Arc<Shared>, dial: DialId, address: &DialAddress) -> Result<connection::Established, Problem> {
    let mut pair = PasswordPair::FIRST;
    loop {
        let (stream, remote) = connect(&shared.host_root, address).await?;
        let dialled = Dialled { dial, address, pair };
        let Failure { problem, next_pair, .. } =
            match connection::shake_hands(shared, stream, remote, Some(dialled)).await {
                Ok(established) => return Ok(established),
                Err(failure) => failure,
            };
        pair = next_pair.ok_or(problem)?;
    }
}

async fn report(shared: &Shared, dial: DialId, problem: Problem) {
    // An error means that the process is ending.
    let _ = shared.events.send(ControlEvent::DialFailed { dial, problem }).await;
}

async fn open(remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = if remote.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    limit_segments(&socket)?;
    socket.connect(remote).await
}

/// Connects with the first address that answers.
async fn connect(host_root: &Path, address: &DialAddress) -> Result<(TcpStream, SocketAddr), Problem> {
    let problem = |reason, message| Problem { reason, message, is_final: false };
    let unknown = |error: &str| {
        let message =
            format!("the peer {address} cannot be resolved ({error}): check the name and the host's resolvers");
        problem("name_not_resolved", message)
    };
    let addresses = timeout(RESOLVE_DEADLINE, resolve(host_root, address))
        .await
        .map_err(|_| unknown("no answer within 10 s"))?
        .map_err(|error| unknown(&error))?;
    let mut last = unknown("it has no address");
    for remote in addresses {
        let error = match timeout(CONNECT_DEADLINE, open(remote)).await {
            Ok(Ok(stream)) => return Ok((stream, SocketAddr::new(remote.ip().to_canonical(), remote.port()))),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer within 4 s".to_owned(),
        };
        let message = format!(
            "the peer {address} cannot be reached at {remote} ({error}): check that weft runs there and that TCP and UDP \
             port {} are open",
            remote.port()
        );
        last = problem("unreachable", message);
    }
    Err(last)
}
