//! How a container waits for its network: the waiting program before its entrypoint, and how that is taken back.
//!
//! The program is mounted read-only at a path below `/dev`, which is a file system of the container's own: the mount
//! point leaves no trace in the container's layer, so neither `docker diff` nor `docker commit` shows it. It is an entry of
//! `HostConfig.Mounts`, which the engine leaves out when it is empty and refuses when the program is missing.
//!
//! What the user asked for is recovered from what the engine stores, not from a label: a label would be merged into every
//! image that is committed, and could not be taken out of it. Only three things do not follow from the structure: whether
//! a list that became longer was null or empty before, and whether it became longer at all. One letter for each is
//! appended to the program's path, as in `/dev/weft-wait.snu`: entrypoint, `Dns`, `DnsSearch`.

use serde_json::Value;

use crate::json::{self, Object};

/// Where the waiting program is inside a container, before the marks.
pub const CONTAINER_PATH: &str = "/dev/weft-wait";

/// What a list was before the proxy put its own element first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Null, or missing.
    Null,
    /// Empty.
    Empty,
    /// Not empty.
    Some,
    /// What it is now: the proxy put nothing in.
    Untouched,
}

impl Before {
    /// Says what a list is, given its value.
    pub(crate) fn of(value: Option<&Value>) -> Self {
        match value.and_then(Value::as_array) {
            None => Self::Null,
            Some(list) if list.is_empty() => Self::Empty,
            Some(_) => Self::Some,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Null => 'n',
            Self::Empty => 'e',
            Self::Some => 's',
            Self::Untouched => 'u',
        }
    }

    const fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'n' => Some(Self::Null),
            b'e' => Some(Self::Empty),
            b's' => Some(Self::Some),
            b'u' => Some(Self::Untouched),
            _ => None,
        }
    }

    /// Takes the proxy's element out of a list. `nullable` is false where the engine would show `[]` instead of null.
    fn restore(self, value: &mut Value, nullable: bool) {
        if self == Self::Untouched {
            return;
        }
        if let Value::Array(list) = value
            && !list.is_empty()
        {
            list.remove(0);
        }
        if self == Self::Null && nullable && value.as_array().is_some_and(Vec::is_empty) {
            *value = Value::Null;
        }
    }
}

/// What was before in each of the lists that the proxy extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) entrypoint: Before,
    pub(crate) dns: Before,
    pub(crate) dns_search: Before,
}

impl Marks {
    /// Returns the program's path in a container.
    pub(crate) fn path(self) -> String {
        let letters = [self.entrypoint, self.dns, self.dns_search].map(Before::letter);
        format!("{CONTAINER_PATH}.{}", letters.iter().collect::<String>())
    }

    /// Reads the marks from a path; none if it is another program's.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let letters = path.strip_prefix(CONTAINER_PATH)?.strip_prefix('.')?.as_bytes();
        let [entrypoint, dns, dns_search] = letters else { return None };
        Some(Self {
            entrypoint: Before::from_letter(*entrypoint)?,
            dns: Before::from_letter(*dns)?,
            dns_search: Before::from_letter(*dns_search)?,
        })
    }

    /// Reads the marks of a container from its `Config`; none if it does not wait.
    pub(crate) fn of_config(config: &Object) -> Option<Self> {
        match json::field(config, "Entrypoint")? {
            Value::Array(entrypoint) => Self::parse(entrypoint.first()?.as_str()?),
            Value::String(entrypoint) => Self::parse(entrypoint),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        }
    }
}

/// Takes the waiting program out of a container's `Config` and returns its marks; none if it is not there.
pub(crate) fn unwrap_config(config: &mut Object) -> Option<Marks> {
    let marks = Marks::of_config(config)?;
    let entrypoint = json::field_mut(config, "Entrypoint")?;
    if entrypoint.is_string() {
        *entrypoint = Value::Array(vec![entrypoint.take()]);
    }
    marks.entrypoint.restore(entrypoint, true);
    Some(marks)
}

/// Takes the mount and the resolver out of a `HostConfig`.
pub(crate) fn unwrap_host_config(host_config: &mut Object, marks: Marks) {
    if let Some(Value::Array(mounts)) = json::field_mut(host_config, "Mounts") {
        mounts.retain(|mount| !is_ours(mount, "Target"));
        if mounts.is_empty() {
            json::remove(host_config, "Mounts");
        }
    }
    // When it starts a container, the engine makes all three resolver lists empty ones if they are null.
    let nullable = !json::field(host_config, "DnsOptions").is_some_and(Value::is_array);
    for (key, before) in [("Dns", marks.dns), ("DnsSearch", marks.dns_search)] {
        if let Some(list) = json::field_mut(host_config, key) {
            before.restore(list, nullable);
        }
    }
}

/// Takes the mount out of a list of mount points, as `Mounts` of an inspection or of a list shows them.
pub(crate) fn unwrap_mount_points(container: &mut Object) {
    if let Some(Value::Array(mounts)) = json::field_mut(container, "Mounts") {
        mounts.retain(|mount| !is_ours(mount, "Destination"));
    }
}

/// Tells whether a mount carries the waiting program.
pub(crate) fn is_ours(mount: &Value, target: &str) -> bool {
    let target = mount.as_object().and_then(|mount| json::text(mount, target));
    target.is_some_and(|target| Marks::parse(target).is_some())
}
