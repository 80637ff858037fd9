//! Forwarding to the host's resolvers.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{LowerName, Name, Record},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
};
use tokio::{
    sync::Semaphore,
    time::{interval, timeout},
};
use weft_dns_core::Zone;
use weft_resolvers::{ReadError, Resolvers};

use crate::{Config, metrics::Outcome, problems::Part, state::State};

/// How long a client waits at most for what others have to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long one resolver may take before the next is asked too.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the file is looked at.
const RELOAD: Duration = Duration::from_secs(1);

/// Most queries that wait for resolvers at a time; more are answered with SERVFAIL at once, which clients retry.
const MAX_IN_FLIGHT: usize = 512;

/// Most answers kept.
const CACHED_ANSWERS: u64 = 8_192;

/// What the engine puts into every container.
const ENGINES_COPY: &str = "/etc/resolv.conf";

/// What the resolvers said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Forwarded {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authority: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

/// Asks the host's resolvers.
pub(crate) struct Upstream {
    state: Arc<State>,
    host_root: PathBuf,
    /// As seen from the host's root.
    resolv_conf: PathBuf,
    /// Given by hand; then the file does not count.
    fixed: Vec<SocketAddr>,
    /// Our own addresses: forwarding to them would never end.
    own: Vec<SocketAddr>,
    current: ArcSwap<Current>,
    in_flight: Semaphore,
}

struct Current {
    servers: Vec<SocketAddr>,
    /// Absent while there is no server.
    resolver: Option<TokioResolver>,
}

impl Upstream {
    pub(crate) async fn new(config: &Config, state: Arc<State>) -> Self {
        let anycast = SocketAddr::new(Zone::server_address().into(), 53);
        let upstream = Self {
            state,
            host_root: config.host_root.clone(),
            resolv_conf: config.resolv_conf.clone(),
            fixed: config.upstreams.clone(),
            own: config.listen.into_iter().chain([anycast]).collect(),
            current: ArcSwap::from_pointee(Current { servers: Vec::new(), resolver: None }),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        };
        upstream.load(true).await;
        upstream
    }

    /// Follows changes of the file. Never returns.
    pub(crate) async fn watch(&self) {
        let mut tick = interval(RELOAD);
        loop {
            tick.tick().await;
            self.load(false).await;
        }
    }

    /// Returns the resolvers in use, in order of preference.
    pub(crate) fn servers(&self) -> Vec<SocketAddr> {
        self.current.load().servers.clone()
    }

    /// Returns how many queries wait for resolvers.
    pub(crate) fn in_flight(&self) -> usize {
        MAX_IN_FLIGHT.saturating_sub(self.in_flight.available_permits())
    }

