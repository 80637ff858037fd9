//! The options of `weft launch`: each is a variable that `compose.yaml` reads.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, error::ErrorKind, parser::ValueSource};

use super::legacy;

/// How one setting of the services is given.
struct Setting {
    /// Name of the option.
    option: &'static str,
    /// The variable that `compose.yaml` reads.
    variable: &'static str,
    /// What stands for the value in the help; absent: the option is a switch.
    value: Option<&'static str>,
    /// What it does, in a line.
    help: &'static str,
}

const fn value(option: &'static str, name: &'static str, variable: &'static str, help: &'static str) -> Setting {
    Setting { option, variable, value: Some(name), help }
}

const fn switch(option: &'static str, variable: &'static str, help: &'static str) -> Setting {
    Setting { option, variable, value: None, help }
}

/// Where the proxy listens may be said several times.
const HOSTS: &str = "docker-proxy-hosts";

/// Names that Weave Net has for options of another name.
const ALIASES: &[(&str, &str)] = &[
    ("connection-limit", "conn-limit"),
    ("metrics-listen", "status-addr"),
    ("metrics-listen", "metrics-addr"),
    ("no-restart", "norestart"),
];

const SETTINGS: &[Setting] = &[
    value(
        "password",
        "PASSWORD",
        "WEFT_PASSWORD",
        "Password of the mesh. Others see it in the list of processes: prefer --password-file",
    ),
    value(
        "password-old",
        "PASSWORD",
        "WEFT_PASSWORD_OLD",
        "Password that the mesh had before, while it is changed host by host",
    ),
    switch(
        "insecure-no-password",
        "WEFT_INSECURE_NO_PASSWORD",
        "Run without a password: whoever reaches the port may join",
    ),
    value("port", "PORT", "WEFT_PORT", "Port for control (TCP) and data (UDP), the same on all hosts [6783]"),
    value("host", "ADDRESS", "WEFT_ROUTER_HOST", "Address to listen on [all]"),
    value("name", "NAME", "WEFT_NAME", "Name of this peer, unique in the mesh [the first digits of its key]"),
    value("nickname", "NAME", "WEFT_ROUTER_NICKNAME", "What people call this host [its host name]"),
    switch("resume", "WEFT_ROUTER_RESUME", "Start with the peers of the run before"),
    switch("no-discovery", "WEFT_ROUTER_NO_DISCOVERY", "Connect with the given peers only"),
    value(
        "connection-limit",
        "COUNT",
        "WEFT_ROUTER_CONNECTION_LIMIT",
        "Most connections at a time, 0 for no limit [200]",
    ),
    value(
        "trusted-subnets",
        "CIDRS",
        "WEFT_TRUSTED_SUBNETS",
        "Subnets of hosts that are trusted with frames that are not sealed",
    ),
    value("mtu", "BYTES", "WEFT_MTU", "MTU of containers' interfaces, the same on all hosts [1400]"),
    value(
        "ipalloc-range",
        "CIDR",
        "WEFT_IPALLOC_RANGE",
        "Range of all addresses, the same on all hosts [10.32.0.0/12]",
    ),
    value(
        "ipalloc-default-subnet",
        "CIDR",
        "WEFT_IPALLOC_DEFAULT_SUBNET",
        "Subnet of containers for which none is named [the range]",
    ),
    value(
        "ipalloc-init",
        "HOW",
        "WEFT_IPALLOC_INIT",
        "consensus, consensus=VOTERS, seed=NAME,… or observer [consensus]",
    ),
    switch(
        "no-dns",
        "WEFT_DOCKER_PROXY_WITHOUT_DNS",
        "Leave the containers' resolvers and host names as they are; as --without-dns",
    ),
    value(
        "dns-domain",
        "DOMAIN",
        "WEFT_DNS_DOMAIN",
        "Domain of the containers' names, the same on all hosts [weft.internal]",
    ),
    value("dns-ttl", "SECONDS", "WEFT_DNS_TTL", "How long an answer about a container may be kept [1]"),
    value("dns-upstreams", "ADDRESSES", "WEFT_DNS_UPSTREAMS", "Resolvers for all other names [the host's]"),
    switch("dns-local-first", "WEFT_DNS_LOCAL_FIRST", "Answer with this host's containers first"),
    value(
        HOSTS,
        "ADDRESS",
        "WEFT_DOCKER_PROXY_HOSTS",
        "Where to offer the Docker API, beside weft's own socket; may be repeated; off: nowhere [tcp://127.0.0.1:12375]",
    ),
    switch("tls", "WEFT_DOCKER_PROXY_TLS", "Offer the Docker API by TCP with TLS only, without clients' certificates"),
    switch(
        "tlsverify",
        "WEFT_DOCKER_PROXY_TLSVERIFY",
        "Offer the Docker API by TCP with TLS only, to clients with a certificate",
    ),
    value(
        "tlscacert",
        "PATH",
        "WEFT_DOCKER_PROXY_TLSCACERT",
        "Certificates of those who sign clients' certificates, below /etc/docker",
    ),
    value("tlscert", "PATH", "WEFT_DOCKER_PROXY_TLSCERT", "Certificate to show to clients, below /etc/docker"),
    value("tlskey", "PATH", "WEFT_DOCKER_PROXY_TLSKEY", "Key of that certificate, below /etc/docker"),
    switch("no-detect-tls", "WEFT_DOCKER_PROXY_NO_DETECT_TLS", "Do not take over TLS settings of the engine"),
    switch(
        "insecure-tcp",
        "WEFT_DOCKER_PROXY_INSECURE_TCP",
        "Offer the Docker API without certificates to other hosts, too: that is root on this host",
    ),
    value(
        "tcp-names",
        "NAMES",
        "WEFT_DOCKER_PROXY_TCP_NAMES",
        "Host names by which clients reach the Docker API without certificates",
    ),
    value(
        "attach-timeout",
        "SECONDS",
        "WEFT_DOCKER_PROXY_ATTACH_TIMEOUT",
        "How long a start may wait for the container's network [10]",
    ),
    switch(
        "without-dns",
        "WEFT_DOCKER_PROXY_WITHOUT_DNS",
        "Leave the containers' resolvers and host names as they are",
    ),
    switch(
        "no-multicast-route",
        "WEFT_DOCKER_PROXY_NO_MULTICAST_ROUTE",
        "Do not route multicast to the overlay inside containers",
    ),
    switch("no-rewrite-hosts", "WEFT_DOCKER_PROXY_NO_REWRITE_HOSTS", "Leave the containers' /etc/hosts as they are"),
    switch(
        "no-default-ipalloc",
        "WEFT_DOCKER_PROXY_NO_DEFAULT_IPALLOC",
        "Attach only containers that ask for an address",
    ),
    switch(
        "rewrite-inspect",
        "WEFT_DOCKER_PROXY_REWRITE_INSPECT",
        "Show the address in the overlay where a container is inspected",
    ),
    value(
        "hostname-from-label",
        "LABEL",
        "WEFT_DOCKER_PROXY_HOSTNAME_FROM_LABEL",
        "Make host names from the value of this label",
    ),
    value(
        "hostname-match",
        "EXPRESSION",
        "WEFT_DOCKER_PROXY_HOSTNAME_MATCH",
        "What to replace in a host name that is made",
    ),
    value("hostname-replacement", "TEXT", "WEFT_DOCKER_PROXY_HOSTNAME_REPLACEMENT", "What comes instead of each match"),
    value("metrics-listen", "ADDRESS:PORT", "WEFT_METRICS_LISTEN", "Where metrics are served, or off [127.0.0.1:6782]"),
    value(
        "http-addr",
        "ADDRESS:PORT",
        "WEFT_HTTP_ADDR",
        "Where Weave Net's HTTP API is offered, on the loopback, or off [127.0.0.1:6784]",
    ),
    value("log-level", "LEVEL", "WEFT_LOG_LEVEL", "What is logged: error, warn, info, debug or trace [info]"),
    value("log-format", "FORMAT", "WEFT_LOG_FORMAT", "How log lines look: text or json [text]"),
    value("otlp-endpoint", "URL", "WEFT_OTLP_ENDPOINT", "Record traces, and send them to this receiver of OTLP"),
    value("otlp-ratio", "SHARE", "WEFT_OTLP_RATIO", "Which share of the traces that begin here is recorded [1]"),
    switch("no-restart", "WEFT_RESTART", "Leave it to others to start the services after a failure or with the host"),
];

