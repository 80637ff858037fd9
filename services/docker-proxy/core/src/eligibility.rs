//! Which containers are attached, and with which addresses.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_types::AllowedAddresses;

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
/// The label that permits a container floating addresses: those that it may give itself.
pub const ALLOWED_LABEL: &str = "weft.allowed-addresses";
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
    /// It asks for no address, and gets none without asking.
    #[error("the container asks for no address")]
    NothingAsked,
    /// It was not created through the proxy.
    #[error("the container was not created through the proxy")]
    NotThroughProxy,
}

/// What holds for all containers.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The engine's own socket on the host, a path or as `DOCKER_HOST` takes it; the sentence that refuses weft's services
    /// names it.
    pub engine_socket: String,
    /// Containers that do not say which addresses they are to have get one of the default subnet.
    pub without_asking: bool,
}

/// Decides about a container that is to be created.
///
/// `driver` is the driver of a [`Network::Named`] as the engine reports it; none if the engine does not know the network,
/// which is no reason to leave the container alone: the engine refuses it, now or when it starts.
#[must_use]
pub fn of_request(request: &CreateRequest, image: &ImageConfig, driver: Option<&str>, policy: &Policy) -> Decision {
    if let Some(message) = refusal_of_service(request.body(), &policy.engine_socket) {
        return Decision::Refuse { message };
    }
    match request.network() {
        Network::Host => return Decision::LeaveAlone { reason: Reason::HostNetwork },
        Network::Container => return Decision::LeaveAlone { reason: Reason::ContainerNetwork },
        Network::Named(_) if driver.is_some_and(|driver| driver != "bridge") => {
            return Decision::LeaveAlone { reason: Reason::OtherDriver };
        }
        Network::Bridge | Network::None | Network::Named(_) => {}
    }
    let configs = [request.body(), image.config()];
    match (addresses(&configs, policy.without_asking), allowed(&configs)) {
        (Decision::Attach { .. }, Err(message)) => Decision::Refuse { message },
        (decision, _) => decision,
    }
}

/// Reads which floating addresses a container's label permits it.
///
/// # Errors
/// One sentence.
pub fn allowed_addresses(container: &Container) -> Result<AllowedAddresses, String> {
    allowed(&[&container.config])
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
    addresses(&[&container.config], true)
}

/// Returns why a container that exists cannot be started, stopped or removed through the proxy: it is one of weft's own
/// services. The proxy would end in the middle of it.
#[must_use]
pub fn refuses_control(container: &Container, engine_socket: &str) -> Option<String> {
    refusal_of_service(&container.config, engine_socket)
}

/// Returns why a running container cannot be attached by hand: its network is not its own, so that the interface would be
/// another's.
#[must_use]
pub fn refuses_attaching(container: &Container) -> Option<String> {
    let name = &container.name;
    match &container.network {
        Network::Bridge | Network::None | Network::Named(_) => None,
        Network::Host => Some(format!("container {name} uses the host's network and cannot be attached")),
        Network::Container => Some(format!(
            "container {name} uses the network of another container and has what that one has: attach that one"
        )),
    }
}

fn refusal_of_service(config: &Object, engine_socket: &str) -> Option<String> {
    let service = label(config, SERVICE_LABEL)?;
    let scheme = if engine_socket.starts_with('/') { "unix://" } else { "" };
    Some(format!(
        "\"{service}\" is one of weft's own services, and the proxy is one of them: use the engine's own socket, as in \
         DOCKER_HOST={scheme}{engine_socket} docker compose up -d"
    ))
}

/// Reads the addresses from configurations, of which the first that says anything counts; if none does, it is attached only
/// `without_asking`.
fn addresses(configs: &[&Object], without_asking: bool) -> Decision {
    let declined = Decision::LeaveAlone { reason: Reason::Declined };
    let first_label = |key: &str| configs.iter().find_map(|config| label(config, key));
    if first_label(NETWORK_LABEL).is_some_and(|value| value.trim() == "none") {
        return declined;
    }
    let asked = variable(&merged_environment(configs)).map(|(name, value)| (name.to_owned(), value));
    let asked = asked.or_else(|| Some((format!("the label {ADDRESS_LABEL}"), first_label(ADDRESS_LABEL)?)));
    if asked.is_none() && !without_asking {
        return Decision::LeaveAlone { reason: Reason::NothingAsked };
    }
    let (source, value) = asked.unwrap_or_default();
    if value.trim() == "none" {
        return declined;
    }
    match address::parse_list(value) {
        Ok(addresses) => Decision::Attach { addresses },
        Err(error) => Decision::Refuse { message: format!("{source} cannot be used: {error}") },
    }
}

fn allowed(configs: &[&Object]) -> Result<AllowedAddresses, String> {
    let label = configs.iter().find_map(|config| label(config, ALLOWED_LABEL)).unwrap_or_default();
    label.parse().map_err(|error| format!("the label {ALLOWED_LABEL} cannot be used: {error}"))
}

