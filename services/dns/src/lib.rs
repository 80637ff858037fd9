//! The dns service: answers what containers ask, from memory.
//!
//! `weft-dns-core` decides. This crate receives the sockets that containers ask from the router, speaks DNS over them,
//! forwards what is none of weft's names to the host's resolvers, follows and feeds the gossip channel `names`, and serves
//! `weft.dns.v1`. An answer never waits for another service.

#![forbid(unsafe_code)]

mod api;
mod config;
mod convert;
mod gossip;
mod handler;
mod kept;
mod listener;
pub mod metrics;
mod problems;
mod sockets;
mod state;
mod store;
mod tcp;
mod upstream;
mod watch;

use std::sync::Arc;

use anyhow::Context;
pub use config::Config;
use tonic::service::Routes;
use weft_dns_core::Names;
use weft_metrics::Exposition;
use weft_proto::{
    client::{Service, channel},
    dns::v1::name_service_server::NameServiceServer,
};
use weft_service::{Health, Result, Shutdown};

use crate::{
    api::Api, handler::Handler, listener::Listener, metrics::Metrics, state::State, store::NameStore,
    upstream::Upstream,
};

/// Runs the service until `shutdown`.
///
/// # Errors
/// If the configuration makes no sense, its socket or `--listen` address cannot be bound, or the state cannot be used.
pub async fn run(config: Config, shutdown: Shutdown) -> Result {
    let zone = config.zone()?;
    tracing::info!(
        domain = %zone.apex(), ttl_seconds = config.ttl, resolv_conf = %config.resolv_conf.display(),
        upstreams = ?config.upstreams, listen = ?config.listen, "configuration"
    );
    let folder = config.common.socket_folder.clone();
    let server = weft_service::bind(&Service::Dns.socket(&folder))?;
    let additional_sockets = match config.listen {
        Some(address) => {
            let bound = listener::bind(address).await;
            Some(bound.with_context(|| format!("failed to listen for queries on {address}"))?)
        }
        None => None,
    };
    config.user.apply(Service::Dns, &folder, &[&config.state_folder])?;
    let health = Health::starting().await;

    let mut names = Names::new(zone, config.range).with_local_first(config.local_first);
    let store = Arc::new(NameStore::open(&config.state_folder, &mut names)?);
    let (registry, metrics) = Metrics::new();
    let state = Arc::new(State::new(names, metrics));
    let upstream = Arc::new(Upstream::new(&config, Arc::clone(&state)).await);
    let handler = Handler::new(Arc::clone(&state), Arc::clone(&upstream));
    // Serves as long as it lives.
    let mut additional = Listener::default();
    if let Some((udp, tcp)) = additional_sockets {
        additional.swap(udp, tcp, &handler, &state)?;
    }

    let collector = metrics::Collector { state: Arc::clone(&state), upstream: Arc::clone(&upstream) };
    let server = server.with_metrics(Arc::new(Exposition::new(registry, collector)));
    let api = NameServiceServer::new(Api::new(
        Arc::clone(&state),
        Arc::clone(&store),
        handler.clone(),
        Arc::clone(&upstream),
    ));
    let router = channel(&Service::Router.socket(&folder));
    let work = async {
        tokio::join!(
            gossip::follow(Arc::clone(&state), router),
            sockets::receive(folder.join(sockets::SOCKET), handler, Arc::clone(&state)),
            upstream.watch(),
            store.follow(&state),
            async {
                state.working().await;
                health.ready().await;
            }
        )
    };
    let served = tokio::select! {
        served = server.serve(Routes::new(api), &health, shutdown) => served,
        _ = work => unreachable!("the loops end with the process"),
    };
    store.finish(&state).await;
    served
}
