//! The sockets on which clients find the Docker API.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::UnixStream as StdUnixStream,
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use weft_service::Shutdown;

use crate::{
    engine::Engine,
    intercept::Intercept,
    local_clients::{LocalClients, Names},
    relay,
};

/// Clients that are served at a time; others wait to be accepted.
const MOST_CLIENTS: usize = 4096;

/// Pause after an accept that failed, as it does while all file descriptors are in use.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bound sockets.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    tcp: Option<TcpListener>,
}

impl Listeners {
    /// Binds the Unix socket, with owner, group and mode of the engine's, and the TCP address.
    ///
    /// # Errors
    /// If a live process serves one of them, or they cannot be bound.
    pub async fn bind(socket: &Path, engine_socket: &Path, tcp: Option<SocketAddr>) -> anyhow::Result<Self> {
        if StdUnixStream::connect(socket).is_ok() {
            bail!("another process serves {}: stop it first, or choose another --socket-folder", socket.display());
        }
        if let Some(folder) = socket.parent() {
            fs::create_dir_all(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
        }
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("failed to remove the stale socket {}", socket.display()));
            }
            _ => {}
        }
        let unix = UnixListener::bind(socket).with_context(|| format!("failed to bind {}", socket.display()))?;
        protect(socket, engine_socket)?;
        let tcp = match tcp {
            None => None,
            Some(address) => Some(TcpListener::bind(address).await.with_context(|| {
                format!("failed to listen on {address}: is the port in use? Choose another --tcp-listen")
            })?),
        };
        Ok(Self { unix, tcp })
    }

    /// Serves clients until `shutdown`. Those that come by TCP know this host as `localhost` or by `names`.
    pub async fn serve(self, engine: Engine, intercept: Intercept, names: Names, shutdown: Shutdown) {
        let local = LocalClients::new(intercept.clone(), names);
        let context = Arc::new(Serving { engine, intercept, local });
        let clients = Arc::new(Semaphore::new(MOST_CLIENTS));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&clients).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = shutdown.requested() => return,
                accepted = self.unix.accept() => accepted.map(|(stream, _)| Client::Unix(stream)),
                accepted = accept_tcp(self.tcp.as_ref()) => accepted.map(Client::Tcp),
            };
            match accepted {
                Ok(client) => {
                    let context = Arc::clone(&context);
                    tokio::spawn(async move {
                        let _counted = context.intercept.client();
                        match client {
                            Client::Unix(stream) => context.serve(stream, &context.intercept).await,
                            Client::Tcp(stream) => context.serve(stream, &context.local).await,
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

enum Client {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

/// What serving a client needs.
struct Serving {
    engine: Engine,
    intercept: Intercept,
    local: LocalClients<Intercept>,
}

impl Serving {
    async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin, interceptor: &impl relay::Interceptor) {
        relay::serve(stream, self.engine.socket(), interceptor).await;
    }
}

async fn accept_tcp(listener: Option<&TcpListener>) -> io::Result<tokio::net::TcpStream> {
    match listener {
        Some(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        None => std::future::pending().await,
    }
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
