//! A gRPC server on a Unix socket.

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{service::Routes, transport::Server};
use weft_metrics::Exposition;

use crate::{Health, Result, Shutdown, make_folder};

/// A socket that is bound and not served yet.
#[derive(Debug)]
pub struct BoundServer {
    listener: UnixListener,
    path: PathBuf,
    metrics: Option<Arc<Exposition>>,
}

/// Binds `path`, mode 0660, making its folder if need be.
///
/// A socket that a dead process left is replaced. The group is the folder's, which docker-proxy sets to that of the Docker
/// socket.
///
/// # Errors
/// If a live process serves the socket, or the folder cannot be written.
pub fn bind(path: &Path) -> Result<BoundServer> {
    if let Some(folder) = path.parent() {
        make_folder(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
    }
    match StdUnixStream::connect(path) {
        Ok(_) => bail!("another process serves {}: stop it first, or choose another --socket-folder", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => {
            fs::remove_file(path).with_context(|| format!("failed to remove the stale socket {}", path.display()))?;
        }
    }
    let listener = UnixListener::bind(path).with_context(|| format!("failed to bind {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))
        .with_context(|| format!("failed to set the mode of {}", path.display()))?;
    Ok(BoundServer { listener, path: path.to_owned(), metrics: None })
}

impl BoundServer {
    /// Offers metrics too.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<Exposition>) -> Self {
        crate::trace::counted(metrics.registry());
        Self { metrics: Some(metrics), ..self }
    }

    /// Serves `routes`, health, the log level and, for the router, other services' spans until `shutdown`, then lets running
    /// calls end for at most two seconds.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, routes: Routes, health: &Health, shutdown: Shutdown) -> Result {
        let Self { listener, path, metrics } = self;
        tracing::info!(socket = %path.display(), "serving");
        let stop = shutdown.clone();
        let mut routes = routes.add_service(health.service()).add_service(crate::logging::served());
        if let Some(exposition) = &metrics {
            routes = routes.add_service(crate::metrics::served(Arc::clone(exposition)));
        }
        if let Some(relay) = crate::trace::served() {
            routes = routes.add_service(relay);
        }
        let server = Server::builder()
            .layer(crate::metrics::measured(metrics.clone()))
            .layer(crate::trace::continued())
            .add_routes(routes)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move { stop.requested().await });
        tokio::select! {
            served = server => served.context("the gRPC server failed")?,
            () = shutdown.requested_for(std::time::Duration::from_secs(2)) => {}
            () = crate::metrics::keep(metrics.as_deref()) => {}
        }
        Ok(())
    }
}
