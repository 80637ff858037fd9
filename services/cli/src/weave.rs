//! The command under the name `weave`: Weave Net's words, defaults and exit codes, so that scripts go on.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

use crate::{
    Cli, Environment,
    cli::{Command, Launch},
};

/// The name.
pub(crate) const NAME: &str = "weave";

/// Weave Net's domain, which its scripts expect.
const DOMAIN: &str = "weave.local";

/// Weave Net's variables, and those that weft has for them.
const VARIABLES: [(&str, &str); 6] = [
    ("WEAVE_PASSWORD", "WEFT_PASSWORD"),
    ("WEAVE_PORT", "WEFT_PORT"),
    ("WEAVE_MTU", "WEFT_MTU"),
    ("WEAVE_HTTP_ADDR", "WEFT_HTTP_ADDR"),
    ("WEAVE_STATUS_ADDR", "WEFT_METRICS_LISTEN"),
    ("WEAVE_CONTAINER_NAME", "WEFT_ROUTER_CONTAINER"),
];

/// What holds where neither is set.
const DEFAULTS: [(&str, &str); 2] = [("WEFT_DNS_DOMAIN", DOMAIN), ("WEFT_ROUTER_CONTAINER", NAME)];

/// Weave Net's variables that change nothing in weft, and why.
const NEEDLESS: [(&str, &str); 1] = [("WEAVE_DOCKER_ARGS", "the services' containers are made as compose.yaml says")];

/// Commands that Weave Net itself has removed.
const REMOVED: [&str; 9] = [
    "run",
    "start",
    "restart",
    "launch-plugin",
    "stop-plugin",
    "launch-proxy",
    "stop-proxy",
    "launch-router",
    "stop-router",
];

/// Commands that only Weave Net has, and what there is instead.
const OTHERS: [(&str, &str); 4] = [
    ("setup-cni", "weft does not serve Kubernetes"),
    ("attach-bridge", "containers on Docker's bridges are attached by the proxy or `weave attach`"),
    ("bridge-type", "there is one kind of bridge, `weft`"),
    ("docker-bridge-ip", "nothing of Docker's bridge is used"),
];

/// Before the verb: work on this host.
const LOCAL: &str = "--local";

/// What is to be done.
pub(crate) enum Asked {
    /// One of weft's verbs, with lines to say before.
    Run(Box<Cli>, Vec<String>),
    /// `version`, in Weave Net's form.
    Version(Box<Cli>),
    /// `report`, with its fields, by a template if there is one.
    Report(Box<Cli>, Option<String>),
}

impl Asked {
    /// Returns the command line.
    pub(crate) const fn cli(&self) -> &Cli {
        match self {
            Self::Run(cli, _) | Self::Version(cli) | Self::Report(cli, _) => cli,
        }
    }
}

/// Nothing is to be done but to say this on stderr, and to end with the code.
#[derive(Debug)]
pub(crate) struct Said(pub(crate) String, pub(crate) u8);

/// Tells whether the words ask for the command to work on this host, whatever the environment says.
pub(crate) fn is_local(words: &[OsString]) -> bool {
    words.first().is_some_and(|word| word == LOCAL)
}

fn usage(code: u8) -> Said {
    Said(Cli::command().name(NAME).bin_name(NAME).render_help().to_string(), code)
}

