//! Restoring of `GET /containers/{id}/json`: the user sees what the user asked for.

use serde_json::Value;
use weft_types::{ContainerId, MacAddress};

use crate::{
    json::{self, MalformedBody, Object},
    shim::{self, Marks},
    workflow::DualAddress,
};

/// The engine's reply about a container, on its way to the user.
#[derive(Debug)]
pub struct Inspection {
    reply: Object,
    changed: bool,
}

impl Inspection {
    /// Reads the reply and restores what it would have said had the container been created without the proxy.
    ///
    /// # Errors
    /// [`MalformedBody`] if the reply is not a JSON object; it is then passed on as it is.
    pub fn restore(reply: &[u8]) -> Result<Self, MalformedBody> {
        let mut reply = json::parse_object(reply)?;
        let changed = restore(&mut reply);
        Ok(Self { reply, changed })
    }

    /// Returns the container's id.
    #[must_use]
    pub fn container(&self) -> Option<ContainerId> {
        json::text(&self.reply, "Id")?.parse().ok()
    }

    /// Shows an address in the overlay, with that of the interface which has it, in place of the one in Docker's default
    /// network. What is said of each of Docker's networks stays.
    pub fn show(&mut self, container: &ContainerId, address: DualAddress) {
        let Some(Value::Object(settings)) = json::field_mut(&mut self.reply, "NetworkSettings") else { return };
        let mac = MacAddress::of_container(container).to_string();
        let (v4, v6) = (address.v4, address.v6);
        json::set(settings, "MacAddress", mac.into());
        json::set(settings, "IPAddress", v4.addr().to_string().into());
        json::set(settings, "IPPrefixLen", v4.prefix_len().into());
        if let Some(v6) = v6 {
            json::set(settings, "GlobalIPv6Address", v6.addr().to_string().into());
            json::set(settings, "GlobalIPv6PrefixLen", v6.prefix_len().into());
        }
        self.changed = true;
    }

    /// Returns the reply for the user; none if the engine's is right as it is.
    #[must_use]
    pub fn into_reply(self) -> Option<Vec<u8>> {
        self.changed.then(|| json::to_bytes(&Value::Object(self.reply)))
    }
}

/// Restores a container's inspection in place and tells whether there was anything to restore.
fn restore(container: &mut Object) -> bool {
    let mounted = shim::unwrap_mount_points(container);
    let Some(Value::Object(config)) = json::field_mut(container, "Config") else { return mounted };
    let Some(marks) = shim::unwrap_config(config) else { return mounted };
    if let Some(Value::Object(host_config)) = json::field_mut(container, "HostConfig") {
        shim::unwrap_host_config(host_config, marks);
    }
    restore_process(container);
    true
}

/// Makes the first argument the program again.
fn restore_process(container: &mut Object) {
    if json::text(container, "Path").and_then(Marks::parse).is_none() {
        return;
    }
    let Some(Value::Array(arguments)) = json::field_mut(container, "Args") else { return };
    if !arguments.is_empty() {
        let program = arguments.remove(0);
        json::set(container, "Path", program);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_address_in_the_overlay_is_shown() {
        let reply = json!({ "Id": "4f66ad9a", "NetworkSettings": {
            "IPAddress": "172.17.0.2", "IPPrefixLen": 16, "Networks": { "bridge": { "IPAddress": "172.17.0.2" } } } });
        let mut inspection = Inspection::restore(reply.to_string().as_bytes()).expect("an object");
        let id = inspection.container().expect("an id");
        let address = |v6: Option<&str>| DualAddress {
            v4: "10.32.0.1/12".parse().expect("valid"),
            v6: v6.map(|v6| v6.parse().expect("valid")),
        };
        inspection.show(&id, address(Some("fd00::1/64")));
        let reply: Value = serde_json::from_slice(&inspection.into_reply().expect("changed")).expect("JSON");
        let shown = &reply["NetworkSettings"];
        assert_eq!(shown["MacAddress"], MacAddress::of_container(&id).to_string());
        assert_eq!((&shown["IPAddress"], &shown["IPPrefixLen"]), (&json!("10.32.0.1"), &json!(12)));
        assert_eq!((&shown["GlobalIPv6Address"], &shown["GlobalIPv6PrefixLen"]), (&json!("fd00::1"), &json!(64)));
        assert_eq!(shown["Networks"]["bridge"]["IPAddress"], "172.17.0.2");
        let mut nothing = Inspection::restore(br#"{"Id":"4f66ad9a"}"#).expect("an object");
        nothing.show(&id, address(None));
        assert_eq!(nothing.into_reply(), None);
    }
}
