//! Options of Weave Net's `launch` that weft has no use for, so that scripts go on or learn what to write instead.

use clap::{Arg, ArgAction, ArgMatches, parser::ValueSource};

use super::launch::switched;

/// What becomes of an option.
#[derive(Clone, Copy)]
enum Verdict {
    /// Nothing depends on it: it is taken, and a line says that it does nothing.
    Needless,
    /// What it asks for is not to be had.
    Refused,
}

use Verdict::{Needless, Refused};

/// An option: its name, whether it has a value, what becomes of it, and why or what to do instead.
type Legacy = (&'static str, bool, Verdict, &'static str);

const OPTIONS: &[Legacy] = &[
    ("no-fastdp", false, Needless, "every way is tried, and the best that works is used"),
    ("no-bridged-fastdp", false, Needless, "there is one kind of bridge"),
    ("datapath", true, Needless, "there is one kind of bridge"),
    ("weave-bridge", true, Needless, "the bridge is `weft`"),
    ("docker-bridge", true, Needless, "nothing of Docker's bridge is used"),
    ("bufsz", true, Needless, "nothing is captured"),
    ("proxy", false, Needless, "the proxy always runs, and `-H off` takes its TCP address away"),
    ("min-protocol-version", true, Needless, "hosts tell each other what they speak"),
    ("dns-listen-address", true, Needless, "containers ask 169.254.83.53"),
    ("dns-fallback-timeout", true, Needless, "the next resolver is asked by itself"),
    ("pkt-debug", false, Needless, "`weft log-level router trace` shows more"),
    ("profile", true, Needless, "metrics say where time goes"),
    ("peer-discovery-url", true, Needless, "the service is gone"),
    ("advertise-address", true, Needless, "each host says from where it sees the others"),
    ("token", true, Refused, "the service is gone that it is for: name hosts as arguments"),
    ("awsvpc", false, Refused, "there is no AWSVPC mode: addresses of hosts in a VPC are reached like all others"),
    ("expect-npc", false, Refused, "weft does not serve Kubernetes"),
    ("no-masq-local", false, Refused, "weft does not serve Kubernetes"),
    ("plugin", false, Refused, "there is no network plugin: containers are attached by the proxy, leave it out"),
    ("plugin-v2", false, Refused, "there is no network plugin: containers are attached by the proxy, leave it out"),
    ("plugin-v2-multicast", false, Refused, "there is no network plugin: multicast works everywhere, leave it out"),
    ("plugin-socket", true, Refused, "there is no network plugin: leave it out"),
    ("plugin-mesh-socket", true, Refused, "there is no network plugin: leave it out"),
    (
        "resolv-conf",
        true,
        Refused,
        "the host's /etc/resolv.conf is followed: name other resolvers with --dns-upstreams",
    ),
    ("db-prefix", true, Refused, "state is kept in /var/lib/weft: leave it out"),
    ("host-root", true, Refused, "the services find the host's files by themselves: leave it out"),
    ("proc-path", true, Refused, "the services find the host's files by themselves: leave it out"),
    ("print-peer-name", false, Refused, "`weft status` shows it"),
];

/// Adds the options, which no help shows.
pub(super) fn augment(command: clap::Command) -> clap::Command {
    OPTIONS.iter().fold(command, |command, (name, has_value, ..)| {
        let argument = Arg::new(*name).long(*name).hide(true).overrides_with(*name);
        command.arg(if *has_value { argument.action(ArgAction::Set) } else { switched(argument) })
    })
}

/// Returns a line for each option that does nothing, or the sentence for one that is not to be had.
pub(super) fn notes(matches: &ArgMatches) -> Result<Vec<String>, String> {
    let mut notes = Vec::new();
    for (name, has_value, verdict, why) in OPTIONS {
        let given = matches.value_source(name) == Some(ValueSource::CommandLine);
        let off = !has_value && matches.get_one::<String>(name).is_some_and(|value| value == "false");
        match verdict {
            _ if !given => {}
            // The proxy is the one that scripts switch off and that runs all the same.
            Refused if off => {}
            Needless if off && *name != "proxy" => {}
            Needless if !off && *name == "proxy" => {}
            Needless => notes.push(format!("--{name} does nothing: {why}")),
            Refused => return Err(format!("--{name} is not an option of weft: {why}")),
        }
    }
    Ok(notes)
}
