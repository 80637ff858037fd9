//! The thread that performs operations in sequence, and looks after what was made.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::Context;
use ipnet::IpNet;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::{
    mpsc::{self, error::TryRecvError},
    oneshot, watch,
};
use weft_types::ContainerId;

use super::{
    AttachError, AttachSpec, Attached, COMMANDS, DesiredServices, DesiredTrusted, DnsSockets, Exposure, HostRoute,
    KernelConfig, LinkTraffic, ObservedAttachment, Problem, TrustedState,
    attach::Attempted,
    elsewhere::{self, Losses},
    host::Owner,
    nftables,
    ports::PortGuard,
    rtnetlink,
};

/// How long notifications are collected before the host is compared with what it should be.
const SETTLE: Duration = Duration::from_millis(100);

/// How soon a comparison that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Pause after containers were given back what they lost: one that takes it away again and again must not keep us busy.
const REST: Duration = Duration::from_millis(500);

/// Containers that are attached at a time; others wait.
const SIDE_BY_SIDE: usize = 8;

/// What the worker can be asked for.
#[derive(Debug)]
pub(super) enum Command {
    Prepare { reply: oneshot::Sender<anyhow::Result<usize>> },
    Attach { spec: AttachSpec, reply: oneshot::Sender<Result<Attached, AttachError>> },
    Detach { container: ContainerId, addresses: Vec<IpNet>, reply: oneshot::Sender<anyhow::Result<Vec<IpNet>>> },
    SetSubnets { subnets: BTreeSet<IpNet>, reply: oneshot::Sender<anyhow::Result<()>> },
    SetTrusted { desired: DesiredTrusted, ahead: u64, reply: oneshot::Sender<TrustedState> },
    SetExposed { exposures: Vec<Exposure>, reply: oneshot::Sender<anyhow::Result<Vec<Exposure>>> },
    SetPublished { desired: DesiredServices, reply: oneshot::Sender<anyhow::Result<Vec<IpNet>>> },
    VxlanTraffic { reply: oneshot::Sender<anyhow::Result<BTreeMap<String, LinkTraffic>>> },
    HostRoutes { reply: oneshot::Sender<anyhow::Result<Vec<HostRoute>>> },
    Observe { reply: oneshot::Sender<anyhow::Result<Vec<ObservedAttachment>>> },
    RemoveAll { reply: oneshot::Sender<anyhow::Result<()>> },
}

/// Wakes the worker: for a command, or because the last handle is gone.
#[derive(Debug)]
pub(super) struct Waker {
    event: OwnedFd,
}

impl Waker {
    pub(super) fn wake(&self) {
        // The counter can only be full when the worker has much to wake up for already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.wake();
    }
}

/// Starts the worker in the network namespace of the calling thread. Returns also where is counted how often sources of trusted
/// peers were let in ahead of what is desired, and what guards the ports.
pub(super) fn spawn(
    config: KernelConfig,
    commands: mpsc::Receiver<Command>,
    problems: Arc<Mutex<Vec<Problem>>>,
    dns_sockets: watch::Sender<Option<Arc<DnsSockets>>>,
    direct: Arc<Mutex<BTreeSet<IpAddr>>>,
) -> anyhow::Result<(Arc<Waker>, Arc<AtomicU64>, PortGuard)> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("failed to make an eventfd")?;
    let woken = Arc::new(event.try_clone().context("failed to duplicate an eventfd")?);
    let check_interval = config.check_interval;
    let owner = Owner::open(config, dns_sockets, direct)?;
    let (ahead, guard) = (owner.trusted.ahead(), owner.guard.clone());
    let links_changed = rtnetlink::Notifications::open()?;
    let (rules_changed, containers_changed) = (nftables::Notifications::open(), elsewhere::Notifications::open());
    let mut unheard = Vec::new();
    let mut add = |reason, message| unheard.push(Problem { reason, message });
    if let Err(error) = &rules_changed
        && owner.keeps_rules()
    {
        add(
            "rules_not_followed",
            format!(
                "changes of filter rules are not heard of ({error:#}), so that rules which somebody flushes are away for up to \
                 {} s: start weft with the compose.yaml of this version",
                check_interval.as_secs()
            ),
        );
    }
    if let Err(error) = &containers_changed {
        add(
            "containers_not_followed",
            format!(
                "changes inside containers' networks are not heard of ({error:#}), so that addresses which somebody takes away \
                 there stay away: start weft with the compose.yaml of this version"
            ),
        );
    }
    let worker = Worker {
        check_interval,
        links_changed,
        rules_changed: rules_changed.ok(),
        containers_changed: containers_changed.ok(),
        unheard,
        losses: Losses::default(),
        rested: now(),
        owner,
        commands,
        woken,
        queue: VecDeque::new(),
        attaching: BTreeMap::new(),
        done: std::sync::mpsc::channel(),
        problems,
        active: false,
        due: None,
    };
    std::thread::Builder::new()
        .name("weft-kernel".into())
        .spawn(move || worker.run())
        .context("failed to start the thread of the kernel owner")?;
    Ok((Arc::new(Waker { event }), ahead, guard))
}

