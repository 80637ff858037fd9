//! Restoring of `GET /containers/{id}/json`: the user sees what the user asked for.

use serde_json::Value;

use crate::{
    json::{self, MalformedBody, Object},
    shim::{self, Marks},
};

/// Returns the reply as the engine would have given it had the container been created without the proxy, or none if the
/// reply is right as it is.
///
/// # Errors
/// [`MalformedBody`] if the reply is not a JSON object; it is then passed on as it is.
pub fn restore(reply: &[u8]) -> Result<Option<Vec<u8>>, MalformedBody> {
    let mut reply = json::parse_object(reply)?;
    let restored = restore_object(&mut reply);
    Ok(restored.then(|| json::to_bytes(&Value::Object(reply))))
}

/// Restores a container's inspection in place and tells whether there was anything to restore.
pub(crate) fn restore_object(container: &mut Object) -> bool {
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
