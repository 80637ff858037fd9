//! The weft command.

use std::{
    io::{self, Read},
    process::ExitCode,
    thread,
};

use weft::Environment;

fn main() -> ExitCode {
    weft::complete();
    run()
}

#[tokio::main(flavor = "current_thread")]
async fn run() -> ExitCode {
    let environment = Environment::of_process();
    if environment.has_caller() {
        thread::spawn(end_with_caller);
    }
    let words = std::env::args_os().collect();
    weft::run_words(words, &environment, &mut io::stdout().lock(), &mut io::stderr().lock()).await
}

/// Ends this process when its stdin ends: then the command that had it executed is gone, or its engine's client.
fn end_with_caller() {
    let mut bytes = [0; 64];
    while io::stdin().read(&mut bytes).is_ok_and(|count| count > 0) {}
    std::process::exit(130);
}
