//! Which containers are attached, and with which addresses.

use serde_json::Value;

use crate::{
    Container, CreateRequest, ImageConfig,
    address::{self, AddressArgument},
    json::{self, Object},
};

/// The label of weft's own services, whose value is the service's name.
pub const SERVICE_LABEL: &str = "weft.service";
/// The label that says which addresses a container is to have, as the variables do.
pub const ADDRESS_LABEL: &str = "weft.cidr";
/// The label that, with the value `none`, keeps a container from being attached.
pub const NETWORK_LABEL: &str = "weft.network";
/// The variables that say which addresses a container is to have: weft's, and Weave Net's.
pub const VARIABLES: [&str; 2] = ["WEFT_CIDR", "WEAVE_CIDR"];

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
/// `driver` is the driver of a [`Network::Named`] as the engine reports it; none if the engine does not know the network,
/// which is no reason to leave the container alone: the engine refuses it, now or when it starts. `engine_socket` is what
/// `DOCKER_HOST` has to be for the engine's own socket, named in the sentence that refuses weft's own services.
#[must_use]
pub fn of_request(request: &CreateRequest, image: &ImageConfig, driver: Option<&str>, engine_socket: &str) -> Decision {
    if let Some(service) = label(request.body(), SERVICE_LABEL) {
        return Decision::Refuse {
            message: format!(
                "\"{service}\" is one of weft's own services, and the proxy is one of them: start it through the engine's \
                 own socket, as in DOCKER_HOST={engine_socket} docker compose up -d"
            ),
        };
    }
    match request.network() {
        Network::Host => return Decision::LeaveAlone { reason: Reason::HostNetwork },
        Network::Container => return Decision::LeaveAlone { reason: Reason::ContainerNetwork },
        Network::Named(_) if driver.is_some_and(|driver| driver != "bridge") => {
            return Decision::LeaveAlone { reason: Reason::OtherDriver };
        }
        Network::Bridge | Network::None | Network::Named(_) => {}
    }
    addresses(&[request.body(), image.config()])
}

/// Decides about a container that exists.
///
/// One that was created through the proxy was found eligible then; what remains is which addresses it asks for. Both
/// decisions agree, because the engine merges request and image in the order in which [`of_request`] reads them.
#[must_use]
pub fn of_container(container: &Container) -> Decision {
    if !container.waits {
        return Decision::LeaveAlone { reason: Reason::NotThroughProxy };
    }
    addresses(&[&container.config])
}

/// Reads the addresses from configurations, of which the first that says anything counts.
fn addresses(configs: &[&Object]) -> Decision {
    let declined = Decision::LeaveAlone { reason: Reason::Declined };
    let first_label = |key: &str| configs.iter().find_map(|config| label(config, key));
    if first_label(NETWORK_LABEL).is_some_and(|value| value.trim() == "none") {
        return declined;
    }
    let asked = configs.iter().find_map(|config| variable(config)).map(|(name, value)| (name.to_owned(), value));
    let asked = asked.or_else(|| Some((format!("the label {ADDRESS_LABEL}"), first_label(ADDRESS_LABEL)?)));
    let (source, value) = asked.unwrap_or_default();
    if value.trim() == "none" {
        return declined;
    }
    match address::parse_list(value) {
        Ok(addresses) => Decision::Attach { addresses },
        Err(error) => Decision::Refuse { message: format!("{source} cannot be used: {error}") },
    }
}

/// Returns the environment variable that says which addresses a container is to have.
///
/// The variable of these that stands first counts, with the last value that it is given, as the process would see it. The
/// engine puts the request's variables before the image's.
fn variable(config: &Object) -> Option<(&'static str, &str)> {
    let items = json::field(config, "Env").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut found: Option<(&'static str, &str)> = None;
    for (name, value) in items.iter().filter_map(Value::as_str).filter_map(|item| item.split_once('=')) {
        let Some(name) = VARIABLES.into_iter().find(|known| *known == name) else { continue };
        if found.is_none_or(|(first, _)| first == name) {
            found = Some((name, value));
        }
    }
    found
}

fn label<'a>(config: &'a Object, key: &str) -> Option<&'a str> {
    json::object(config, "Labels")?.get(key)?.as_str()
}
