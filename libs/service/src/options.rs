//! Options that all services have.

use std::{ffi::OsString, path::PathBuf};

use clap::{Command, CommandFactory, FromArgMatches};
use weft_proto::client::SOCKET_FOLDER;

use crate::{LogFormat, logging, trace::OtlpEndpoint};

/// Options that all services have; flatten into a service's own.
#[derive(Debug, Clone, clap::Args)]
pub struct CommonOptions {
    /// Folder of the services' Unix sockets. All services and the command must agree on it.
    #[arg(long, env = "WEFT_SOCKET_FOLDER", value_name = "PATH", default_value = SOCKET_FOLDER)]
    pub socket_folder: PathBuf,

    /// What is logged: error, warn, info, debug, trace, or directives as in "info,weft_router=debug".
    #[arg(long, env = "WEFT_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = logging::parse_option)]
    pub log_level: String,

    /// How log lines look.
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Record traces, and send them to this receiver of OTLP by gRPC: `http://host:port`, port 4317 if none is given. All
    /// services must be given it; the router sends for all, without TLS. Without it nothing is recorded.
    #[arg(long, env = "WEFT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<OtlpEndpoint>,

    /// Which share of the traces that begin here is recorded, from 0 to 1. Those that a client began are recorded if the
    /// client says so.
    #[arg(long, env = "WEFT_OTLP_RATIO", value_name = "SHARE", default_value_t = 1.0, value_parser = parse_share)]
    pub otlp_ratio: f64,

    /// Ask the running service whether it is ready, say so by the exit code, and do nothing else.
    #[arg(long)]
    pub health: bool,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "not a number from 0 to 1".to_owned())
}

/// Reads a service's options from the command line and the environment; ends the process with 2 if they make no sense.
///
/// A variable that is set to nothing counts as not set: `NAME=` in a file of settings means the default.
#[must_use]
pub fn parse<C: CommandFactory + FromArgMatches>() -> C {
    let matches = without_empty_variables(C::command()).get_matches();
    C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn without_empty_variables(mut command: Command) -> Command {
    let is_empty = |name: &std::ffi::OsStr| std::env::var_os(name).is_some_and(|value: OsString| value.is_empty());
    let empty: Vec<String> = command
        .get_arguments()
        .filter(|argument| argument.get_env().is_some_and(is_empty))
        .map(|argument| argument.get_id().to_string())
        .collect();
    for id in empty {
        command = command.mut_arg(id, |argument| argument.env(None));
    }
    command
}
