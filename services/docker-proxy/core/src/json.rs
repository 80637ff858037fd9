//! Access to JSON objects the way the engine reads them.
//!
//! The engine is written in Go, whose decoder matches keys without regard to case and lets the last of several win. A
//! client that writes `"entrypoint"` must not slip past the proxy.

use serde_json::{Map, Value};

/// A body is not the JSON object that the call takes.
#[derive(Debug, thiserror::Error)]
pub enum MalformedBody {
    /// The bytes are not JSON.
    #[error("the body is not valid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// The bytes are JSON of another kind.
    #[error("the body must be a JSON {expected}")]
    Kind {
        /// What it should be: "object" or "array".
        expected: &'static str,
    },
}

/// An object of a body, in the order in which the client wrote it.
pub(crate) type Object = Map<String, Value>;

/// Parses a body that must be an object.
pub(crate) fn parse_object(body: &[u8]) -> Result<Object, MalformedBody> {
    match serde_json::from_slice(body)? {
        Value::Object(object) => Ok(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(MalformedBody::Kind { expected: "object" })
        }
    }
}

/// Returns the value that the engine takes for the field `key`.
pub(crate) fn field<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    object.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

/// Returns the field `key` for changing, if there is one.
pub(crate) fn field_mut<'a>(object: &'a mut Object, key: &str) -> Option<&'a mut Value> {
    let name = object.keys().rev().find(|name| name.eq_ignore_ascii_case(key))?.clone();
    object.get_mut(&name)
}

/// Returns the object in the field `key`; none if it is missing, null or something else.
pub(crate) fn object<'a>(parent: &'a Object, key: &str) -> Option<&'a Object> {
    field(parent, key)?.as_object()
}

/// Returns the text in the field `key`; none if it is missing, null or something else.
pub(crate) fn text<'a>(parent: &'a Object, key: &str) -> Option<&'a str> {
    field(parent, key)?.as_str()
}

/// Sets the field `key` in place, or at the end, and removes other spellings of it.
pub(crate) fn set(object: &mut Object, key: &str, value: Value) {
    let spelled = object.keys().rev().find(|name| name.eq_ignore_ascii_case(key)).cloned();
    let spelled = spelled.unwrap_or_else(|| key.to_owned());
    object.insert(spelled.clone(), value);
    object.retain(|name, _| *name == spelled || !name.eq_ignore_ascii_case(key));
}

/// Removes the field `key` in every spelling.
pub(crate) fn remove(object: &mut Object, key: &str) {
    object.retain(|name, _| !name.eq_ignore_ascii_case(key));
}

/// Returns the texts of a list; what is no text is left out.
pub(crate) fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Serializes an object; cannot fail, because every key is text.
pub(crate) fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}
