use std::fmt::Write;

use serde_json::Value;

use crate::tests::compare;

const INTRODUCTION: &str = "\
# The command's JSON

Made from the definitions of what is printed by `make docs`. With `--output json` each verb prints one object; `status --watch` prints one
after the other. `weft schema` prints the same as JSON Schema, for the version of weft that is installed: below `verbs`, by the verb's words.

Each object has `schema_version`. It stays while fields, and words that a field may have, are only added: disregard what you do not
know. It is raised where a field is renamed or removed, or means something else. Addresses are text as in `10.32.0.1/12`, times are
seconds, sizes bytes, where their names do not say otherwise.

What fails prints no object, one sentence on stderr, and ends with an [exit code](cli.md); where something was done before it failed, that is
printed. `status` and `report` print what they know where a service is away, with the reason in its place, and end with 1. What `weave`, the link for Weave Net's scripts, prints for `report` and `version` is Weave Net's, and not described here.
";

#[test]
fn output_is_documented_as_defined() {
    let schema = weft::schema();
    let mut text = INTRODUCTION.to_owned();
    describe(&mut text, &schema).expect("a string can be written to");
    compare("output.md", &text);
}

fn describe(text: &mut String, schema: &Value) -> std::fmt::Result {
    writeln!(text, "\n## Verbs\n\n| verb | what it prints |\n| --- | --- |")?;
    for (verb, object) in fields(&schema["verbs"]) {
        // What all have comes first.
        writeln!(text, "| `weft {verb}` | {} |", kind(&object["allOf"][1]))?;
    }
    writeln!(text, "\n## Objects")?;
    let mut objects: Vec<_> = fields(&schema["$defs"]).collect();
    objects.sort_by_key(|(name, _)| *name);
    for (name, object) in objects {
        writeln!(text, "\n### {name}\n\n{}", said(object))?;
        if object["properties"].is_object() {
            writeln!(text, "\n| field | kind | meaning |\n| --- | --- | --- |")?;
            for (field, value) in fields(&object["properties"]) {
                let always = values(&object["required"]).any(|required| required == field);
                let maybe = if always { "" } else { ", may be absent" };
                writeln!(text, "| `{field}` | {}{maybe} | {} |", kind(value), said(value))?;
            }
        } else {
            writeln!(text, "\n{}", kind(object))?;
        }
    }
    Ok(())
}

fn fields(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

fn values(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().into_iter().flatten()
}

/// Returns the description of something in one line.
fn said(schema: &Value) -> String {
    let said = schema["description"].as_str().unwrap_or_default();
    said.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// Names the kind of a value.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.strip_prefix("#/$defs/")) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    for several in ["anyOf", "oneOf"] {
        if schema[several].is_array() {
            return values(&schema[several]).map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    if schema["type"].is_array() {
        return values(&schema["type"]).map(|word| plain(schema, word)).collect::<Vec<_>>().join(" or ");
    }
    plain(schema, &schema["type"])
}

/// Names the kind of a value that the schema has this word for.
fn plain(schema: &Value, word: &Value) -> String {
    match word.as_str() {
        Some("array") => format!("list of {}", kind(&schema["items"])),
        Some("object") if schema["properties"].is_object() => {
            let field = |(name, value): (&String, &Value)| {
                let meaning = said(value);
                let meaning =
                    if meaning.is_empty() { meaning } else { format!(" ({})", meaning.trim_end_matches('.')) };
                format!("`{name}`: {}{meaning}", kind(value))
            };
            fields(&schema["properties"]).map(field).collect::<Vec<_>>().join(", ")
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("object of {} by name", kind(&schema["additionalProperties"]))
        }
        Some(kind) => kind.to_owned(),
        None => "anything".to_owned(),
    }
}
