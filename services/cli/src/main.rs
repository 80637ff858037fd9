//! The weft command.

use std::{io, process::ExitCode};

use weft::Environment;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    weft::run_words(
        std::env::args_os().collect(),
        &Environment::of_process(),
        &mut io::stdout().lock(),
        &mut io::stderr().lock(),
    )
    .await
}
