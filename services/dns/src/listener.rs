//! The DNS server on a pair of sockets, which can be changed while it runs.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use hickory_server::Server;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::oneshot,
    time::sleep,
};
use weft_service::Result;

use crate::{handler::Handler, problems::Part, state::State, tcp};

/// How long replaced sockets are served on, so that queries already taken from them are answered.
const LINGER: Duration = Duration::from_secs(5);

/// Serves the sockets that it was given last.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    /// Dropping it stops the server of the present sockets, after a while.
    replaced: Option<oneshot::Sender<()>>,
}

impl Listener {
    /// Tells whether it was ever given sockets.
    pub(crate) const fn has_sockets(&self) -> bool {
        self.replaced.is_some()
    }

    /// Starts to serve a pair of sockets, and lets go of the ones before.
    ///
    /// # Errors
    /// If the UDP socket has no address.
    pub(crate) fn swap(&mut self, udp: UdpSocket, tcp: TcpListener, handler: &Handler, state: &Arc<State>) -> Result {
        let address = udp.local_addr().context("the UDP socket has no address")?;
        let mut server = Server::new(handler.clone());
        server.register_socket(udp);
        let (sender, replaced) = oneshot::channel::<()>();
        let connections = tcp::serve(tcp, handler.clone());
        let state = Arc::clone(state);
        state.set_serving(address);
        state.problems.clear(Part::Sockets);
        tracing::info!(%address, "answering queries");
        tokio::spawn(async move {
            tokio::select! {
                ended = server.block_until_done() => {
                    let why = ended.err().map_or_else(|| "they were closed".to_owned(), |error| error.to_string());
                    let message = format!("queries on {address} are not answered, because its sockets failed: {why}");
                    state.problems.set(Part::Sockets, message);
                }
                () = connections => {}
                () = async { _ = replaced.await; sleep(LINGER).await } => {}
            }
        });
        self.replaced = Some(sender);
        Ok(())
    }
}

/// Binds both sockets of an address.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(udp.local_addr()?).await?;
    Ok((udp, tcp))
}
