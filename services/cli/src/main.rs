//! The weft command.

use std::{io, process::ExitCode};

use clap::Parser;
use weft::{Cli, Environment};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    weft::run(cli, &Environment::of_process(), &mut io::stdout().lock(), &mut io::stderr().lock()).await.into()
}
