//! Drives the workflow: one task that holds it, performs its steps, and tells those who wait.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use weft_docker_proxy_core::{
    Container, Event, Outcome, Workflow,
    address::AddressArgument,
    workflow::{DualAddress, Goal, Service, Status},
};
use weft_service::{Shutdown, trace::Parent};
use weft_types::ContainerId;

use crate::{
    chosen::{Choices, Chosen},
    detached::{Detached, Left},
    services::Services,
};

/// Requests that may wait for the task; those who send more wait too.
const QUEUE: usize = 256;

/// What came of an attachment: the addresses, or one sentence.
pub type Attached = Result<Vec<DualAddress>, String>;

/// A container with what weft shows of it.
#[derive(Debug, Clone)]
pub struct View {
    /// What the engine said when it was last asked.
    pub container: Container,
    /// What the workflow knows.
    pub status: Status,
    /// How long a problem has lasted, if there is one.
    pub problem_age: Option<Duration>,
}

#[derive(Debug)]
enum Request {
    Prepare {
        container: ContainerId,
        addresses: Vec<AddressArgument>,
        new: bool,
    },
    NotStarted {
        container: ContainerId,
    },
    Started {
        container: Box<Container>,
        goal: Goal,
        patience: Option<Duration>,
        reply: Option<oneshot::Sender<Attached>>,
    },
    Add {
        container: Box<Container>,
        goal: Goal,
        choices: Choices,
        patience: Duration,
        reply: oneshot::Sender<Attached>,
    },
    Adopt {
        container: Box<Container>,
        goal: Goal,
    },
    Remove {
        container: ContainerId,
        pid: u32,
        addresses: Vec<AddressArgument>,
        reply: oneshot::Sender<()>,
    },
    Changed {
        container: Box<Container>,
        names: Vec<String>,
    },
    Died {
        container: ContainerId,
        runs: Option<u32>,
    },
    Ended {
        container: ContainerId,
        reply: oneshot::Sender<bool>,
    },
    HasProcess {
        container: ContainerId,
        reply: oneshot::Sender<bool>,
    },
    Removed {
        container: ContainerId,
    },
    ServiceLost {
        service: Service,
    },
    List {
        reply: oneshot::Sender<Vec<View>>,
    },
    IsAttached {
        name: String,
        reply: oneshot::Sender<bool>,
    },
    Address {
        container: ContainerId,
        reply: oneshot::Sender<Option<DualAddress>>,
    },
}

impl Request {
    /// Returns the container for which something is to be done now.
    fn asks_for(&self) -> Option<&ContainerId> {
        match self {
            Self::Prepare { container, .. } | Self::NotStarted { container } | Self::Remove { container, .. } => {
                Some(container)
            }
            Self::Started { container, .. } | Self::Add { container, .. } => Some(&container.id),
            Self::Adopt { .. }
            | Self::Changed { .. }
            | Self::Died { .. }
            | Self::Ended { .. }
            | Self::HasProcess { .. }
            | Self::Removed { .. }
            | Self::ServiceLost { .. }
            | Self::List { .. }
            | Self::IsAttached { .. }
            | Self::Address { .. } => None,
        }
    }
}

/// A handle to the driver; clones share it.
#[derive(Debug, Clone)]
pub struct Driver {
    /// Each with the trace that it is part of.
    requests: mpsc::Sender<(Request, Parent)>,
}

impl Driver {
    /// Starts the task.
    #[must_use]
    pub fn spawn(services: Services, detached: Detached, chosen: Chosen, shutdown: Shutdown) -> Self {
        let (requests, received) = mpsc::channel(QUEUE);
        let state = State {
            workflow: Workflow::new(),
            services,
            facts: BTreeMap::new(),
            steps: JoinSet::new(),
            waiting: BTreeMap::new(),
            removing: BTreeMap::new(),
            traces: BTreeMap::new(),
            detached,
            chosen,
            before: BTreeMap::new(),
        };
        tokio::spawn(state.run(received, shutdown));
        Self { requests }
    }

    /// Gets addresses for a container that is about to start, for the first time if it is `new`; followed by [`start`](Self::start),
    /// [`not_started`](Self::not_started), or the container's end.
    pub async fn prepare(&self, container: ContainerId, addresses: Vec<AddressArgument>, new: bool) {
        self.send(Request::Prepare { container, addresses, new }).await;
    }

