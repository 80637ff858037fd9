//! Makes Docker hosts on this machine, and does things to them and to the links between them.

mod command;

use std::{ffi::OsString, io::Read, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use weft_lab::namespace::{self, HostSpec};

#[derive(Debug, Parser)]
#[command(name = "weft-lab", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    User(command::Command),

    /// Keep a host until stdin ends. The lab calls this.
    #[command(hide = true)]
    Keep {
        /// The host, as JSON.
        spec: String,
    },

    /// Be the first process of the host that stdin describes. The keeper calls this.
    #[command(hide = true)]
    FirstProcess,

    /// Run a command among the processes of the host that PROCESS is the first of. The lab calls this.
    #[command(hide = true)]
    Enter {
        /// The host's first process.
        process: u32,
        /// The command.
        program: OsString,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[expect(clippy::print_stderr, reason = "the command's errors are for its user")]
fn main() -> ExitCode {
    // Entering namespaces needs a process of one thread, so the runtime starts only where it is needed.
    let outcome = match Arguments::parse().command {
        Command::User(command) => command::run(command),
        Command::Keep { spec } => {
            parse(spec.as_bytes()).and_then(|spec| namespace::keep(&spec)).map(|()| ExitCode::SUCCESS)
        }
        Command::FirstProcess => {
            parse(std::io::stdin()).and_then(|spec| namespace::first_process(&spec)).map(|()| ExitCode::SUCCESS)
        }
        Command::Enter { process, program, arguments } => {
            namespace::enter(process, &program, &arguments).map(ExitCode::from)
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("weft-lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn parse(spec: impl Read) -> anyhow::Result<HostSpec> {
    serde_json::from_reader(spec).context("not a description of a host")
}
