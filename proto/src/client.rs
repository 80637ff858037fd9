//! Connections to services on their Unix sockets.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Folder of all services' sockets.
pub const SOCKET_FOLDER: &str = "/run/weft";

/// Longest sentence of a service that ended that is read, in bytes.
const LAST_WORDS_LENGTH: u64 = 4096;

/// One of the four services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Mesh, gossip, data plane, kernel network state.
    Router,
    /// Addresses.
    Ipam,
    /// Names.
    Dns,
    /// Containers.
    DockerProxy,
}

impl Service {
    /// All services, in the order in which they start.
    pub const ALL: [Self; 4] = [Self::Router, Self::Ipam, Self::Dns, Self::DockerProxy];

    /// Returns the name that the image, the socket and the log have.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Ipam => "ipam",
            Self::Dns => "dns",
            Self::DockerProxy => "docker-proxy",
        }
    }

    /// Returns where the service listens, below `folder`.
    #[must_use]
    pub fn socket(self, folder: &Path) -> PathBuf {
        folder.join(self.name()).with_extension("sock")
    }

    /// Returns where the service leaves the sentence that it ended with, below `folder`. Gone, or empty, once it has
    /// started again.
    #[must_use]
    pub fn last_words(self, folder: &Path) -> PathBuf {
        folder.join(self.name()).with_extension("failed")
    }

    /// Returns the sentence that the service ended with, if it ended by itself and has not started again.
    #[must_use]
    pub fn read_last_words(self, folder: &Path) -> Option<String> {
        let mut words = String::new();
        File::open(self.last_words(folder)).ok()?.take(LAST_WORDS_LENGTH).read_to_string(&mut words).ok()?;
        let words = words.trim();
        (!words.is_empty()).then(|| words.to_owned())
    }
}

/// Returns a channel to the service that listens on `socket`.
///
/// Nothing is opened yet: the first call connects, and so does each call after the service restarted. A call while the
/// service is away fails at once with `UNAVAILABLE`.
#[must_use]
pub fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    // The address only fills the `:authority` header; the connector ignores it.
    Endpoint::from_static("http://weft.invalid").connect_with_connector_lazy(service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}
