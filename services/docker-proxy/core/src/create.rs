//! Rewriting of `POST /containers/create`.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::{
    CreateRequest, ImageConfig,
    hostname::HostnameRule,
    json::{self, Object},
    shim::{self, Before, Hostname, Marks},
};

/// What the proxy puts into each container that it attaches.
#[derive(Debug, Clone)]
pub struct Options {
    /// Path of the waiting program on the host.
    pub shim_host_path: String,
    /// Where the container asks for names, and its own one; none: resolver and host name are left as the user wants them.
    pub dns: Option<Dns>,
}

/// What makes containers' names known in them.
#[derive(Debug, Clone)]
pub struct Dns {
    /// Where weft's dns answers.
    pub address: Ipv4Addr,
    /// The zone of containers' names.
    pub domain: String,
    /// How a host name is made where the user chose none.
    pub hostname: HostnameRule,
}

/// The request is to be forwarded as it came: the engine refuses it, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotRewritten {
    /// Neither request nor image says what to run.
    #[error("neither the request nor the image says what to run")]
    NothingToRun,
    /// A field is not what the engine takes.
    #[error("the field {0} is not what the engine takes")]
    Field(&'static str),
}

/// Returns the body to send to the engine instead of the client's.
///
/// Everything that is not rewritten stays as the client wrote it: unknown fields, their order, and every digit of numbers.
/// A request that carries the waiting program already (a copy of another container's settings) gets it once.
/// `user_namespaces` says that the engine remaps users: then some of them cannot set the domain that a kernel has beside its
/// host name, and a host name that is made has the domain in it.
///
/// # Errors
/// [`NotRewritten`] if the client's own body is to be sent, because the engine will refuse it.
pub fn rewrite(
    request: &CreateRequest,
    image: &ImageConfig,
    options: &Options,
    user_namespaces: bool,
) -> Result<Vec<u8>, NotRewritten> {
    let mut body = request.body().clone();
    let mut host_config = match json::field_mut(&mut body, "HostConfig").map(Value::take) {
        None | Some(Value::Null) => Object::new(),
        Some(Value::Object(host_config)) => host_config,
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            return Err(NotRewritten::Field("HostConfig"));
        }
    };
    if let Some(marks) = shim::unwrap_config(&mut body) {
        shim::unwrap_host_config(&mut host_config, marks);
        if marks.hostname != Hostname::Untouched {
            json::remove(&mut body, "Hostname");
            json::remove(&mut body, "Domainname");
        }
    }
    let entrypoint = fill_command(&mut body, image)?;
    let (dns, dns_search, hostname) = match &options.dns {
        Some(dns) => {
            let hostname = set_hostname(&mut body, &host_config, request.name(), dns, user_namespaces);
            let (servers, search) = set_resolver(&mut host_config, dns)?;
            (servers, search, hostname)
        }
        None => (Before::Untouched, Before::Untouched, Hostname::Untouched),
    };
    let marks = Marks { entrypoint: before(entrypoint.as_deref()), dns, dns_search, hostname };
    add_mount(&mut host_config, &options.shim_host_path)?;
    let words: Vec<String> = std::iter::once(marks.path()).chain(entrypoint.unwrap_or_default()).collect();
    json::set(&mut body, "Entrypoint", words.into());
    json::set(&mut body, "HostConfig", Value::Object(host_config));
    Ok(json::to_bytes(&Value::Object(body)))
}

fn before(entrypoint: Option<&[String]>) -> Before {
    match entrypoint {
        None => Before::Null,
        Some([]) => Before::Empty,
        Some(_) => Before::Some,
    }
}

