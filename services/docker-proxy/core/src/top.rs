//! Restoring of `GET /containers/{id}/top`: the processes have the user's own commands.
//!
//! The waiting program becomes the user's, and takes its place in every list; but it stays among the arguments of Docker's
//! init, which lasts as long as the container, and while a container waits it is what runs.

use serde_json::Value;

use crate::{
    json::{self, MalformedBody},
    shim::Marks,
};

/// What stands before the command that Docker's init runs.
const BEFORE: &str = "--";

/// Returns the reply without the waiting program, or none if the reply is right as it is.
///
/// # Errors
/// [`MalformedBody`] if the reply is not a JSON object; it is then passed on as it is.
pub fn restore(reply: &[u8]) -> Result<Option<Vec<u8>>, MalformedBody> {
    let mut reply = json::parse_object(reply)?;
    let mut restored = false;
    let processes = json::field_mut(&mut reply, "Processes").and_then(Value::as_array_mut);
    for column in processes.into_iter().flatten().filter_map(Value::as_array_mut).flatten() {
        if let Some(command) = column.as_str().and_then(restore_command) {
            *column = Value::String(command);
            restored = true;
        }
    }
    Ok(restored.then(|| json::to_bytes(&Value::Object(reply))))
}

/// Takes the waiting program out of a command line; none if it is not where the engine puts it.
fn restore_command(command: &str) -> Option<String> {
    let mut words: Vec<&str> = command.split(' ').collect();
    let at = words.iter().position(|word| Marks::parse(word).is_some())?;
    if at > 0 && words[at - 1] != BEFORE {
        return None;
    }
    words.remove(at);
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn processes_have_the_users_commands() {
        let cases = [
            ("/sbin/docker-init -- /.//.//././.dockerenv sh -c  a", Some("/sbin/docker-init -- sh -c  a")),
            ("/sbin/docker-init -- ///././//././.dockerenv sh", Some("/sbin/docker-init -- sh")),
            ("/.//.//././.dockerenv sleep 1", Some("sleep 1")),
            ("ls -l /.//.//././.dockerenv", None),
            ("sh -- /dev/weft-wait", None),
            ("", None),
        ];
        for (command, expected) in cases {
            assert_eq!(restore_command(command).as_deref(), expected, "{command}");
        }
    }

    #[test]
    fn all_else_stays() {
        let reply = |command: &str| {
            json!({ "Titles": ["PID", "CMD"], "Processes": [["7", command], ["8", "sh"]], "Other": 1.50 }).to_string()
        };
        let restored = restore(reply("/.//.//././.dockerenv a b").as_bytes()).expect("an object").expect("restored");
        assert_eq!(String::from_utf8(restored).expect("text"), reply("a b"));
        for odd in [&reply("a b")[..], "{}", r#"{"Processes":null}"#, r#"{"Processes":[null,[7]]}"#] {
            assert!(restore(odd.as_bytes()).expect("an object").is_none(), "{odd}");
        }
        assert!(restore(b"[]").is_err());
    }
}
