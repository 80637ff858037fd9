//! Rewriting of `POST /commit`: images made of containers carry nothing of weft.
//!
//! The engine takes the configuration in the body (the container's own if there is none), applies the query's `changes`,
//! and fills from the container's configuration what is then empty: the entrypoint if it is null, the command if both
//! are empty. So the body has to name the user's entrypoint, and an empty one where there was none.

use serde_json::Value;

use crate::{
    create,
    json::{self, MalformedBody, Object},
    shim,
};

/// Returns the body to send to the engine instead of the client's, or none if the client's is right as it is.
///
/// `inspect` is the engine's own reply to `GET /containers/{id}/json`, not restored. The query is forwarded unchanged.
///
/// # Errors
/// [`MalformedBody`] if either is not what it should be; the client's body is then passed on, and the engine refuses it.
pub fn rewrite(inspect: &[u8], body: &[u8]) -> Result<Option<Vec<u8>>, MalformedBody> {
    let inspect = json::parse_object(inspect)?;
    let Some(mut container) = json::object(&inspect, "Config").cloned() else { return Ok(None) };
    if shim::unwrap_config(&mut container).is_none() {
        return Ok(None);
    }
    let entrypoint = json::field(&container, "Entrypoint").filter(|value| !value.is_null());
    let entrypoint = entrypoint.cloned().unwrap_or_else(|| Value::Array(Vec::new()));
    let mut config = client_config(body)?;
    if config.is_empty() {
        config = container;
        json::set(&mut config, "Entrypoint", entrypoint);
    } else if json::field(&config, "Entrypoint").is_none_or(Value::is_null) {
        // Were it only the entrypoint that is filled in, the engine would no longer fill in the command.
        if is_empty(json::field(&config, "Cmd")) {
            create::copy_command(&mut config, &container);
        }
        json::set(&mut config, "Entrypoint", entrypoint);
    } else {
        return Ok(None);
    }
    Ok(Some(json::to_bytes(&Value::Object(config))))
}

/// Reads the client's configuration; empty if it sent none.
fn client_config(body: &[u8]) -> Result<Object, MalformedBody> {
    if body.trim_ascii().is_empty() || body.trim_ascii() == b"null" {
        return Ok(Object::new());
    }
    json::parse_object(body)
}

fn is_empty(words: Option<&Value>) -> bool {
    words.is_none_or(|words| words.is_null() || words.as_array().is_some_and(Vec::is_empty))
}