/// What `weft launch` was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Variables for Compose, and their values.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// File that holds the password.
    pub(crate) password_file: Option<PathBuf>,
    /// What users of Weave Net should know of options that weft has no use for.
    pub(crate) notes: Vec<String>,
}

impl Launch {
    /// Sets a variable where no option does.
    pub(crate) fn default_to(&mut self, variable: &'static str, value: &str) {
        if !self.has(variable) {
            self.variables.push((variable, value.to_owned()));
        }
    }

    /// Tells whether an option sets a variable.
    pub(crate) fn has(&self, variable: &str) -> bool {
        self.variables.iter().any(|(name, _)| *name == variable)
    }
}

/// Returns the variables of all options, with the options' names.
#[must_use]
pub fn launch_settings() -> Vec<(&'static str, &'static str)> {
    SETTINGS.iter().map(|setting| (setting.option, setting.variable)).collect()
}

fn argument(setting: &Setting) -> Arg {
    let argument = Arg::new(setting.option).long(setting.option).help(setting.help);
    let aliases = ALIASES.iter().filter(|(option, _)| *option == setting.option).map(|(_, alias)| *alias);
    let argument = argument.aliases(aliases);
    match setting.value {
        // Repeated options are found in the environment of systemd units that were put together: the last one counts.
        Some(name) if setting.option != HOSTS => {
            argument.value_name(name).action(ArgAction::Set).overrides_with(setting.option)
        }
        Some(name) => argument.value_name(name).short('H').action(ArgAction::Append),
        None => switched(argument.overrides_with(setting.option)),
    }
}