/// Writes the command that the engine would take from the image into the request, because an entrypoint in the request
/// makes it take none, and returns the entrypoint that the container would have had.
///
/// The engine's rule: the image's command counts only while neither entrypoint nor command are given; the image's
/// entrypoint while none is given, not even an empty one; an entrypoint of one empty word means none, and is looked at last.
fn fill_command(body: &mut Object, image: &ImageConfig) -> Result<Option<Vec<String>>, NotRewritten> {
    let mut entrypoint = words(json::field(body, "Entrypoint"), "Entrypoint")?;
    let mut command = words(json::field(body, "Cmd"), "Cmd")?;
    if is_empty(&entrypoint) {
        if is_empty(&command) {
            command = words(json::field(image.config(), "Cmd"), "Cmd")?;
            copy_command(body, image.config());
        }
        if entrypoint.is_none() {
            entrypoint = image_entrypoint(image)?;
        }
    }
    if entrypoint.as_deref().is_some_and(|words| words.len() == 1 && words[0].is_empty()) {
        entrypoint = None;
    }
    if is_empty(&entrypoint) && is_empty(&command) {
        return Err(NotRewritten::NothingToRun);
    }
    Ok(entrypoint)
}

/// Takes the command of another configuration, and with it whether it is escaped, as the engine does.
pub(crate) fn copy_command(config: &mut Object, source: &Object) {
    json::set(config, "Cmd", json::field(source, "Cmd").cloned().unwrap_or_default());
    let escaped = json::field(source, "ArgsEscaped") == Some(&Value::Bool(true));
    if escaped || json::field(config, "ArgsEscaped").is_some() {
        json::set(config, "ArgsEscaped", Value::Bool(escaped));
    }
}

/// Returns an image's entrypoint, without the waiting program if the image was committed behind the proxy's back.
fn image_entrypoint(image: &ImageConfig) -> Result<Option<Vec<String>>, NotRewritten> {
    let mut config = image.config().clone();
    shim::unwrap_config(&mut config);
    words(json::field(&config, "Entrypoint"), "Entrypoint")
}

fn is_empty(words: &Option<Vec<String>>) -> bool {
    words.as_ref().is_none_or(Vec::is_empty)
}

/// Reads a command as the engine does: a list, or one word of old clients, or null.
fn words(value: Option<&Value>, name: &'static str) -> Result<Option<Vec<String>>, NotRewritten> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) => Ok(Some(vec![word.clone()])),
        Some(Value::Array(items)) => {
            let word =
                |item: &Value| if item.is_null() { Some(String::new()) } else { item.as_str().map(str::to_owned) };
            items.iter().map(word).collect::<Option<_>>().map(Some).ok_or(NotRewritten::Field(name))
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Object(_)) => Err(NotRewritten::Field(name)),
    }
}

/// Puts weft's resolver before the user's, and the zone where the user gave no domains to search.
fn set_resolver(host_config: &mut Object, dns: &Dns) -> Result<(Before, Before), NotRewritten> {
    let address = Value::String(dns.address.to_string());
    let mut servers = list(host_config, "Dns")?;
    let servers_before = if servers.contains(&address) {
        Before::Untouched
    } else {
        let before = Before::of(json::field(host_config, "Dns"));
        servers.insert(0, address);
        json::set(host_config, "Dns", Value::Array(servers));
        before
    };
    let search_before = if list(host_config, "DnsSearch")?.is_empty() {
        let before = Before::of(json::field(host_config, "DnsSearch"));
        json::set(host_config, "DnsSearch", json!([dns.domain.trim_end_matches('.')]));
        before
    } else {
        Before::Untouched
    };
    Ok((servers_before, search_before))
}

/// Gives the container a host name and its domain if the user chose neither.
fn set_hostname(
    body: &mut Object,
    host_config: &Object,
    name: Option<&str>,
    dns: &Dns,
    user_namespaces: bool,
) -> Hostname {
    let chosen = |key| json::field(body, key).is_some_and(|value| !value.is_null() && value.as_str() != Some(""));
    // The engine takes no host name for a container that has the host's.
    if chosen("Hostname") || chosen("Domainname") || json::text(host_config, "UTSMode") == Some("host") {
        return Hostname::Untouched;
    }
    let labels = json::object(body, "Labels");
    let label = dns.hostname.label().and_then(|label| labels?.get(label)?.as_str());
    let domain = dns.domain.trim_end_matches('.');
    let Some(made) = dns.hostname.make(label, name, domain) else { return Hostname::Untouched };
    if user_namespaces {
        json::set(body, "Hostname", format!("{}.{domain}", made.hostname).into());
    } else {
        json::set(body, "Hostname", made.hostname.into());
        json::set(body, "Domainname", domain.into());
    }
    if made.is_name { Hostname::OfName } else { Hostname::OfRule }
}

