//! Watches the engine and the other services, so that what is attached follows what runs.

mod inspections;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_docker_proxy_core::{
    Container, events,
    reconcile::{Action, Listed, Observed, reconcile},
    workflow::Service,
};
use weft_proto::client;
use weft_types::ContainerId;

use self::inspections::{Found, Inspections, News};
use crate::{
    attach::Attacher,
    engine::{Engine, EngineVersion},
    services::Services,
};

/// Shortest and longest pause before a lost connection is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Pause before services that did not say what they hold are asked again; that they are back is noticed before.
const RETRY: Duration = Duration::from_secs(30);

/// Longest line of the engine's event stream.
const LONGEST_EVENT: usize = 1 << 20;

/// What is known of the engine.
#[derive(Debug, Clone, Default)]
pub struct EngineState {
    /// What runs there, once it has answered.
    pub version: EngineVersion,
    /// Why it does not answer now.
    pub problem: Option<String>,
}

/// Follows the engine.
#[derive(Debug)]
pub struct Watcher {
    engine: Engine,
    attacher: Attacher,
    services: Services,
    state: watch::Sender<EngineState>,
    again: mpsc::Receiver<()>,
}

impl Watcher {
    /// Makes one. `again` asks for all to be compared anew.
    #[must_use]
    pub const fn new(
        engine: Engine,
        attacher: Attacher,
        services: Services,
        state: watch::Sender<EngineState>,
        again: mpsc::Receiver<()>,
    ) -> Self {
        Self { engine, attacher, services, state, again }
    }

