//! The thread that performs operations in sequence, and looks after what was made.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Mutex, PoisonError},
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
    AttachError, AttachSpec, Attached, DesiredTrusted, DnsSockets, HostRoute, KernelConfig, LinkTraffic,
    ObservedAttachment, Problem,
    elsewhere::{self, Losses},
    host::Owner,
    nftables, rtnetlink,
};

/// How long notifications are collected before the host is compared with what it should be.
const SETTLE: Duration = Duration::from_millis(100);

/// How soon a comparison that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Pause after containers were given back what they lost: one that takes it away again and again must not keep us busy.
const REST: Duration = Duration::from_millis(500);

/// What the worker can be asked for.
#[derive(Debug)]
pub(super) enum Command {
    Prepare { reply: oneshot::Sender<anyhow::Result<usize>> },
    Attach { spec: AttachSpec, reply: oneshot::Sender<Result<Attached, AttachError>> },
    Detach { container: ContainerId, addresses: Vec<IpNet>, reply: oneshot::Sender<anyhow::Result<Vec<IpNet>>> },
    SetSubnets { subnets: BTreeSet<IpNet>, reply: oneshot::Sender<anyhow::Result<()>> },
    SetTrusted { desired: DesiredTrusted, reply: oneshot::Sender<anyhow::Result<()>> },
    VxlanTraffic { reply: oneshot::Sender<anyhow::Result<BTreeMap<String, LinkTraffic>>> },
    HostRoutes { reply: oneshot::Sender<anyhow::Result<Vec<HostRoute>>> },
    Observe { reply: oneshot::Sender<anyhow::Result<Vec<ObservedAttachment>>> },
    RemoveAll { reply: oneshot::Sender<anyhow::Result<()>> },
}

/// Wakes the worker: for a command, or because the last handle is gone.
#[derive(Debug)]
pub(super) struct Waker {
    event: rustix::fd::OwnedFd,
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

/// Starts the worker in the network namespace of the calling thread.
pub(super) fn spawn(
    config: KernelConfig,
    commands: mpsc::Receiver<Command>,
    problems: Arc<Mutex<Vec<Problem>>>,
    dns_sockets: watch::Sender<Option<Arc<DnsSockets>>>,
) -> anyhow::Result<Arc<Waker>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("failed to make an eventfd")?;
    let woken = event.try_clone().context("failed to duplicate an eventfd")?;
    let check_interval = config.check_interval;
    let owner = Owner::open(config, dns_sockets)?;
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
        problems,
        active: false,
        due: None,
    };
    std::thread::Builder::new()
        .name("weft-kernel".into())
        .spawn(move || worker.run())
        .context("failed to start the thread of the kernel owner")?;
    Ok(Arc::new(Waker { event }))
}

struct Worker {
    owner: Owner,
    commands: mpsc::Receiver<Command>,
    woken: rustix::fd::OwnedFd,
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
            self.wait();
            loop {
                match self.commands.try_recv() {
                    Ok(command) => self.perform(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if self.active && self.due.is_some_and(|due| due <= now()) {
                // What failed is logged and in the problems.
                let _ = self.reconcile();
            }
        }
    }

    /// Sleeps until a command, a notification, or the time to compare.
    fn wait(&mut self) {
        {
            let mut fds: Vec<PollFd<'_>> = vec![readable(self.woken.as_fd()), readable(self.links_changed.as_fd())];
            fds.extend(self.rules_changed.as_ref().map(|socket| readable(socket.as_fd())));
            fds.extend(self.containers_changed.as_ref().map(|socket| readable(socket.as_fd())));
            let timeout = self.due.filter(|_| self.active).map(|due| due.saturating_duration_since(now()));
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            // An error (EINTR) is as good as a wake-up: everything is looked at below, and nothing of it blocks.
            let _ = poll(&mut fds, timeout.as_ref());
        }
        let _ = rustix::io::read(&self.woken, &mut [0u8; 8]);
        let mut host = self.links_changed.drain(|news| self.owner.is_concerned(news));
        if let Some(socket) = &self.rules_changed {
            host |= socket.drain();
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
                let _ = reply.send(self.reconcile());
            }
            Command::Attach { spec, reply } => {
                let _ = reply.send(self.owner.attach(&spec));
            }
            Command::Detach { container, addresses, reply } => {
                let _ = reply.send(self.owner.detach(&container, &addresses));
                self.due = self.due.into_iter().chain(self.owner.leaving_due()).min();
            }
            Command::SetSubnets { subnets, reply } => {
                let _ = reply.send(self.owner.set_subnets(subnets));
            }
            Command::SetTrusted { desired, reply } => {
                let _ = reply.send(self.owner.set_trusted(desired));
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
