//! Answers the few calls that weft looks into.

use std::{sync::Arc, time::Duration};

use http::Method;
use tokio::{sync::OnceCell, time::Instant};
use weft_docker_proxy_core::{
    AddressArgument, Call, CreateRequest, Decision, ImageConfig, Network, commit, create,
    eligibility::{self, Policy},
    inspect::Inspection,
    list, route, top,
};
use weft_engine::encode;
use weft_service::trace::Span;

use crate::{
    attach::Attacher,
    creations::{Creation, Creations},
    engine::Engine,
    metrics::Metrics,
    relay::{Answer, Interceptor, Request, ResponseHead},
    traces,
};

/// The status with which calls for weft's own services are refused.
const FORBIDDEN: u16 = 403;

/// What holds for all containers.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is put into each container that is attached.
    pub create: create::Options,
    /// Which are.
    pub policy: Policy,
    /// Show the overlay's address where a container is inspected.
    pub rewrite_inspect: bool,
}

/// Looks into calls that create, start and show containers.
#[derive(Debug, Clone)]
pub struct Intercept {
    engine: Engine,
    attacher: Attacher,
    options: Arc<Options>,
    user_namespaces: Arc<OnceCell<bool>>,
    metrics: Metrics,
    creations: Creations,
}

impl Intercept {
    /// Makes one.
    #[must_use]
    pub fn new(engine: Engine, attacher: Attacher, options: Options, metrics: Metrics) -> Self {
        Self {
            engine,
            attacher,
            options: Arc::new(options),
            user_namespaces: Arc::default(),
            metrics,
            creations: Creations::default(),
        }
    }

    /// Counts a client until what is returned is dropped.
    #[must_use]
    pub fn client(&self) -> crate::metrics::Client {
        self.metrics.client()
    }

    async fn create(&self, request: &Request, name: Option<&str>, span: &Span) -> anyhow::Result<Answer> {
        let create = match CreateRequest::parse(&request.body, name) {
            Ok(create) => create,
            Err(error) => return Ok(Answer::error(400, &error.to_string())),
        };
        let Some(image) = self.image(&create).await? else {
            return self.pass(request, &request.body).await;
        };
        let driver = match create.network() {
            Network::Named(name) => self.network_driver(&name).await?,
            Network::Bridge | Network::None | Network::Host | Network::Container => None,
        };
        match eligibility::of_request(&create, &image, driver.as_deref(), &self.options.policy) {
            Decision::Refuse { message } => Ok(Answer::error(400, &message)),
            Decision::LeaveAlone { reason } => {
                tracing::debug!(%reason, "a container is created without weft");
                let answer = self.pass(request, &request.body).await?;
                self.note_created(&answer, name, None, span);
                Ok(answer)
            }
            Decision::Attach { addresses } => {
                let user_namespaces = self.user_namespaces().await?;
                match create::rewrite(&create, &image, &self.options.create, user_namespaces) {
                    Ok(body) => {
                        let answer = self.pass(request, &body).await?;
                        self.note_created(&answer, name, Some(addresses), span);
                        Ok(answer)
                    }
                    Err(reason) => {
                        tracing::debug!(%reason, "a request is left as it is, because the engine will refuse it");
                        self.pass(request, &request.body).await
                    }
                }
            }
        }
    }

    /// Remembers the container that the engine created, for its start.
    fn note_created(&self, answer: &Answer, name: Option<&str>, addresses: Option<Vec<AddressArgument>>, span: &Span) {
        #[derive(serde::Deserialize)]
        struct Body {
            #[serde(rename = "Id")]
            id: String,
        }
        let body = (answer.status() == 201).then(|| serde_json::from_slice::<Body>(&answer.body).ok()).flatten();
        if let Some(container) = body.and_then(|body| body.id.parse().ok()) {
            let name = name.unwrap_or_default().to_owned();
            traces::about(span, &container, &name);
            self.creations.add(Creation { container, name, addresses, call: span.parent() }, Instant::now());
        }
    }

    /// Tells whether the engine remaps users. It ends with its socket when that changes, and so does this service.
    async fn user_namespaces(&self) -> anyhow::Result<bool> {
        let ask = async || {
            let answer = self.engine.get("/info").await?;
            let info: serde_json::Value = serde_json::from_slice(&answer.body)?;
            let options = info["SecurityOptions"].as_array().map(Vec::as_slice).unwrap_or_default();
            anyhow::Ok(options.iter().filter_map(|option| option.as_str()).any(|option| option.contains("name=userns")))
        };
        self.user_namespaces.get_or_try_init(ask).await.copied()
    }