/// Reads a command line of Weave Net's, without the name.
pub(crate) fn read(arguments: Vec<String>, environment: &Environment) -> Result<Asked, Said> {
    let mut words: Vec<String> = arguments.into_iter().skip_while(|word| word == LOCAL).collect();
    let Some(verb) = words.first().cloned() else { return Err(usage(1)) };
    if REMOVED.contains(&verb.as_str()) {
        let text =
            format!("weave: the command {verb} has been removed, as of Weave Net 2.0: `weave launch` starts all");
        return Err(Said(text, 1));
    }
    if let Some((_, why)) = OTHERS.iter().find(|(other, _)| *other == verb) {
        return Err(Said(format!("weave: there is no {verb}: {why}"), 1));
    }
    match verb.as_str() {
        "help" | "--help" | "-h" => return Err(usage(0)),
        "reset" => words.retain(|word| word != "--force"),
        _ => {}
    }
    let template = if verb == "report" { take_template(&mut words) } else { None };
    let definition = Cli::command().name(NAME).bin_name(NAME);
    let parsed = definition
        .try_get_matches_from(std::iter::once(NAME.to_owned()).chain(words))
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let refused = |error: clap::Error| Said(error.to_string().trim_end().to_owned(), u8::from(error.exit_code() != 0));
    let mut cli = Box::new(parsed.map_err(refused)?);
    Ok(if matches!(cli.command, Command::Version) {
        Asked::Version(cli)
    } else if matches!(cli.command, Command::Report) {
        Asked::Report(cli, template)
    } else if let Command::Launch(launch) = &mut cli.command {
        let notes = defaults(launch, environment);
        Asked::Run(cli, notes)
    } else {
        Asked::Run(cli, Vec::new())
    })
}

/// Takes `-f TEMPLATE` out of the words.
fn take_template(words: &mut Vec<String>) -> Option<String> {
    let place = words.iter().position(|word| word == "-f" || word == "--format")?;
    let template = words.get(place + 1).cloned()?;
    words.drain(place..=place + 1);
    Some(template)
}