/// An attempt that is over.
type Done = (AttachSpec, Attempted);

struct Worker {
    owner: Owner,
    commands: mpsc::Receiver<Command>,
    /// Also read by attempts that are over.
    woken: Arc<OwnedFd>,
    /// Commands that were not begun.
    queue: VecDeque<Command>,
    /// Who is being attached, and who waits for it.
    attaching: BTreeMap<ContainerId, oneshot::Sender<Result<Attached, AttachError>>>,
    /// What came of attempts.
    done: (std::sync::mpsc::Sender<Done>, std::sync::mpsc::Receiver<Done>),
    links_changed: rtnetlink::Notifications,
    rules_changed: Option<nftables::Notifications>,
    containers_changed: Option<elsewhere::Notifications>,
    /// What the kernel does not tell of.
    unheard: Vec<Problem>,
    /// What containers lost and did not get back yet.
    losses: Losses,
    /// When they may get something back next.
    rested: Instant,
    problems: Arc<Mutex<Vec<Problem>>>,
    check_interval: Duration,
    /// Between preparing and removing all: only then the host is kept as it should be.
    active: bool,
    /// When to compare next.
    due: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        loop {
            // Otherwise something in the queue can be begun.
            if self.queue.is_empty() || !self.attaching.is_empty() {
                self.wait();
            }
            let open = self.take();
            while let Some(command) = self.next() {
                self.perform(command);
            }
            if !open && self.queue.is_empty() && self.attaching.is_empty() {
                return;
            }
            if self.is_due() && self.attaching.is_empty() {
                // What failed is logged and in the problems.
                let _ = self.reconcile();
            }
        }
    }

    /// Takes note of attempts that are over, and takes commands. Tells whether there may be more.
    fn take(&mut self) -> bool {
        while let Ok((spec, Attempted { attached, hosts_written })) = self.done.1.try_recv() {
            self.owner.note_attempt(&spec, attached.as_ref().ok(), hosts_written);
            if let Some(reply) = self.attaching.remove(&spec.container) {
                // As with all other commands.
                let _ = reply.send(attached);
            }
        }
        while self.queue.len() < COMMANDS {
            match self.commands.try_recv() {
                Ok(command) => self.queue.push_back(command),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// Takes the next command that can be begun. Attempts run side by side, because each waits for locks of the kernel most of
    /// its time; whatever looks at more than one container waits until they are over, and new ones wait while it is due.
    fn next(&mut self) -> Option<Command> {
        let may = match self.queue.front()? {
            Command::Attach { spec, .. } => {
                self.attaching.len() < SIDE_BY_SIDE && !self.attaching.contains_key(&spec.container) && !self.is_due()
            }
            Command::Detach { container, .. } => !self.attaching.contains_key(container),
            Command::VxlanTraffic { .. } => true,
            Command::Prepare { .. }
            | Command::SetSubnets { .. }
            | Command::HostRoutes { .. }
            | Command::Observe { .. }
            | Command::SetTrusted { .. }
            | Command::SetExposed { .. }
            | Command::SetPublished { .. }
            | Command::RemoveAll { .. } => self.attaching.is_empty(),
        };
        if may { self.queue.pop_front() } else { None }
    }

    fn is_due(&self) -> bool {
        self.active && self.due.is_some_and(|due| due <= now())
    }

    /// Sleeps until a command, a notification, or the time to compare.
    fn wait(&mut self) {
        {
            let mut fds: Vec<PollFd<'_>> = vec![readable(self.woken.as_fd()), readable(self.links_changed.as_fd())];
            fds.extend(self.rules_changed.as_ref().map(|socket| readable(socket.as_fd())));
            fds.extend(self.containers_changed.as_ref().map(|socket| readable(socket.as_fd())));
            let timeout = self
                .due
                .filter(|_| self.active && self.attaching.is_empty())
                .map(|due| due.saturating_duration_since(now()));
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            // An error (EINTR) is as good as a wake-up: everything is looked at below, and nothing of it blocks.
            let _ = poll(&mut fds, timeout.as_ref());
        }
        let _ = rustix::io::read(&self.woken, &mut [0u8; 8]);
        let mut host = self.links_changed.drain(|news| self.owner.is_concerned(news));
        let own = self.owner.guard.socket();
        if let Some(socket) = &self.rules_changed
            && socket.drain(own.as_slice())
        {
            host = true;
            self.owner.check_guard();
        }
        if let Some(socket) = &mut self.containers_changed {
            socket.drain(&mut self.losses);
        }
        let wanted = wanted(host, !self.losses.is_empty(), now(), self.rested);
        self.due = [self.due, wanted].into_iter().flatten().min();
    }

    fn perform(&mut self, command: Command) {
        // Who asked may have gone; what was done stays done.
        match command {
            Command::Prepare { reply } => {
                self.active = true;
                self.owner.check_guard();
                let _ = reply.send(self.reconcile());
            }
            Command::Attach { spec, reply } => self.attach(spec, reply),
            Command::Detach { container, addresses, reply } => {
                let _ = reply.send(self.owner.detach(&container, &addresses));
                self.due = self.due.into_iter().chain(self.owner.leaving_due()).min();
            }
            Command::SetSubnets { subnets, reply } => {
                let _ = reply.send(self.owner.set_subnets(subnets));
            }
            Command::SetTrusted { desired, ahead, reply } => {
                let _ = reply.send(self.owner.set_trusted(desired, ahead));
            }
            Command::SetExposed { exposures, reply } => {
                let exposures = self.owner.set_exposed(exposures);
                let outcome = if self.active { self.expose() } else { Ok(()) };
                let _ = reply.send(outcome.map(|()| exposures));
            }
            Command::SetPublished { desired, reply } => {
                let addresses = self.owner.set_published(desired);
                let outcome = if self.active { self.publish() } else { Ok(()) };
                let _ = reply.send(outcome.map(|()| addresses));
            }
            Command::VxlanTraffic { reply } => {
                let _ = reply.send(self.owner.vxlan_traffic());
            }
            Command::HostRoutes { reply } => {
                let _ = reply.send(self.owner.host_routes());
            }
            Command::Observe { reply } => {
                let _ = reply.send(self.owner.attachments());
            }
            Command::RemoveAll { reply } => {
                self.active = false;
                let _ = reply.send(self.owner.remove_all());
            }
        }
    }

    /// Begins to attach a container, on a thread of its own.
    fn attach(&mut self, spec: AttachSpec, reply: oneshot::Sender<Result<Attached, AttachError>>) {
        let container = spec.container.clone();
        let attempt = self.owner.attempt(spec.clone());
        let (done, woken) = (self.done.0.clone(), Arc::clone(&self.woken));
        let action = move || {
            // The worker does not end before.
            let _ = done.send((spec, attempt.run()));
            let _ = rustix::io::write(&*woken, &1u64.to_ne_bytes());
        };
        match std::thread::Builder::new().name("weft-namespace".into()).spawn(action) {
            Ok(_) => drop(self.attaching.insert(container, reply)),
            Err(error) => {
                let source = anyhow::Error::new(error).context("failed to start a thread");
                let _ = reply.send(Err(AttachError::Failed { container, source }));
            }
        }
    }

    fn expose(&mut self) -> anyhow::Result<()> {
        self.owner.reconcile_kernel()?;
        self.owner.reconcile_exposed().map(drop)
    }

    /// The addresses first, so that what is led has where to come from; what is let pass goes last where it is taken back.
    fn publish(&mut self) -> anyhow::Result<()> {
        self.expose()?;
        self.owner.reconcile_published().map(drop)
    }

    fn reconcile(&mut self) -> anyhow::Result<usize> {
        let mut outcome = self.owner.remove_leaving().and_then(|()| self.owner.reconcile());
        if self.rested <= now() {
            let kept = self.owner.keep_attachments(&mut self.losses);
            if !matches!(kept, Ok(0)) {
                self.rested = now() + REST;
            }
            outcome = match (outcome, kept) {
                (Ok(count), Ok(kept)) => Ok(count + kept),
                (Err(error), Ok(_)) | (Ok(_), Err(error)) => Err(error),
                (Err(error), Err(kept)) => Err(anyhow::anyhow!("{error:#}; {kept:#}")),
            };
        }
        let mut problems = self.owner.problems();
        problems.extend(self.unheard.iter().cloned());
        let wait = match &outcome {
            Ok(_) => self.check_interval,
            Err(error) => {
                tracing::warn!(error = %format_args!("{error:#}"), "the host's network is not as it should be");
                problems.push(Problem { reason: "host_network", message: format!("{error:#}") });
                RETRY.min(self.check_interval)
            }
        };
        *self.problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
        let due = now() + wait;
        let due = if self.losses.is_empty() { due } else { due.min(self.rested) };
        let leaving = self.owner.leaving_due().filter(|_| outcome.is_ok());
        self.due = Some(leaving.map_or(due, |leaving| due.min(leaving)));
        outcome
    }
}

/// Returns when to compare, if something of the host changed or containers lost something. Who loses again and again waits.
fn wanted(host: bool, lost: bool, now: Instant, rested: Instant) -> Option<Instant> {
    let soon = now + SETTLE;
    if host { Some(soon) } else { lost.then(|| soon.max(rested)) }
}

fn readable(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(fd, PollFlags::IN)
}

#[expect(clippy::disallowed_methods, reason = "the one place where the kernel owner reads the clock")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_loses_again_and_again_waits_and_the_host_does_not() {
        let now = now();
        let rested = now + REST;
        assert_eq!(wanted(false, false, now, rested), None);
        assert_eq!(wanted(false, true, now, rested), Some(rested));
        assert_eq!(wanted(true, true, now, rested), Some(now + SETTLE));
        assert_eq!(wanted(false, true, rested + SETTLE, rested), Some(rested + 2 * SETTLE));
    }
}
