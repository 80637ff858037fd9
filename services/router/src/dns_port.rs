//! Passes the name server's sockets to the dns service over a Unix socket.
//!
//! Whoever connects gets one message: a byte with the version of the protocol and, by SCM_RIGHTS, the UDP socket and the
//! TCP listener, both bound to the anycast address in the namespace of the port `weft-dns`. The connection then stays
//! open; its end says that the sockets are no longer the right ones, and the client connects again.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::{
    io::{AsyncReadExt, Interest},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};
use weft_service::Shutdown;

use crate::kernel::DnsSockets;

/// First byte of the message.
pub const VERSION: u8 = 1;

/// Name of the socket in the folder of sockets.
pub const SOCKET_NAME: &str = "dns-sockets.sock";

/// Connections served at a time; more are closed at once.
const CONNECTIONS: usize = 16;

/// Serves `path` until `shutdown`: each client gets the sockets in force, and is cut off when they are replaced.
///
/// # Errors
/// If the socket cannot be bound.
pub async fn serve(
    path: &Path,
    sockets: watch::Receiver<Option<Arc<DnsSockets>>>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let listener = bind(path)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS => {
                    connections.spawn(pass(stream, sockets.clone()));
                }
                Ok(_) => tracing::debug!("too many clients ask for the name server's sockets"),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a client for the name server's sockets");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Ok(Err(error)) = ended {
                    tracing::debug!(error = %format_args!("{error:#}"), "a client for the name server's sockets left");
                }
            }
            () = shutdown.requested() => return Ok(()),
        }
    }
}

fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("failed to remove the stale socket {}", path.display()));
        }
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("failed to bind {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("failed to set the mode of {}", path.display()))?;
    Ok(listener)
}

/// Waits for sockets, sends them, and ends when they are replaced or the client leaves.
async fn pass(mut stream: UnixStream, mut sockets: watch::Receiver<Option<Arc<DnsSockets>>>) -> anyhow::Result<()> {
    let Some(current) = sockets.wait_for(Option::is_some).await.context("the kernel owner has stopped")?.clone() else {
        return Ok(());
    };
    stream
        .async_io(Interest::WRITABLE, || {
            let fds = [current.udp.as_fd().as_raw_fd(), current.tcp.as_fd().as_raw_fd()];
            let control = [ControlMessage::ScmRights(&fds)];
            let content = [IoSlice::new(&[VERSION])];
            sendmsg::<()>(stream.as_raw_fd(), &content, &control, MsgFlags::MSG_NOSIGNAL, None)?;
            Ok(())
        })
        .await
        .context("failed to pass the name server's sockets")?;
    drop(current);
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            changed = sockets.changed() => return changed.context("the kernel owner has stopped"),
            read = stream.read(&mut ignored) => {
                if read.context("failed to read from the client")? == 0 {
                    return Ok(());
                }
            }
        }
    }
}
