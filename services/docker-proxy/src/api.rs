//! The gRPC service: what `weft ps`, `attach` and `detach` ask for.

use std::time::Duration;

use tokio::sync::watch;
use tonic::{Request, Response, Status};
use weft_docker_proxy_core::{
    AddressArgument, Container,
    address::parse_words,
    eligibility,
    workflow::{self, Goal},
};
use weft_proto::{
    common::v1::{IpPrefix, Problem},
    proxy::v1::{
        self as pb, AttachRequest, AttachResponse, ContainerState, DetachRequest, DetachResponse, GetStatusRequest,
        GetStatusResponse, ListContainersRequest, ListContainersResponse, container_service_server::ContainerService,
    },
};
use weft_types::{AllowedAddresses, MacAddress};

use crate::{
    attach::Attacher,
    chosen::Choices,
    driver::View,
    listener::Offer,
    services::{Services, prefixes},
    watcher::EngineState,
};

/// Serves the contract `weft.proxy.v1`.
#[derive(Debug)]
pub struct Api {
    attacher: Attacher,
    services: Services,
    engine: watch::Receiver<EngineState>,
    engine_socket: String,
    offers: Vec<Offer>,
    /// Why Weave Net's HTTP API is not offered, if it should be.
    http_problem: watch::Receiver<Option<String>>,
}

impl Api {
    /// Makes the service. `offers` is where the Docker API is offered, best first; `http_problem`, why Weave Net's HTTP API is not.
    #[must_use]
    pub const fn new(
        attacher: Attacher,
        services: Services,
        engine: watch::Receiver<EngineState>,
        engine_socket: String,
        offers: Vec<Offer>,
        http_problem: watch::Receiver<Option<String>>,
    ) -> Self {
        Self { attacher, services, engine, engine_socket, offers, http_problem }
    }

    async fn running(&self, name: &str) -> Result<(Container, u32), Status> {
        let found = self.attacher.engine.container(name).await;
        let container = found.map_err(|error| Status::unavailable(format!("{error:#}")))?;
        let container = container.ok_or_else(|| Status::not_found(format!("there is no container \"{name}\"")))?;
        let pid = container
            .pid
            .ok_or_else(|| Status::failed_precondition(format!("container {name} does not run: start it first")))?;
        Ok((container, pid))
    }
}

fn listener(offer: Offer) -> pb::Listener {
    let Offer { address, tls, client_certificates } = offer;
    pb::Listener { address, tls, client_certificates }
}

fn arguments(words: &[String]) -> Result<Vec<AddressArgument>, Status> {
    parse_words(words.iter().map(String::as_str)).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn choices(choices: pb::Choices) -> Result<Choices, Status> {
    let pb::Choices { allowed_addresses, names, rewrite_hosts, extra_hosts, multicast_route } = choices;
    let allowed = allowed_addresses.as_deref().map(str::parse::<AllowedAddresses>).transpose();
    let allowed =
        allowed.map_err(|error| Status::invalid_argument(format!("the allowed addresses make no sense: {error}")))?;
    Ok(Choices { allowed, names, rewrite_hosts, extra_hosts, multicast_route })
}

#[tonic::async_trait]
impl ContainerService for Api {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        let engine = self.engine.borrow().clone();
        let views = self.attacher.driver.list().await;
        let engine_problem = engine.problem.map(|message| problem("engine_away", message, Duration::ZERO));
        let http_problem = self.http_problem.borrow().clone();
        let http_problem = http_problem.map(|message| problem("no_http_api", message, Duration::ZERO));
        let problems =
            engine_problem.into_iter().chain(views.iter().filter_map(view_problem)).chain(http_problem).collect();
        Ok(Response::new(GetStatusResponse {
            version: weft_service::VERSION.to_owned(),
            listeners: self.offers.iter().cloned().map(listener).collect(),
            engine_socket: self.engine_socket.clone(),
            engine_version: engine.version.version,
            engine_api_version: engine.version.api_version,
            attached_containers: views.iter().filter(|view| view.status.attached).count() as u64,
            problems,
        }))
    }

    async fn list_containers(
        &self,
        _: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        let containers = self.attacher.driver.list().await.into_iter().map(container).collect();
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<AttachResponse>, Status> {
        let request = request.into_inner();
        let addresses = arguments(&request.addresses)?;
        let (container, pid) = self.running(&request.container).await?;
        if let Some(refusal) = eligibility::refuses_attaching(&container) {
            return Err(Status::failed_precondition(refusal));
        }
        let choices = choices(request.choices.unwrap_or_default())?;
        if choices.allowed.is_none() {
            eligibility::allowed_addresses(&container).map_err(Status::failed_precondition)?;
        }
        let names = self.attacher.names(&container);
        let goal = Goal { pid, addresses, names, unhealthy: container.unhealthy };
        let attached = self.attacher.driver.add(container, goal, choices, self.attacher.patience()).await;
        let addresses = attached.map_err(Status::failed_precondition)?;
        if addresses.is_empty() {
            return Err(Status::failed_precondition(format!("container {} ended meanwhile", request.container)));
        }
        Ok(Response::new(AttachResponse { addresses: messages(&addresses) }))
    }

    async fn detach(&self, request: Request<DetachRequest>) -> Result<Response<DetachResponse>, Status> {
        let request = request.into_inner();
        let mut addresses = if request.addresses.is_empty() { Vec::new() } else { arguments(&request.addresses)? };
        if addresses.contains(&AddressArgument::Default)
            && let Ok(Some(subnet)) = self.services.clone().default_subnet().await
        {
            // An address may have been asked for in other words, or by a proxy that ended since.
            addresses.push(AddressArgument::Subnet(subnet));
        }
        let (container, pid) = self.running(&request.container).await?;
        let held = |views: Vec<View>| {
            let view = views.into_iter().find(|view| view.container.id == container.id);
            view.map(|view| view.status.addresses).unwrap_or_default()
        };
        let driver = &self.attacher.driver;
        let before = held(driver.list().await);
        let removing = driver.remove(container.id.clone(), pid, addresses);
        if tokio::time::timeout(self.attacher.patience(), removing).await.is_err() {
            let container = &request.container;
            return Err(Status::unavailable(format!(
                "container {container} still has what it is to lose, because a service of weft does not answer \
                 (`docker compose ps` says which): it is taken when the service is back"
            )));
        }
        let after = held(driver.list().await);
        let removed: Vec<_> = before.into_iter().filter(|address| !after.contains(address)).collect();
        Ok(Response::new(DetachResponse { removed: messages(&removed) }))
    }
}

fn messages(addresses: &[workflow::DualAddress]) -> Vec<IpPrefix> {
    prefixes(addresses).into_iter().map(Into::into).collect()
}

fn container(view: View) -> pb::Container {
    let problem = view_problem(&view);
    let state = if view.status.attached { ContainerState::Attached } else { ContainerState::Attaching };
    pb::Container {
        container_id: view.container.id.to_string(),
        mac: Some(MacAddress::of_container(&view.container.id).into()),
        addresses: messages(&view.status.addresses),
        name: view.container.name,
        state: state.into(),
        dns_names: view.status.names,
        problem,
    }
}

fn view_problem(view: &View) -> Option<Problem> {
    let (message, _) = view.status.problem.as_ref()?;
    let name = &view.container.name;
    let message = format!("container {name} is not attached: {message}");
    Some(problem("not_attached", message, view.problem_age.unwrap_or_default()))
}

fn problem(reason: &str, message: String, age: Duration) -> Problem {
    Problem { reason: reason.to_owned(), message, age_seconds: age.as_secs() }
}
