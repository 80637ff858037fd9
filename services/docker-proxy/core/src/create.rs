//! Rewriting of `POST /containers/create`.

use std::net::Ipv4Addr;

use crate::{CreateRequest, ImageConfig};

/// What the proxy puts into each container that it attaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Path of the waiting program on the host.
    pub shim_host_path: String,
    /// Where the container asks for names; none: its resolver is left as the user wants it.
    pub dns: Option<Dns>,
}

/// The resolver that containers get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// Where weft's dns answers.
    pub address: Ipv4Addr,
    /// The zone of containers' names, without a dot at its end.
    pub domain: String,
}

/// The request is to be forwarded as it came: the engine refuses it, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRewritten {
    /// Neither request nor image says what to run.
    #[error("neither the request nor the image says what to run")]
    NothingToRun,
    /// A field is not what the engine takes.
    #[error("the field {0} is not what the engine takes")]
    Field(&'static str),
}

/// Returns the body to send to the engine instead of the client's.
///
/// # Errors
/// [`NotRewritten`] if the client's own body is to be sent, because the engine will refuse it.
pub fn rewrite(request: &CreateRequest, image: &ImageConfig, options: &Options) -> Result<Vec<u8>, NotRewritten> {
    let _ = (request, image, options);
    Err(NotRewritten::NothingToRun)
}
