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
    let mut restored = false;
    for container in containers.iter_mut().filter_map(Value::as_object_mut) {
        restored |= restore_entry(container);
    }
    Ok(restored.then(|| json::to_bytes(&reply)))
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
    use super::*;

    #[test]
    fn commands_lose_the_waiting_program_and_only_that() {
        let cases = [
            ("/dev/weft-wait.nnnu sleep 1", Some("sleep 1")),
            ("/dev/weft-wait.sssu sh -c 'a b'", Some("sh -c 'a b'")),
            ("/dev/weft-wait.sssu '/my app' -v", Some("/my app -v")),
            ("/dev/weft-wait.sssu '/my app'", Some("/my app")),
            ("/dev/weft-wait.sssu '/my app' ", Some("/my app ")),
            ("/dev/weft-wait.sssu 'x", Some("'x")),
            ("/dev/weft-wait.sssu '", Some("'")),
            ("/dev/weft-wait.sssu 'x'", Some("'x'")),
            ("/././/././.dockerenv '/my app' -v", Some("/my app -v")),
            ("/.dockerenv sleep 1", None),
            ("/dev/weft-wait sleep 1", None),
            ("/dev/weft-wait.xyz sleep 1", None),
            ("sleep /dev/weft-wait.nnnu", None),
            ("", None),
        ];
        for (command, expected) in cases {
            assert_eq!(restore_command(command).as_deref(), expected, "{command}");
        }
    }
}
