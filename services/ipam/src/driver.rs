//! The one loop that holds the core, its clock, its disk and its messages together.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;
use rand::{TryRngCore as _, rngs::OsRng};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use weft_ipam_core::{Allocator, DualAddress, Event, PeerInfo, Refusal, RequestId, Settings, Status, Transmit};
use weft_service::{Result, Shutdown};
use weft_types::{ContainerId, PeerName};

use crate::{config::Plan, router::RouterEvent, store::Store};

/// What a handler asks for, and where it awaits the answer.
#[derive(Debug)]
pub(crate) enum Command {
    Allocate {
        container: ContainerId,
        subnet: Option<Ipv4Net>,
        timeout: Duration,
        reply: oneshot::Sender<Result<DualAddress, Refusal>>,
    },
    Claim {
        container: ContainerId,
        address: Ipv4Net,
        timeout: Duration,
        reply: oneshot::Sender<Result<DualAddress, Refusal>>,
    },
    Free {
        container: ContainerId,
        addresses: Vec<Ipv4Addr>,
        reply: oneshot::Sender<Vec<DualAddress>>,
    },
    Lookup {
        container: ContainerId,
        reply: oneshot::Sender<Vec<DualAddress>>,
    },
    List {
        reply: oneshot::Sender<Vec<(ContainerId, Vec<DualAddress>)>>,
    },
    Status {
        reply: oneshot::Sender<Option<Status>>,
    },
    TakeOver {
        peer: String,
        reply: oneshot::Sender<Result<Moved, Refusal>>,
    },
    HandOver {
        reply: oneshot::Sender<Result<Moved, Refusal>>,
    },
}

/// Addresses that have another owner.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Who had them, or who has them, if there is anybody else.
    pub(crate) peer: Option<PeerInfo>,
    pub(crate) addresses: u64,
}

#[derive(Debug)]
enum Waiter {
    Address(oneshot::Sender<Result<DualAddress, Refusal>>),
    Freed(oneshot::Sender<Vec<DualAddress>>),
    Moved(oneshot::Sender<Result<Moved, Refusal>>),
}

/// How long another host may take to confirm that it has what this one owned.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Commands that wait for the router to say who this host is; further ones are refused.
const MOST_EARLY: usize = 4096;
/// Peers whose names are saved: more than a mesh has.
const MOST_NAMES: usize = 4096;
/// Commands that are looked at before what they need is saved together.
const BATCH: usize = 1024;

/// Holds everything together.
#[derive(Debug)]
pub(crate) struct Driver {
    plan: Plan,
    store: Store,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Receiver<RouterEvent>,
    /// None until it is known which peer this is, which the router says once.
    allocator: Option<Allocator>,
    /// Came before there was an allocator, each with its time.
    early: Vec<(Instant, Command)>,
    outgoing: Option<mpsc::Sender<Transmit>>,
    waiters: BTreeMap<RequestId, Waiter>,
    commit: Option<JoinHandle<Result<u64>>>,
    /// How people call peers, as it is saved.
    names: BTreeMap<PeerName, PeerInfo>,
}

impl Driver {
    /// Reads the store and makes the driver.
    pub(crate) fn new(
        plan: Plan,
        store: Store,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Receiver<RouterEvent>,
    ) -> Result<Self> {
        let mut driver = Self {
            plan,
            store,
            commands,
            events,
            allocator: None,
            early: Vec::new(),
            outgoing: None,
            waiters: BTreeMap::new(),
            commit: None,
            names: BTreeMap::new(),
        };
        if let Some(peer) = driver.store.peer()? {
            driver.begin(peer)?;
        }
        Ok(driver)
    }

    fn begin(&mut self, peer: PeerName) -> Result {
        let state = self.store.load(random()?)?;
        let path = self.store.path().display();
        if let Some(stored) = state.range().filter(|stored| *stored != self.plan.range) {
            bail!(
                "the address store {path} is for the range {stored}, but this host is started with {}: start it with \
                 {stored}, or remove the store on all hosts to change the range",
                self.plan.range
            );
        }
        let settings = Settings {
            peer,
            range: self.plan.range,
            default_subnet: self.plan.default_subnet,
            creation: self.plan.creation.clone(),
        };
        let mut allocator = Allocator::new(settings, state, random()?);
        let names = self.store.names()?;
        self.names = names.iter().map(|info| (info.peer, info.clone())).collect();
        allocator.know(names);
        self.allocator = Some(allocator);
        Ok(())
    }

