//! What every weft service needs to start, serve and stop: common options, logs, a gRPC server on a Unix socket,
//! health, traces.
//!
//! A service's `main` is one call of [`main`]; what the service does is its own.

#![forbid(unsafe_code)]

mod folder;
pub mod handshakes;
mod health;
mod host_metrics;
pub mod http;
mod last_words;
mod logging;
mod metrics;
mod options;
mod own_user;
mod server;
mod shutdown;
mod store;
pub mod trace;

use std::{future::Future, process::ExitCode};

pub use folder::make_folder;
pub use health::{Health, check};
pub use host_metrics::{CONTENT_TYPE as METRICS_CONTENT_TYPE, HostMetrics};
pub use logging::LogFormat;
pub use metrics::fetch_metrics;
pub use options::{CommonOptions, parse};
pub use own_user::UserOptions;
pub use server::{BoundServer, bind};
pub use shutdown::{Shutdown, ShutdownTrigger};
pub use store::Store;
use weft_proto::client::Service;

/// Version of this build, as `weft version` prints it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How a service ended, beside failing.
pub type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

/// Lets the process have as many files and sockets open as it may at most: some engines begin with a thousand, for programs that
/// wait for them by `select`.
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Runs a service from start to stop and returns what the process should exit with: 0 done, 1 failed.
///
/// With `--health` it only asks the running service of this kind whether it is ready. An error is printed once, with its
/// causes, as one line on stderr.
pub fn main<F, Run>(service: Service, options: &CommonOptions, run: Run) -> ExitCode
where
    Run: FnOnce(Shutdown) -> F,
    F: Future<Output = Result>,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(service, &anyhow::Error::new(error).context("failed to start the runtime")),
    };
    if options.health {
        return match runtime.block_on(check(&service.socket(&options.socket_folder))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(service, &error),
        };
    }
    logging::start(options);
    allow_files();
    last_words::forget(service, &options.socket_folder);
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()?;
        tracing::info!(service = service.name(), version = VERSION, "starting");
        let traces = trace::start(service, options);
        let outcome = run(shutdown).await;
        if let Some(traces) = traces {
            traces.stop().await;
        }
        outcome
    });
    // Tasks that still wait for a client or a disk must not keep a stopped service.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            last_words::leave(service, &options.socket_folder, &error);
            fail(service, &error)
        }
    }
}

/// Does one job of a service's program instead of running the service, and returns what the process should exit with.
///
/// What the service itself said last is left alone.
pub fn once<F: Future<Output = Result>>(service: Service, options: &CommonOptions, job: F) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(service, &anyhow::Error::new(error).context("failed to start the runtime")),
    };
    logging::start(options);
    match runtime.block_on(job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(service, &error),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where a service says why it ended")]
fn fail(service: Service, error: &anyhow::Error) -> ExitCode {
    eprintln!("weft-{}: {error:#}", service.name());
    ExitCode::FAILURE
}
