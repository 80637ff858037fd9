//! How a container waits for its network: the waiting program before its entrypoint, and how that is taken back.
//!
//! The program is mounted read-only over `/.dockerenv`, an empty file that the engine puts into each container, below what
//! belongs to the container: no mount point is made, so neither `docker diff` nor `docker commit` nor `docker cp` shows or leaves
//! anything. It is an entry of `HostConfig.Mounts`, which the engine leaves out when it is empty and refuses when the program
//! is missing.
//!
//! What the user asked for is recovered from what the engine stores, not from a label: a label would be merged into every
//! image that is committed, and could not be taken out of it. Only four things do not follow from the structure: whether
//! a list that became longer was null or empty before, whether it became longer at all, and who chose the host name. Each is
//! written before the program's path as a number of slashes and a dot, which mean nothing in a path: entrypoint, `Dns`,
//! `DnsSearch`, host name, as in `///././///././.dockerenv`.

use serde_json::Value;

use crate::json::{self, Object};

/// What the engine puts into each container, and the program lies over.
pub(crate) const TARGET: &str = "/.dockerenv";

/// Name of the program on the host.
const PROGRAM: &str = "/weft-wait";

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

    /// Returns how it is written: one less than the number of slashes.
    const fn index(self) -> usize {
        match self {
            Self::Null => 0,
            Self::Empty => 1,
            Self::Some => 2,
            Self::Untouched => 3,
        }
    }

    const fn from_index(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::Null),
            1 => Some(Self::Empty),
            2 => Some(Self::Some),
            3 => Some(Self::Untouched),
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

/// Who chose a container's host name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hostname {
    /// The proxy, with its domain: it is the name that the container was created with.
    OfName,
    /// The proxy, with its domain, by a [rule](crate::hostname::HostnameRule) that made something else of the name, or by a
    /// label.
    OfRule,
    /// The user, or the engine.
    Untouched,
}

impl Hostname {
    /// Returns how it is written: one less than the number of slashes.
    const fn index(self) -> usize {
        match self {
            Self::OfName => 0,
            Self::OfRule => 1,
            Self::Untouched => 3,
        }
    }

    const fn from_index(index: usize) -> Option<Self> {
        match index {
            0 => Some(Self::OfName),
            1 => Some(Self::OfRule),
            3 => Some(Self::Untouched),
            _ => None,
        }
    }
}

/// What was before in what the proxy changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) entrypoint: Before,
    pub(crate) dns: Before,
    pub(crate) dns_search: Before,
    pub(crate) hostname: Hostname,
}

impl Marks {
    /// Returns the program's path in a container, with the marks.
    pub(crate) fn path(self) -> String {
        let [entrypoint, dns, dns_search] = [self.entrypoint, self.dns, self.dns_search].map(Before::index);
        let marks = [entrypoint, dns, dns_search, self.hostname.index()];
        marks.map(|mark| format!("{}.", "/".repeat(mark + 1))).concat() + TARGET
    }

    /// Reads the marks from a path; none if it is another program's.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let groups = path.strip_suffix(TARGET)?.strip_suffix('.')?.split('.');
        let mark = |group: &str| group.len().checked_sub(1).filter(|_| group.bytes().all(|byte| byte == b'/'));
        let marks: Vec<usize> = groups.take(5).map(mark).collect::<Option<_>>()?;
        let [entrypoint, dns, dns_search, hostname] = <[usize; 4]>::try_from(marks).ok()?;
        Some(Self {
            entrypoint: Before::from_index(entrypoint)?,
            dns: Before::from_index(dns)?,
            dns_search: Before::from_index(dns_search)?,
            hostname: Hostname::from_index(hostname)?,
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

/// Takes the mount out of a list of mount points, as `Mounts` of an inspection or of a list shows them, and tells whether it
/// was there. Containers that have the volumes of another one have its waiting program, too.
pub(crate) fn unwrap_mount_points(container: &mut Object) -> bool {
    let Some(Value::Array(mounts)) = json::field_mut(container, "Mounts") else { return false };
    let before = mounts.len();
    mounts.retain(|mount| !is_ours(mount, "Destination"));
    mounts.len() != before
}

/// Tells whether a mount, which names where it is in the field `target`, carries the waiting program.
pub(crate) fn is_ours(mount: &Value, target: &str) -> bool {
    let Some(mount) = mount.as_object() else { return false };
    json::text(mount, target) == Some(TARGET)
        && json::text(mount, "Source").is_some_and(|source| source.ends_with(PROGRAM))
}

/// Returns the program's path with marks that are given by letters: `n`ull, `e`mpty, `s`ome, `u`ntouched.
#[cfg(test)]
pub(crate) fn marked(letters: &str) -> String {
    let mark = |letter| "nesu".find(letter).map(|index| format!("{}.", "/".repeat(index + 1))).expect("a mark");
    letters.chars().map(mark).collect::<String>() + TARGET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back() {
        let all = [Before::Null, Before::Empty, Before::Some, Before::Untouched];
        for number in 0..64_usize {
            let [entrypoint, dns, dns_search] = [number / 16, number / 4 % 4, number % 4].map(|index| all[index]);
            for hostname in [Hostname::OfName, Hostname::OfRule, Hostname::Untouched] {
                let marks = Marks { entrypoint, dns, dns_search, hostname };
                assert_eq!(Marks::parse(&marks.path()), Some(marks), "{}", marks.path());
            }
        }
        let marks = Marks {
            entrypoint: Before::Some,
            dns: Before::Null,
            dns_search: Before::Untouched,
            hostname: Hostname::OfName,
        };
        assert_eq!(marks.path(), "///././///././.dockerenv");
        assert_eq!(marked("snun"), marks.path());
    }

    #[test]
    fn other_paths_are_other_programs() {
        for path in [
            "",
            "/.dockerenv",
            "/./././.dockerenv",
            "/././././././.dockerenv",
            "/././././.dockerenv/x",
            "/././././///.dockerenv",
            "/.//////./././.dockerenv",
            "/./././//./.dockerenv",
            "/.a./././.dockerenv",
        ] {
            assert_eq!(Marks::parse(path), None, "{path}");
        }
    }
}