    /// Runs until `shutdown`, or until something is wrong that only the operator can put right.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result {
        loop {
            let wake = self.wake_time();
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => {
                        self.command(command);
                        self.more_commands();
                    }
                    None => return Ok(()),
                },
                Some(event) = self.events.recv() => self.router_event(event)?,
                saved = finished(&mut self.commit) => {
                    self.commit = None;
                    let number = saved.context("the task that saves addresses failed")??;
                    if let Some(allocator) = &mut self.allocator {
                        allocator.handle_saved(number);
                    }
                }
                () = sleep_until(wake) => {}
                () = shutdown.requested() => break,
            }
            self.step();
        }
        if let Some(commit) = self.commit.take() {
            commit.await.context("the task that saves addresses failed")??;
        }
        Ok(())
    }

    fn more_commands(&mut self) {
        for _ in 0..BATCH {
            match self.commands.try_recv() {
                Ok(command) => self.command(command),
                Err(_) => return,
            }
        }
    }

    fn wake_time(&self) -> Option<Instant> {
        match &self.allocator {
            Some(allocator) => allocator.poll_timeout().map(|(at, _)| at),
            None => self.early.iter().filter_map(|(since, command)| Some(*since + timeout_of(command)?)).min(),
        }
    }

    /// Lets the core go on, and performs what it wants.
    fn step(&mut self) {
        let now = now();
        let Some(allocator) = &mut self.allocator else {
            self.refuse_early(now);
            return;
        };
        allocator.handle_timeout(now);
        if self.commit.is_none()
            && let Some(commit) = allocator.poll_commit(now)
        {
            let store = self.store.clone();
            self.commit = Some(tokio::task::spawn_blocking(move || {
                store.write(&commit.records)?;
                Ok(commit.number)
            }));
        }
        while let Some(transmit) = allocator.poll_transmit() {
            let Some(outgoing) = &self.outgoing else { continue };
            if outgoing.try_send(transmit).is_err() {
                // Without its sender the session ends and begins again, with a snapshot.
                self.outgoing = None;
            }
        }
        while let Some(event) = allocator.poll_event() {
            report(&mut self.waiters, event);
        }
    }

    fn command(&mut self, command: Command) {
        let now = now();
        match &mut self.allocator {
            Some(allocator) => perform(allocator, &mut self.waiters, command, now, now),
            None => {
                if let Command::Status { reply } = command {
                    let _ = reply.send(None);
                } else if self.early.len() < MOST_EARLY {
                    self.early.push((now, command));
                } else {
                    refuse(command, &Refusal::TooManyRequests(MOST_EARLY));
                }
            }
        }
    }

    fn refuse_early(&mut self, now: Instant) {
        let late = |(since, command): &mut (Instant, Command)| {
            timeout_of(command).is_some_and(|timeout| *since + timeout <= now)
        };
        let why = "the router of this host has not been reached";
        for (_, command) in self.early.extract_if(.., late) {
            refuse(command, &Refusal::NoRing { why: why.into() });
        }
    }

    fn router_event(&mut self, event: RouterEvent) -> Result {
        if let RouterEvent::Connected { local_peer, .. } = &event {
            self.check_peer(*local_peer)?;
        }
        if let RouterEvent::Connected { reachability, .. } | RouterEvent::Reachability(reachability) = &event {
            self.note_names(&reachability.peers);
        }
        let Some(allocator) = &mut self.allocator else { return Ok(()) };
        match event {
            RouterEvent::Connected { origins, reachability, outgoing, .. } => {
                allocator.handle_connected(origins, reachability, now());
                self.outgoing = Some(outgoing);
            }
            RouterEvent::Update { origin, complete, entries } => allocator.handle_update(origin, complete, &entries),
            RouterEvent::Reachability(reachability) => allocator.handle_reachability(reachability, now()),
            RouterEvent::Message { source, payload } => {
                if let Err(error) = allocator.handle_message(source, &payload, now()) {
                    tracing::debug!(%source, %error, "a message was ignored");
                }
            }
            RouterEvent::Disconnected => {
                allocator.handle_disconnected();
                self.outgoing = None;
            }
        }
        Ok(())
    }

    /// Saves how people call peers, so that those that are away have names after a restart too. They work without.
    fn note_names(&mut self, peers: &[PeerInfo]) {
        let new = peers.iter().filter(|info| self.names.get(&info.peer) != Some(info)).cloned();
        let new: Vec<PeerInfo> = new.take(MOST_NAMES.saturating_sub(self.names.len())).collect();
        if new.is_empty() {
            return;
        }
        self.names.extend(new.iter().map(|info| (info.peer, info.clone())));
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.write_names(&new) {
                tracing::warn!(error = %format_args!("{error:#}"), "peers that are away may lack their names after a restart");
            }
        });
    }

    /// Makes sure that the store is the local peer's.
    fn check_peer(&mut self, peer: PeerName) -> Result {
        let Some(allocator) = &self.allocator else {
            self.store.bind(peer)?;
            self.begin(peer)?;
            if let Some(allocator) = &mut self.allocator {
                for (since, command) in self.early.drain(..) {
                    perform(allocator, &mut self.waiters, command, since, now());
                }
            }
            return Ok(());
        };
        let stored = allocator.owner().peer;
        if stored != peer {
            bail!(
                "the address store {} belongs to the peer {stored}, but this host's router is {peer}: bring back the \
                 router's key, or move the store away, which gives up the addresses that {stored} owned",
                self.store.path().display()
            );
        }
        Ok(())
    }
}

