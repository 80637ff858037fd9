//! Rewriting of `POST /commit`: images made of containers carry nothing of weft.
//!
//! The engine takes the configuration in the body (the container's own if there is none), applies the query's `changes`,
//! and fills from the container's configuration what is then empty: the entrypoint if it is null, the command if both
//! are empty. So the body has to name the user's entrypoint, and an empty one where there was none. A host name that weft made
//! stays with the container.

use serde_json::Value;

use crate::{
    create,
    json::{self, MalformedBody, Object},
    shim::{self, Hostname},
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
    let Some(marks) = shim::unwrap_config(&mut container) else { return Ok(None) };
    if marks.hostname != Hostname::Untouched {
        // As the engine does where the user chooses none.
        let id = json::text(&inspect, "Id").unwrap_or_default();
        json::set(&mut container, "Hostname", id.chars().take(12).collect::<String>().into());
        json::set(&mut container, "Domainname", "".into());
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

/// The fields of a container's configuration. What names none of them is no configuration to the engine.
const FIELDS: &[&str] = &[
    "ArgsEscaped",
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Cmd",
    "Domainname",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Hostname",
    "Image",
    "Labels",
    "MacAddress",
    "NetworkDisabled",
    "OnBuild",
    "OpenStdin",
    "Shell",
    "StdinOnce",
    "StopSignal",
    "StopTimeout",
    "Tty",
    "User",
    "Volumes",
    "WorkingDir",
];

/// Reads the client's configuration; empty if it sent none. Some clients send the query's parameters in its place.
fn client_config(body: &[u8]) -> Result<Object, MalformedBody> {
    if body.trim_ascii().is_empty() || body.trim_ascii() == b"null" {
        return Ok(Object::new());
    }
    let config = json::parse_object(body)?;
    let is_field = |key: &String| FIELDS.iter().any(|field| field.eq_ignore_ascii_case(key));
    Ok(if config.keys().any(is_field) { config } else { Object::new() })
}

fn is_empty(words: Option<&Value>) -> bool {
    words.is_none_or(|words| words.is_null() || words.as_array().is_some_and(Vec::is_empty))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_name_that_weft_made_stays_with_the_container() {
        let committed = |marks: &str| {
            let entrypoint = shim::marked(&format!("nnn{marks}"));
            let inspect = json!({ "Id": "4f66ad9a0b2e4f66ad9a0b2e", "Config": {
                "Hostname": "web", "Domainname": "weft.internal", "Entrypoint": [entrypoint], "Cmd": ["x"] } });
            let config = rewrite(inspect.to_string().as_bytes(), b"").expect("understood").expect("rewritten");
            serde_json::from_slice::<Value>(&config).expect("JSON")
        };
        for marks in ["n", "e"] {
            let config = committed(marks);
            assert_eq!((&config["Hostname"], &config["Domainname"]), (&json!("4f66ad9a0b2e"), &json!("")));
        }
        assert_eq!(committed("u")["Domainname"], "weft.internal", "the user's");
    }

    /// A container that waits, as the engine shows it.
    fn waiting() -> Vec<u8> {
        let config = json!({
            "Hostname": "driven", "OpenStdin": true, "User": "me", "Cmd": ["date"], "Entrypoint": ["/./././///./.dockerenv"],
        });
        json!({ "Config": config }).to_string().into_bytes()
    }

    fn rewritten(body: &str) -> Value {
        let rewritten = rewrite(&waiting(), body.as_bytes()).expect("understood").expect("rewritten");
        serde_json::from_slice(&rewritten).expect("JSON")
    }

    #[test]
    fn a_body_that_names_no_field_is_no_configuration() {
        let all = rewritten("");
        assert_eq!((&all["User"], &all["OpenStdin"], &all["Entrypoint"]), (&json!("me"), &json!(true), &json!([])));
        for body in ["null", "{}", r#"{"container":"driven","repo":"committed","comment":"made"}"#] {
            assert_eq!(rewritten(body), all, "{body}");
        }
        assert_eq!(rewritten(r#"{"repo":"committed","user":"you"}"#)["User"], Value::Null);
    }
}
