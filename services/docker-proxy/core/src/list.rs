//! Restoring of `GET /containers/json`: `docker ps` shows the user's own commands and mounts.

use serde_json::Value;

use crate::{
    json::{self, MalformedBody, Object},
    shim::{self, Marks},
};

/// Returns the list as the engine would have given it had the containers been created without the proxy, or none if it is
/// right as it is.
///
/// # Errors
/// [`MalformedBody`] if the reply is not a JSON array; it is then passed on as it is.
pub fn restore(reply: &[u8]) -> Result<Option<Vec<u8>>, MalformedBody> {
    let mut reply: Value = serde_json::from_slice(reply)?;
    let Value::Array(containers) = &mut reply else { return Err(MalformedBody::Kind { expected: "array" }) };
    let restored = restore_entries(containers);
    Ok(restored.then(|| json::to_bytes(&reply)))
}

/// Does the same to the list of containers in the reply to `GET /system/df`.
///
/// # Errors
/// [`MalformedBody`] if the reply is not a JSON object; it is then passed on as it is.
pub fn restore_disk_usage(reply: &[u8]) -> Result<Option<Vec<u8>>, MalformedBody> {
    let mut reply = json::parse_object(reply)?;
    let Some(Value::Array(containers)) = json::field_mut(&mut reply, "Containers") else { return Ok(None) };
    let restored = restore_entries(containers);
    Ok(restored.then(|| json::to_bytes(&Value::Object(reply))))
}

/// Restores containers in place and tells whether there was anything to restore.
fn restore_entries(containers: &mut [Value]) -> bool {
    let mut restored = false;
    for container in containers.iter_mut().filter_map(Value::as_object_mut) {
        restored |= restore_entry(container);
    }
    restored
}

/// A container of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The full id.
    pub id: String,
    /// The first name, without its slash.
    pub name: String,
}

/// Returns the containers of the engine's own list, not restored, that have the waiting program.
///
/// # Errors
/// [`MalformedBody`] if the reply is not a JSON array.
pub fn waiting(reply: &[u8]) -> Result<Vec<Listed>, MalformedBody> {
    let reply: Value = serde_json::from_slice(reply)?;
    let Value::Array(containers) = &reply else { return Err(MalformedBody::Kind { expected: "array" }) };
    let waits = |container: &&Object| {
        let mounts = json::field(container, "Mounts").and_then(Value::as_array);
        mounts.is_some_and(|mounts| mounts.iter().any(|mount| shim::is_ours(mount, "Destination")))
    };
    let listed = |container: &Object| Listed {
        id: json::text(container, "Id").unwrap_or_default().to_owned(),
        name: json::texts(json::field(container, "Names"))
            .first()
            .map(|name| name.trim_start_matches('/').to_owned())
            .unwrap_or_default(),
    };
    Ok(containers.iter().filter_map(Value::as_object).filter(waits).map(listed).collect())
}

fn restore_entry(container: &mut Object) -> bool {
    let mounted = shim::unwrap_mount_points(container);
    let Some(command) = json::text(container, "Command").and_then(restore_command) else { return mounted };
    json::set(container, "Command", Value::String(command));
    true
}

/// Takes the waiting program off a command as the engine prints it; none if it does not begin with it.
///
/// The engine puts arguments with a space in quotes, but never the program: what was an argument behind the waiting
/// program loses its quotes.
fn restore_command(command: &str) -> Option<String> {
    let (program, rest) = command.split_once(' ')?;
    Marks::parse(program)?;
    let unquoted = rest.strip_prefix('\'').and_then(|rest| {
        let end = rest.find("' ").or_else(|| rest.len().checked_sub(1).filter(|_| rest.ends_with('\'')))?;
        let (word, rest) = (rest.get(..end)?, rest.get(end + 1..)?);
        word.contains(' ').then(|| format!("{word}{rest}"))
    });
    Some(unquoted.unwrap_or_else(|| rest.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_restored_where_space_is_counted_too() {
        let command = |words: &str| json!({ "Images": [], "Containers": [{ "Command": words }], "LayersSize": 7 });
        let reply = command(&format!("{} sleep 1", shim::marked("snun")));
        let restored = restore_disk_usage(reply.to_string().as_bytes()).expect("understood").expect("restored");
        assert_eq!(serde_json::from_slice::<Value>(&restored).expect("JSON"), command("sleep 1"));
        for right in [command("sleep 1"), json!({ "Containers": null }), json!({})] {
            assert!(restore_disk_usage(right.to_string().as_bytes()).expect("understood").is_none());
        }
    }

    #[test]
    fn containers_with_the_waiting_program_are_found() {
        let container = |name: &str, source: &str| {
            let mounts = json!([{ "Type": "bind", "Source": source, "Destination": "/.dockerenv" }]);
            json!({ "Id": "4f66", "Names": [format!("/{name}")], "Mounts": mounts })
        };
        let reply = json!([
            container("one", "/var/lib/weft/shim/1/weft-wait"),
            container("two", "/opt/shim/2/weft-wait"),
            container("other", "/home/user/.dockerenv"),
            json!({ "Id": "4f67", "Names": null, "Mounts": null }),
        ]);
        let found = waiting(reply.to_string().as_bytes()).expect("understood");
        assert_eq!(found.iter().map(|listed| listed.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
        assert!(waiting(b"{}").is_err());
    }

    #[test]
    fn commands_lose_the_waiting_program_and_only_that() {
        let cases = [
            ("/./././///./.dockerenv sleep 1", Some("sleep 1")),
            ("///.///.///.////./.dockerenv sh -c 'a b'", Some("sh -c 'a b'")),
            ("///.///.///.////./.dockerenv '/my app' -v", Some("/my app -v")),
            ("///.///.///.////./.dockerenv '/my app'", Some("/my app")),
            ("///.///.///.////./.dockerenv '/my app' ", Some("/my app ")),
            ("///.///.///.////./.dockerenv 'x", Some("'x")),
            ("///.///.///.////./.dockerenv '", Some("'")),
            ("///.///.///.////./.dockerenv 'x'", Some("'x'")),
            ("/././/././.dockerenv '/my app' -v", Some("/my app -v")),
            ("/.dockerenv sleep 1", None),
            ("/dev/weft-wait sleep 1", None),
            ("/dev/weft-wait.xyz sleep 1", None),
            ("sleep /./././///./.dockerenv", None),
            ("", None),
        ];
        for (command, expected) in cases {
            assert_eq!(restore_command(command).as_deref(), expected, "{command}");
        }
    }
}