fn perform(
    allocator: &mut Allocator,
    waiters: &mut BTreeMap<RequestId, Waiter>,
    command: Command,
    since: Instant,
    now: Instant,
) {
    let left = |timeout: Duration| timeout.saturating_sub(now.saturating_duration_since(since));
    match command {
        Command::Allocate { container, subnet, timeout, reply } => {
            let request = allocator.allocate(container, subnet, left(timeout), now);
            waiters.insert(request, Waiter::Address(reply));
        }
        Command::Claim { container, address, timeout, reply } => {
            let request = allocator.claim(container, address, left(timeout), now);
            waiters.insert(request, Waiter::Address(reply));
        }
        Command::Free { container, addresses, reply } => {
            let request = allocator.free(&container, &addresses);
            waiters.insert(request, Waiter::Freed(reply));
        }
        // Who asked and went away needs no answer, here and below.
        Command::Lookup { container, reply } => {
            let _ = reply.send(allocator.lookup(&container));
        }
        Command::List { reply } => {
            let all = allocator.allocations().map(|(container, addresses)| (container.clone(), addresses));
            let _ = reply.send(all.collect());
        }
        Command::Status { reply } => {
            let _ = reply.send(Some(allocator.status(now)));
        }
        Command::TakeOver { peer, reply } => {
            waiters.insert(allocator.take_over(&peer, now), Waiter::Moved(reply));
        }
        Command::HandOver { reply } => {
            waiters.insert(allocator.hand_over(HAND_OVER_TIMEOUT, now), Waiter::Moved(reply));
        }
    }
}

fn report(waiters: &mut BTreeMap<RequestId, Waiter>, event: Event) {
    match event {
        Event::Granted { request, address } => {
            if let Some(Waiter::Address(reply)) = waiters.remove(&request) {
                let _ = reply.send(Ok(address));
            }
        }
        Event::Refused { request, refusal } => match waiters.remove(&request) {
            Some(Waiter::Address(reply)) => drop(reply.send(Err(refusal))),
            Some(Waiter::Moved(reply)) => drop(reply.send(Err(refusal))),
            Some(Waiter::Freed(_)) | None => {}
        },
        Event::Moved { request, peer, addresses } => {
            if let Some(Waiter::Moved(reply)) = waiters.remove(&request) {
                if let Some(peer) = &peer {
                    tracing::info!(%peer, addresses, "addresses have another owner");
                }
                let _ = reply.send(Ok(Moved { peer, addresses }));
            }
        }
        Event::Freed { request, addresses } => {
            if let Some(Waiter::Freed(reply)) = waiters.remove(&request) {
                let _ = reply.send(addresses);
            }
        }
        Event::Lost { container, address, owner } => {
            tracing::error!(%container, %address, %owner, "an address was taken over while this host was taken for dead");
        }
        Event::RingReady(info) => {
            tracing::info!(ring = %info.id, range = %info.range, ula = %info.ula, "there is a ring")
        }
    }
}

fn refuse(command: Command, refusal: &Refusal) {
    match command {
        Command::Allocate { reply, .. } | Command::Claim { reply, .. } => {
            let _ = reply.send(Err(refusal.clone()));
        }
        Command::TakeOver { reply, .. } | Command::HandOver { reply } => {
            let _ = reply.send(Err(refusal.clone()));
        }
        // Dropping the reply says that there is no answer.
        Command::Free { .. } | Command::Lookup { .. } | Command::List { .. } | Command::Status { .. } => {}
    }
}

/// How long a command that came too early may wait.
fn timeout_of(command: &Command) -> Option<Duration> {
    match command {
        Command::Allocate { timeout, .. } | Command::Claim { timeout, .. } => Some(*timeout),
        Command::Free { .. }
        | Command::Lookup { .. }
        | Command::List { .. }
        | Command::TakeOver { .. }
        | Command::HandOver { .. } => Some(Duration::from_secs(5)),
        Command::Status { .. } => None,
    }
}

fn random() -> Result<u64> {
    OsRng.try_next_u64().context("the system gives no random numbers")
}

async fn finished(commit: &mut Option<JoinHandle<Result<u64>>>) -> Result<Result<u64>, tokio::task::JoinError> {
    match commit {
        Some(commit) => commit.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where ipam reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
