//! Which names a container gets.

use serde_json::Value;

use crate::{
    Container, json,
    shim::{Hostname, Marks},
};

/// The label in which Compose names a container's service.
const SERVICE_LABEL: &str = "com.docker.compose.service";
/// How many names one container may have.
const MAX_NAMES: usize = 32;

/// Returns the container's names relative to the zone `domain`, lower case, each once, the container's own name first.
///
/// They are: its name; its host name, if the user chose one (alone, or with a domain in the zone) or weft made one of something
/// else than the name, which may have changed since; its Compose service; its aliases in Docker's networks. What cannot be a
/// name in DNS is left out.
#[must_use]
pub fn of_container(container: &Container, domain: &str) -> Vec<String> {
    let domain = domain.trim_matches('.').to_ascii_lowercase();
    let labels = json::object(&container.config, "Labels");
    let service = labels.and_then(|labels| labels.get(SERVICE_LABEL)).and_then(Value::as_str);
    let candidates = std::iter::once(container.name.clone())
        .chain(host_name(container, &domain))
        .chain(service.map(str::to_owned))
        .chain(container.aliases.iter().cloned());
    let mut names = Vec::new();
    for name in candidates.map(|name| name.to_ascii_lowercase()) {
        if names.len() < MAX_NAMES && is_name(&name, &domain) && !is_id(&name, container) && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Returns the container's host name relative to the zone; none if it lies in another domain, or was made of its name.
fn host_name(container: &Container, domain: &str) -> Option<String> {
    if Marks::of_config(&container.config).is_some_and(|marks| marks.hostname == Hostname::OfName) {
        return None;
    }
    let (hostname, domainname) = (container.hostname.trim_matches('.'), container.domainname.trim_matches('.'));
    let full = if domainname.is_empty() { hostname.to_owned() } else { format!("{hostname}.{domainname}") };
    let full = full.to_ascii_lowercase();
    match full.strip_suffix(domain).and_then(|relative| relative.strip_suffix('.')) {
        Some(relative) => Some(relative.to_owned()),
        None if full.contains('.') => None,
        None => Some(full),
    }
}

/// Tells whether a name is the start of the container's id, which the engine gives as host name and alias.
fn is_id(name: &str, container: &Container) -> bool {
    name.len() >= 12 && container.id.as_str().starts_with(name)
}

/// Tells whether a name and its zone fit into DNS (RFC 1035, section 2.3.4); `_` is accepted, as Compose uses it.
pub(crate) fn is_name(name: &str, domain: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(allowed);
    name.len() + 1 + domain.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "4f66ad9a0b2e4f66ad9a0b2e4f66ad9a0b2e4f66ad9a0b2e4f66ad9a0b2e4f66";

    fn names(name: &str, config: Value, aliases: &[&str]) -> Vec<String> {
        let networks = json!({ "Networks": { "app_default": { "Aliases": aliases }, "other": { "Aliases": null } } });
        let reply = json!({ "Id": ID, "Name": name, "Config": config, "NetworkSettings": networks });
        let container = Container::parse(reply.to_string().as_bytes()).expect("a container");
        of_container(&container, "weft.internal.")
    }

    #[test]
    fn a_host_name_made_of_the_name_goes_with_it() {
        let renamed = |marks: &str| {
            let entrypoint = crate::shim::marked(&format!("nnn{marks}"));
            let config = json!({ "Hostname": "old", "Domainname": "weft.internal", "Entrypoint": [entrypoint] });
            names("/new", config, &[])
        };
        assert_eq!(renamed("n"), ["new"]);
        assert_eq!(renamed("e"), ["new", "old"], "made by a rule");
        assert_eq!(renamed("u"), ["new", "old"], "the user's own");
    }

    #[test]
    fn a_container_has_its_own_name_and_those_that_were_chosen() {
        let long = "a".repeat(64);
        let cases: [(&str, Value, &[&str], &[&str]); 11] = [
            ("/db", json!({ "Hostname": "4f66ad9a0b2e" }), &[], &["db"]),
            ("/db", json!({ "Hostname": "Store" }), &[], &["db", "store"]),
            ("/db", json!({ "Hostname": "db" }), &[], &["db"]),
            ("/db", json!({ "Hostname": "store.weft.internal" }), &[], &["db", "store"]),
            ("/db", json!({ "Hostname": "store.example.org" }), &[], &["db"]),
            ("/db", json!({ "Hostname": "store", "Domainname": "weft.internal" }), &[], &["db", "store"]),
            ("/db", json!({ "Hostname": "a.b", "Domainname": "Weft.Internal." }), &[], &["db", "a.b"]),
            ("/db", json!({ "Hostname": "store", "Domainname": "example.org" }), &[], &["db"]),
            (
                "/app_web_1",
                json!({ "Hostname": "4f66ad9a0b2e", "Labels": { "com.docker.compose.service": "web" } }),
                &["web", "WWW", "4f66ad9a0b2e"],
                &["app_web_1", "web", "www"],
            ),
            ("/db", json!({}), &["a..b", "", "a b", "é", "x/y", &long], &["db"]),
            (&long, json!({ "Labels": null, "Hostname": 7 }), &[], &[]),
        ];
        for (name, config, aliases, expected) in cases {
            assert_eq!(names(name, config.clone(), aliases), expected, "{name} {config} {aliases:?}");
        }
    }

    #[test]
    fn names_are_bounded_in_number() {
        let aliases: Vec<String> = (0..100).map(|n| format!("alias{n}")).collect();
        let aliases: Vec<&str> = aliases.iter().map(String::as_str).collect();
        assert_eq!(names("/db", json!({}), &aliases).len(), MAX_NAMES);
    }
}
