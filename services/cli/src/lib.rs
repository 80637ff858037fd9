//! The weft command: a client of the services on this host, and nothing else.
//!
//! One file for each family of verbs in [`commands`]; what is printed is first a value of [`report`], so that text and JSON
//! say the same. Everything goes through the writers that [`run`] is given.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod compose;
mod environment;
mod output;
pub mod report;
mod services;
mod weave;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser};
pub use cli::{Cli, Format, launch_settings};
pub use environment::Environment;

use crate::{output::Output, services::Services};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Done,
    /// Something could not be done or told; stderr or the output says what.
    Failed,
    /// It was to be started and runs already.
    Running,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::FAILURE,
            Outcome::Running => Self::from(3),
        }
    }
}

/// Runs the command line of a process, the name among the `words`: under the name `weave` with Weave Net's words. Returns the
/// exit code.
pub async fn run_words(
    words: Vec<OsString>,
    environment: &Environment,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> ExitCode {
    let name = words.first().and_then(|name| Path::new(name).file_name()).unwrap_or_default();
    if name != weave::NAME {
        return run(Cli::parse_from(words), environment, out, complaints).await.into();
    }
    let (cli, ended) = match weave::read(
        words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect(),
        environment,
    ) {
        weave::Asked::Say(text, code) => {
            Output::new(Format::Text, out, complaints).complain(&text);
            return code.into();
        }
        weave::Asked::Version(cli) => {
            let (services, mut output) =
                (Services::new(&cli.socket_folder), output(&cli, out, complaints).in_weaves_words());
            (cli, commands::weave::version(&services, &mut output).await)
        }
        weave::Asked::Report(cli, template) => {
            let (services, mut output) =
                (Services::new(&cli.socket_folder), output(&cli, out, complaints).in_weaves_words());
            (cli, commands::weave::report(template, &services, &mut output).await)
        }
        weave::Asked::Run(cli, notes) => {
            let mut output = output(&cli, out, complaints).in_weaves_words();
            notes.iter().for_each(|note| output.complain(note));
            let services = Services::new(&cli.socket_folder);
            let ended = commands::run(cli.command.clone(), &services, environment, &mut output).await;
            (cli, ended)
        }
    };
    outcome(ended, &mut output(&cli, out, complaints)).into()
}

/// Runs one command. Output goes to `out`, complaints go to `complaints`.
pub async fn run(cli: Cli, environment: &Environment, out: &mut dyn Write, complaints: &mut dyn Write) -> Outcome {
    let services = Services::new(&cli.socket_folder);
    let mut output = output(&cli, out, complaints);
    let ended = commands::run(cli.command, &services, environment, &mut output).await;
    outcome(ended, &mut output)
}

fn output<'a>(cli: &Cli, out: &'a mut dyn Write, complaints: &'a mut dyn Write) -> Output<'a> {
    Output::new(cli.output, out, complaints)
}

fn outcome(ended: anyhow::Result<Outcome>, output: &mut Output<'_>) -> Outcome {
    match ended {
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

pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
