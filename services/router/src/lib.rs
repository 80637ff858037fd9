//! Joins hosts into a mesh and carries the containers' frames over it, sealed.
//!
//! The shell around `weft-router-core`: sockets, the TAP device, kernel network state, gRPC.

mod admitted;
pub mod api;
pub mod config;
pub mod control;
pub mod dataplane;
pub mod direction;
pub mod dns_port;
pub mod driver;
mod entropy;
pub mod exposed;
pub mod identity;
pub mod kept_targets;
pub mod kernel;
pub mod metrics;
mod password;
mod presence;
pub mod published;
pub mod publisher;
pub mod scrape;
mod socket;
pub mod trusted;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use ipnet::{IpNet, Ipv4Net};
use tokio::sync::watch;
use weft_metrics::Exposition;
use weft_proto::client::Service;
use weft_router_core::{
    handshake::Passwords,
    hostnet::{PORT_PREFIX, VXLAN_PORT},
    mesh::{Mesh, MeshConfig, Timing},
    session::{
        Cipher,
        agreement::{Agreement, AgreementConfig},
    },
    target::Target,
};
use weft_service::{Health, Shutdown, Store};

use self::{
    admitted::Admitted,
    config::{Config, Plan},
    control::Control,
    dataplane::{DataPlaneConfig, Facility},
    driver::{Attachment, CHANNELS_FILE, EXPOSED_FILE, Parts, TARGETS_FILE, TapLost},
    exposed::Exposed,
    identity::Identity,
    kept_targets::KeptTargets,
    kernel::{HostRoute, Kernel, KernelConfig},
    presence::Presence,
    published::{PUBLISHED_FILE, Published},
    scrape::Scrape,
};

/// How long devices of trusted peers may take to be removed at the end.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(2);

