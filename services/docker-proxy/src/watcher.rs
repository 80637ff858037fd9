//! Watches the engine and the other services, so that what is attached follows what runs.

mod inspections;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Context;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_docker_proxy_core::{
    events,
    reconcile::{Action, Observed, reconcile},
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

/// What a comparison begins with.
#[derive(Debug)]
struct Seen {
    /// All containers of the engine, and whether each runs.
    containers: BTreeMap<ContainerId, bool>,
    observed: Observed,
    /// All services said what they hold.
    complete: bool,
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
        self.attacher.starts.clear();
        let mut inspections = Inspections::new(self.engine.clone(), self.services.clone());
        // At most one at a time; events are read meanwhile.
        let mut looking = JoinSet::new();
        looking.spawn(self.look());
        let mut complete = true;
        let mut retry = tokio::time::interval(RETRY);
        retry.reset();
        let mut line = Vec::new();
        loop {
            tokio::select! {
                read = next_events(&mut stream, &mut line) => match read? {
                    Some(events) => {
                        for event in events {
                            self.note(&mut inspections, event).await;
                        }
                    }
                    None => return Ok(()),
                },
                found = inspections.next() => self.handle(found?).await,
                Some(seen) = looking.join_next() => {
                    let seen = seen.context("a comparison was cut short")??;
                    complete = seen.complete;
                    self.compare(&mut inspections, &seen).await;
                    retry.reset();
                }
                Some(()) = self.again.recv(), if looking.is_empty() => {
                    looking.spawn(self.look());
                }
                _ = retry.tick(), if !complete && looking.is_empty() => {
                    looking.spawn(self.look());
                }
            }
        }
    }

    /// Takes note of an event. What is to be done about it is decided by what the container is like by then: events lag
    /// behind the calls that cause them. What is known without, is not inspected.
    async fn note(&self, inspections: &mut Inspections, event: events::Event) {
        let Attacher { driver, starts, .. } = &self.attacher;
        let (id, news) = match event {
            events::Event::Started(id) => {
                if starts.handle_started(&id) {
                    return;
                }
                (id, News { started: true, ..News::default() })
            }
            events::Event::Died(id) => {
                starts.handle_died(&id);
                if !inspections.is_under_way(&id) && driver.ended(id.clone()).await {
                    return;
                }
                (id, News { died: true, ..News::default() })
            }
            events::Event::Destroyed(id) => (id, News { destroyed: true, ..News::default() }),
            events::Event::Renamed(id, _) | events::Event::HealthChanged(id, _) | events::Event::NetworkChanged(id) => {
                let known = inspections.is_under_way(&id) || starts.is_looking(&id);
                if starts.will_look(&id) || !known && !driver.has_process(id.clone()).await {
                    return;
                }
                (id, News { changed: true, ..News::default() })
            }
            events::Event::Other => return,
        };
        inspections.begin(id, news);
    }

    async fn handle(&self, Found { id, news, container, held }: Found) {
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
                if let Some(container) = found {
                    self.attacher.adopt(container.clone(), held).await;
                }
            }
        }
        if let Some(container) = container.filter(|_| news.changed) {
            let names = self.attacher.names(&container);
            driver.changed(container, names).await;
        }
    }

    /// Asks what the services hold and what the engine has.
    fn look(&self) -> impl Future<Output = anyhow::Result<Seen>> + use<> {
        let (engine, driver, mut services) = (self.engine.clone(), self.attacher.driver.clone(), self.services.clone());
        async move {
            // First what is held, then what exists: a container made in between holds nothing yet, and keeps what it gets.
            let (attached, allocated, registered) =
                (services.attached().await, services.allocated().await, services.registered().await);
            let complete = attached.is_ok() && allocated.is_ok() && registered.is_ok();
            let mut attachments = attached.unwrap_or_default();
            attachments.extend(driver.list().await.into_iter().map(|view| view.container.id));
            let allocations = allocated.unwrap_or_default();
            let observed = Observed { attachments, allocations, registrations: registered.unwrap_or_default() };
            let listed = engine.containers().await?.into_iter();
            let containers = listed.filter_map(|(id, runs)| Some((id.parse().ok()?, runs))).collect();
            Ok(Seen { containers, observed, complete })
        }
    }

    /// Compares what the engine runs with what the services hold, and has set right what differs.
    async fn compare(&self, inspections: &mut Inspections, seen: &Seen) {
        for action in reconcile(&seen.containers, &seen.observed) {
            match action {
                Action::Runs(id) => inspections.compare(id, News { started: true, ..News::default() }),
                Action::Died(id) => inspections.compare(id, News { died: true, ..News::default() }),
                Action::Removed(id) => self.attacher.driver.removed(id).await,
            }
        }
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

#[cfg(test)]
mod tests;
