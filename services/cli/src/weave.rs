//! The command under the name `weave`: Weave Net's words, defaults and exit codes, so that scripts go on.

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
const VARIABLES: [(&str, &str); 4] = [
    ("WEAVE_PASSWORD", "WEFT_PASSWORD"),
    ("WEAVE_PORT", "WEFT_PORT"),
    ("WEAVE_MTU", "WEFT_MTU"),
    ("WEAVE_STATUS_ADDR", "WEFT_METRICS_LISTEN"),
];

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

/// Options of `attach` that ask for what weft does not do by hand.
const OF_ATTACH: [&str; 3] = ["--without-dns", "--rewrite-hosts", "--no-multicast-route"];

/// What is to be done.
pub(crate) enum Asked {
    /// One of weft's verbs, with lines to say before.
    Run(Box<Cli>, Vec<String>),
    /// `version`, in Weave Net's form.
    Version(Box<Cli>),
    /// `report`, with its fields, by a template if there is one.
    Report(Box<Cli>, Option<String>),
    /// Something to say on stderr, and the exit code.
    Say(String, u8),
}

fn usage(code: u8) -> Asked {
    Asked::Say(Cli::command().name(NAME).bin_name(NAME).render_help().to_string(), code)
}

/// Reads a command line of Weave Net's, without the name.
pub(crate) fn read(arguments: Vec<String>, environment: &Environment) -> Asked {
    let mut words: Vec<String> = arguments.into_iter().skip_while(|word| word == "--local").collect();
    let Some(verb) = words.first().cloned() else { return usage(1) };
    if REMOVED.contains(&verb.as_str()) {
        let text =
            format!("weave: the command {verb} has been removed, as of Weave Net 2.0: `weave launch` starts all");
        return Asked::Say(text, 1);
    }
    if let Some((_, why)) = OTHERS.iter().find(|(other, _)| *other == verb) {
        return Asked::Say(format!("weave: there is no {verb}: {why}"), 1);
    }
    match verb.as_str() {
        "help" | "--help" | "-h" => return usage(0),
        "reset" => words.retain(|word| word != "--force"),
        "attach" => {
            if let Some(option) = words.iter().find(|word| OF_ATTACH.contains(&word.as_str())) {
                let text = format!(
                    "weave: attach has no {option}: containers that are started through the proxy have what `weave launch {option}` says"
                );
                return Asked::Say(text, 1);
            }
        }
        _ => {}
    }
    let template = if verb == "report" { take_template(&mut words) } else { None };
    let definition = Cli::command().name(NAME).bin_name(NAME);
    let parsed = definition
        .try_get_matches_from(std::iter::once(NAME.to_owned()).chain(words))
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let mut cli = match parsed {
        Ok(cli) => Box::new(cli),
        Err(error) => return Asked::Say(error.to_string().trim_end().to_owned(), u8::from(error.exit_code() != 0)),
    };
    if matches!(cli.command, Command::Version) {
        Asked::Version(cli)
    } else if matches!(cli.command, Command::Report) {
        Asked::Report(cli, template)
    } else if let Command::Launch(launch) = &mut cli.command {
        let notes = defaults(launch, environment);
        Asked::Run(cli, notes)
    } else {
        Asked::Run(cli, Vec::new())
    }
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
    if !own("WEFT_DNS_DOMAIN") {
        launch.default_to("WEFT_DNS_DOMAIN", DOMAIN);
    }
    let given = |name: &str| {
        own(name) || launch.variables.iter().any(|(variable, value)| *variable == name && !value.is_empty())
    };
    if given("WEFT_PASSWORD") || given("WEFT_INSECURE_NO_PASSWORD") || launch.password_file.is_some() {
        return Vec::new();
    }
    launch.default_to("WEFT_INSECURE_NO_PASSWORD", "true");
    vec![
        "weave: there is no password: traffic is encrypted, but whoever reaches the port may join; --password sets one"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launched(line: &str, environment: &Environment) -> (Vec<(&'static str, String)>, usize) {
        let read = read(line.split(' ').map(str::to_owned).collect(), environment);
        let Asked::Run(cli, notes) = read else { panic!("{line} runs nothing") };
        let Command::Launch(launch) = cli.command else { panic!("{line} launches nothing") };
        (launch.variables, notes.len())
    }

    fn said(line: &str) -> (String, u8) {
        match read(line.split_whitespace().map(str::to_owned).collect(), &Environment::default()) {
            Asked::Say(text, code) => (text, code),
            Asked::Run(..) | Asked::Version(_) | Asked::Report(..) => (String::new(), u8::MAX),
        }
    }

    #[test]
    fn launch_has_weave_nets_defaults_and_variables() {
        let set = |variables: &[(&'static str, &str)]| {
            variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect::<Vec<_>>()
        };
        let nothing = Environment::default();
        let expected = set(&[("WEFT_DNS_DOMAIN", DOMAIN), ("WEFT_INSECURE_NO_PASSWORD", "true")]);
        assert_eq!(launched("launch", &nothing), (expected, 1), "a warning, too");
        let theirs = Environment::of([("WEAVE_PASSWORD", "wEaVe"), ("WEAVE_PORT", "7"), ("WEFT_DNS_DOMAIN", "x.test")]);
        let expected = set(&[("WEFT_PORT", "8"), ("WEFT_PEERS", "host1"), ("WEFT_PASSWORD", "wEaVe")]);
        assert_eq!(launched("--local launch --port 8 host1", &theirs), (expected, 0));
        let both = Environment::of([("WEAVE_PASSWORD", "theirs"), ("WEFT_PASSWORD", "ours")]);
        let expected = set(&[("WEFT_PASSWORD", "given"), ("WEFT_DNS_DOMAIN", DOMAIN)]);
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
            ("attach --without-dns db", "attach has no --without-dns", 1),
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
        assert!(matches!(read(&["report", "-f", "{{.X}}"]), Asked::Report(_, Some(template)) if template == "{{.X}}"));
        assert!(matches!(read(&["report"]), Asked::Report(_, None)));
        assert!(matches!(read(&["report", "-f"]), Asked::Say(_, 1)));
        assert!(matches!(read(&["version"]), Asked::Version(_)));
        assert!(matches!(read(&["reset", "--force"]), Asked::Run(..)));
    }
}