fn add_mount(host_config: &mut Object, source: &str) -> Result<(), NotRewritten> {
    let mut mounts = list(host_config, "Mounts")?;
    mounts.retain(|mount| !shim::is_ours(mount, "Target"));
    mounts.push(json!({ "Type": "bind", "Source": source, "Target": shim::TARGET, "ReadOnly": true }));
    json::set(host_config, "Mounts", Value::Array(mounts));
    Ok(())
}

fn list(host_config: &Object, key: &'static str) -> Result<Vec<Value>, NotRewritten> {
    match json::field(host_config, key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => Ok(list.clone()),
        Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => Err(NotRewritten::Field(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let hostname = HostnameRule::new(Some("host".to_owned()), "^x-", String::new()).expect("an expression");
        let address = Ipv4Addr::new(169, 254, 83, 53);
        let dns = Dns { address, domain: "weft.internal".to_owned(), hostname };
        Options { shim_host_path: "/shim".to_owned(), dns: Some(dns) }
    }

    fn rewritten(body: &str, image: &str) -> Result<String, NotRewritten> {
        let request = CreateRequest::parse(body.as_bytes(), None).expect("an object");
        let image = ImageConfig::parse(format!(r#"{{"Config":{image}}}"#).as_bytes()).expect("an object");
        rewrite(&request, &image, &options(), false).map(|body| String::from_utf8(body).expect("UTF-8"))
    }

    const MOUNTS: &str = r#""Mounts":[{"Type":"bind","Source":"/shim","Target":"/.dockerenv","ReadOnly":true}]"#;

    #[test]
    fn fields_keep_their_order_their_digits_and_their_spelling() {
        let body = r#"{"Image":"x","Big":18446744073709551617000,"f":1.50e+2,"hostconfig":{"Memory":9007199254740993,"Dns":["9.9.9.9"]},"cmd":["a"],"Z":{}}"#;
        let expected = format!(
            r#"{{"Image":"x","Big":18446744073709551617000,"f":1.50e+2,"hostconfig":{{"Memory":9007199254740993,"Dns":["169.254.83.53","9.9.9.9"],"DnsSearch":["weft.internal"],{}}},"cmd":["a"],"Z":{{}},"Entrypoint":["/.///././///./.dockerenv"]}}"#,
            MOUNTS
        );
        assert_eq!(rewritten(body, "null"), Ok(expected));
    }

    #[test]
    fn the_engines_rule_for_commands_holds() {
        let image = r#"{"Entrypoint":["/entry"],"Cmd":["serve"]}"#;
        let cases = [
            (r#"{}"#, r#"["///./././///./.dockerenv","/entry"]"#, r#"["serve"]"#),
            (r#"{"Cmd":["x"]}"#, r#"["///./././///./.dockerenv","/entry"]"#, r#"["x"]"#),
            (r#"{"Cmd":"x y"}"#, r#"["///./././///./.dockerenv","/entry"]"#, r#""x y""#),
            (r#"{"Cmd":[],"Entrypoint":null}"#, r#"["///./././///./.dockerenv","/entry"]"#, r#"["serve"]"#),
            (r#"{"Entrypoint":"sh"}"#, r#"["///./././///./.dockerenv","sh"]"#, "null"),
            (r#"{"Entrypoint":["sh"],"Cmd":["-c"]}"#, r#"["///./././///./.dockerenv","sh"]"#, r#"["-c"]"#),
            (r#"{"Entrypoint":[]}"#, r#"["//./././///./.dockerenv"]"#, r#"["serve"]"#),
            (r#"{"Entrypoint":[""],"Cmd":["x"]}"#, r#"["/./././///./.dockerenv"]"#, r#"["x"]"#),
        ];
        for (body, entrypoint, command) in cases {
            let made: Value = serde_json::from_str(&rewritten(body, image).expect(body)).expect("JSON");
            assert_eq!(made["Entrypoint"].to_string(), entrypoint, "{body}");
            assert_eq!(made["Cmd"].to_string(), command, "{body}");
        }
    }

    #[test]
    fn what_the_engine_refuses_is_left_to_it() {
        let cases = [
            ("{}", "null", NotRewritten::NothingToRun),
            (r#"{"Entrypoint":[""]}"#, r#"{"Cmd":["x"]}"#, NotRewritten::NothingToRun),
            (r#"{"Entrypoint":7}"#, "null", NotRewritten::Field("Entrypoint")),
            (r#"{"Cmd":[7]}"#, "null", NotRewritten::Field("Cmd")),
            (r#"{"Cmd":["x"],"HostConfig":[]}"#, "null", NotRewritten::Field("HostConfig")),
            (r#"{"Cmd":["x"],"HostConfig":{"Dns":"x"}}"#, "null", NotRewritten::Field("Dns")),
            (r#"{"Cmd":["x"],"HostConfig":{"Mounts":{}}}"#, "null", NotRewritten::Field("Mounts")),
        ];
        for (body, image, error) in cases {
            assert_eq!(rewritten(body, image), Err(error), "{body}");
        }
        assert!(CreateRequest::parse(b"[]", None).is_err());
        assert!(CreateRequest::parse(b"{} x", None).is_err());
    }

    #[test]
    fn a_host_name_is_made_where_none_was_chosen() {
        let cases = [
            (r#"{}"#, Some("web"), "web", "weft.internal", "nnnn"),
            (r#"{"Hostname":"","Domainname":null}"#, Some("web"), "web", "weft.internal", "nnnn"),
            (r#"{}"#, Some("x-web"), "web", "weft.internal", "nnne"),
            (r#"{"Labels":{"host":"store"}}"#, Some("web"), "store", "weft.internal", "nnne"),
            (r#"{"Hostname":"own"}"#, Some("web"), "own", "", "nnnu"),
            (r#"{"Domainname":"example.org"}"#, Some("web"), "", "example.org", "nnnu"),
            (r#"{"HostConfig":{"UTSMode":"host"}}"#, Some("web"), "", "", "nnnu"),
            (r#"{}"#, None, "", "", "nnnu"),
        ];
        let image = ImageConfig::parse(br#"{"Config":{"Cmd":["x"]}}"#).expect("an object");
        for (body, name, hostname, domain, marks) in cases {
            let request = CreateRequest::parse(body.as_bytes(), name).expect("an object");
            let made = rewrite(&request, &image, &options(), false).expect("rewritten");
            let value: Value = serde_json::from_slice(&made).expect("JSON");
            assert_eq!(value["Hostname"].as_str().unwrap_or_default(), hostname, "{body}");
            assert_eq!(value["Domainname"].as_str().unwrap_or_default(), domain, "{body}");
            assert_eq!(value["Entrypoint"][0], shim::marked(marks), "{body}");
            let copied = CreateRequest::parse(&made, Some("other")).expect("an object");
            let again = rewrite(&copied, &image, &options(), false).expect("rewritten");
            let again: Value = serde_json::from_slice(&again).expect("JSON");
            let follows = marks.ends_with('n') || body == "{}";
            assert_eq!(again["Hostname"] == "other", follows, "{body}: a copy has its own name");
        }
    }

    #[test]
    fn where_users_are_remapped_the_domain_is_in_the_host_name() {
        let request = CreateRequest::parse(br#"{"Cmd":["x"]}"#, Some("web")).expect("an object");
        let body = rewrite(&request, &ImageConfig::default(), &options(), true).expect("rewritten");
        let value: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((&value["Hostname"], &value["Domainname"]), (&json!("web.weft.internal"), &Value::Null));
        assert_eq!(value["Entrypoint"][0], shim::marked("nnnn"));
    }

    #[test]
    fn without_dns_the_resolver_is_the_users() {
        let request = CreateRequest::parse(br#"{"Cmd":["x"],"HostConfig":{}}"#, Some("web")).expect("an object");
        let options = Options { shim_host_path: "/shim".to_owned(), dns: None };
        let body = rewrite(&request, &ImageConfig::default(), &options, false).expect("rewritten");
        let expected =
            format!(r#"{{"Cmd":["x"],"HostConfig":{{{}}},"Entrypoint":["/.////.////.////./.dockerenv"]}}"#, MOUNTS);
        assert_eq!(String::from_utf8(body).expect("UTF-8"), expected);
    }
}