    /// Answers a query by asking the resolvers, or from what they said before. Answers within 5 s.
    pub(crate) async fn resolve(&self, query: &Query) -> Forwarded {
        let Some(resolver) = self.current.load().resolver.clone() else {
            self.state.metrics.forwarded(Outcome::NoUpstream);
            return Forwarded::failed(ResponseCode::ServFail);
        };
        let Ok(_permit) = self.in_flight.try_acquire() else {
            self.state.metrics.forwarded(Outcome::Overload);
            tracing::debug!(limit = MAX_IN_FLIGHT, "too many queries wait for resolvers");
            return Forwarded::failed(ResponseCode::ServFail);
        };
        let outcome = timeout(DEADLINE, resolver.lookup(query.name().clone(), query.query_type())).await;
        self.state.metrics.forwarded(match &outcome {
            // Resolvers that say no have answered; one that fails says SERVFAIL.
            Ok(Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)))) => Outcome::Failed,
            Ok(Ok(_) | Err(NetError::Dns(DnsError::NoRecordsFound(_) | DnsError::ResponseCode(_)))) => {
                Outcome::Answered
            }
            Ok(Err(_)) => Outcome::Failed,
            Err(_) => Outcome::Timeout,
        });
        match outcome {
            Ok(Ok(lookup)) => {
                let mut forwarded = Forwarded {
                    code: lookup.message().metadata.response_code,
                    answers: lookup.answers().to_vec(),
                    authority: lookup.authorities().to_vec(),
                    additionals: lookup.additionals().to_vec(),
                };
                // The first to ask may have written the name otherwise.
                let asked = LowerName::new(query.name());
                let same = forwarded.answers.iter_mut().filter(|record| LowerName::new(&record.name) == asked);
                same.for_each(|record| record.name = query.name().clone());
                forwarded
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => Forwarded {
                code: none.response_code,
                answers: Vec::new(),
                authority: none.soa.map(|soa| (*soa).into_record_of_rdata()).into_iter().collect(),
                additionals: Vec::new(),
            },
            Ok(Err(NetError::Dns(DnsError::ResponseCode(code)))) => Forwarded::failed(code),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the resolvers did not answer");
                Forwarded::failed(ResponseCode::ServFail)
            }
            Err(_) => {
                tracing::debug!("the resolvers did not answer in time");
                Forwarded::failed(ResponseCode::ServFail)
            }
        }
    }

    /// Reads which resolvers to use, and starts to use them if they are others than before. What can no longer be read may
    /// still work: then those before are used on.
    async fn load(&self, first: bool) {
        let problems = &self.state.problems;
        let servers = match self.wanted().await {
            Ok(servers) => servers,
            Err(why) if self.current.load().resolver.is_none() => {
                problems.set(
                    Part::Upstream,
                    format!("names outside of the domain cannot be resolved: {why}; name a resolver there, or with --upstream"),
                );
                return;
            }
            Err(why) => {
                let used: Vec<_> = self.servers().iter().map(ToString::to_string).collect();
                let used = used.join(", ");
                problems.set(
                    Part::Resolvers,
                    format!(
                        "changes of the host's resolvers are not followed: {why}; those before ({used}) are still asked"
                    ),
                );
                return;
            }
        };
        problems.clear(Part::Resolvers);
        if !first && servers == self.current.load().servers {
            return;
        }
        tracing::info!(?servers, "forwarding to these resolvers");
        match resolver(&servers) {
            Ok(resolver) => {
                self.current.store(Arc::new(Current { servers, resolver: Some(resolver) }));
                problems.clear(Part::Upstream);
            }
            Err(error) => {
                problems.set(Part::Upstream, format!("names outside of the domain cannot be resolved: {error}"));
            }
        }
    }

    /// Returns the resolvers to use, at least one.
    async fn wanted(&self) -> Result<Vec<SocketAddr>, String> {
        let (listed, ignored) = if self.fixed.is_empty() {
            let Resolvers { servers, ignored, .. } = self.read().await?;
            (servers.into_iter().map(|address| SocketAddr::new(address, 53)).collect(), ignored)
        } else {
            (self.fixed.clone(), Vec::new())
        };
        let mut servers = Vec::new();
        for server in listed {
            if !self.own.contains(&server) && !servers.contains(&server) {
                servers.push(server);
            }
        }
        match ignored.first() {
            _ if !servers.is_empty() => Ok(servers),
            _ if !self.fixed.is_empty() => Err("--upstream names weft's own name server only".to_owned()),
            Some((line, text)) => Err(format!(
                "line {line} of {} ({text:?}) names nothing that can be asked, and no other line does",
                self.resolv_conf.display()
            )),
            None => Err(format!("{} names no resolver beside weft's own", self.resolv_conf.display())),
        }
    }

    /// Reads the resolvers that the host's file lists.
    ///
    /// Where it leads out of what is seen of the host, the engine's copy of it counts, made when this container started.
    async fn read(&self) -> Result<Resolvers, String> {
        let (root, path) = (self.host_root.clone(), self.resolv_conf.clone());
        let read = move || match weft_resolvers::read(&root, &path) {
            Err(dangling @ ReadError::Dangling { .. }) => {
                weft_resolvers::read(Path::new("/"), Path::new(ENGINES_COPY)).map_err(|_| dangling)
            }
            read => read,
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?;
        read.map_err(|error| error.to_string())
    }
}

impl Forwarded {
    fn failed(code: ResponseCode) -> Self {
        Self { code, answers: Vec::new(), authority: Vec::new(), additionals: Vec::new() }
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    let config = ResolverConfig::from_parts(None::<Name>, Vec::new(), servers.iter().map(server).collect());
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = PATIENCE;
    options.attempts = 2;
    options.cache_size = CACHED_ANSWERS;
    options.use_hosts_file = ResolveHosts::Never;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.num_concurrent_reqs = 1;
    options.try_tcp_on_error = true;
    // The limit above bounds the load; a lower one on each connection would only fail queries.
    options.max_active_requests = MAX_IN_FLIGHT;
    builder.build()
}