    /// Returns the configuration of the request's image; nothing if there is no such image.
    async fn image(&self, create: &CreateRequest) -> anyhow::Result<Option<ImageConfig>> {
        let Some(name) = create.image() else { return Ok(None) };
        let answer = self.engine.get(&format!("/images/{}/json", encode(name))).await?;
        Ok((answer.status == 200).then(|| ImageConfig::parse(&answer.body)).transpose()?)
    }

    async fn network_driver(&self, name: &str) -> anyhow::Result<Option<String>> {
        let answer = self.engine.get(&format!("/networks/{}", encode(name))).await?;
        let network: Option<serde_json::Value> =
            (answer.status == 200).then(|| serde_json::from_slice(&answer.body)).transpose()?;
        Ok(network.and_then(|network| Some(network.get("Driver")?.as_str()?.to_owned())))
    }

    /// Lets the engine start a container, and answers when it has its network.
    async fn start(
        &self,
        request: &Request,
        name: &str,
        created: Option<Creation>,
        span: &Span,
    ) -> anyhow::Result<Answer> {
        let new = created.is_some();
        let (id, name, addresses, runs) = match created {
            // It is not one of weft's own: those are not created through the proxy.
            Some(Creation { container, name, addresses, .. }) => (container, name, addresses, false),
            None => {
                let Some(container) = self.engine.container(name).await? else {
                    return self.pass(request, &request.body).await;
                };
                if let Some(message) = eligibility::refuses_control(&container, &self.options.policy.engine_socket) {
                    traces::about(span, &container.id, &container.name);
                    return Ok(Answer::error(FORBIDDEN, &message));
                }
                let addresses = match self.attacher.decide(&container) {
                    Decision::Attach { addresses } => Some(addresses),
                    Decision::LeaveAlone { .. } | Decision::Refuse { .. } => None,
                };
                let runs = container.pid.is_some();
                (container.id, container.name, addresses, runs)
            }
        };
        traces::about(span, &id, &name);
        let Some(addresses) = addresses else { return self.pass(request, &request.body).await };
        let driver = &self.attacher.driver;
        if !runs {
            // While the engine makes namespaces, ipam writes to its disk.
            driver.prepare(id.clone(), addresses, new).await;
        }
        let starting = self.attacher.starts.begin(&id);
        let forwarded = self.forward(request, &request.body).await;
        if !forwarded.as_ref().is_ok_and(|(response, _)| response.status == 204) {
            driver.not_started(id.clone()).await;
        }
        let (response, body) = forwarded?;
        let answer = Answer::of_engine(&response, body);
        if response.status != 204 {
            return Ok(answer);
        }
        starting.looking();
        match self.attacher.started(&id, starting).await {
            Ok(_) => Ok(answer),
            Err(reason) => {
                let name = if name.is_empty() { id.short() } else { &name };
                // It waits for a network that does not come: it must not be left behind.
                if let Err(error) = self.engine.kill(id.as_str()).await {
                    tracing::warn!(container = id.short(), "failed to stop the container: {error:#}");
                }
                Ok(Answer::error(500, &format!("weft could not attach container {name} and stopped it: {reason}")))
            }
        }
    }

    /// Lets the engine end, hold up or remove a container that is not one of weft's own.
    async fn control(&self, request: &Request, name: &str, span: &Span) -> anyhow::Result<Answer> {
        let container = self.engine.container(name).await?;
        if let Some(container) = &container {
            traces::about(span, &container.id, &container.name);
        }
        match container
            .and_then(|container| eligibility::refuses_control(&container, &self.options.policy.engine_socket))
        {
            Some(message) => Ok(Answer::error(FORBIDDEN, &message)),
            None => self.pass(request, &request.body).await,
        }
    }

