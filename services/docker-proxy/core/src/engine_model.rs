//! A small model of what the engine makes of a request, and the property that the proxy leaves no trace in it.
//!
//! The rules are those of the engine's `merge` and `mergeAndVerifyConfig` (moby, `daemon/commit.go` and
//! `daemon/container.go`) and of its list of containers (`container/view.go`).

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::{CreateRequest, ImageConfig, commit, create, hostname::HostnameRule, inspect::Inspection, list};

const FILLED: [&str; 4] = ["User", "WorkingDir", "StopSignal", "Healthcheck"];

fn words(value: &Value) -> Option<Vec<Value>> {
    match value {
        Value::String(word) => Some(vec![json!(word)]),
        Value::Array(words) => Some(words.clone()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

fn is_empty(value: &Value) -> bool {
    words(value).is_none_or(|words| words.is_empty())
}

/// Fills a configuration from that of an image.
fn merge(config: &mut Map<String, Value>, image: &Map<String, Value>) {
    let of_image = |key: &str| image.get(key).cloned().unwrap_or_default();
    for key in ["Entrypoint", "Cmd"] {
        let value = config.get(key).and_then(words);
        config.insert(key.to_owned(), value.map_or(Value::Null, Value::Array));
    }
    if is_empty(&config["Entrypoint"]) {
        if is_empty(&config["Cmd"]) {
            config.insert("Cmd".to_owned(), of_image("Cmd"));
            config.shift_remove("ArgsEscaped");
            if of_image("ArgsEscaped") == json!(true) {
                config.insert("ArgsEscaped".to_owned(), json!(true));
            }
        }
        if config["Entrypoint"].is_null() {
            config.insert("Entrypoint".to_owned(), of_image("Entrypoint"));
        }
    }
    let mut labels = of_image("Labels").as_object().cloned().unwrap_or_default();
    labels.extend(config.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default());
    labels.sort_keys();
    config.insert("Labels".to_owned(), labels.into());
    for key in FILLED {
        if config.get(key).is_none_or(Value::is_null) && !of_image(key).is_null() {
            config.insert(key.to_owned(), of_image(key));
        }
    }
    config.sort_keys();
}

/// Returns the engine's reply to an inspection of what it created; none if it refuses.
fn create(request: &Value, image: &Value, started: bool) -> Option<Value> {
    let mut config = request.as_object()?.clone();
    let host_config = config.shift_remove("HostConfig").unwrap_or_default();
    merge(&mut config, image.as_object()?);
    if config["Entrypoint"] == json!([""]) {
        config["Entrypoint"] = Value::Null;
    }
    let process = [&config["Entrypoint"], &config["Cmd"]].into_iter().filter_map(words).flatten();
    let process: Vec<Value> = process.collect();
    let (path, arguments) = process.split_first()?;

    let mut shown = Map::new();
    for key in ["Binds", "Dns", "DnsOptions", "DnsSearch", "Memory", "NetworkMode"] {
        shown.insert(key.to_owned(), host_config.get(key).cloned().unwrap_or_default());
    }
    for key in ["Dns", "DnsOptions", "DnsSearch"] {
        if started && shown[key].is_null() {
            shown[key] = json!([]);
        }
    }
    let mounts = host_config.get("Mounts").and_then(Value::as_array).cloned().unwrap_or_default();
    let points: Vec<Value> = mounts
        .iter()
        .map(|mount| json!({ "Type": "bind", "Source": mount["Source"], "Destination": mount["Target"], "RW": false }))
        .collect();
    if !mounts.is_empty() {
        shown.insert("Mounts".to_owned(), mounts.into());
    }
    Some(json!({
        "Id": "4f66", "Path": path, "Args": arguments, "Config": config, "HostConfig": shown, "Mounts": points,
    }))
}

/// Returns the engine's entry for the container in its list.
fn listed(container: &Value) -> Value {
    let mut command = container["Path"].as_str().expect("text").to_owned();
    for argument in container["Args"].as_array().expect("a list") {
        let argument = argument.as_str().expect("text");
        command += &if argument.contains(' ') { format!(" '{argument}'") } else { format!(" {argument}") };
    }
    json!({ "Command": command, "Labels": container["Config"]["Labels"], "Mounts": container["Mounts"] })
}

/// Returns the configuration of the image that the engine makes of the container.
fn committed(container: &Value, body: Option<&Value>, change: Change) -> Value {
    let of_container = container["Config"].as_object().expect("an object").clone();
    let mut config = match body.and_then(Value::as_object).filter(|body| !body.is_empty()) {
        Some(body) => body.clone(),
        None => of_container.clone(),
    };
    match change {
        Change::Nothing => {}
        Change::Command => {
            config.insert("Cmd".to_owned(), json!(["changed"]));
            config.shift_remove("ArgsEscaped");
        }
        Change::Entrypoint => {
            config.insert("Entrypoint".to_owned(), json!(["changed"]));
            config.insert("Cmd".to_owned(), Value::Null);
            config.shift_remove("ArgsEscaped");
        }
    }
    merge(&mut config, &of_container);
    // To the engine an image's empty list is none.
    for key in ["Entrypoint", "Cmd"] {
        if is_empty(&config[key]) {
            config[key] = Value::Null;
        }
    }
    config.into()
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Nothing,
    Command,
    Entrypoint,
}

fn command() -> impl Strategy<Value = Value> {
    let word = prop_oneof![Just(""), Just("sh"), Just("/bin/app"), Just("two words"), Just("-c"), Just("é\n\"")];
    let list = proptest::collection::vec(word.clone(), 0..4).prop_map(|words| json!(words));
    prop_oneof![Just(Value::Null), Just(json!([])), Just(json!([""])), word.prop_map(|word| json!(word)), list]
}

fn list_of(words: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(words);
    prop_oneof![Just(Value::Null), proptest::collection::vec(word, 0..3).prop_map(|words| json!(words))]
}

/// An object that has each of the fields or not.
fn object_of(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> impl Strategy<Value = Value> {
    let fields = fields.into_iter().map(|(key, value)| proptest::option::of(value).prop_map(move |value| (key, value)));
    fields.collect::<Vec<_>>().prop_map(|fields| {
        let fields = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(fields.collect())
    })
}

fn host_config() -> impl Strategy<Value = Value> {
    let mounts = list_of(&["/a", "/b"]).prop_map(|targets| {
        let mount = |target: &Value| json!({ "Source": "/src", "Target": target });
        targets.as_array().map_or(Value::Null, |targets| targets.iter().map(mount).collect())
    });
    let fields = object_of(vec![
        ("Dns", list_of(&["169.254.83.53", "9.9.9.9"]).boxed()),
        ("DnsSearch", list_of(&["weft.internal", "."]).boxed()),
        ("Binds", list_of(&["/x:/y", "/dev:/dev:ro"]).boxed()),
        ("Mounts", mounts.boxed()),
        ("NetworkMode", Just(json!("none")).boxed()),
        ("Memory", Just(json!(u64::MAX)).boxed()),
    ]);
    prop_oneof![1 => Just(Value::Null), 4 => fields]
}

fn labels() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), Just(json!({})), Just(json!({ "a": "b" })), Just(json!({ "c": "d" }))]
}

fn image() -> impl Strategy<Value = Value> {
    let listed = |strategy: BoxedStrategy<Value>| {
        strategy.prop_map(|value| words(&value).map_or(Value::Null, Value::Array)).boxed()
    };
    object_of(vec![
        ("Entrypoint", listed(command().boxed())),
        ("Cmd", listed(command().boxed())),
        ("ArgsEscaped", any::<bool>().prop_map(Value::from).boxed()),
        ("Labels", labels().boxed()),
        ("User", Just(json!("nobody")).boxed()),
    ])
}

fn request() -> impl Strategy<Value = Value> {
    object_of(vec![
        ("Entrypoint", command().boxed()),
        ("Cmd", command().boxed()),
        ("Labels", labels().boxed()),
        ("HostConfig", host_config().boxed()),
        ("Unknown", Just(json!({ "n": [1, null] })).boxed()),
    ])
}

fn rule() -> HostnameRule {
    HostnameRule::new(None, "(.*)", "$1".to_owned()).expect("a regular expression")
}

fn rewritten(request: &Value, image: &Value) -> Option<Value> {
    let request = CreateRequest::parse(request.to_string().as_bytes(), None).expect("an object");
    let image = ImageConfig::parse(json!({ "Config": image }).to_string().as_bytes()).expect("an object");
    let dns = create::Dns { address: [169, 254, 83, 53].into(), domain: "weft.internal.".to_owned(), hostname: rule() };
    let options = create::Options { shim_host_path: "/var/lib/weft/shim/1/weft-wait".to_owned(), dns: Some(dns) };
    let body = create::rewrite(&request, &image, &options, false).ok()?;
    Some(serde_json::from_slice(&body).expect("JSON"))
}

fn inspect(reply: &[u8]) -> Result<Option<Vec<u8>>, crate::MalformedBody> {
    Inspection::restore(reply).map(Inspection::into_reply)
}

fn restored(restore: impl Fn(&[u8]) -> Result<Option<Vec<u8>>, crate::MalformedBody>, reply: &Value) -> Value {
    let restored = restore(reply.to_string().as_bytes()).expect("understood").expect("something to restore");
    serde_json::from_slice(&restored).expect("JSON")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_user_sees_what_the_user_asked_for(request in request(), image in image(), started: bool) {
        let direct = create(&request, &image, started);
        let body = rewritten(&request, &image);
        prop_assert_eq!(direct.is_some(), body.is_some());
        let (Some(direct), Some(body)) = (direct, body) else { return Ok(()) };
        let through = create(&body, &image, started).expect("created");
        prop_assert_eq!(&body["HostConfig"]["Dns"][0], &request["HostConfig"]["Dns"].get(0).filter(|_| {
            request["HostConfig"]["Dns"].as_array().is_some_and(|servers| servers.contains(&json!("169.254.83.53")))
        }).cloned().unwrap_or(json!("169.254.83.53")));
        prop_assert_eq!(restored(inspect, &through), direct.clone());
        let restored_list = restored(list::restore, &json!([listed(&through)]));
        prop_assert_eq!(restored_list, json!([listed(&direct)]));
        // What is right already is left alone.
        prop_assert!(inspect(direct.to_string().as_bytes()).expect("understood").is_none());
    }

    #[test]
    fn a_copy_of_a_waiting_container_waits_once(request in request(), image in image()) {
        let Some(body) = rewritten(&request, &image) else { return Ok(()) };
        let through = create(&body, &image, true).expect("created");
        let mut copy = through["Config"].clone();
        copy["HostConfig"] = through["HostConfig"].clone();
        let again = create(&rewritten(&copy, &json!({})).expect("runs"), &json!({}), true).expect("created");
        prop_assert_eq!(restored(inspect, &again), restored(inspect, &through));
        // An image that was committed behind the proxy's back carries the waiting program, too.
        let rewritten = rewritten(&json!({}), &through["Config"]).expect("runs");
        let text = rewritten["Entrypoint"].to_string();
        prop_assert_eq!(text.matches("/.dockerenv").count(), 1, "{}", text);
    }

    #[test]
    fn images_carry_nothing_of_weft(
        request in request(),
        image in image(),
        body in proptest::option::of(object_of(vec![
            ("Entrypoint", command().prop_filter("no text", |value| !value.is_string()).boxed()),
            ("Cmd", command().prop_filter("no text", |value| !value.is_string()).boxed()),
            ("Labels", labels().boxed()),
        ])),
        change in prop_oneof![Just(Change::Nothing), Just(Change::Command), Just(Change::Entrypoint)],
    ) {
        let Some(create_body) = rewritten(&request, &image) else { return Ok(()) };
        let direct = create(&request, &image, true).expect("created");
        let through = create(&create_body, &image, true).expect("created");
        let sent = body.as_ref().map(Value::to_string).unwrap_or_default();
        let forwarded = commit::rewrite(through.to_string().as_bytes(), sent.as_bytes()).expect("understood");
        let forwarded = forwarded.map(|body| serde_json::from_slice(&body).expect("JSON")).or(body.clone());
        let made = committed(&through, forwarded.as_ref(), change);
        prop_assert_eq!(&made, &committed(&direct, body.as_ref(), change));
        prop_assert!(!made.to_string().contains("weft") && !made.to_string().contains("dockerenv"), "{}", made);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), request in request(), image in image()) {
        let _ = (inspect(&bytes), list::restore(&bytes), commit::rewrite(&bytes, &bytes));
        let _ = (CreateRequest::parse(&bytes, None).is_ok(), ImageConfig::parse(&bytes).is_ok(), crate::Container::parse(&bytes).is_ok());
        // Any JSON in any place.
        for value in [&request, &image] {
            let shuffled = json!({ "Id": value, "Config": { "Entrypoint": ["/././././.dockerenv", value], "Env": value },
                "HostConfig": { "Dns": value, "Mounts": [value] }, "Mounts": value, "Args": value, "Path": value });
            let text = shuffled.to_string();
            let _ = (inspect(text.as_bytes()), list::restore(format!("[{text}]").as_bytes()));
            let _ = commit::rewrite(text.as_bytes(), text.as_bytes());
            let _ = rewritten(&shuffled, value);
        }
    }
}