/// Runs the router until `shutdown`. Containers keep their interfaces when it stops.
///
/// # Errors
/// One sentence for whatever is final: a bad option, a port in use, a missing privilege, a damaged identity.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    let Plan { config, passwords, peers, nickname } = config.check()?;
    let masked = masked(&config.mask)?;
    let metrics_address = config.metrics_address()?;
    let store = Store::open(&config.state_folder)?;
    let server = weft_service::bind(&Service::Router.socket(&config.common.socket_folder))?;
    let _presence = Presence::take()?;
    let listener = control::bind(config.host, config.port)?;

    let identity = Identity::load(&store)?;
    let local = identity.key.name();
    let name = if config.name.is_empty() { local.to_string() } else { config.name.clone() };
    tracing::info!(
        peer = local.to_hex(),
        name,
        nickname,
        port = config.port,
        address_range = %config.address_range,
        password = if passwords.is_some() { "set" } else { "none" },
        mtu = config.mtu,
        "configured"
    );
    if passwords.is_none() {
        tracing::warn!("without a password anyone may join who reaches port {}", config.port);
    }

    let kernel_config = kernel_config(&config, &local.to_hex())?;
    let own_links = [kernel_config.bridge.clone(), kernel_config.tap.clone(), kernel_config.dns_port.clone()];
    let kernel = Kernel::start(kernel_config.clone())?;
    refuse_collision(config.address_range, &kernel.host_routes().await?, &own_links)?;
    let tap = dataplane::open_tap(&kernel_config.tap, &masked)?;
    let (data_plane, data_events) = dataplane::spawn(DataPlaneConfig {
        tap,
        bind_address: config.host,
        port: config.port,
        mtu: config.mtu,
        local,
        masked,
    })?;
    let exposed: Exposed = store.load(EXPOSED_FILE)?;
    let exposures = kernel.set_exposed(exposed.exposures()).await.context("failed to expose the host")?;
    let published: Published = store.load(PUBLISHED_FILE)?;
    let held = kernel.set_published(published.desired()).await.context("failed to publish ports")?;
    let changes = kernel.prepare().await.context("failed to prepare the host's network")?;
    tracing::info!(changes, "the host's network is prepared");
    let bridge = (kernel_config.bridge.clone(), kernel_config.bridge_mac);
    let attachments = Attachment::observed(kernel.observe().await?);

    let inbox = Box::new(data_plane.inbox());
    let (control, control_events) =
        Control::new(identity.key.clone(), passwords.clone(), config.host_root.clone(), inbox);
    let (targets, configured_targets) = targets(&peers, config.resume, &store)?;
    let known_channels: BTreeSet<String> = store.load(CHANNELS_FILE)?;
    let admitted = Admitted::load(&store)?;
    let facts = api::Facts {
        password_set: passwords.is_some(),
        discovery: !config.no_discovery,
        port: config.port,
        address_range: config.address_range,
        bridge: config.bridge.clone(),
        mtu: config.mtu,
        trusted_subnets: config.trusted_subnets.0.clone(),
    };
    let mesh_config = MeshConfig {
        local,
        name,
        nickname,
        version: weft_service::VERSION.into(),
        instance: entropy::number(),
        generation: identity.generation,
        listen_port: config.port,
        address_range: config.address_range,
        discovery: !config.no_discovery,
        connection_limit: if config.connection_limit == 0 { usize::MAX } else { config.connection_limit },
        known_channels,
        password_marks: passwords.as_ref().map(Passwords::marks).unwrap_or_default(),
        revocations: admitted.revocations,
        told: admitted.told,
        known_peers: admitted.known_peers,
        trusted_subnets: config.trusted_subnets.0.clone(),
        seed: entropy::number(),
        timing: Timing::default(),
    };
    let agreement_config = AgreementConfig { key: identity.key.clone(), ciphers: ciphers(), capabilities: 0 };
    let trusts = !config.trusted_subnets.0.is_empty();
    let (trusted, trusted_task) = trusted::spawn(kernel.clone(), local, config.mtu, trusts, shutdown.clone());
    let (metrics_sender, metrics_problem) = watch::channel(None);
    let (publisher, publisher_inbox, services) = publisher::make(&config.common.socket_folder, &config.host_root);
    let publisher_store = store.clone();
    let parts = Parts {
        mesh: Mesh::new(mesh_config, targets, now()),
        agreement: Agreement::new(agreement_config, entropy::secret()),
        identity,
        configured_targets,
        store,
        control: control.clone(),
        control_events,
        data_plane,
        data_events,
        kernel: kernel.clone(),
        trusted,
        attachments,
        exposed: (exposed, exposures),
        held,
        services,
        bridge,
        metrics_problem,
    };
    let (driver, driving) = driver::spawn(parts, shutdown.clone());
    control.listen(listener);
    let parts = publisher::Parts {
        driver: driver.clone(),
        kernel: kernel.clone(),
        store: publisher_store,
        published,
        range: config.address_range,
        own_ports: own_ports(&config)?,
    };
    tokio::spawn(publisher::run(parts, publisher_inbox, shutdown.clone()));
    let collector =
        metrics::Collector { driver: driver.clone(), control, facts: facts.clone(), kernel: kernel.clone() };
    let exposition = Arc::new(Exposition::new(metrics::registry(), collector));
    if let Some(address) = metrics_address {
        let scrape = Scrape::new(Arc::clone(&exposition), config.common.socket_folder.clone(), address);
        tokio::spawn(scrape::serve(address, Arc::new(scrape), metrics_sender, shutdown.clone()));
    }

    let health = Health::starting().await;
    let dns_socket = config.common.socket_folder.join(dns_port::SOCKET_NAME);
    let dns = dns_port::serve(&dns_socket, kernel.dns_sockets(), shutdown.clone());
    let serve = server.with_metrics(exposition).serve(
        api::routes(driver, kernel, publisher, facts, config.password_file.clone()),
        &health,
        shutdown.clone(),
    );
    let ready = async {
        health.ready().await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        served = async { tokio::try_join!(serve, dns) } => served.map(|_| ())?,
        driven = driving => {
            if let Err(TapLost) = driven.context("the driver failed")? {
                bail!("the TAP device {} was deleted: restarting makes it anew", kernel_config.tap);
            }
            if !shutdown.is_requested() {
                bail!("the driver ended by itself");
            }
        }
        () = ready => {}
    }
    // No device stays behind that nobody watches.
    let _ = tokio::time::timeout(REMOVAL_DEADLINE, trusted_task).await;
    Ok(())
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns the facilities that must not be used.
fn masked(list: &str) -> anyhow::Result<BTreeSet<Facility>> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| word.parse().context("WEFT_ROUTER_MASK is not valid")).collect()
}

