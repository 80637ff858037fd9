//! The definition of the command line.

mod attach;
mod expose;
mod launch;
mod legacy;
mod publish;

use std::{net::IpAddr, path::PathBuf};

pub(crate) use attach::Attach;
use clap::{
    ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser,
    error::ErrorKind,
};
pub(crate) use expose::{Expose, Hide};
pub(crate) use launch::Launch;
pub use launch::launch_settings;
pub(crate) use publish::{HostPort, Import, Protocol, Publish, Unpublish};
use weft_proto::client::{SOCKET_FOLDER, Service};

/// Encrypted network for the containers of many Docker hosts.
///
/// The command talks to the services of weft on this host, through their sockets. Where DOCKER_HOST or DOCKER_CONTEXT leads to another
/// host's engine, it works there, by that engine and Docker's client alone. It exits with 0 when all was done, with 1 when something
/// failed or a service is away, with 2 when the command line makes no sense, and with 3 when weft was to be launched and runs already.
#[derive(Debug, Clone, Parser)]
#[command(name = "weft", version)]
pub struct Cli {
    /// Folder of the services' sockets.
    #[arg(long, global = true, env = "WEFT_SOCKET_FOLDER", value_name = "PATH", default_value = SOCKET_FOLDER)]
    pub socket_folder: PathBuf,