    /// Says that the engine did not start a container: what was got for it goes back.
    pub async fn not_started(&self, container: ContainerId) {
        self.send(Request::NotStarted { container }).await;
    }

    /// Gives a started container its network, and returns when it has it or `patience` is over. No addresses: the container
    /// has ended meanwhile.
    ///
    /// # Errors
    /// One sentence that says why it has none; everything was undone.
    pub async fn start(&self, container: Container, goal: Goal, patience: Duration) -> Attached {
        let (reply, answer) = oneshot::channel();
        let container = Box::new(container);
        self.send(Request::Started { container, goal, patience: Some(patience), reply: Some(reply) }).await;
        answer.await.unwrap_or_else(|_| Err(STOPPING.to_owned()))
    }

    /// As [`keep_started`](Self::keep_started), and returns when it has it; the caller decides for how long to wait. No
    /// addresses: the container has ended meanwhile.
    ///
    /// # Errors
    /// One sentence that says why it has none: something was taken from it by hand, say.
    pub async fn kept(&self, container: Container, goal: Goal) -> Attached {
        let (reply, answer) = oneshot::channel();
        let container = Box::new(container);
        self.send(Request::Started { container, goal, patience: None, reply: Some(reply) }).await;
        answer.await.unwrap_or_else(|_| Err("it was detached by hand".to_owned()))
    }

    /// Gives a running container its network; what fails is tried again for as long as it runs.
    pub async fn keep_started(&self, container: Container, goal: Goal) {
        self.send(Request::Started { container: Box::new(container), goal, patience: None, reply: None }).await;
    }