    /// Lets the engine run a process beside the container's own once the container has its network; for a container that gets
    /// none in time the process may be what finds out why.
    async fn exec(&self, request: &Request, name: &str, span: &Span) -> anyhow::Result<Answer> {
        let driver = &self.attacher.driver;
        if !driver.is_attached(name.to_owned()).await
            && let Some(container) = self.engine.container(name).await?
            && let Some(goal) = self.attacher.goal(&container)
        {
            traces::about(span, &container.id, &container.name);
            let attached = tokio::time::timeout(self.attacher.patience(), driver.kept(container, goal)).await;
            if !matches!(attached, Ok(Ok(_))) {
                tracing::debug!(container = name, ?attached, "a process starts in a container without its network");
            }
        }
        self.pass(request, &request.body).await
    }

    async fn inspect(&self, request: &Request) -> anyhow::Result<Answer> {
        let (response, body) = self.forward(request, &request.body).await?;
        let inspection = (response.status == 200).then(|| Inspection::restore(&body).ok()).flatten();
        let Some(mut inspection) = inspection else { return Ok(Answer::of_engine(&response, body)) };
        if self.options.rewrite_inspect
            && let Some(container) = inspection.container()
            && let Some(address) = self.attacher.driver.address(container.clone()).await
        {
            inspection.show(&container, address);
        }
        Ok(Answer::of_engine(&response, inspection.into_reply().unwrap_or(body)))
    }

    /// Passes a request on, and takes the waiting program out of what the engine shows.
    async fn restored<E>(
        &self,
        request: &Request,
        restore: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, E> + Send,
    ) -> anyhow::Result<Answer> {
        let (response, body) = self.forward(request, &request.body).await?;
        let restored = (response.status == 200).then(|| restore(&body).ok().flatten()).flatten();
        Ok(Answer::of_engine(&response, restored.unwrap_or(body)))
    }

    async fn commit(&self, request: &Request, name: &str) -> anyhow::Result<Answer> {
        let inspected = self.engine.get(&format!("/containers/{}/json", encode(name))).await?;
        let rewritten = match inspected.status {
            200 => commit::rewrite(&inspected.body, &request.body).ok().flatten(),
            _ => None,
        };
        self.pass(request, rewritten.as_deref().unwrap_or(&request.body)).await
    }

    async fn perform(
        &self,
        call: &Call,
        request: &Request,
        created: Option<Creation>,
        span: &Span,
    ) -> anyhow::Result<Answer> {
        match call {
            Call::Create { name } => self.create(request, name.as_deref(), span).await,
            Call::Start { container } | Call::Restart { container } => {
                self.start(request, container, created, span).await
            }
            Call::Control { container } => self.control(request, container, span).await,
            Call::Exec { container } => self.exec(request, container, span).await,
            Call::Inspect { .. } => self.inspect(request).await,
            Call::List => self.restored(request, list::restore).await,
            Call::DiskUsage => self.restored(request, list::restore_disk_usage).await,
            Call::Top => self.restored(request, top::restore).await,
            Call::Commit { container } => self.commit(request, container).await,
            Call::Other => self.pass(request, &request.body).await,
        }
    }

    async fn forward(&self, request: &Request, body: &[u8]) -> anyhow::Result<(ResponseHead, Vec<u8>)> {
        let span = traces::passed_on(request, self.engine.socket());
        let forwarded = self.engine.forward(request, body).await?;
        traces::answered(&span, forwarded.0.status);
        Ok(forwarded)
    }

    async fn pass(&self, request: &Request, body: &[u8]) -> anyhow::Result<Answer> {
        let (response, body) = self.forward(request, body).await?;
        Ok(Answer::of_engine(&response, body))
    }
}

impl Interceptor for Intercept {
    fn wants(&self, method: &str, target: &str) -> bool {
        call(method, target) != Call::Other
    }

    async fn answer(&self, request: &Request) -> Answer {
        let call = call(&request.head.method, &request.head.target);
        let created =
            if let Call::Start { container } = &call { self.creations.take(container, Instant::now()) } else { None };
        let span = traces::begin(&call, request, created.as_ref().map(|created| &created.call));
        let answer = span.run(self.perform(&call, request, created, &span)).await;
        let answer = answer.unwrap_or_else(|error| Answer::error(503, &format!("{error:#}")));
        traces::answered(&span, answer.status());
        answer
    }

    fn answered(&self, method: &str, target: &str, status: u16, added: Duration) {
        self.metrics.answered(&call(method, target), status, added);
    }
}

fn call(method: &str, target: &str) -> Call {
    Method::from_bytes(method.as_bytes()).map_or(Call::Other, |method| route::classify(&method, target))
}