/// Removes what routers made in this host's network: links, rules, settings. Containers lose their interface; state files stay.
///
/// # Errors
/// If a router runs here, which would make it anew, or for what could not be removed; the rest was removed.
pub async fn remove(config: Config) -> anyhow::Result<()> {
    let _presence = Presence::take()
        .context("nothing was removed, which a router that runs would make anew (`docker compose down`)")?;
    Kernel::start(kernel_config(&config, "")?)?.remove_all().await.context("not all could be removed")?;
    tracing::info!("nothing of weft is left in the host's network");
    Ok(())
}

/// Returns the ports that nobody else may have: that of the mesh, that of VXLAN, and those on the loopback.
fn own_ports(config: &Config) -> anyhow::Result<BTreeSet<u16>> {
    let loopback = config.loopback_ports()?.into_iter();
    Ok(loopback.chain([config.port, VXLAN_PORT]).collect())
}

/// Returns what the owner of kernel state has to know. `peer` is the peer's key.
fn kernel_config(config: &Config, peer: &str) -> anyhow::Result<KernelConfig> {
    Ok(KernelConfig {
        bridge: config.bridge.clone(),
        tap_queue_length: dataplane::TAP_QUEUE_LENGTH,
        proc_sys: config.proc_sys.clone(),
        host_root: config.host_root.clone(),
        loopback_ports: config.loopback_ports()?,
        ..KernelConfig::new(peer, config.mtu.into())
    })
}

/// Returns all targets, and the texts of those that the configuration names.
fn targets(configured: &[Target], resume: bool, store: &Store) -> anyhow::Result<(Vec<Target>, Vec<String>)> {
    let configured: Vec<String> = configured.iter().map(|target| target.text().to_owned()).collect();
    let kept: KeptTargets = store.load(TARGETS_FILE)?;
    let path = store.path(TARGETS_FILE);
    let damaged = || format!("the file {} is damaged: correct or remove it", path.display());
    let parse = |text: String| text.parse::<Target>().with_context(damaged);
    let targets = kept.start(&configured, resume).into_iter().map(parse).collect::<Result<_, _>>()?;
    Ok((targets, configured))
}

/// Refuses a range that the host reaches by a route which is not ours.
fn refuse_collision(range: Ipv4Net, routes: &[HostRoute], own_links: &[String]) -> anyhow::Result<()> {
    let overlaps = |net: &IpNet| match net {
        IpNet::V4(net) => net.contains(&range) || range.contains(net),
        IpNet::V6(_) => false,
    };
    let own = |link: &String| own_links.contains(link) || link.starts_with(PORT_PREFIX);
    match routes.iter().find(|route| overlaps(&route.destination) && !own(&route.interface)) {
        None => Ok(()),
        Some(HostRoute { destination, interface }) => bail!(
            "the range {range} collides with the host's route to {destination} by {interface}: choose another range with \
             WEFT_IPALLOC_RANGE, the same on all hosts"
        ),
    }
}

/// Returns the ciphers that this CPU does well, best first.
fn ciphers() -> Vec<Cipher> {
    #[cfg(target_arch = "x86_64")]
    let aes = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let aes = std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let aes = false;
    if aes { vec![Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] } else { vec![Cipher::ChaCha20Poly1305] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_the_host_uses_is_refused_and_our_own_routes_are_not() {
        let range: Ipv4Net = "10.32.0.0/12".parse().expect("valid");
        let route = |destination: &str, interface: &str| HostRoute {
            destination: destination.parse().expect("valid"),
            interface: interface.into(),
        };
        let own = ["weft".to_owned()];
        let fine = [route("192.168.0.0/16", "eth0"), route("10.32.0.0/12", "weft"), route("fd00::/8", "eth0")];
        refuse_collision(range, &fine, &own).expect("no collision");
        for bad in [route("10.33.0.0/24", "eth0"), route("10.0.0.0/8", "eth0")] {
            let error = refuse_collision(range, std::slice::from_ref(&bad), &own).expect_err("refused").to_string();
            assert!(error.contains(&bad.destination.to_string()) && error.contains("eth0"), "{error}");
        }
    }
}
