//! The weft command: a client of the services, on this host or where another engine runs, and nothing else.
//!
//! One file for each family of verbs in [`commands`]; what is printed is first a value of [`weft_report`], so that text and JSON
//! say the same. Everything goes through the writers that [`run`] is given.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod complete;
mod compose;
mod environment;
mod output;
mod place;
mod progress;
mod schema;
mod services;
mod weave;

use std::{
    ffi::OsString,
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser};
pub use cli::{Cli, Format, launch_settings};
pub use complete::complete;
pub use environment::Environment;
pub use schema::schema;
use weft_report as report;

use crate::{commands::elsewhere::Call, output::Output, place::Place, services::Services, weave::Asked};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything asked for was done.
    Done,
    /// Something could not be done or told; stderr or the output says what.
    Failed,
    /// It was to be started and runs already.
    Running,
    /// The command ended with this exit code where it was executed.
    Ended(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::FAILURE,
            Outcome::Running => Self::from(3),
            Outcome::Ended(code) => Self::from(code),
        }
    }
}

/// Runs the command line of a process, the name among the `words`: under the name `weave` with Weave Net's words; where
/// `DOCKER_HOST` leads to another host's engine, there. Returns the exit code.
pub async fn run_words(
    words: Vec<OsString>,
    environment: &Environment,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> ExitCode {
    let name = words.first().and_then(|name| Path::new(name).file_name()).unwrap_or_default();
    let as_weave = name == weave::NAME;
    let given = words.get(1..).unwrap_or_default();
    let asked = if as_weave {
        weave::read(given.iter().map(|word| word.to_string_lossy().into_owned()).collect(), environment)
    } else {
        Ok(Asked::Run(Box::new(Cli::parse_from(&words)), Vec::new()))
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(weave::Said(text, code)) => {
            Output::new(Format::Text, out, complaints).complain(&text);
            return code.into();
        }
    };
    let sockets = asked.cli().socket_folder.clone();
    let mut output = output(asked.cli().output, environment, out, complaints);
    if as_weave {
        output = output.in_weaves_words();
    }
    let progress = output.progress();
    progress.on_terminal(environment.caller_has_error_terminal().unwrap_or_else(|| io::stderr().is_terminal()));
    let services = Services::new(&sockets).with_progress(progress.clone());
    let work = async {
        let place = if weave::is_local(given) && as_weave {
            Ok(Place::Here(None))
        } else {
            Place::of(environment, &sockets).await
        };
        match place? {
            Place::Here(None) => here(asked, &services, environment, &mut output).await,
            Place::Here(Some(engine)) => {
                let environment = environment.with("DOCKER_HOST", &engine);
                here(asked, &services, &environment, &mut output).await
            }
            Place::Elsewhere(docker) => {
                let call = Call { program: if as_weave { "/weave" } else { "/weft" }, words: given };
                commands::elsewhere::run(asked, call, &docker, environment, &mut output).await
            }
        }
    };
    let ended = progress.shown(work).await;
    outcome(ended, &mut output).into()
}

/// Does on this host what was asked for.
async fn here(
    asked: Asked,
    services: &Services,
    environment: &Environment,
    output: &mut Output<'_>,
) -> anyhow::Result<Outcome> {
    match asked {
        Asked::Version(_) => commands::weave::version(services, output).await,
        Asked::Report(_, template) => commands::weave::report(template, services, output).await,
        Asked::Run(cli, notes) => {
            notes.iter().for_each(|note| output.complain(note));
            commands::run(cli.command, services, environment, output).await
        }
    }
}

/// Runs one command on this host. Output goes to `out`, complaints go to `complaints`.
pub async fn run(cli: Cli, environment: &Environment, out: &mut dyn Write, complaints: &mut dyn Write) -> Outcome {
    let services = Services::new(&cli.socket_folder);
    let mut output = output(cli.output, environment, out, complaints);
    let ended = commands::run(cli.command, &services, environment, &mut output).await;
    outcome(ended, &mut output)
}

fn output<'a>(
    format: Format,
    environment: &Environment,
    out: &'a mut dyn Write,
    complaints: &'a mut dyn Write,
) -> Output<'a> {
    let output = Output::new(format, out, complaints);
    match environment.caller_has_terminal() {
        Some(terminal) => output.seen_on_terminal(terminal),
        None => output,
    }
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