    /// Follows the engine over its restarts; ends only when its socket can never work again.
    pub async fn run(mut self) {
        let mut pause = PAUSE.0;
        while !self.engine.socket_is_stale() {
            match self.follow().await {
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    let message = format!("{error:#}");
                    let changed = self.state.send_if_modified(|state| {
                        let changed = state.problem.is_none();
                        state.problem = Some(message.clone());
                        changed
                    });
                    if changed {
                        pause = PAUSE.0;
                        tracing::warn!(reason = message, "the Docker Engine is away");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Follows one event stream to its end. Listening starts before listing, so nothing happens unseen between the two.
    async fn follow(&mut self) -> anyhow::Result<()> {
        let mut stream = self.engine.events().await?;
        let version = self.engine.version().await?;
        tracing::info!(version = version.version, api = version.api_version, "the Docker Engine answers");
        self.state.send_replace(EngineState { version, problem: None });
        let mut inspections = Inspections::new(self.engine.clone());
        let mut complete = self.compare(&mut inspections).await?;
        let mut retry = tokio::time::interval(RETRY);
        retry.reset();
        let mut line = Vec::new();
        loop {
            tokio::select! {
                read = next_events(&mut stream, &mut line) => match read? {
                    Some(events) => {
                        events.into_iter().for_each(|event| Self::note(&mut inspections, event));
                    }
                    None => return Ok(()),
                },
                found = inspections.next() => self.handle(found?).await,
                Some(()) = self.again.recv() => {
                    complete = self.compare(&mut inspections).await?;
                    retry.reset();
                }
                _ = retry.tick(), if !complete => {
                    complete = self.compare(&mut inspections).await?;
                    retry.reset();
                }
            }
        }
    }

    /// Takes note of an event. What is to be done about it is decided by what the container is like by then: events lag
    /// behind the calls that cause them.
    fn note(inspections: &mut Inspections, event: events::Event) {
        let (id, news) = match event {
            events::Event::Started(id) => (id, News { started: true, ..News::default() }),
            events::Event::Died(id) => (id, News { died: true, ..News::default() }),
            events::Event::Destroyed(id) => (id, News { destroyed: true, ..News::default() }),
            events::Event::Renamed(id, _) | events::Event::HealthChanged(id, _) | events::Event::NetworkChanged(id) => {
                (id, News { changed: true, ..News::default() })
            }
            events::Event::Other => return,
        };
        inspections.begin(id, news);
    }

    async fn handle(&mut self, Found { id, news, container }: Found) {
        let driver = &self.attacher.driver;
        if news.destroyed {
            driver.removed(id).await;
            return;
        }
        match &container {
            // Its process may have ended and run again, and have its network, already.
            Some(container) if self.attacher.goal(container).is_some() => {
                if news.started || news.died {
                    self.attacher.keep(container.clone()).await;
                }
            }
            found => {
                if news.died {
                    driver.died(id.clone(), found.as_ref().and_then(|container| container.pid)).await;
                }
                // While ipam is away nothing is known; all is compared when it is back.
                if let Some(container) = found
                    && news.started
                    && let Ok(addresses) = self.services.held(&id).await
                {
                    self.attacher.adopt(container.clone(), addresses).await;
                }
            }
        }
        if let Some(container) = container.filter(|_| news.changed) {
            let names = self.attacher.names(&container);
            driver.changed(container, names).await;
        }
    }

    /// Compares what the engine runs with what the services hold, and sets right what differs. Tells whether all services
    /// said what they hold.
    async fn compare(&mut self, inspections: &mut Inspections) -> anyhow::Result<bool> {
        // First what is held, then what exists: a container made in between holds nothing yet, and keeps what it gets.
        let (attached, allocated, registered) =
            (self.services.attached().await, self.services.allocated().await, self.services.registered().await);
        let complete = attached.is_ok() && allocated.is_ok() && registered.is_ok();
        let mut attachments = attached.unwrap_or_default();
        attachments.extend(self.attacher.driver.list().await.into_iter().map(|view| view.container.id));
        let allocated = allocated.unwrap_or_default();
        let allocations = allocated.keys().cloned().collect();
        let observed = Observed { attachments, allocations, registrations: registered.unwrap_or_default() };
        let mut containers: BTreeMap<ContainerId, Container> = BTreeMap::new();
        let mut listed = BTreeMap::new();
        for (id, running) in self.engine.containers().await? {
            let Ok(id) = id.parse::<ContainerId>() else { continue };
            let inspected = if running { self.engine.container(id.as_str()).await } else { Ok(None) };
            let container = match inspected {
                Ok(container) => container,
                Err(error) => {
                    tracing::warn!(container = id.short(), "failed to inspect a container, trying again: {error:#}");
                    inspections.begin(id.clone(), News { started: true, ..News::default() });
                    listed.insert(id, Listed { running: true, attach: false });
                    continue;
                }
            };
            let attach = container.as_ref().is_some_and(|container| self.attacher.goal(container).is_some());
            listed.insert(id.clone(), Listed { running: running && container.is_some(), attach });
            containers.extend(container.map(|container| (id, container)));
        }
        for action in reconcile(&listed, &observed) {
            match action {
                Action::Start(id) => {
                    if let Some(container) = containers.remove(&id) {
                        self.attacher.keep(container).await;
                    }
                }
                Action::Died(id) => inspections.begin(id, News { died: true, ..News::default() }),
                Action::Removed(id) => self.attacher.driver.removed(id).await,
            }
        }
        // What still runs and holds addresses, was attached by hand.
        for (id, addresses) in allocated {
            if let Some(container) = containers.remove(&id) {
                self.attacher.adopt(container, addresses).await;
            }
        }
        Ok(complete)
    }
}

/// Returns the events that came, or nothing at the end of the stream.
async fn next_events(stream: &mut Incoming, line: &mut Vec<u8>) -> anyhow::Result<Option<Vec<events::Event>>> {
    let Some(frame) = stream.frame().await else { return Ok(None) };
    let mut events = Vec::new();
    for byte in frame?.into_data().unwrap_or_default() {
        if byte == b'\n' {
            events.push(events::parse(line));
            line.clear();
        } else if line.len() < LONGEST_EVENT {
            line.push(byte);
        }
    }
    Ok(Some(events))
}

/// Follows the readiness of another service for ever, and says when it is ready anew.
pub async fn watch_service(service: Service, folder: PathBuf, driver: crate::driver::Driver, again: mpsc::Sender<()>) {
    let name = match service {
        Service::Ipam => client::Service::Ipam,
        Service::Router => client::Service::Router,
        Service::Dns => client::Service::Dns,
    };
    let mut health = HealthClient::new(client::channel(&name.socket(&folder)));
    let mut pause = PAUSE.0;
    loop {
        if let Ok(answer) = health.watch(HealthCheckRequest::default()).await {
            let mut states = answer.into_inner();
            while let Ok(Some(state)) = states.message().await {
                if state.status() == ServingStatus::Serving {
                    pause = PAUSE.0;
                    tracing::debug!(service = name.name(), "a service is ready");
                    driver.service_lost(service).await;
                    // One comparison that waits already will see this service too.
                    let _ = again.try_send(());
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}
