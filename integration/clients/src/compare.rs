//! Where two outcomes differ.

use serde_json::Value;

use crate::outcome::{Outcome, normal};

/// One place where a call through weft came to something else than at the engine.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// The call.
    pub(crate) call: String,
    /// Where in its outcome, as names joined by dots.
    pub(crate) place: String,
    /// What the engine said.
    pub(crate) engine: String,
    /// What came through weft.
    pub(crate) weft: String,
}

/// Returns all differences between the calls at the engine and those through weft.
pub(crate) fn differences(engine: &[Outcome], weft: &[Outcome]) -> Vec<Difference> {
    let mut found = Vec::new();
    for number in 0..engine.len().max(weft.len()) {
        let (ours, theirs) = (weft.get(number), engine.get(number));
        let name = |outcome: Option<&Outcome>| outcome.map(|outcome| outcome.call.clone());
        let (ours_name, theirs_name) = (name(ours), name(theirs));
        if ours_name != theirs_name {
            // From here on nothing can be compared.
            found.push(Difference {
                call: theirs_name.clone().or_else(|| ours_name.clone()).unwrap_or_default(),
                place: "the order of calls".to_owned(),
                engine: format!("{theirs_name:?}"),
                weft: format!("{ours_name:?}"),
            });
            break;
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            let (engine, weft) = (normal(&theirs.call, &theirs.outcome), normal(&ours.call, &ours.outcome));
            compare(&theirs.call, "", &engine, &weft, &mut found);
        }
    }
    found
}

fn compare(call: &str, place: &str, engine: &Value, weft: &Value, found: &mut Vec<Difference>) {
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match (engine, weft) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                let value = |of: &serde_json::Map<String, Value>| of.get(name).cloned().unwrap_or(Value::Null);
                compare(call, &below(name), &value(a), &value(b), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (number, (a, b)) in a.iter().zip(b).enumerate() {
                compare(call, &below(&number.to_string()), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let only = |these: &[Value], those: &[Value]| {
                let only: Vec<_> = these.iter().filter(|item| !those.contains(item)).map(Value::to_string).collect();
                format!("{} entries, only here: {}", these.len(), only.join(" "))
            };
            found.push(Difference {
                call: call.to_owned(),
                place: place.to_owned(),
                engine: only(a, b),
                weft: only(b, a),
            });
        }
        (engine, weft) if engine != weft => found.push(Difference {
            call: call.to_owned(),
            place: place.to_owned(),
            engine: engine.to_string(),
            weft: weft.to_string(),
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_place_that_differs_is_named() {
        let at = |value: Value| [Outcome::new("call", value)];
        let engine = at(json!({ "a": { "b": 1, "c": [1, 2] }, "d": [1] }));
        let weft = at(json!({ "a": { "b": 2, "c": [1, 3] }, "d": [1, "x"] }));
        let found = differences(&engine, &weft);
        let places: Vec<_> = found.iter().map(|difference| difference.place.as_str()).collect();
        assert_eq!(places, ["a.b", "a.c.1", "d"]);
        assert_eq!(found[2].weft, "2 entries, only here: \"x\"");
        assert!(differences(&engine, &engine).is_empty());
    }

    #[test]
    fn calls_that_are_missing_are_a_difference() {
        let both = [Outcome::new("one", 1), Outcome::new("two", 2)];
        let found = differences(&both, &both[..1]);
        assert_eq!((found.len(), found[0].call.as_str()), (1, "two"));
    }
}
