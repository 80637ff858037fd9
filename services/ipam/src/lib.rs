//! Owns who has which overlay address: the store on disk, the router's gossip, and gRPC around `weft-ipam-core`.

#![forbid(unsafe_code)]

mod api;
mod config;
mod driver;
pub mod metrics;
mod router;
mod store;

use std::sync::Arc;

use anyhow::Context as _;
pub use config::Config;
use tokio::sync::mpsc;
use weft_metrics::Exposition;
use weft_proto::client::Service;
use weft_service::{Health, Result, Shutdown};

use crate::{driver::Driver, store::Store};

/// Requests that wait to be looked at; further callers wait in their handlers.
const COMMANDS: usize = 1024;

/// Runs the service until `shutdown`.
///
/// # Errors
/// If the settings contradict each other or the store, the store cannot be used, or the socket cannot be served.
pub async fn run(config: Config, shutdown: Shutdown) -> Result {
    let plan = config.plan()?;
    let folder = &config.common.socket_folder;
    let server = weft_service::bind(&Service::Ipam.socket(folder))?;
    config.user.apply(Service::Ipam, folder, &[&config.state_folder])?;
    let (registry, commits) = metrics::registry();
    let store = Store::open(&config.state_folder)?.measured(commits);
    let (commands, received) = mpsc::channel(COMMANDS);
    let events = router::follow(Service::Router.socket(folder));
    let driver = Driver::new(plan, store, received, events)?;

    let exposition = Exposition::new(registry, metrics::Collector { commands: commands.clone() });
    let server = server.with_metrics(Arc::new(exposition));
    let health = Health::starting().await;
    health.ready().await;
    tokio::select! {
        served = server.serve(api::routes(commands), &health, shutdown.clone()) => served,
        ended = driver.run(shutdown) => ended.context("ipam stops"),
    }
}