/// Makes a switch that may be said to be off, as in `--tls=false`.
pub(super) fn switched(argument: Arg) -> Arg {
    argument
        .value_name("BOOL")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(["true", "false"])
        .hide_possible_values(true)
}

fn refused(text: String) -> clap::Error {
    clap::Error::raw(ErrorKind::ValueValidation, text + "\n")
}

/// Turns what was said of a setting into the variable's value.
fn variable(setting: &Setting, mut values: Vec<String>) -> Result<Option<(&'static str, String)>, clap::Error> {
    let value = if setting.option == HOSTS { values.join(",") } else { values.pop().unwrap_or_default() };
    let value = match (setting.option, value.as_str()) {
        ("ipalloc-range", "") => {
            return Err(refused(
                "weft gives out the addresses of all containers, so --ipalloc-range needs a range as in 10.32.0.0/12; addresses \
                 outside of it may be given by hand: -e WEFT_CIDR=192.0.2.1/24"
                    .to_owned(),
            ));
        }
        ("metrics-listen" | "http-addr", "") => "off".to_owned(),
        ("no-restart", "true") => "no".to_owned(),
        ("no-restart", _) => return Ok(None),
        _ => value,
    };
    Ok(Some((setting.variable, value)))
}

impl FromArgMatches for Launch {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut launch = Self { notes: legacy::notes(matches).map_err(refused)?, ..Self::default() };
        for setting in SETTINGS {
            if matches.value_source(setting.option) == Some(ValueSource::CommandLine) {
                let values = matches.get_many::<String>(setting.option).into_iter().flatten().cloned().collect();
                launch.variables.extend(variable(setting, values)?);
            }
        }
        let engine: Option<&String> = matches.get_one("docker-api");
        if let Some(address) = engine {
            let path = address.strip_prefix("unix://").filter(|path| path.starts_with('/'));
            let path = path.ok_or_else(|| {
                refused(format!(
                    "--docker-api {address:?} is no Unix socket of this host, as in unix:///var/run/docker.sock"
                ))
            })?;
            launch.variables.push(("WEFT_ENGINE_SOCKET", path.to_owned()));
        }
        let peers: Vec<String> = matches.get_many("peers").into_iter().flatten().cloned().collect();
        if !peers.is_empty() {
            if launch.variables.contains(&("WEFT_ROUTER_RESUME", "true".to_owned())) {
                return Err(refused(
                    "--resume starts with the peers of the run before: leave out either it or the peers".to_owned(),
                ));
            }
            launch.variables.push(("WEFT_PEERS", peers.join(",")));
        }
        launch.password_file = matches.get_one("password-file").cloned();
        Ok(launch)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Launch {
    fn augment_args(command: clap::Command) -> clap::Command {
        let password_file = Arg::new("password-file")
            .long("password-file")
            .value_name("PATH")
            .value_parser(clap::value_parser!(PathBuf))
            .conflicts_with("password")
            .help("File whose first line is the password of the mesh");
        let engine = Arg::new("docker-api")
            .long("docker-api")
            .value_name("URL")
            .help("The engine's own socket: unix:///PATH [unix:///var/run/docker.sock]");
        let peers = Arg::new("peers").value_name("PEER").action(ArgAction::Append).help(
            "Hosts to connect with: `host[:port]`, `a.b.c.d[:port]`, `[v6]:port`. Any one that is in is enough; none begins a mesh",
        );
        // What has no alphabetical order in the definition is found by its order there.
        let command = SETTINGS.iter().fold(command, |command, setting| command.arg(argument(setting)));
        legacy::augment(command.arg(password_file).arg(engine).arg(peers))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> Result<Launch, String> {
        match Cli::try_parse_from(line.split(' ')) {
            Ok(Cli { command: Command::Launch(launch), .. }) => Ok(launch),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn options_become_the_variables_that_compose_reads() {
        let launch = parse(
            "weft launch --port=7000 --no-discovery --tlsverify=false --conn-limit 7 -H tcp://127.0.0.1:1 -H off \
             --ipalloc-init=seed=a,b --status-addr= --no-restart --docker-api unix:///x.sock --name a --name b one two:7000",
        )
        .expect("valid");
        let expected = [
            ("WEFT_PORT", "7000"),
            ("WEFT_NAME", "b"),
            ("WEFT_ROUTER_NO_DISCOVERY", "true"),
            ("WEFT_ROUTER_CONNECTION_LIMIT", "7"),
            ("WEFT_IPALLOC_INIT", "seed=a,b"),
            ("WEFT_DOCKER_PROXY_HOSTS", "tcp://127.0.0.1:1,off"),
            ("WEFT_DOCKER_PROXY_TLSVERIFY", "false"),
            ("WEFT_METRICS_LISTEN", "off"),
            ("WEFT_RESTART", "no"),
            ("WEFT_ENGINE_SOCKET", "/x.sock"),
            ("WEFT_PEERS", "one,two:7000"),
        ];
        assert_eq!(launch.variables, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(launch.notes.is_empty(), "{:?}", launch.notes);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        for (line, part) in [
            ("weft launch --ipalloc-range=", "WEFT_CIDR=192.0.2.1/24"),
            ("weft launch --resume host1", "leave out either"),
            ("weft launch --docker-api tcp://h:1", "no Unix socket"),
            ("weft launch --password a --password-file b", "cannot be used with"),
            ("weft launch --awsvpc", "no AWSVPC mode"),
            ("weft launch --token=x", "name hosts as arguments"),
            ("weft launch --frobnicate", "unexpected argument"),
        ] {
            let text = parse(line).expect_err(line);
            assert!(text.contains(part), "{line}: {text}");
        }
    }

    #[test]
    fn options_of_weave_net_that_mean_nothing_here_are_said_to_mean_nothing() {
        let launch = parse("weft launch --no-fastdp --plugin=false --bufsz 8 host1").expect("goes on");
        assert_eq!(launch.variables, [("WEFT_PEERS", "host1".to_owned())]);
        let notes = launch.notes.join("\n");
        assert!(notes.contains("--no-fastdp") && notes.contains("--bufsz") && !notes.contains("--plugin"), "{notes}");
    }
}
