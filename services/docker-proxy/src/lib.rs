//! Attaches containers by relaying the Docker API.
//!
//! The shell around `weft-docker-proxy-core`: [`relay`] passes bytes between clients and the engine, [`intercept`] looks into
//! the few calls that matter, [`watcher`] follows the engine's events, and [`driver`] performs what the core's workflow
//! decides.

#![forbid(unsafe_code)]

pub mod api;
pub mod attach;
pub mod chosen;
pub mod config;
mod creations;
pub mod detached;
pub mod driver;
pub mod engine;
pub mod intercept;
pub mod listener;
pub mod local_clients;
pub mod metrics;
pub mod relay;
pub mod services;
pub mod shim;
pub mod starts;
pub mod tls;
mod traces;
pub mod watcher;
pub mod weave_api;

use std::sync::Arc;

use anyhow::anyhow;
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;
use weft_docker_proxy_core::workflow::Service;
use weft_metrics::Exposition;
use weft_proto::{
    client, common::v1::page_service_server::PageServiceServer,
    proxy::v1::container_service_server::ContainerServiceServer,
};
use weft_service::{Health, Shutdown};

use crate::{
    api::Api,
    attach::Attacher,
    chosen::Chosen,
    config::Config,
    detached::Detached,
    driver::Driver,
    engine::Engine,
    intercept::Intercept,
    listener::Listeners,
    local_clients::Names,
    metrics::Metrics,
    services::Services,
    watcher::{EngineState, Watcher},
    weave_api::{Pages, WeaveApi},
};

/// The Docker API's socket, below the folder of sockets; in a folder of its own, so that the other services can be kept
/// from it.
const DOCKER_SOCKET: &str = "docker/docker.sock";

/// Runs the service until `shutdown`.
///
/// # Errors
/// If it cannot start: a socket or port is taken, or a folder cannot be written.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let folder = &config.common.socket_folder;
    let server = weft_service::bind(&client::Service::DockerProxy.socket(folder))?;
    let shim = shim::install(&config.shim_folder)?;
    let options = config.intercept_options(&shim)?;
    let chosen = Chosen::load(&config.state_folder)?;
    let docker_socket = folder.join(DOCKER_SOCKET);
    let listeners = Listeners::bind(&docker_socket, &config.engine_socket, &config.listen).await?;
    listener::share_folder(folder, &config.engine_socket);

    let engine = Engine::new(config.engine_socket.clone());
    let services = Services::new(
        folder,
        services::Options {
            // The reason for missing space should come before the client's patience ends.
            address_timeout: config.attach_deadline().mul_f32(0.6),
            step_timeout: config.attach_deadline().mul_f32(0.8),
            multicast_route: !config.no_multicast_route,
            rewrite_hosts: !config.no_rewrite_hosts,
        },
    );
    // What clients asked for is done as long as clients are served.
    let (_end, ended) = Shutdown::triggered();
    let driver = Driver::spawn(services.clone(), Detached::load(folder.join(detached::FILE)), chosen, ended);
    let attacher = Attacher::new(&config, engine.clone(), driver.clone());
    let engine_socket = config.engine_socket_name();
    let (registry, metrics) = Metrics::new();
    let intercept = Intercept::new(engine.clone(), attacher.clone(), options, metrics);

    let (engine_state, engine_watch) = watch::channel(EngineState::default());
    let (again, compare) = mpsc::channel(1);
    let watcher = Watcher::new(engine.clone(), attacher.clone(), services.clone(), engine_state, compare);
    let watching = tokio::spawn(watcher.run());
    for service in [Service::Ipam, Service::Router, Service::Dns] {
        tokio::spawn(watcher::watch_service(service, folder.clone(), driver.clone(), again.clone()));
    }
    let offers = listeners.offers().to_vec();
    let addresses: Vec<_> = offers.iter().map(|offer| offer.address.clone()).collect();
    let names = Names::parse(&config.listen.tcp_names);
    let (stop, stopped) = Shutdown::triggered();
    let serving = listeners.serve(engine, intercept, names.clone(), stopped.clone());

    tracing::info!(?addresses, engine = engine_socket, shim = %shim.display(), "relaying the Docker API");
    let health = Health::starting().await;
    health.ready().await;
    let (http_problem, http_watch) = watch::channel(None);
    let api = Arc::new(Api::new(attacher.clone(), services, engine_watch, engine_socket.clone(), offers, http_watch));
    let exposition = Arc::new(Exposition::new(registry, metrics::Collector { api: Arc::clone(&api) }));
    let server = server.with_metrics(Arc::clone(&exposition));
    let weave_api = Arc::new(WeaveApi::new(folder, Arc::clone(&api), attacher, exposition, names));
    if let Some(address) = config.http_addr.socket() {
        tokio::spawn(weave_api::serve(address, Arc::clone(&weave_api), http_problem, stopped.clone()));
    }
    let routes = Routes::new(ContainerServiceServer::from_arc(api))
        .add_service(PageServiceServer::new(Pages(weave_api)).max_encoding_message_size(weave_api::LARGEST_PAGE));
    let answering = async {
        let answered = server.serve(routes, &health, stopped.clone()).await;
        stop.request();
        answered
    };
    let ending = async {
        let ended = tokio::select! {
            () = shutdown.requested() => Ok(()),
            () = stopped.requested() => Ok(()),
            _ = watching => Err(anyhow!(
                "the Docker Engine removed its socket {engine_socket}, as it does when it starts anew, and a container sees a \
                 new one only from its own start: ending, so that the engine starts this service again"
            )),
        };
        stop.request();
        ended
    };
    let (answered, ended, ()) = tokio::join!(answering, ending, serving);
    answered.and(ended)
}