/// Fills in what Weave Net does by itself, and says what is new in that.
fn defaults(launch: &mut Launch, environment: &Environment) -> Vec<String> {
    let own = |name: &str| environment.get(name).is_some_and(|value| !value.is_empty());
    for (theirs, ours) in VARIABLES {
        if let Some(value) = environment.get(theirs).filter(|value| !value.is_empty() && !own(ours)) {
            launch.default_to(ours, value);
        }
    }
    for (variable, value) in DEFAULTS.iter().filter(|(variable, _)| !own(variable)) {
        launch.default_to(variable, value);
    }
    let needless = NEEDLESS.iter().filter(|(theirs, _)| own(theirs));
    let mut notes: Vec<String> = needless.map(|(theirs, why)| format!("weave: {theirs} does nothing: {why}")).collect();
    let given = |name: &str| {
        own(name) || launch.variables.iter().any(|(variable, value)| *variable == name && !value.is_empty())
    };
    if given("WEFT_PASSWORD") || given("WEFT_INSECURE_NO_PASSWORD") || launch.password_file.is_some() {
        return notes;
    }
    launch.default_to("WEFT_INSECURE_NO_PASSWORD", "true");
    notes.push(
        "weave: there is no password: traffic is encrypted, but whoever reaches the port may join; --password sets one"
            .to_owned(),
    );
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(line: &str, environment: &Environment) -> (Vec<(&'static str, String)>, usize) {
        let read = read(line.split(' ').map(str::to_owned).collect(), environment);
        let Ok(Asked::Run(cli, notes)) = read else { panic!("{line} runs nothing") };
        let Command::Launch(launch) = cli.command else { panic!("{line} launches nothing") };
        (launch.variables, notes.len())
    }

    fn said(line: &str) -> (String, u8) {
        match read(line.split_whitespace().map(str::to_owned).collect(), &Environment::default()) {
            Err(Said(text, code)) => (text, code),
            Ok(_) => (String::new(), u8::MAX),
        }
    }

    #[test]
    fn launch_has_weave_nets_defaults_and_variables() {
        let set = |variables: &[(&'static str, &str)]| {
            variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
        };
        let nothing = Environment::default();
        let router = ("WEFT_ROUTER_CONTAINER", "weave");
        let expected = set(&[("WEFT_DNS_DOMAIN", DOMAIN), router, ("WEFT_INSECURE_NO_PASSWORD", "true")]);
        assert_eq!(launched("launch", &nothing), (expected, 1), "a warning, too");
        let theirs = Environment::of([("WEAVE_PASSWORD", "wEaVe"), ("WEAVE_PORT", "7"), ("WEFT_DNS_DOMAIN", "x.test")]);
        let expected = set(&[("WEFT_PORT", "8"), ("WEFT_PEERS", "host1"), ("WEFT_PASSWORD", "wEaVe"), router]);
        assert_eq!(launched("--local launch --port 8 host1", &theirs), (expected, 0));
        let addresses = Environment::of([
            ("WEAVE_PASSWORD", "wEaVe"),
            ("WEAVE_HTTP_ADDR", "127.0.0.1:1"),
            ("WEAVE_STATUS_ADDR", "127.0.0.1:2"),
            ("WEAVE_DOCKER_ARGS", "--memory=1g"),
            ("WEAVE_CONTAINER_NAME", "net"),
        ]);
        let expected = set(&[
            ("WEFT_PASSWORD", "wEaVe"),
            ("WEFT_HTTP_ADDR", "127.0.0.1:1"),
            ("WEFT_METRICS_LISTEN", "127.0.0.1:2"),
            ("WEFT_ROUTER_CONTAINER", "net"),
            ("WEFT_DNS_DOMAIN", DOMAIN),
        ]);
        assert_eq!(launched("launch", &addresses), (expected, 1), "one variable does nothing");
        let given = launched("launch --http-addr= --status-addr 127.0.0.1:3", &addresses).0;
        assert!(given.contains(&("WEFT_HTTP_ADDR", "off".to_owned())), "{given:?}");
        assert!(given.contains(&("WEFT_METRICS_LISTEN", "127.0.0.1:3".to_owned())), "{given:?}");
        let both = Environment::of([("WEAVE_PASSWORD", "theirs"), ("WEFT_PASSWORD", "ours")]);
        let expected = set(&[("WEFT_PASSWORD", "given"), ("WEFT_DNS_DOMAIN", DOMAIN), router]);
        assert_eq!(launched("launch --password given", &both), (expected, 0));
    }

    #[test]
    fn exit_codes_are_weave_nets() {
        for (line, part, code) in [
            ("", "Usage: weave", 1),
            ("help", "Usage: weave", 0),
            ("--help", "Usage: weave", 0),
            ("connect --help", "Usage: weave connect", 0),
            ("frobnicate", "unrecognized subcommand", 1),
            ("status frobnicate", "unrecognized subcommand", 1),
            ("stop now", "unexpected argument", 1),
            ("launch-router", "has been removed", 1),
            ("bridge-type", "one kind of bridge", 1),
            ("attach --add-host x db", "invalid value 'x'", 1),
            ("launch --awsvpc", "no AWSVPC mode", 1),
        ] {
            let (text, found) = said(line);
            assert!(text.contains(part) && found == code, "weave {line}: {found} {text}");
        }
    }

    #[test]
    fn a_report_may_have_a_template() {
        let read =
            |words: &[&str]| read(words.iter().map(|word| (*word).to_owned()).collect(), &Environment::default());
        assert!(
            matches!(read(&["report", "-f", "{{.X}}"]), Ok(Asked::Report(_, Some(template))) if template == "{{.X}}")
        );
        assert!(matches!(read(&["report"]), Ok(Asked::Report(_, None))));
        assert!(matches!(read(&["report", "-f"]), Err(Said(_, 1))));
        assert!(matches!(read(&["version"]), Ok(Asked::Version(_))));
        assert!(matches!(read(&["reset", "--force"]), Ok(Asked::Run(..))));
        let attach =
            ["attach", "--without-dns", "--rewrite-hosts", "--add-host", "x:10.0.0.1", "--no-multicast-route", "db"];
        assert!(matches!(read(&attach), Ok(Asked::Run(..))), "as Weave Net's scripts say it");
    }
}