    /// How to print: text for people, or JSON, one object, for programs. `weft schema` says what it looks like.
    #[arg(long, short, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub output: Format,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Start the services of weft on this host, and wait until they do their job.
    ///
    /// They are those of compose.yaml, which is part of this command: each option is a variable there, and every variable counts that
    /// this shell has set. Docker's client with Compose starts them, by the engine's own socket or where DOCKER_HOST leads to; where that
    /// is weft's proxy, by the engine behind it. Files that are named here are read here.
    Launch(Launch),
    /// Stop the services of weft on this host. Containers keep their network, and what weft knows is kept for the next launch.
    ///
    /// New containers are not attached meanwhile, and those that were made to wait for weft do not start.
    Stop,
    /// See that the engine has the images of weft's services, from an archive if one is named.
    Setup {
        /// What `make images` wrote.
        #[arg(value_name = "ARCHIVE")]
        archive: Option<PathBuf>,
    },
    /// Show what weft does on this host, and what keeps it from doing it.
    ///
    /// Without a subcommand: one section for each service. A service that is away has its section too, with the reason, and
    /// makes the exit code 1.
    Status {
        /// Show it anew every so many seconds, 2 if none are given, until interrupted.
        #[arg(
            long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", global = true,
            value_parser = clap::value_parser!(u32).range(1..=86_400)
        )]
        watch: Option<u32>,

        #[command(subcommand)]
        about: Option<StatusAbout>,
    },
    /// Print all that the services of this host know, as one JSON object.
    ///
    /// It has what `weft status` says under `status`, and under `peers`, `connections`, `targets`, `services`, `ipam`, `dns` and `ps`
    /// what those say with `--output json`. A service that is away has the reason in its place, and makes the exit code 1.
    Report,
    /// List attached containers: id, Ethernet address, addresses.
    ///
    /// A container that ought to be attached and is not has its reason in place of the addresses.
    Ps {
        /// Only these containers: names, ids, or starts of ids. Unknown ones are left out.
        #[arg(value_name = "CONTAINER", value_parser = NonEmptyStringValueParser::new())]
        containers: Vec<String>,
    },
    /// Attach a running container to the network, or give it more addresses. Prints its addresses.
    ///
    /// Containers that are started through the proxy are attached already. Attaching again changes nothing but what is asked for. The
    /// attachment, with what the options said, stays until `weft detach`, over restarts of the container too.
    #[command(override_usage = "weft attach [OPTIONS] [ADDRESS]... <CONTAINER>")]
    Attach(Attach),
    /// Take addresses from a container, and the interface with the last one. Prints the addresses removed.
    #[command(override_usage = "weft detach [OPTIONS] [ADDRESS]... <CONTAINER>")]
    Detach(Addresses),
    /// Give this host addresses on the network, so that it reaches containers and is reached by them. Prints them.
    ///
    /// They stay over restarts, until `weft hide`. What passes the host between their subnets and elsewhere gets the host's address on
    /// the other side, so that answers find back. Exposing again changes nothing but what is asked for.
    #[command(disable_help_flag = true)]
    Expose(Expose),
    /// Take addresses on the network from this host again, those of the default subnet if none is named. Prints them.
    Hide(Hide),
    /// Have a port of this host lead to containers on any host: weft publish 8080 web:80
    ///
    /// Connections are spread over all containers of a name, and go to those that are left when one ends. It stays over restarts, until
    /// `weft unpublish`. Containers of this host see who their clients are where their answers come back through it; all others see
    /// this host, or are told by --proxy-protocol: `weft status services` says which. Publishing a port again has it lead elsewhere.
    Publish(Publish),
    /// Take a port of this host back.
    Unpublish(Unpublish),
    /// Give a service outside a name and an address inside: weft import db db.example.org:5432
    ///
    /// Containers of all hosts then reach it under the name, at the same port, by this host, whose address it sees. The host outside is
    /// looked up again and again, as this host does; of several addresses one that accepts connections is used. It stays over restarts,
    /// until `weft unimport`. Importing a name again has it lead elsewhere.
    Import(Import),
    /// Take a service outside, with its name, away again.
    Unimport {
        /// As `weft import` was given it.
        #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Print the shell command that makes Docker clients use weft's proxy: eval $(weft env)
    ///
    /// The value that DOCKER_HOST has now is kept in ORIG_DOCKER_HOST.
    Env {
        /// Print the command that undoes it: eval $(weft env --restore)
        #[arg(long)]
        restore: bool,
    },
    /// Print the option that has one call of docker use weft's proxy: docker $(weft config) ps
    Config,
    /// Print the options that have a container ask weft for names where it is not started through the proxy.
    ///
    /// As in: docker run $(weft dns-args) …. The container reaches weft's resolver once it is attached: `weft attach`.
    DnsArgs,
    /// Wait until this host can give out addresses: until its mesh has an address ring. Prints nothing.
    Prime {
        /// Give up after this time, in seconds, with the exit code 1. Otherwise it waits as long as it takes.
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Connect to peers, now and after each restart.
    ///
    /// The peers become targets: they are dialled for ever, and names are looked up anew at each try. Further peers of the
    /// same mesh are found by themselves.
    Connect {
        /// Forget all other targets. Live connections stay.
        #[arg(long)]
        replace: bool,
        /// `host[:port]`, `a.b.c.d[:port]`, `[v6]:port` or a bare IPv6 address; port 6783 if none is given.
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<String>,
    },
    /// Stop dialling peers. Live connections stay, and the mesh may lead to the peer again.
    ///
    /// With --revoke: have the whole mesh let the peers' keys in no more, for good. Their connections and the keys shared with
    /// them are gone at once, their containers cut off, and their names unknown; the addresses that they own stay theirs. The
    /// present password then lets nobody new in, because the lost host knows it: `weft status` says so until it is changed.
    Forget {
        /// Revoke the keys of these hosts, which are lost or in wrong hands.
        #[arg(long)]
        revoke: bool,
        /// As `weft status targets` shows them; with --revoke, as `weft status peers` does: by name, by nickname if no other peer
        /// has it, or by the whole key.
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<String>,
    },
    /// Take over the addresses of hosts that are gone for good. Run it on one host only.
    ///
    /// Refused while such a host can be reached, and until it has not been for a minute: `weft reset` there hands its addresses over.
    /// See first that this host reaches all who are left (`weft status peers`): one that is itself cut off would take addresses from
    /// containers that live. Should the host come back with its state, its containers lose the addresses that others have by then:
    /// reset it first.
    Rmpeer {
        /// As `weft status ipam` shows them: by name, by nickname if no other peer has it, or by the whole key.
        #[arg(value_name = "PEER", required = true)]
        peers: Vec<String>,
    },
    /// Have the router read the password's file again, after the new password was written to it. Nothing is restarted, and
    /// connections stay.
    ///
    /// The password before is taken from hosts that were members already until all have the new one; `weft status` says how far
    /// that is.
    ReloadPassword,
    /// Look a name up as a container would, and print its addresses, one a line; nothing if nobody has the name.
    DnsLookup {
        /// A container's name ("db"), or any other ("example.org").
        #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Give a container of this host, or addresses that are no container's, a further name.
    ///
    /// As in `weft dns-add db -h alias`, and `weft dns-add 192.0.2.9 -h printer`.
    ///
    /// Each of the addresses, or all that the container has now, is found under the name, beside whatever else the name means. The
    /// names go when the container stops; those that are no container's stay until `weft dns-remove`, over restarts of the host, too.
    #[command(
        disable_help_flag = true,
        override_usage = "weft dns-add [OPTIONS] [ADDRESS]... <CONTAINER> [-h <NAME>]\n       weft dns-add [OPTIONS] <ADDRESS>... -h <NAME>"
    )]
    DnsAdd(NameArguments),
    /// Take away what `weft dns-add` gave on this host: all of the container's, or of the addresses and the name that are given.
    ///
    /// The names that a container has by itself are its own as long as it is attached.
    #[command(
        disable_help_flag = true,
        override_usage = "weft dns-remove [OPTIONS] [ADDRESS]... <CONTAINER> [-h <NAME>]\n       weft dns-remove [OPTIONS] <ADDRESS>... -h <NAME>"
    )]
    DnsRemove(NameArguments),
    /// Change what the services log, until they start anew.
    ///
    /// The level they start with is the option --log-level, or WEFT_LOG_LEVEL.
    #[command(allow_missing_positional = true)]
    LogLevel {
        /// Only this service: router, ipam, dns or docker-proxy.
        #[arg(value_name = "SERVICE", value_parser = service)]
        service: Option<Service>,
        /// error, warn, info, debug, trace or off, or directives as in "info,weft_router=debug".
        #[arg(value_name = "LEVEL", required = true)]
        level: String,
    },
    /// Put the command, its completions and man pages on the host: docker compose run --rm weft install
    Install {
        /// Folder that gets `bin/weft` and `share/…`. In weft's own container it is the host's /usr/local, mounted below
        /// /host.
        #[arg(long, value_name = "PATH")]
        prefix: Option<PathBuf>,

        /// Have it found as `weave`, too: under that name it has Weave Net's words, defaults and exit codes, for scripts.
        #[arg(long)]
        weave: bool,
    },
    /// Take weft off this host: docker compose run --rm weft reset
    ///
    /// Hands the addresses that this host owns to another one; of several hosts, reset one after the other. Removes the services, what they made in the host's network, their
    /// sockets and state, the key among them, and what `weft install` put on the host. Containers that run lose the network and nothing
    /// else. Those that were made to wait for it are named, and start without it: the program that they wait in is kept until a
    /// reset finds none.
    Reset {
        /// The Docker Engine's own socket. Default: where DOCKER_HOST or Docker's context leads, else /var/run/docker.sock.
        #[arg(long, env = "WEFT_ENGINE_SOCKET", value_name = "PATH")]
        engine_socket: Option<PathBuf>,
    },
    /// Print what the JSON of each verb looks like, as JSON Schema: below `verbs`, by the verb's words.
    Schema,
    /// Show the versions of the command and of the services.
    Version,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum StatusAbout {
    /// List all peers of the mesh, and with whom each is connected.
    Peers,
    /// List this host's connections, and targets that are not connected, with the reason.
    Connections,
    /// List targets: the peers that were named, by `weft connect` or at the start.
    Targets,
    /// List ports of this host that lead to containers, with who gets connections and whom those take for the client, and services
    /// outside that have names inside.
    Services,
    /// List all names: host, address, container, origin.
    Dns,
    /// List who owns which share of the addresses.
    Ipam,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Addresses {
    /// Addresses, then the container.
    ///
    /// An address is `a.b.c.d/len` for this one, `net:a.b.c.d/len` for any of a subnet, or `net:default` for any of the
    /// default subnet, which is also what no address means. The container is named by its name, its id, or a unique start of
    /// its id.
    #[arg(value_name = "ARGUMENT", required = true, value_parser = NonEmptyStringValueParser::new())]
    arguments: Vec<String>,
}

impl Addresses {
    /// Returns the addresses and the container.
    pub(crate) fn split(mut self) -> (Vec<String>, String) {
        let container = self.arguments.pop().unwrap_or_default();
        (self.arguments, container)
    }
}

#[derive(Debug, Clone, Args)]
struct RawNameArguments {
    /// Addresses, then the container, if the name is to be one's.
    ///
    /// An address is `a.b.c.d` or IPv6, of the overlay or outside. The container is attached, and named by its name, its id, or a
    /// unique start of its id.
    #[arg(value_name = "ARGUMENT", required = true, value_parser = NonEmptyStringValueParser::new())]
    arguments: Vec<String>,

    /// The name: one word ("db"), or absolute within the domain of dns ("db.weft.internal"). Without it the names that the container
    /// has are meant; where there is no container it is needed.
    #[arg(short = 'h', long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,

    /// Print help.
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Addresses, container and name of `dns-add` and `dns-remove`, of which some are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameArguments {
    pub(crate) addresses: Vec<IpAddr>,
    /// Name, id, or start of an id; absent: it is about addresses that are no container's.
    pub(crate) container: Option<String>,
    /// As the user gave it; there is one where there is no container.
    pub(crate) name: Option<String>,
}

impl TryFrom<RawNameArguments> for NameArguments {
    type Error = clap::Error;

    fn try_from(RawNameArguments { mut arguments, name, .. }: RawNameArguments) -> Result<Self, clap::Error> {
        let refused = |text: String| clap::Error::raw(ErrorKind::ValueValidation, text + "\n");
        let container = arguments.pop_if(|last| last.parse::<IpAddr>().is_err());
        let address = |text: &String| {
            let why = || {
                format!("{text:?} is not an address as in 192.0.2.1; one container may follow, as the last argument")
            };
            text.parse().map_err(|_| refused(why()))
        };
        let addresses = arguments.iter().map(address).collect::<Result<_, _>>()?;
        if container.is_none() && name.is_none() {
            let text =
                "addresses that are no container's need a name: give one with -h, or a container as the last argument";
            return Err(refused(text.to_owned()));
        }
        Ok(Self { addresses, container, name })
    }
}

impl FromArgMatches for NameArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        RawNameArguments::from_arg_matches(matches)?.try_into()
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for NameArguments {
    fn augment_args(command: clap::Command) -> clap::Command {
        RawNameArguments::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        RawNameArguments::augment_args_for_update(command)
    }
}

fn service(name: &str) -> Result<Service, String> {
    let found = Service::ALL.into_iter().find(|service| service.name() == name);
    found.ok_or_else(|| format!("there is no such service: {}", Service::ALL.map(Service::name).join(", ")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_last_argument_is_the_container() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).map(|cli| cli.command);
        let Ok(Command::Detach(one)) = parse("weft detach db") else { panic!("parses") };
        assert_eq!(one.split(), (vec![], "db".to_owned()));
        let Ok(Command::Detach(two)) = parse("weft detach net:default 10.32.1.1/12 db") else { panic!("parses") };
        assert_eq!(two.split(), (vec!["net:default".to_owned(), "10.32.1.1/12".to_owned()], "db".to_owned()));
        assert!(parse("weft attach").is_err());
        assert!(parse("weft connect").is_err());
        assert!(parse("weft status nonsense").is_err());
        let Ok(Command::LogLevel { service: None, level }) = parse("weft log-level debug") else { panic!("parses") };
        assert_eq!(level, "debug");
        let Ok(Command::LogLevel { service: Some(Service::Dns), .. }) = parse("weft log-level dns debug") else {
            panic!("parses")
        };
        assert!(parse("weft log-level nobody debug").is_err());
        assert!(parse("weft log-level").is_err());
    }

    /// A variable of a script that is not set would otherwise name the only container that there is.
    #[test]
    fn nothing_names_nothing() {
        for words in [
            &["attach", ""][..],
            &["detach", "10.32.1.1/12", ""],
            &["dns-lookup", ""],
            &["dns-add", "", "-h", "alias"],
            &["dns-add", "192.0.2.9", "-h", ""],
            &["dns-remove", "192.0.2.9", ""],
            &["ps", ""],
            &["ps", "db", ""],
        ] {
            let error = Cli::try_parse_from([&["weft"], words].concat()).expect_err("something is empty");
            let text = error.to_string();
            assert!(error.exit_code() == 2 && text.contains("a value is required for"), "{words:?}: {text}");
        }
    }

    #[test]
    fn addresses_of_names_come_before_the_container() {
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).map(|cli| cli.command) {
            Ok(Command::DnsAdd(arguments) | Command::DnsRemove(arguments)) => Ok(arguments),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err((error.exit_code(), error.to_string())),
        };
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("valid")).collect::<Vec<_>>();
        let text = |text: &str| Some(text.to_owned());
        for (line, given, container, name) in [
            ("weft dns-add db", &[][..], text("db"), None),
            ("weft dns-add db -h alias", &[], text("db"), text("alias")),
            ("weft dns-add 10.32.0.1 fd00::1 db", &["10.32.0.1", "fd00::1"], text("db"), None),
            ("weft dns-remove 192.0.2.1 -h printer", &["192.0.2.1"], None, text("printer")),
            ("weft dns-remove -h printer 192.0.2.1", &["192.0.2.1"], None, text("printer")),
        ] {
            let expected = NameArguments { addresses: addresses(given), container, name };
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
        for (line, part) in [
            ("weft dns-add", "required arguments"),
            ("weft dns-add -h printer", "required arguments"),
            ("weft dns-add 192.0.2.1", "give one with -h, or a container"),
            ("weft dns-remove db web -h alias", "\"db\" is not an address"),
            ("weft dns-remove 10.32.0.1/12 db", "\"10.32.0.1/12\" is not an address"),
        ] {
            let (code, text) = parse(line).expect_err(line);
            assert_eq!(code, 2, "{line}");
            assert!(text.contains(part), "{line}: {text}");
        }
        assert_eq!(parse("weft dns-add --help").map_err(|(code, _)| code), Err(0));
    }
}
