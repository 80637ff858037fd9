//! Which mounts a container has been asked to have, as far as they decide where the waiting program can be.

use serde_json::Value;

use crate::json::{self, Object};

/// Tells whether something is to be mounted at `/dev`, instead of the file system that the engine makes there: by the
/// request's body, or by a volume of the image.
pub(crate) fn cover_dev(body: &Object, image: &Object) -> bool {
    let volumes = [body, image].into_iter().filter_map(|config| json::object(config, "Volumes")).flat_map(Object::keys);
    if volumes.map(String::as_str).any(is_dev) {
        return true;
    }
    let Some(host_config) = json::object(body, "HostConfig") else { return false };
    let binds = json::texts(json::field(host_config, "Binds"));
    let tmpfs = json::object(host_config, "Tmpfs").into_iter().flat_map(Object::keys);
    binds.iter().any(|bind| is_dev(destination(bind)))
        || tmpfs.map(String::as_str).any(is_dev)
        || any_at_dev(json::field(host_config, "Mounts"), "Target")
}

/// Tells whether one of a list of mounts, which name where they are in the field `key`, is at `/dev`.
pub(crate) fn any_at_dev(mounts: Option<&Value>, key: &str) -> bool {
    let mounts = mounts.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_object);
    mounts.filter_map(|mount| json::text(mount, key)).any(is_dev)
}

/// Returns where a bind as in `source:destination:mode` is mounted.
fn destination(bind: &str) -> &str {
    let mut parts = bind.split(':');
    let first = parts.next().unwrap_or_default();
    parts.next().unwrap_or(first)
}

/// Tells whether a path means `/dev`, as the engine reads it.
fn is_dev(path: &str) -> bool {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    path.starts_with('/') && names == ["dev"]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_mounted_at_dev_is_found_however_it_is_asked_for() {
        let covers = |body: Value, image: Value| {
            let object = |value: Value| value.as_object().cloned().expect("an object");
            cover_dev(&object(body), &object(image))
        };
        for host_config in [
            json!({ "Binds": ["/x:/y", "/dev:/dev"] }),
            json!({ "Binds": ["/dev:/dev/:ro,rslave"] }),
            json!({ "binds": ["some-volume://./etc/../dev"] }),
            json!({ "Mounts": [{ "Type": "tmpfs", "Target": "/dev" }] }),
            json!({ "Tmpfs": { "/dev": "ro" } }),
        ] {
            assert!(covers(json!({ "HostConfig": host_config }), json!({})), "{host_config}");
        }
        assert!(covers(json!({ "Volumes": { "/dev": {} } }), json!({})));
        assert!(covers(json!({}), json!({ "Volumes": { "/dev": {} } })));
        for host_config in [
            json!(null),
            json!({ "Binds": null, "Mounts": [7, {}, { "Target": 7 }], "Tmpfs": [] }),
            json!({ "Binds": ["/dev:/host/dev", "/dev/null:/dev/foo", "/dev", "dev:dev"], "Tmpfs": { "/dev/shm": "" } }),
            json!({ "Mounts": [{ "Source": "/dev", "Target": "/device" }] }),
        ] {
            let covered = covers(json!({ "HostConfig": host_config.clone() }), json!({}));
            assert_eq!(covered, host_config["Binds"][2] == "/dev", "{host_config}");
        }
    }
}
