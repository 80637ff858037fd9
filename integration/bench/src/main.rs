//! weft beside rivals and limits, in one run each. How and why: README.md beside this crate.
#![expect(clippy::print_stdout, reason = "the results are what the program is for")]

mod commands;
mod contender;
mod docker;
mod measure;
mod overlay;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compares weft with rivals and limits.
#[derive(Debug, Parser)]
#[command(name = "weft-bench", version)]
struct Options {
    #[command(subcommand)]
    about: About,
}

#[derive(Debug, Subcommand)]
enum About {
    /// The network between containers: beside plain VXLAN and a userspace WireGuard.
    Overlay(overlay::Options),
    /// The Docker API through weft: beside the engine's own socket.
    Docker(docker::Options),
    /// The command on a host of many containers in a mesh of many peers: beside a program that does nothing, and `docker ps`.
    Commands(commands::Options),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let ran = match Options::parse().about {
        About::Overlay(options) => overlay::run(&options).await,
        About::Docker(options) => docker::run(&options).await,
        About::Commands(options) => commands::run(&options).await,
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the one place that says why the run failed")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("weft-bench: {error:#}");
    ExitCode::FAILURE
}
