//! That verbs print what `weft schema` says.

use serde_json::{Map, Value};
use weft::{Environment, Outcome};

use super::{Ipam, serve, serve_ipam, weft_in};

/// Returns an object as it is within others: without its version.
pub(crate) fn unversioned(mut object: Value) -> Value {
    let version = object.as_object_mut().and_then(|fields| fields.shift_remove("schema_version"));
    assert_eq!(version, Some(Value::from(1)), "{object}");
    object
}

/// Returns why a value is not what a schema says.
fn mismatch(schema: &Value, all: &Value, value: &Value) -> Option<String> {
    if let Some(path) = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        return mismatch(all.pointer(path).unwrap_or_else(|| panic!("no {path}")), all, value);
    }
    let alternatives = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
    if let Some(alternatives) = alternatives {
        let why: Option<Vec<_>> = alternatives.iter().map(|schema| mismatch(schema, all, value)).collect();
        return why.map(|why| why.join(" and "));
    }
    let kind = &schema["type"];
    let kinds = kind.as_array().cloned().unwrap_or_else(|| vec![kind.clone()]);
    let fits = |kind: &Value| match kind.as_str().unwrap_or_default() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the kind {other:?} is not known in {schema}"),
    };
    if !kinds.iter().any(fits) {
        return Some(format!("{value} is no {kinds:?}"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().find_map(|item| mismatch(&schema["items"], all, item));
    }
    let fields = value.as_object()?;
    let known = schema["properties"].as_object().cloned().unwrap_or_default();
    let missing = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(name) = missing.into_iter().find(|name| !fields.contains_key(*name)) {
        return Some(format!("there is no {name} in {value}"));
    }
    fields.iter().find_map(|(name, value)| match (known.get(name), &schema["additionalProperties"]) {
        (Some(schema), _) => mismatch(schema, all, value),
        (None, others) if others.is_object() => mismatch(others, all, value),
        (None, _) => Some(format!("{name} is not described")),
    })
}

#[tokio::test]
async fn verbs_print_what_the_schema_says() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    let _ipam = serve_ipam(folder.path(), Ipam::default());
    let schema = weft::schema();
    for (verb, line, ends) in [
        ("status", "status", Outcome::Failed),
        ("status dns", "status dns", Outcome::Done),
        ("status ipam", "status ipam", Outcome::Done),
        ("report", "report", Outcome::Failed),
        ("ps", "ps", Outcome::Done),
        ("attach", "attach db", Outcome::Done),
        ("env", "env", Outcome::Done),
        ("config", "config", Outcome::Done),
        ("dns-args", "dns-args", Outcome::Done),
        ("prime", "prime", Outcome::Done),
        ("dns-lookup", "dns-lookup db", Outcome::Done),
        ("dns-add", "dns-add db -h alias", Outcome::Done),
        ("dns-remove", "dns-remove db", Outcome::Done),
        ("log-level", "log-level dns debug", Outcome::Done),
        ("version", "version", Outcome::Done),
    ] {
        let (outcome, out, complaints) =
            weft_in(folder.path(), Environment::default(), &format!("--output json {line}")).await;
        assert_eq!((outcome, complaints.as_str()), (ends, ""), "{line}");
        let object = unversioned(serde_json::from_str(&out).expect("JSON"));
        let described = &schema["verbs"][verb]["allOf"][1];
        assert_eq!(mismatch(described, &schema, &object), None, "{line}");
    }
    let (_, out, _) = weft_in(folder.path(), Environment::default(), "schema").await;
    assert_eq!(serde_json::from_str::<Value>(&out).expect("JSON"), schema);
}

#[test]
fn what_is_not_described_is_found() {
    let schema = weft::schema();
    let described = &schema["verbs"]["prime"]["allOf"][1];
    let object = |fields: &[(&str, Value)]| {
        Value::Object(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>())
    };
    assert_eq!(mismatch(described, &schema, &object(&[("ring_id", "ab".into())])), None);
    for fields in [&[][..], &[("ring_id", 1.into())], &[("ring_id", "ab".into()), ("more", 1.into())]] {
        assert!(mismatch(described, &schema, &object(fields)).is_some(), "{fields:?}");
    }
}
