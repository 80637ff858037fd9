//! What a call came to, in words that can be compared.

use std::sync::LazyLock;

use anyhow::Context;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A call of a client and what it came to.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Outcome {
    /// The call, and what is special about it.
    pub(crate) call: String,
    /// What it returned, or how it failed.
    pub(crate) outcome: Value,
}

impl Outcome {
    /// Makes one.
    pub(crate) fn new(call: impl Into<String>, outcome: impl Into<Value>) -> Self {
        Self { call: call.into(), outcome: outcome.into() }
    }

    /// Reads what a script printed: one outcome in each line.
    ///
    /// # Errors
    /// If a line is something else.
    pub(crate) fn parse(lines: &str) -> anyhow::Result<Vec<Self>> {
        let parse = |line| serde_json::from_str(line).with_context(|| format!("a script printed {line:?}"));
        lines.lines().map(parse).collect()
    }
}

/// What differs from run to run, and what is compared instead. The first that fits is taken first.
const VARIES: &[(&str, &str)] = &[
    // Tokens and keys of a swarm, each made anew.
    (r"SWMTKN-1-[a-z0-9-]+", "TOKEN"),
    (r"(?s)-----BEGIN CERTIFICATE-----.*-----END CERTIFICATE-----", "CERTIFICATE"),
    // Ids of containers, images and layers; short ones; those of swarms; those that BuildKit makes.
    (r"\b[0-9a-f]{64}\b", "ID"),
    (r"\b[0-9a-f]{12}(\b|_)", "ID$1"),
    (r"\b[0-9a-z]{25}\b", "ID"),
    (r"\b[0-9A-Z]{26}\b", "ID"),
    // Times, ages and durations.
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?[+-]\d\d:?\d\d| ?Z)?( [A-Z]{3})?", "TIME"),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4}", "TIME"),
    (r"\b([Ll]ess than a|[Aa]bout an?|\d+) (second|minute|hour)s?\b", "AGE"),
    (r"\b\d+(\.\d+)?(ms|µs|ns|s)\b", "DURATION"),
    // Addresses on the engine's own bridges.
    (r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b", "MAC"),
    (r"\b172\.\d+\.\d+\.\d+\b", "ADDRESS"),
    // Where a piece of output ends and the next begins is chance.
    (r"(?s)[\x01\x02]\x00\x00\x00.{4}", ""),
    // Processes, where they are told as text.
    (r"^\d+$", "NUMBER"),
    // The socket itself, where a client names it.
    (r"(unix|http)://[^\s]*docker\.sock", "SOCKET"),
    (r"/run/(weft/docker/)?docker\.sock", "SOCKET"),
    (r"Date: [^\r\n]*", "Date: TIME"),
    // Ports that the kernel chose.
    (r"(\d|:):\d{4,5}->", "$1:PORT->"),
    // How a resolver says that it is not there.
    (r"read: connection refused|i/o timeout", "NO ANSWER"),
    // Columns are as wide as what is in them.
    (r"[ \t]{2,}", " "),
];

/// Fields whose values differ from run to run.
const VARYING_FIELDS: &[&str] = &[
    "CertIssuerPublicKey",
    "Created",
    "LastUsedAt",
    "ExecIDs",
    "Index",
    "NFd",
    "NGoroutines",
    "PID",
    "Pid",
    "SystemTime",
    "id",
    "time",
    "timeNano",
    "CertIssuerSubject",
    "aux",
];

/// Fields by which entries of a list are told apart: such lists come in any order.
const NAMES: &[&str] = &["Id", "ID", "Name", "Names", "Destination", "Path", "id", "name"];

/// Returns a call's outcome without what differs from run to run.
pub(crate) fn normal(call: &str, value: &Value) -> Value {
    // Of measurements, only what is measured can be the same.
    let measured = call.contains("stats");
    normalise(value, measured)
}

fn normalise(value: &Value, measured: bool) -> Value {
    match value {
        Value::String(text) => Value::String(normal_text(text)),
        Value::Number(_) if measured => Value::from(0),
        // Times in seconds and more, and sizes of this machine's memory.
        Value::Number(number) if number.as_f64().is_some_and(|number| number >= 1e9) => Value::from("LARGE"),
        Value::Array(items) => {
            let mut items: Vec<_> = items.iter().map(|item| normalise(item, measured)).collect();
            let named = |item: &Value| NAMES.iter().any(|name| item.get(name).is_some());
            if measured {
                items.dedup();
            } else if items.iter().all(named) {
                items.sort_by_key(Value::to_string);
            }
            Value::Array(items)
        }
        Value::Object(fields) => {
            let normal = |(name, value): (&String, &Value)| {
                let varies = VARYING_FIELDS.contains(&name.as_str()) && !value.is_object();
                (normal_text(name), if varies { Value::from("VARIES") } else { normalise(value, measured) })
            };
            Value::Object(fields.iter().map(normal).collect::<Map<_, _>>())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn normal_text(text: &str) -> String {
    static PATTERNS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let compile = |&(pattern, instead): &(&str, &'static str)| (Regex::new(pattern).expect("it is valid"), instead);
        VARIES.iter().map(compile).collect()
    });
    let mut text = text.to_owned();
    for (pattern, instead) in PATTERNS.iter() {
        text = pattern.replace_all(&text, *instead).into_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_varies_is_lost() {
        let id = "4c01db0b339c".repeat(6)[..64].to_owned();
        let value = json!({
            "Id": id, "Name": "/a", "Pid": 7, "Started": "2026-11-21T11:42:23.940614306Z", "Memory": 67_108_864,
            "Total": 24_000_000_000_u64, "Status": "Up 5 minutes (healthy)", "List": [{ "Id": "b" }, { "Id": "a" }],
            "Words": ["b", "a"], id.clone(): "10.32.0.1",
        });
        let expected = json!({
            "Id": "ID", "Name": "/a", "Pid": "VARIES", "Started": "TIME", "Memory": 67_108_864,
            "Total": "LARGE", "Status": "Up AGE (healthy)", "List": [{ "Id": "a" }, { "Id": "b" }],
            "Words": ["b", "a"], "ID": "10.32.0.1",
        });
        assert_eq!(normal("inspect", &value), expected);
    }

    #[test]
    fn of_measurements_only_their_names_stay() {
        assert_eq!(normal("stats", &json!({ "cpu": [1, 2, 3] })), json!({ "cpu": [0] }));
    }
}
