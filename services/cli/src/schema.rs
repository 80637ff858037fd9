//! What each verb prints with `--output json`, as JSON Schema.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde::Serialize;
use serde_json::{Map, Value, json};
use weft_report::{
    ChangedNames, Connections, Containers, HostAddresses, ImportedServices, Ipam, LogLevels, Names, PassedOn,
    PasswordReload, Peers, Primed, PublishedPorts, ResolverOptions, SCHEMA_VERSION, Status, Targets, Versions, Whole,
};

use crate::commands::{addresses::TakenOver, env, reset::Removed};

/// An object as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Versioned<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    object: &'a T,
}

impl<'a, T> Versioned<'a, T> {
    pub(crate) const fn new(object: &'a T) -> Self {
        Self { schema_version: SCHEMA_VERSION, object }
    }
}

/// Returns the schema of what each verb prints, under its words below `verbs`.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let verbs: Map<String, Value> = VERBS
        .iter()
        .map(|(verb, object)| {
            let object = object(&mut generator).to_value();
            ((*verb).to_owned(), json!({ "allOf": [{ "$ref": "#/$defs/Versioned" }, object] }))
        })
        .collect();
    let mut definitions = Map::new();
    definitions.insert(
        "Versioned".to_owned(),
        json!({
            "description": "What all objects have.",
            "type": "object",
            "properties": {
                "schema_version": {
                    "description": "Version of the form of all objects.",
                    "type": "integer",
                    "const": SCHEMA_VERSION,
                },
            },
            "required": ["schema_version"],
        }),
    );
    definitions.extend(generator.take_definitions(true));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What weft prints with --output json",
        "verbs": verbs,
        "$defs": definitions,
    })
}

/// Makes the schema of an object.
type Object = fn(&mut SchemaGenerator) -> Schema;

const VERBS: [(&str, Object); 36] = [
    ("launch", |_| words("launched", "Services that were started.")),
    ("stop", |_| words("stopped", "Services that were stopped.")),
    ("setup", |_| words("images", "Images of weft's services that the engine has.")),
    ("status", of::<Status>),
    ("status peers", of::<Peers>),
    ("status connections", of::<Connections>),
    ("status targets", of::<Targets>),
    ("status services", of::<PassedOn>),
    ("status dns", of::<Names>),
    ("status ipam", of::<Ipam>),
    ("report", of::<Whole>),
    ("ps", of::<Containers>),
    ("attach", |_| words("addresses", "Addresses that the container has, without prefix lengths.")),
    ("detach", |_| words("removed", "Addresses that the container had, without prefix lengths.")),
    ("expose", of::<HostAddresses>),
    ("hide", of::<HostAddresses>),
    ("publish", of::<PublishedPorts>),
    ("unpublish", of::<PublishedPorts>),
    ("import", of::<ImportedServices>),
    ("unimport", of::<ImportedServices>),
    ("env", of::<env::Settings>),
    ("config", of::<env::HostOption>),
    ("dns-args", of::<ResolverOptions>),
    ("prime", of::<Primed>),
    ("connect", |_| words("added", "Peers as they were given.")),
    ("forget", |_| {
        let removed = words("removed", "Peers that were targets.");
        let revoked = words("revoked", "Printed names of hosts whose keys were revoked: with --revoke.");
        json_schema!({ "anyOf": [removed, revoked] })
    }),
    ("rmpeer", of::<TakenOver>),
    ("reload-password", of::<PasswordReload>),
    ("dns-lookup", |_| words("addresses", "What the name means.")),
    ("dns-add", of::<ChangedNames>),
    ("dns-remove", of::<ChangedNames>),
    ("log-level", of::<LogLevels>),
    ("install", |_| words("written", "Files.")),
    ("reset", of::<Removed>),
    ("version", of::<Versions>),
    ("schema", |_| json_schema!({ "description": "A JSON Schema: this one.", "type": "object" })),
];

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// An object that has nothing but a list of words.
fn words(key: &str, description: &str) -> Schema {
    json_schema!({
        "type": "object",
        "properties": { key: { "description": description, "type": "array", "items": { "type": "string" } } },
        "required": [key],
    })
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    /// Verbs that do something, with those below them.
    fn verbs(of: &Command, above: &str) -> Vec<String> {
        let verbs = of.get_subcommands().filter(|verb| verb.get_name() != "help");
        verbs
            .flat_map(|verb| {
                let words = format!("{above}{}", verb.get_name());
                let below = verbs_below(verb, &words);
                std::iter::once(words).chain(below)
            })
            .collect()
    }

    fn verbs_below(verb: &Command, words: &str) -> Vec<String> {
        verbs(verb, &format!("{words} "))
    }

    #[test]
    fn every_verb_has_a_schema() {
        let mut known: Vec<_> = VERBS.iter().map(|(verb, _)| (*verb).to_owned()).collect();
        let mut defined = verbs(&crate::definition(), "");
        known.sort();
        defined.sort();
        assert_eq!(known, defined);
    }

    /// Calls `found` with each reference of a schema.
    fn references(schema: &Value, found: &mut impl FnMut(&str)) {
        match schema {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match value.as_str() {
                Some(to) if name == "$ref" => found(to),
                Some(_) | None => references(value, found),
            }),
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn references_lead_somewhere() {
        let schema = schema();
        let mut count = 0;
        references(&schema, &mut |to| {
            count += 1;
            let definition = to.strip_prefix('#').and_then(|path| schema.pointer(path));
            assert!(definition.is_some_and(Value::is_object), "{to}");
        });
        assert!(count > 30, "{count}");
    }
}
