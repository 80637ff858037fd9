//! A container's `/etc/hosts`, edited so that its own name means its overlay addresses.

use std::{net::IpAddr, path::PathBuf};

/// Ends the lines that are ours.
const MARK: &str = "# weft";

/// What a container's `/etc/hosts` should say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsFile {
    /// The file on the host, which the engine binds into the container.
    pub path: PathBuf,
    /// The container's own name.
    pub hostname: String,
    /// Domain of that name; empty for none.
    pub domainname: String,
    /// Further names as the user gave them, `name:address`.
    pub extra_hosts: Vec<String>,
}

/// Returns what a hosts file with `existing` in it should contain.
///
/// Lines that give the container's own name another meaning go, except those the user asked for; all else that the
/// engine or the container wrote stays. Doing it again changes nothing.
#[must_use]
pub fn rewrite_hosts(existing: &str, hosts: &HostsFile, addresses: &[IpAddr]) -> String {
    let own_names = own_names(hosts);
    let extra: Vec<(&str, IpAddr)> = hosts.extra_hosts.iter().filter_map(|text| parse_extra(text)).collect();
    let mut lines: Vec<String> = existing
        .lines()
        .filter(|line| !line.trim_end().ends_with(MARK))
        .filter(|line| {
            parse_line(line).is_none_or(|(address, mut names)| {
                let wanted = |name: &str| extra.iter().any(|(n, a)| *n == name && *a == address);
                address.is_loopback() || !names.any(|name| own_names.iter().any(|own| own == name) && !wanted(name))
            })
        })
        .map(ToOwned::to_owned)
        .collect();
    if !lines.iter().filter_map(|line| parse_line(line)).any(|(address, _)| address.is_loopback()) {
        lines.insert(0, "127.0.0.1\tlocalhost".into());
        lines.insert(1, "::1\tlocalhost ip6-localhost ip6-loopback".into());
    }
    for (name, address) in &extra {
        let present = |line: &String| {
            parse_line(line).is_some_and(|(a, mut names)| a == *address && names.any(|present| present == *name))
        };
        if !lines.iter().any(present) {
            lines.push(format!("{address}\t{name}"));
        }
    }
    if !own_names.is_empty() {
        lines.extend(addresses.iter().map(|address| format!("{address}\t{} {MARK}", own_names.join(" "))));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The full name first, as resolvers take the first as canonical. Text that is no name would forge lines: left out.
fn own_names(hosts: &HostsFile) -> Vec<String> {
    let is_name =
        |text: &str| !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#');
    let mut names = Vec::new();
    if is_name(&hosts.hostname) {
        if is_name(&hosts.domainname) {
            names.push(format!("{}.{}", hosts.hostname, hosts.domainname));
        }
        names.push(hosts.hostname.clone());
    }
    names
}

/// Splits `name:address`. The engine's own words for an address (`host-gateway`) stay as the engine resolved them.
fn parse_extra(text: &str) -> Option<(&str, IpAddr)> {
    let (name, address) = text.split_once([':', '='])?;
    let address = address.trim_matches(['[', ']']).parse().ok()?;
    let is_name = !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '#');
    is_name.then_some((name, address))
}

fn parse_line(line: &str) -> Option<(IpAddr, impl Iterator<Item = &str>)> {
    let content = line.split('#').next().unwrap_or_default();
    let mut words = content.split_whitespace();
    let address = words.next()?.parse().ok()?;
    Some((address, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                           192.0.2.7\tdb.example\n172.17.0.1\tgateway\n172.17.0.2\tc1.example.org c1\n";

    fn hosts(extra: &[&str]) -> HostsFile {
        HostsFile {
            path: "/var/lib/docker/containers/x/hosts".into(),
            hostname: "c1".into(),
            domainname: "example.org".into(),
            extra_hosts: extra.iter().map(ToString::to_string).collect(),
        }
    }

    fn addresses() -> Vec<IpAddr> {
        vec!["10.32.0.1".parse().expect("valid"), "fd12::a20:1".parse().expect("valid")]
    }

    #[test]
    fn the_own_name_means_overlay_addresses_and_the_rest_stays() {
        let text = rewrite_hosts(DOCKERS, &hosts(&["db.example:192.0.2.7", "gateway:host-gateway"]), &addresses());
        assert!(!text.contains("172.17.0.2"), "{text}");
        for kept in ["127.0.0.1\tlocalhost\n", "192.0.2.7\tdb.example\n", "172.17.0.1\tgateway\n"] {
            assert_eq!(text.matches(kept).count(), 1, "{text}");
        }
        assert!(
            text.ends_with("10.32.0.1\tc1.example.org c1 # weft\nfd12::a20:1\tc1.example.org c1 # weft\n"),
            "{text}"
        );
    }

    #[test]
    fn rewriting_again_changes_nothing() {
        let wanted = hosts(&["db.example:192.0.2.7", "new:192.0.2.8", "six:[2001:db8::1]"]);
        let once = rewrite_hosts(DOCKERS, &wanted, &addresses());
        assert_eq!(rewrite_hosts(&once, &wanted, &addresses()), once);
        assert!(once.contains("192.0.2.8\tnew\n") && once.contains("2001:db8::1\tsix\n"), "{once}");
    }

    #[test]
    fn addresses_that_are_gone_leave_the_file() {
        let once = rewrite_hosts(DOCKERS, &hosts(&[]), &addresses());
        let after = rewrite_hosts(&once, &hosts(&[]), &addresses()[..1]);
        assert!(after.contains("10.32.0.1") && !after.contains("fd12::a20:1"), "{after}");
    }

    #[test]
    fn an_empty_file_gets_loopback_lines() {
        assert!(rewrite_hosts("", &hosts(&[]), &addresses()).starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost "));
    }

    #[test]
    fn names_cannot_forge_lines() {
        let mut evil = hosts(&["a\n6.6.6.6 bank:192.0.2.1"]);
        evil.hostname = "c1\n6.6.6.6 bank".into();
        assert!(!rewrite_hosts(DOCKERS, &evil, &addresses()).contains("6.6.6.6"));
    }
}
