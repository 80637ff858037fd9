//! The sockets on which clients find the Docker API.

pub mod options;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use weft_service::{
    Shutdown,
    handshakes::{Handshake, Handshakes},
};

use crate::{
    engine::Engine,
    intercept::Intercept,
    local_clients::{LocalClients, Names},
    relay::{self, Answer},
    tls::Acceptor,
};
use options::Options;

/// Clients that are served at a time by Unix sockets, and as many by TCP; others wait to be accepted.
const MOST_CLIENTS: u32 = 4096;

/// TLS handshakes under way at a time.
const MOST_HANDSHAKES: usize = 256;

/// How long a client may take to agree on keys.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Pause after an accept that failed, as it does while all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a TCP client may be silent before it is asked whether it is still there, and between such questions.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How each TLS connection begins (RFC 8446, section 5.1: a record of the type handshake).
const HANDSHAKE: u8 = 22;

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Socket>,
    offers: Vec<Offer>,
}

/// An address that the Docker API is offered at.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What `DOCKER_HOST` may be set to.
    pub address: String,
    /// Whether clients must use TLS.
    pub tls: bool,
    /// Whether they must show a certificate, too.
    pub client_certificates: bool,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
    Tls(TcpListener, Acceptor),
}

impl Listeners {
    /// Binds `socket`, and what the options name. Unix sockets have owner, group and mode of the engine's.
    ///
    /// # Errors
    /// If an option makes no sense, a live process serves one of the addresses, or they cannot be bound.
    pub async fn bind(socket: &Path, engine_socket: &Path, options: &Options) -> anyhow::Result<Self> {
        let plan = options.plan(socket, engine_socket).await?;
        let mut listeners = Self { sockets: Vec::new(), offers: Vec::new() };
        for path in std::iter::once(socket.to_owned()).chain(plan.unix) {
            listeners.sockets.push(Socket::Unix(bind_unix(&path, engine_socket)?));
            let address = format!("unix://{}", path.display());
            listeners.offers.push(Offer { address, tls: false, client_certificates: false });
        }
        for address in plan.tcp {
            let listener = bind_tcp(address).await?;
            let verifies = plan.tls.as_ref().is_some_and(Acceptor::verifies);
            listeners.offers.push(Offer {
                address: format!("tcp://{address}"),
                tls: plan.tls.is_some(),
                client_certificates: verifies,
            });
            if !verifies && !options::is_loopback(address.ip()) {
                tracing::warn!(%address, "the Docker API is offered to other hosts: whoever reaches the address has root here");
            }
            listeners.sockets.push(match &plan.tls {
                Some(tls) => {
                    let certificate = tls.certificate().display();
                    tracing::info!(%address, %certificate, client_certificates = verifies, "TCP clients must use TLS");
                    Socket::Tls(listener, tls.clone())
                }
                None => Socket::Tcp(listener),
            });
        }
        Ok(listeners)
    }

    /// Returns where the Docker API is offered, best first.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// Serves clients until `shutdown`, and until those that were there then are gone. Those that come by TCP without a
    /// certificate know this host as `localhost` or by `names`.
    pub async fn serve(self, engine: Engine, intercept: Intercept, names: Names, shutdown: Shutdown) {
        let serving = Arc::new(Serving {
            engine,
            local: LocalClients::new(intercept.clone(), names),
            intercept,
            unix_clients: Arc::new(Semaphore::new(MOST_CLIENTS as usize)),
            tcp_clients: Arc::new(Semaphore::new(MOST_CLIENTS as usize)),
            handshakes: Handshakes::new(MOST_HANDSHAKES),
            shutdown,
        });
        let mut accepting = JoinSet::new();
        for socket in self.sockets {
            accepting.spawn(Arc::clone(&serving).accept(socket));
        }
        while accepting.join_next().await.is_some() {}
        // The semaphores are never closed.
        let _ = serving.unix_clients.acquire_many(MOST_CLIENTS).await;
        let _ = serving.tcp_clients.acquire_many(MOST_CLIENTS).await;
    }
}

/// What serving a client needs.
struct Serving {
    engine: Engine,
    intercept: Intercept,
    local: LocalClients<Intercept>,
    /// Apart, so that who reaches a TCP address cannot keep others from the Unix socket.
    unix_clients: Arc<Semaphore>,
    tcp_clients: Arc<Semaphore>,
    /// Of all addresses, so that strangers cannot be as many as `tcp_clients`.
    handshakes: Handshakes,
    shutdown: Shutdown,
}

/// A client that was accepted.
enum Client {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(TcpStream, IpAddr, Acceptor),
}