/// Merges environments as the engine does: what a later configuration says counts unless an earlier one names it.
fn merged_environment<'a>(configs: &[&'a Object]) -> Vec<&'a str> {
    let name = |item: &'a str| item.split_once('=').map_or(item, |(name, _)| name);
    let mut merged: Vec<&str> = Vec::new();
    for config in configs {
        let items = json::field(config, "Env").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let named: BTreeSet<&str> = merged.iter().copied().map(name).collect();
        merged.extend(items.iter().filter_map(Value::as_str).filter(|item| !named.contains(name(item))));
    }
    merged
}

/// Returns the environment variable that says which addresses a container is to have.
///
/// Of the names, that which stands first counts, and its last value, as the process would see it.
fn variable<'a>(environment: &[&'a str]) -> Option<(&'static str, &'a str)> {
    let mut found: Option<(&'static str, &str)> = None;
    for (name, value) in environment.iter().filter_map(|item| item.split_once('=')) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn decide(request: &Value, image: &Value, driver: Option<&str>) -> Decision {
        decide_by(true, request, image, driver)
    }

    fn decide_by(without_asking: bool, request: &Value, image: &Value, driver: Option<&str>) -> Decision {
        let request = CreateRequest::parse(request.to_string().as_bytes(), None).expect("an object");
        let image = ImageConfig::parse(json!({ "Config": image }).to_string().as_bytes()).expect("an object");
        let policy = Policy { engine_socket: "/var/run/docker.sock".to_owned(), without_asking };
        of_request(&request, &image, driver, &policy)
    }

    fn attach(arguments: &str) -> Decision {
        Decision::Attach { addresses: address::parse_list(arguments).expect("valid") }
    }

    #[test]
    fn networks_decide() {
        let left = |reason| Decision::LeaveAlone { reason };
        let cases = [
            (json!({}), None, attach("")),
            (json!({ "HostConfig": null }), None, attach("")),
            (json!({ "HostConfig": {} }), None, attach("")),
            (json!({ "HostConfig": { "NetworkMode": null } }), None, attach("")),
            (json!({ "HostConfig": { "NetworkMode": "" } }), None, attach("")),
            (json!({ "HostConfig": { "NetworkMode": "default" } }), None, attach("")),
            (json!({ "HostConfig": { "NetworkMode": "bridge" } }), None, attach("")),
            (json!({ "HostConfig": { "NetworkMode": "none" } }), None, attach("")),
            (json!({ "HostConfig": { "NetworkMode": "app" } }), Some("bridge"), attach("")),
            (json!({ "HostConfig": { "NetworkMode": "app" } }), None, attach("")),
            (json!({ "HostConfig": { "NetworkMode": "app" } }), Some("overlay"), left(Reason::OtherDriver)),
            (json!({ "HostConfig": { "NetworkMode": "app" } }), Some("weft"), left(Reason::OtherDriver)),
            (json!({ "HostConfig": { "NetworkMode": "host" } }), None, left(Reason::HostNetwork)),
            (json!({ "hostconfig": { "networkmode": "host" } }), None, left(Reason::HostNetwork)),
            (json!({ "HostConfig": { "NetworkMode": "container:x" } }), None, left(Reason::ContainerNetwork)),
        ];
        for (request, driver, decision) in cases {
            assert_eq!(decide(&request, &json!({}), driver), decision, "{request}");
        }
    }

    #[test]
    fn variables_and_labels_decide_and_the_request_comes_first() {
        let declined = Decision::LeaveAlone { reason: Reason::Declined };
        let env = |items: &[&str]| json!({ "Env": items });
        let cases = [
            (env(&["WEFT_CIDR=10.2.1.1/24"]), json!({}), attach("10.2.1.1/24")),
            (env(&["WEAVE_CIDR=net:10.2.1.0/24"]), json!({}), attach("net:10.2.1.0/24")),
            (env(&["A=b", "WEFT_CIDR=none"]), json!({}), declined.clone()),
            (env(&["WEFT_CIDR"]), env(&["WEFT_CIDR=none"]), attach("")),
            (env(&["WEFT_CIDR="]), env(&["WEFT_CIDR=none"]), attach("")),
            (env(&["WEAVE_CIDR=10.2.1.1/24"]), env(&["WEFT_CIDR=none"]), attach("10.2.1.1/24")),
            (env(&["WEFT_CIDR=10.2.1.1/24", "WEFT_CIDR=10.2.1.2/24"]), json!({}), attach("10.2.1.2/24")),
            (json!({}), env(&["WEAVE_CIDR=none"]), declined.clone()),
            (json!({ "Env": null }), env(&["WEFT_CIDR=10.2.1.1/24"]), attach("10.2.1.1/24")),
            (json!({ "Labels": { "weft.cidr": "10.2.1.1/24" } }), json!({}), attach("10.2.1.1/24")),
            (json!({ "Labels": { "weft.cidr": "none" } }), json!({}), declined.clone()),
            (json!({ "Labels": { "weft.cidr": "none" } }), env(&["WEFT_CIDR=10.2.1.1/24"]), attach("10.2.1.1/24")),
            (json!({ "Labels": { "weft.network": "none" } }), json!({}), declined.clone()),
            (json!({}), json!({ "Labels": { "weft.network": "none" } }), declined),
            (json!({ "Labels": { "weft.network": "" } }), json!({ "Labels": { "weft.network": "none" } }), attach("")),
        ];
        for (request, image, decision) in cases {
            assert_eq!(decide(&request, &image, None), decision, "{request} {image}");
        }
    }

    #[test]
    fn where_nobody_is_attached_without_asking_one_may_ask_for_the_default() {
        let asks = |request: Value| decide_by(false, &request, &json!({}), None);
        let nothing = Decision::LeaveAlone { reason: Reason::NothingAsked };
        assert_eq!(asks(json!({})), nothing);
        assert_eq!(asks(json!({ "Env": ["WEAVE_CIDR"] })), nothing);
        assert_eq!(asks(json!({ "Env": ["WEAVE_CIDR="] })), attach(""));
        assert_eq!(asks(json!({ "Labels": { "weft.cidr": "" } })), attach(""));
        assert_eq!(asks(json!({ "Env": ["WEFT_CIDR=net:default"] })), attach(""));
        assert_eq!(
            decide_by(false, &json!({}), &json!({ "Env": ["WEAVE_CIDR=10.2.1.1/24"] }), None),
            attach("10.2.1.1/24")
        );
        let reply = json!({ "Id": "4f66", "Config": { "Entrypoint": ["/./././///./.dockerenv"] } });
        let container = Container::parse(reply.to_string().as_bytes()).expect("a container");
        assert_eq!(of_container(&container), attach(""), "it was made when it was attached without asking");
    }

    #[test]
    fn only_a_network_of_its_own_is_attached_by_hand() {
        let refusal = |mode: &str| {
            let reply = json!({ "Id": "4f66", "Name": "/one", "HostConfig": { "NetworkMode": mode } });
            refuses_attaching(&Container::parse(reply.to_string().as_bytes()).expect("a container"))
        };
        for mode in ["", "default", "bridge", "none", "app"] {
            assert_eq!(refusal(mode), None, "{mode}");
        }
        for (mode, says) in [("host", "the host's network"), ("container:4f67", "attach that one")] {
            let refusal = refusal(mode).expect(mode);
            assert!(refusal.contains("container one ") && refusal.contains(says), "{refusal}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let message = |request| match decide(&request, &json!({}), None) {
            Decision::Refuse { message } => message,
            decision @ (Decision::Attach { .. } | Decision::LeaveAlone { .. }) => panic!("not refused: {decision:?}"),
        };
        assert_eq!(
            message(json!({ "Labels": { "weft.service": "router" }, "HostConfig": { "NetworkMode": "host" } })),
            "\"router\" is one of weft's own services, and the proxy is one of them: use the engine's own socket, as in \
             DOCKER_HOST=unix:///var/run/docker.sock docker compose up -d"
        );
        assert_eq!(
            message(json!({ "Env": ["WEFT_CIDR=10.2.1.1"] })),
            "WEFT_CIDR cannot be used: \"10.2.1.1\" is not an address argument: write a.b.c.d/len, net:a.b.c.d/len or \
             net:default"
        );
        assert!(message(json!({ "Labels": { "weft.cidr": "x" } })).starts_with("the label weft.cidr cannot be used"));
        assert_eq!(
            message(json!({ "Labels": { "weft.allowed-addresses": "10.32.0.100,db" } })),
            "the label weft.allowed-addresses cannot be used: \"db\" is no address: write a.b.c.d, a.b.c.d/len or the same of \
             IPv6, with commas between"
        );
    }

    #[test]
    fn a_label_permits_floating_addresses_to_what_is_attached() {
        let of = |label: &str| {
            let reply = json!({ "Id": "4f66", "Config": { "Labels": { "weft.allowed-addresses": label } } });
            let container = Container::parse(reply.to_string().as_bytes()).expect("a container");
            allowed_addresses(&container).map(|allowed| allowed.to_string())
        };
        assert_eq!(of("10.32.0.100, fd00::7"), Ok("10.32.0.100,fd00::7".to_owned()));
        assert_eq!(of(""), Ok(String::new()));
        assert!(of("10.32.0.0/12").is_err());
        let host = json!({ "Labels": { "weft.allowed-addresses": "db" }, "HostConfig": { "NetworkMode": "host" } });
        let left = Decision::LeaveAlone { reason: Reason::HostNetwork };
        assert_eq!(decide(&host, &json!({}), None), left, "the label is none of weft's there");
        let asked = json!({ "Labels": { "weft.allowed-addresses": "10.32.0.100" } });
        assert_eq!(decide(&asked, &json!({ "Labels": { "weft.allowed-addresses": "db" } }), None), attach(""));
    }
}