    /// Gives a running container more addresses, and has it attached as chosen. None: the container has ended meanwhile.
    ///
    /// # Errors
    /// One sentence that says why it has not got them.
    pub async fn add(&self, container: Container, goal: Goal, choices: Choices, patience: Duration) -> Attached {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Add { container: Box::new(container), goal, choices, patience, reply }).await;
        answer.await.unwrap_or_else(|_| Err(STOPPING.to_owned()))
    }

    /// Takes up again a container that was attached by hand, before this service started or in its container's earlier life.
    pub async fn adopt(&self, container: Container, goal: Goal) {
        self.send(Request::Adopt { container: Box::new(container), goal }).await;
    }

    /// Takes addresses from the process of a container; empty: all, for as long as this process runs. Returns when they
    /// are taken, which may be as late as the services are back.
    pub async fn remove(&self, container: ContainerId, pid: u32, addresses: Vec<AddressArgument>) {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Remove { container, pid, addresses, reply }).await;
        // An answer that does not come means that the service stops.
        let _ = answer.await;
    }

    /// Says that a container's names or health changed; for one that is not attached it does not matter.
    pub async fn changed(&self, container: Container, names: Vec<String>) {
        self.send(Request::Changed { container: Box::new(container), names }).await;
    }

    /// Says that a container's process ended, and which one `runs` now: the news may be old.
    pub async fn died(&self, container: ContainerId, runs: Option<u32>) {
        self.send(Request::Died { container, runs }).await;
    }

    /// Says that a container's process ended, unless the one that is known of lives: then the news is old, or not all is
    /// known, and false is returned.
    pub async fn ended(&self, container: ContainerId) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Ended { container, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Tells whether a container that is, or is to be, attached is known to have a process.
    pub async fn has_process(&self, container: ContainerId) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Request::HasProcess { container, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Says that a container was removed.
    pub async fn removed(&self, container: ContainerId) {
        self.send(Request::Removed { container }).await;
    }

    /// Says that a service came back, perhaps without its memory.
    pub async fn service_lost(&self, service: Service) {
        self.send(Request::ServiceLost { service }).await;
    }

    /// Returns all containers that are, or are to be, attached.
    pub async fn list(&self) -> Vec<View> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::List { reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Tells whether a container that a client names, by id, start of an id, or name, is attached.
    pub async fn is_attached(&self, name: String) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Request::IsAttached { name, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Returns the first address that an attached container has.
    pub async fn address(&self, container: ContainerId) -> Option<DualAddress> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Address { container, reply }).await;
        answer.await.ok().flatten()
    }

    async fn send(&self, request: Request) {
        // The task ends only when the service stops; then nobody needs an answer.
        let _ = self.requests.send((request, Parent::current())).await;
    }
}

const STOPPING: &str = "weft's docker-proxy is stopping";

struct State {
    workflow: Workflow,
    services: Services,
    /// What the engine said of each container when it was last asked.
    facts: BTreeMap<ContainerId, Container>,
    steps: JoinSet<(ContainerId, Outcome)>,
    waiting: BTreeMap<ContainerId, Vec<oneshot::Sender<Attached>>>,
    removing: BTreeMap<ContainerId, Vec<oneshot::Sender<()>>>,
    /// What the steps of containers are part of, until they are over.
    traces: BTreeMap<ContainerId, Parent>,
    detached: Detached,
    chosen: Chosen,
    /// What was chosen before what is tried now, and all names of the container.
    before: BTreeMap<ContainerId, (Choices, Vec<String>)>,
}

impl State {
    async fn run(mut self, mut requests: mpsc::Receiver<(Request, Parent)>, shutdown: Shutdown) {
        loop {
            self.drain();
            let timeout = self.workflow.poll_timeout().map(|(at, _)| at);
            tokio::select! {
                () = shutdown.requested() => break,
                Some((request, parent)) = requests.recv() => {
                    if let Some(container) = request.asks_for().filter(|_| parent.is_some()) {
                        self.traces.insert(container.clone(), parent);
                    }
                    self.handle(request, now());
                }
                Some(step) = self.steps.join_next(), if !self.steps.is_empty() => {
                    // A step that panicked is a bug of this service; its container is tried again by the time-out.
                    if let Ok((container, outcome)) = step {
                        self.workflow.handle_outcome(&container, outcome, now());
                    }
                }
                () = sleep_until(timeout), if timeout.is_some() => self.workflow.handle_timeout(now()),
            }
        }
    }

    fn handle(&mut self, request: Request, now: Instant) {
        match request {
            Request::Prepare { container, addresses, new } => self.workflow.prepare(container, addresses, new),
            Request::NotStarted { container } => self.workflow.handle_not_started(&container),
            Request::Started { container, mut goal, patience, reply } => {
                match self.detached.left(&container.id, goal.pid).filter(|_| patience.is_none()) {
                    Some(Left::Nothing) => {
                        // Taking it may have been cut short by a restart of this service.
                        self.workflow.handle_removed(&container.id);
                        return;
                    }
                    Some(Left::Asked(asked)) => goal.addresses.clone_from(asked),
                    None => self.detached.remove(&container.id),
                }
                let id = self.remember(*container);
                self.keep_names(&id, &mut goal.names);
                self.waiting.entry(id.clone()).or_default().extend(reply);
                self.workflow.handle_started(id, goal, patience.map(|patience| now + patience));
            }
            Request::Add { container, mut goal, choices, patience, reply } => {
                let id = self.remember(*container);
                let before = self.chosen.choose(&id, choices).map(|before| (before, goal.names.clone()));
                self.keep_names(&id, &mut goal.names);
                if self.detached.has(&id, goal.pid) {
                    self.detached.insert(id.clone(), goal.pid, Left::Asked(goal.addresses.clone()));
                }
                self.waiting.entry(id.clone()).or_default().push(reply);
                self.workflow.attach(id.clone(), goal, Some(now + patience));
                if let Some(before) = before {
                    self.workflow.attach_again(&id);
                    self.before.entry(id).or_insert(before);
                }
            }
            Request::Adopt { container, mut goal } => {
                let known = self.facts.get(&container.id).is_some_and(|known| known.pid == container.pid);
                if known || self.detached.has(&container.id, goal.pid) {
                    return;
                }
                let id = self.remember(*container);
                self.keep_names(&id, &mut goal.names);
                self.workflow.handle_started(id, goal, None);
            }
            Request::Remove { container, pid, addresses, reply } => {
                let all = addresses.is_empty();
                let known = self.workflow.detach(&container, &addresses);
                if all {
                    self.detached.insert(container.clone(), pid, Left::Nothing);
                } else if known {
                    self.note_left(&container, pid);
                }
                if all || known && self.workflow.status(&container).is_none() {
                    self.chosen.set(&container, Choices::default());
                }
                if all && !known {
                    // The services may hold something that nobody here has heard of yet.
                    self.workflow.handle_removed(&container);
                }
                if all || known {
                    self.removing.entry(container).or_default().push(reply);
                }
            }
            Request::Changed { container, mut names } => {
                // A newer process is announced by its start.
                if self.facts.get(&container.id).is_some_and(|known| known.pid == container.pid) {
                    let unhealthy = container.unhealthy;
                    let id = self.remember(*container);
                    self.keep_names(&id, &mut names);
                    self.workflow.handle_renamed(&id, names, unhealthy);
                }
            }
            Request::Died { container, runs } => {
                let known = self.facts.get(&container).and_then(|known| known.pid);
                if runs.is_some() && (runs == known || runs.is_some_and(|pid| self.detached.has(&container, pid))) {
                    return;
                }
                self.detached.remove(&container);
                self.workflow.handle_died(&container);
            }
            Request::Ended { container, reply } => {
                let known = self.facts.get(&container).and_then(|known| known.pid);
                let ended = known.is_some_and(|pid| !is_alive(pid));
                if ended {
                    self.detached.remove(&container);
                    self.workflow.handle_died(&container);
                }
                // Whoever asked stops with this service.
                let _ = reply.send(ended);
            }
            Request::HasProcess { container, reply } => {
                let known = self.facts.get(&container).and_then(|known| known.pid);
                // As above.
                let _ = reply.send(known.is_some_and(is_alive));
            }
            Request::Removed { container } => {
                self.detached.remove(&container);
                self.chosen.set(&container, Choices::default());
                self.workflow.handle_removed(&container);
            }
            Request::ServiceLost { service } => self.workflow.handle_service_lost(service),
            Request::List { reply } => {
                // Nobody waits any more if the client went away.
                let _ = reply.send(self.views(now));
            }
            Request::IsAttached { name, reply } => {
                let known = || self.facts.values();
                let is = |known: &&Container| known.name == name || known.id.as_str() == name;
                let starts = |known: &&Container| known.id.as_str().starts_with(name.as_str());
                // As the engine finds it.
                let named = known().find(is).or_else(|| known().find(starts));
                let attached =
                    named.and_then(|known| self.workflow.status(&known.id)).is_some_and(|status| status.attached);
                // As above.
                let _ = reply.send(attached);
            }
            Request::Address { container, reply } => {
                let attached = self.workflow.status(&container).filter(|status| status.attached);
                // As above.
                let _ = reply.send(attached.and_then(|status| status.addresses.first().copied()));
            }
        }
    }

    /// Notes what the process asks for now.
    fn note_left(&mut self, container: &ContainerId, pid: u32) {
        let asked = self.workflow.asked(container).map(<[AddressArgument]>::to_vec);
        self.detached.insert(container.clone(), pid, asked.map_or(Left::Nothing, Left::Asked));
    }

    /// Leaves a container its names, unless it was chosen to have none.
    fn keep_names(&self, container: &ContainerId, names: &mut Vec<String>) {
        if self.chosen.get(container).names == Some(false) {
            names.clear();
        }
    }

    fn remember(&mut self, container: Container) -> ContainerId {
        let id = container.id.clone();
        self.facts.insert(id.clone(), container);
        id
    }

    fn drain(&mut self) {
        while let Some((container, step)) = self.workflow.poll_step() {
            let facts = self.facts.get(&container).cloned().unwrap_or_else(|| unknown(&container));
            tracing::debug!(container = container.short(), ?step, "performing");
            let parent = self.traces.get(&container).cloned().unwrap_or_default();
            let choices = self.chosen.get(&container);
            let performed = parent.run(self.services.clone().perform(facts, choices, step));
            self.steps.spawn(async move { (container, performed.await) });
        }
        while let Some(event) = self.workflow.poll_event() {
            self.tell(event);
        }
        // Not all that is over is told: the engine may refuse a start, or have started the container before.
        self.traces.retain(|container, _| self.workflow.is_under_way(container));
    }

    fn tell(&mut self, event: Event) {
        let (Event::Ready { container, .. } | Event::Failed { container, .. } | Event::Gone { container }) = &event;
        let _entered = self.traces.remove(container).map(|parent| parent.enter());
        match event {
            Event::Ready { container, pid, addresses } => {
                tracing::info!(container = container.short(), "attached");
                self.before.remove(&container);
                if self.detached.left(&container, pid).is_some() {
                    self.note_left(&container, pid);
                }
                self.answer(&container, &Ok(addresses));
            }
            Event::Failed { container, pid, reason } => {
                tracing::warn!(container = container.short(), reason, "not attached");
                if let Some((before, mut names)) = self.before.remove(&container) {
                    self.chosen.set(&container, before);
                    self.keep_names(&container, &mut names);
                    let unhealthy = self.facts.get(&container).is_some_and(|container| container.unhealthy);
                    self.workflow.handle_renamed(&container, names, unhealthy);
                    self.workflow.attach_again(&container);
                }
                if self.detached.left(&container, pid).is_some() {
                    self.note_left(&container, pid);
                }
                self.answer(&container, &Err(reason));
                self.forget(&container);
            }
            Event::Gone { container } => {
                // The engine reports the ends of all containers, not only of those that were attached.
                if self.facts.contains_key(&container) {
                    tracing::info!(container = container.short(), "detached");
                }
                // It may have run and ended before its network was known here to work: that is no failure of ours, and
                // what became of it is in its exit code.
                self.before.remove(&container);
                self.answer(&container, &Ok(Vec::new()));
                self.forget(&container);
            }
        }
    }

    /// Forgets what the engine said of a container, unless it has started anew or keeps what it had.
    fn forget(&mut self, container: &ContainerId) {
        if self.workflow.status(container).is_none() {
            self.facts.remove(container);
        }
    }

    fn answer(&mut self, container: &ContainerId, attached: &Attached) {
        // Clients that went away do not wait any more.
        for reply in self.waiting.remove(container).unwrap_or_default() {
            let _ = reply.send(attached.clone());
        }
        for reply in self.removing.remove(container).unwrap_or_default() {
            let _ = reply.send(());
        }
    }

    fn views(&self, now: Instant) -> Vec<View> {
        let view = |(id, status): (&ContainerId, Status)| {
            let container = self.facts.get(id).cloned()?;
            let problem_age = status.problem.as_ref().map(|(_, since)| now.saturating_duration_since(*since));
            Some(View { container, status, problem_age })
        };
        self.workflow.containers().filter_map(view).collect()
    }
}

/// Facts of a container that is gone from the engine: what is left is to take things from it.
fn unknown(id: &ContainerId) -> Container {
    let reply = serde_json::json!({ "Id": id.as_str() });
    Container::parse(reply.to_string().as_bytes()).expect("an id is all that a container must have")
}

/// Tells whether there is a process of this number, which may be another one's by now.
fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // What may not be sent a signal lives.
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock here, for the workflow")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{detached, services::Options};

    #[tokio::test]
    async fn nothing_is_kept_of_the_trace_of_a_start_that_the_engine_refuses() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let second = Duration::from_secs(1);
        let options =
            Options { address_timeout: second, step_timeout: second, multicast_route: false, rewrite_hosts: false };
        let mut state = State {
            workflow: Workflow::new(),
            services: Services::new(folder.path(), options),
            facts: BTreeMap::new(),
            steps: JoinSet::new(),
            waiting: BTreeMap::new(),
            removing: BTreeMap::new(),
            traces: BTreeMap::new(),
            detached: Detached::load(folder.path().join(detached::FILE)),
            chosen: Chosen::load(folder.path()).expect("there is none"),
            before: BTreeMap::new(),
        };
        let container: ContainerId = "c0ffee".parse().expect("an id");
        state.traces.insert(container.clone(), Parent::default());
        let addresses = vec![AddressArgument::Default];
        state.handle(Request::Prepare { container: container.clone(), addresses, new: true }, now());
        state.drain();
        assert!(state.traces.contains_key(&container), "its first step is part of it");
        let (_, outcome) = state.steps.join_next().await.expect("a step").expect("it does not panic");
        state.workflow.handle_outcome(&container, outcome, now());
        state.drain();
        assert!(state.traces.contains_key(&container), "its start will be part of it");
        state.handle(Request::NotStarted { container }, now());
        state.drain();
        assert!(state.traces.is_empty() && state.steps.is_empty(), "{:?}", state.traces);
    }
}
