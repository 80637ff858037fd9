//! Which containers are attached, and with which addresses.

use crate::{
    Container, CreateRequest, ImageConfig,
    address::{self, AddressArgument},
    json::{self, Object},
};

/// The network of a container's first interface, from `HostConfig.NetworkMode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// Docker's default bridge (`bridge`, `default`, or not given).
    Bridge,
    /// Only a loopback interface.
    None,
    /// The host's own.
    Host,
    /// That of another container.
    Container,
    /// A network that the user made, or one of an orchestrator: by name or id.
    Named(String),
}

impl Network {
    /// Reads the network from a `HostConfig`.
    pub(crate) fn of(host_config: Option<&Object>) -> Self {
        match host_config.and_then(|config| json::text(config, "NetworkMode")).unwrap_or_default() {
            "" | "default" | "bridge" => Self::Bridge,
            "none" => Self::None,
            "host" => Self::Host,
            mode if mode.starts_with("container:") => Self::Container,
            mode => Self::Named(mode.to_owned()),
        }
    }
}

/// What is to be done with a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is attached with these addresses, in this order; never empty.
    Attach {
        /// The addresses asked for.
        addresses: Vec<AddressArgument>,
    },
    /// It is none of weft's.
    LeaveAlone {
        /// Why.
        reason: Reason,
    },
    /// The request is refused with 400.
    Refuse {
        /// One sentence that names the thing, the reason and the remedy.
        message: String,
    },
}

/// Why a container is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It has the host's network.
    #[error("the container uses the host's network")]
    HostNetwork,
    /// It has another container's network.
    #[error("the container uses another container's network")]
    ContainerNetwork,
    /// Its network is not a bridge.
    #[error("the container's network is not a bridge network")]
    OtherDriver,
    /// The user said so.
    #[error("the container asks not to be attached")]
    Declined,
    /// It was not created through the proxy.
    #[error("the container was not created through the proxy")]
    NotThroughProxy,
}

/// Decides about a container that is to be created.
///
/// `driver` is the driver of a [`Network::Named`] as the engine reports it, none if it does not know the network (then
/// the engine refuses the request itself). `engine_socket` is named in the sentence that refuses weft's own services.
#[must_use]
pub fn of_request(request: &CreateRequest, image: &ImageConfig, driver: Option<&str>, engine_socket: &str) -> Decision {
    let (request_config, network) = (request.body(), request.network());
    decide(request_config, Some(image.config()), &network, driver, engine_socket)
}

/// Decides about a container that exists.
///
/// A container created through the proxy was found eligible then; what remains is which addresses it asks for.
#[must_use]
pub fn of_container(container: &Container, engine_socket: &str) -> Decision {
    let _ = (container, engine_socket);
    Decision::LeaveAlone { reason: Reason::NotThroughProxy }
}

fn decide(
    _config: &Object,
    _image: Option<&Object>,
    _network: &Network,
    _driver: Option<&str>,
    _engine_socket: &str,
) -> Decision {
    match address::parse_list("") {
        Ok(addresses) => Decision::Attach { addresses },
        Err(error) => Decision::Refuse { message: error.to_string() },
    }
}
