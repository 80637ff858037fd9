//! What docker-proxy measures: names, units and help are defined here and nowhere else.

use std::{sync::Arc, time::Duration};

use tonic::Request;
use weft_docker_proxy_core::Call;
use weft_metrics::{Collect, Counter, Family, Gauge, Histogram, Label, Registry, Sheet, Unit};
use weft_proto::proxy::v1::{
    ContainerState, GetStatusRequest, ListContainersRequest, container_service_server::ContainerService,
};

use crate::api::Api;

const CALL: Label = Label::new(
    "call",
    "`create`, `start`, `restart`, `control` (stop, kill, pause, remove), `exec`, `inspect`, `list`, `commit`, `other`",
);

const REQUESTS: Family = Family::counter(
    "weft_docker_proxy_requests_total",
    Unit::Count,
    "Calls of the Docker API that were answered, by what was called and how it ended.",
)
.by(&[CALL, Label::new("result", "class of the HTTP status: `1xx` (a stream began), `2xx`, `3xx`, `4xx`, `5xx`")]);

const ADDED: Family = Family::histogram(
    "weft_docker_proxy_added_duration_seconds",
    Unit::Seconds,
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
    "How long weft held up calls beside the time that the engine took; of starts, what attaching took.",
)
.by(&[CALL]);

const CLIENTS: Family =
    Family::gauge("weft_docker_proxy_clients", Unit::Count, "Connections of clients that are open.");

const CONTAINERS: Family = Family::gauge(
    "weft_docker_proxy_containers",
    Unit::Count,
    "Containers that are, or ought to be, attached: by whether they are, or are tried again after a failure.",
)
.by(&[Label::new("state", "`attached`, `attaching`, `failing`")]);

const ENGINE_UP: Family =
    Family::gauge("weft_docker_proxy_engine_up", Unit::Truth, "Whether the Docker Engine answers.");

/// All that docker-proxy measures beside what all services do.
pub const FAMILIES: &[Family] = &[REQUESTS, ADDED, CLIENTS, CONTAINERS, ENGINE_UP];

const CALLS: [&str; 9] = ["create", "start", "restart", "control", "exec", "inspect", "list", "commit", "other"];
const RESULTS: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts what clients ask for. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Arc<[[Counter; RESULTS.len()]; CALLS.len()]>,
    added: Arc<[Histogram; CALLS.len()]>,
    clients: Gauge,
}

impl Metrics {
    /// Makes the registry and what counts in it.
    #[must_use]
    pub fn new() -> (Registry, Self) {
        let registry = Registry::new(weft_proto::client::Service::DockerProxy.name(), weft_service::VERSION, FAMILIES);
        let requests = CALLS.map(|call| RESULTS.map(|result| registry.counter(&REQUESTS, &[call, result])));
        let added = CALLS.map(|call| registry.histogram(&ADDED, &[call]));
        let clients = registry.gauge(&CLIENTS, &[]);
        (registry, Self { requests: Arc::new(requests), added: Arc::new(added), clients })
    }

    /// Counts a call that was answered with this status, and for how long it was held up.
    pub fn answered(&self, call: &Call, status: u16, added: Duration) {
        let call = index(call);
        let result = usize::from(status / 100).clamp(1, RESULTS.len()) - 1;
        self.requests[call][result].increment(1);
        self.added[call].record(added);
    }

    /// Counts a client until what is returned is dropped.
    #[must_use]
    pub fn client(&self) -> Client {
        self.clients.increment(1.0);
        Client(self.clients.clone())
    }
}

const fn index(call: &Call) -> usize {
    match call {
        Call::Create { .. } => 0,
        Call::Start { .. } => 1,
        Call::Restart { .. } => 2,
        Call::Control { .. } => 3,
        Call::Exec { .. } => 4,
        Call::Inspect { .. } => 5,
        Call::List => 6,
        Call::Commit { .. } => 7,
        Call::Top | Call::DiskUsage | Call::Other => 8,
    }
}

/// A client that is counted.
#[derive(Debug)]
pub struct Client(Gauge);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Asks the service itself at each scrape.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) api: Arc<Api>,
}

#[tonic::async_trait]
impl Collect for Collector {
    async fn collect(&self, sheet: &mut Sheet) {
        let Ok(status) = self.api.get_status(Request::new(GetStatusRequest {})).await else { return };
        let problems = status.into_inner().problems;
        sheet.problems(problems.iter().map(|problem| (problem.reason.as_str(), problem.age_seconds as f64)));
        let engine_away = problems.iter().any(|problem| problem.reason == "engine_away");
        sheet.set(&ENGINE_UP, &[], if engine_away { 0.0 } else { 1.0 });
        let Ok(list) = self.api.list_containers(Request::new(ListContainersRequest {})).await else { return };
        let (mut attached, mut attaching, mut failing) = (0, 0, 0);
        for container in list.into_inner().containers {
            match (container.problem, container.state == i32::from(ContainerState::Attached)) {
                (_, true) => attached += 1,
                (None, false) => attaching += 1,
                (Some(_), false) => failing += 1,
            }
        }
        for (state, count) in [("attached", attached), ("attaching", attaching), ("failing", failing)] {
            sheet.count(&CONTAINERS, &[state], count);
        }
    }
}
