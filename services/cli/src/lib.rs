//! The weft command: a client of the services on this host, and nothing else.
//!
//! One file for each family of verbs in [`commands`]; what is printed is first a value of [`report`], so that text and JSON
//! say the same. Everything goes through the writers that [`run`] is given.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod environment;
mod output;
pub mod report;
mod services;

use std::io::{self, Write};

use clap::CommandFactory;
pub use cli::{Cli, Format};
pub use environment::Environment;

use crate::{output::Output, services::Services};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Done,
    /// Something could not be done or told; stderr or the output says what.
    Failed,
}

impl From<Outcome> for std::process::ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::FAILURE,
        }
    }
}

/// Runs one command. Output goes to `out`, complaints go to `complaints`.
pub async fn run(cli: Cli, environment: &Environment, out: &mut dyn Write, complaints: &mut dyn Write) -> Outcome {
    let services = Services::new(&cli.socket_folder);
    let mut output = Output::new(cli.output, out, complaints);
    match commands::run(cli.command, &services, environment, &mut output).await {
        Ok(outcome) => outcome,
        // Whoever reads our output has seen enough.
        Err(error) if is_broken_pipe(&error) => Outcome::Done,
        Err(error) => {
            output.complain(&format!("weft: {error:#}"));
            Outcome::Failed
        }
    }
}

/// Returns the definition of the command line, from which completions, man pages and the reference are made.
#[must_use]
pub fn definition() -> clap::Command {
    Cli::command()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