impl Serving {
    /// Accepts clients of one socket until the stop.
    async fn accept(self: Arc<Self>, socket: Socket) {
        let admission = match socket {
            Socket::Unix(_) => Arc::clone(&self.unix_clients),
            Socket::Tcp(_) | Socket::Tls(..) => Arc::clone(&self.tcp_clients),
        };
        loop {
            let accepting = async {
                // The semaphores are never closed.
                let permit = Arc::clone(&admission).acquire_owned().await.map_err(io::Error::other)?;
                io::Result::Ok((socket.accept().await?, permit))
            };
            let accepted = tokio::select! {
                () = self.shutdown.requested() => return,
                accepted = accepting => accepted,
            };
            let serving = Arc::clone(&self);
            match accepted {
                // One task for each kind, so that none has room for what another needs.
                Ok((Client::Unix(stream), permit)) => {
                    tokio::spawn(async move { serving.serve(stream, &serving.intercept, permit).await });
                }
                Ok((Client::Tcp(stream), permit)) => {
                    tokio::spawn(async move { serving.serve(stream, &serving.local, permit).await });
                }
                Ok((Client::Tls(stream, client, acceptor), permit)) => {
                    // There is always room: none keeps its place.
                    if let Some(handshake) = self.handshakes.begin(client) {
                        tokio::spawn(serving.serve_tls(stream, acceptor, handshake, permit));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send,
        interceptor: &impl relay::Interceptor,
        _permit: OwnedSemaphorePermit,
    ) {
        let _counted = self.intercept.client();
        relay::serve(stream, self.engine.socket(), interceptor, &self.shutdown).await;
    }

    async fn serve_tls(
        self: Arc<Self>,
        mut stream: TcpStream,
        acceptor: Acceptor,
        mut handshake: Handshake,
        permit: OwnedSemaphorePermit,
    ) {
        let agreed = async {
            let mut first = [0];
            if stream.peek(&mut first).await? > 0 && first != [HANDSHAKE] {
                let says = Answer::error(
                    400,
                    "the client sent an HTTP request to an HTTPS server: use TLS (DOCKER_TLS_VERIFY=1)",
                );
                stream.write_all(&[says.head, says.body].concat()).await?;
                stream.shutdown().await?;
                // What it sent must not reset the connection under its answer.
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the client did not use TLS"));
            }
            acceptor.accept(stream).await
        };
        let stream = match handshake.unless_ended(timeout(HANDSHAKE_DEADLINE, agreed)).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return tracing::debug!(%error, "a client was not let in by TLS"),
            Some(Err(_)) => return tracing::debug!("a client did not agree on keys in time"),
            None => return tracing::debug!("a client that had not agreed on keys yet made room for another"),
        };
        drop(handshake);
        if acceptor.verifies() {
            self.serve(stream, &self.intercept, permit).await;
        } else {
            self.serve(stream, &self.local, permit).await;
        }
    }
}

impl Socket {
    /// Waits for a client. Cancel safe.
    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Client::Unix(stream)),
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Client::Tcp(prepared(stream))),
            Self::Tls(listener, tls) => {
                let (stream, client) = listener.accept().await?;
                Ok(Client::Tls(prepared(stream), client.ip(), tls.clone()))
            }
        }
    }
}

/// Sends what there is at once, and notices clients whose host is gone.
fn prepared(stream: TcpStream) -> TcpStream {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let prepared = stream.set_nodelay(true).and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = prepared {
        // A client that is gone already is noticed when it is read from.
        tracing::debug!(%error, "a client's connection could not be prepared");
    }
    stream
}

fn bind_unix(path: &Path, engine_socket: &Path) -> anyhow::Result<UnixListener> {
    let shown = path.display();
    if StdUnixStream::connect(path).is_ok() {
        bail!("another process serves unix://{shown}: stop it first, or choose another address");
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{shown} is there and is no socket: choose another address")
        }
        Ok(_) => fs::remove_file(path).with_context(|| format!("failed to remove the stale socket {shown}"))?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("failed to listen on unix://{shown}"))?;
    protect(path, engine_socket)?;
    Ok(listener)
}

async fn bind_tcp(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "failed to listen on tcp://{address}: is the port in use, or the address another host's? Choose another by --host \
             (WEFT_DOCKER_PROXY_HOSTS)"
        )
    })
}

/// Lets exactly those use the socket who may use the engine's. While the engine has none: root alone.
fn protect(socket: &Path, engine_socket: &Path) -> anyhow::Result<()> {
    let (owner, group, mode) = match fs::metadata(engine_socket) {
        Ok(engine) => (engine.uid(), engine.gid(), engine.mode() & 0o777),
        Err(_) => (0, 0, 0o600),
    };
    fs::set_permissions(socket, fs::Permissions::from_mode(mode))
        .with_context(|| format!("failed to set the mode of {}", socket.display()))?;
    if let Err(error) = chown(socket, Some(owner), Some(group)) {
        tracing::warn!(socket = %socket.display(), %error, "failed to give the socket the owner of the engine's");
    }
    Ok(())
}

/// Gives the folder of weft's sockets, and those that are there, the group of the engine's socket. Sockets made later
/// inherit it.
pub fn share_folder(folder: &Path, engine_socket: &Path) {
    let Ok(engine) = fs::metadata(engine_socket) else { return };
    let share = |path: &Path| chown(path, None, Some(engine.gid()));
    // Without CAP_FSETID the set-group-ID bit sticks only while the folder's group is ours; changing the group keeps it.
    let shared = fs::metadata("/proc/self")
        .and_then(|own| chown(folder, None, Some(own.gid())))
        // Whoever is in the group may look into the folder; what is made in it gets the folder's group.
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o2750)))
        .and_then(|()| share(folder))
        .and_then(|()| fs::read_dir(folder)?.try_for_each(|entry| share(&entry?.path())));
    if let Err(error) = shared {
        let folder = folder.display();
        tracing::warn!(%folder, %error, "failed to share the sockets with the group of the engine's socket");
    }
}
