//! How far one container has come.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{DualAddress, Goal, Outcome, RETRY, Service, Status, Step};
use crate::AddressArgument;

/// After so many failures to register names, the container is told to be ready without them.
const NAME_ATTEMPTS: u32 = 4;

/// What is to become of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Life {
    /// It is about to start: it is to have addresses, and nothing else yet.
    Preparing,
    /// It is to be as its goal says.
    Running,
    /// It loses names and interface.
    #[default]
    Dead,
    /// It loses names, interface, and what it got in vain.
    Abandoned,
    /// It loses everything.
    Removed,
}

/// What dns was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Registered {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    unhealthy: bool,
}

/// An interface that the router made.
#[derive(Debug)]
struct Attached {
    pid: u32,
    /// What the router was asked for.
    asked: Vec<IpNet>,
    /// What the interface has: not every host and not every MTU has IPv6.
    configured: Vec<IpNet>,
}

/// Whether the router is to be told of an interface that works already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Again {
    #[default]
    No,
    Wanted,
    UnderWay,
}

/// What one container has got, what it is to have, and what is under way.
#[derive(Debug, Default)]
pub(super) struct Progress {
    life: Life,
    goal: Option<Goal>,
    /// When the start is given up; none if nobody waits, or once it succeeded.
    deadline: Option<Instant>,
    /// [`super::Event::Ready`] is due.
    tell: bool,
    /// What it had asked for when it was ready last, while its process is the same.
    settled: Option<Vec<AddressArgument>>,
    /// Nothing more is tried before its start, because something failed.
    unprepared: bool,
    looked_up: bool,
    /// What it held before anything was asked for.
    held: Vec<DualAddress>,
    given: Vec<(AddressArgument, DualAddress)>,
    /// What is to be taken from it while it runs.
    releasing: Vec<DualAddress>,
    attached: Option<Attached>,
    again: Again,
    /// None while it is not known what dns holds.
    registered: Option<Registered>,
    /// Whether dns, router and ipam said, since its end, that nothing of it is left.
    deregistered: bool,
    detached: bool,
    freed: bool,
    /// Whether dns and router were asked for anything since its start.
    register_tried: bool,
    attach_tried: bool,
    /// Its names are left for later, although they are not registered.
    names_failed: bool,
    in_flight: Option<Step>,
    failures: u32,
    retry_at: Option<Instant>,
    problem: Option<(String, Instant)>,
}

impl Progress {
    /// Makes one of a container that is about to start, for these addresses; a `new` one holds none.
    pub(super) fn preparing(addresses: Vec<AddressArgument>, new: bool) -> Self {
        let goal = Goal { pid: 0, addresses, names: Vec::new(), unhealthy: false };
        Self { life: Life::Preparing, goal: Some(goal), looked_up: new, ..Self::default() }
    }

    /// The start that was prepared did not happen: what was got for it goes back.
    pub(super) fn cancel(&mut self) {
        if self.life == Life::Preparing {
            self.life = Life::Abandoned;
            (self.deregistered, self.detached, self.freed) = (true, true, false);
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.goal.as_ref().map_or(0, |goal| goal.pid)
    }

    /// The container is to have `goal`.
    pub(super) fn start(&mut self, goal: Goal, deadline: Option<Instant>) {
        let same_process = self.life == Life::Running && self.pid() == goal.pid;
        if !same_process {
            self.settled = None;
            self.deadline = None;
        }
        // What was asked for otherwise stays as something held.
        let (kept, other): (Vec<_>, Vec<_>) =
            self.given.drain(..).partition(|(argument, _)| goal.addresses.contains(argument));
        self.given = kept;
        self.held.extend(other.into_iter().map(|(_, address)| address));
        self.goal = Some(goal);
        self.run(deadline);
    }

    /// The container is to have the addresses of `goal`, too.
    pub(super) fn add(&mut self, mut goal: Goal, deadline: Option<Instant>) {
        let known = self.goal.as_ref().filter(|_| self.life == Life::Running);
        if let Some(known) = known {
            let mut addresses = known.addresses.clone();
            addresses.extend(goal.addresses.iter().filter(|argument| !known.addresses.contains(argument)));
            goal.addresses = addresses;
            if known.pid != goal.pid {
                self.settled = None;
            }
        }
        self.goal = Some(goal);
        self.run(deadline);
    }

    fn run(&mut self, deadline: Option<Instant>) {
        if self.life != Life::Running {
            self.life = Life::Running;
            (self.register_tried, self.attach_tried) = (false, false);
        }
        self.deadline = deadline.or(self.deadline);
        (self.tell, self.names_failed, self.retry_at, self.failures) = (true, false, None, 0);
    }

    /// The router is to be told of the interface once more.
    pub(super) fn attach_again(&mut self) {
        self.again = Again::Wanted;
    }

    /// Takes back what was got for `arguments`, or everything.
    pub(super) fn release(&mut self, arguments: &[AddressArgument]) {
        let mut released: Vec<DualAddress> = Vec::new();
        for argument in arguments {
            let lies_in = |address: &DualAddress| match argument {
                AddressArgument::Default => false,
                AddressArgument::Subnet(subnet) => {
                    address.v4.prefix_len() == subnet.prefix_len() && subnet.contains(&address.v4.addr())
                }
                AddressArgument::Given(given) => address.v4 == *given,
            };
            let given = self.given.iter().filter(|(asked, address)| asked == argument || lies_in(address));
            released.extend(given.map(|(_, address)| *address));
            released.extend(self.held.iter().copied().filter(lies_in));
        }
        let gone = |address: &DualAddress| released.contains(address);
        let given_up = |asked: &AddressArgument, given: &[(AddressArgument, DualAddress)]| {
            arguments.contains(asked) || given.iter().any(|(argument, address)| argument == asked && gone(address))
        };
        if let Some(goal) = &mut self.goal {
            goal.addresses.retain(|asked| !given_up(asked, &self.given));
        }
        self.given.retain(|(_, address)| !gone(address));
        self.held.retain(|address| !gone(address));
        released.sort_unstable();
        released.dedup();
        self.releasing.extend(released);
        let nothing_left =
            self.goal.as_ref().is_none_or(|goal| goal.addresses.is_empty()) && self.addresses().is_empty();
        if arguments.is_empty() || nothing_left {
            self.end(Life::Removed);
        } else {
            self.tell = true;
            self.settled = None;
        }
    }

    /// Returns what the running process is to have; none if nothing runs.
    pub(super) fn asked(&self) -> Option<&[AddressArgument]> {
        self.goal.as_ref().filter(|_| self.life == Life::Running).map(|goal| goal.addresses.as_slice())
    }

    pub(super) fn rename(&mut self, names: Vec<String>, unhealthy: bool) {
        if let Some(goal) = &mut self.goal {
            (goal.names, goal.unhealthy) = (names, unhealthy);
            if std::mem::take(&mut self.names_failed) {
                (self.retry_at, self.failures) = (None, 0);
            }
        }
    }

    /// The container is to lose what `life` says, or what it is to lose already, if that is more.
    pub(super) fn end(&mut self, life: Life) {
        match (self.life, life) {
            (Life::Removed, _) => return,
            (Life::Abandoned, Life::Dead) => {}
            _ => self.life = life,
        }
        (self.deadline, self.settled, self.tell) = (None, None, false);
        (self.deregistered, self.detached, self.freed) = (false, false, false);
        (self.retry_at, self.failures) = (None, 0);
    }

    /// Names and interface were taken from it before.
    pub(super) fn skip_to_addresses(&mut self) {
        (self.deregistered, self.detached) = (true, true);
    }

    /// Tells whether the container may hold addresses, and nothing else, once it is over.
    pub(super) fn may_hold_addresses(&self) -> bool {
        self.life == Life::Dead
    }

    /// Forgets what a service may have forgotten.
    pub(super) fn forget(&mut self, service: Service) {
        (self.retry_at, self.failures, self.names_failed) = (None, 0, false);
        match service {
            Service::Ipam => {
                // What it got counts as held before, or a failure now would take it away.
                self.held = self.addresses();
                self.given.clear();
                self.looked_up = false;
            }
            Service::Router => self.attached = None,
            Service::Dns => self.registered = None,
        }
    }

    /// Returns the step to perform now, and remembers that it is under way.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        if self.in_flight.is_some() || self.pauses() {
            return None;
        }
        let step = match self.life {
            Life::Preparing => self.step_prepare(),
            Life::Running => self.step_up(),
            Life::Dead | Life::Abandoned | Life::Removed => self.step_down(),
        };
        if matches!(step, Some(Step::Attach { .. })) {
            self.attach_tried = true;
            if self.again == Again::Wanted {
                self.again = Again::UnderWay;
            }
        }
        self.register_tried |= matches!(step, Some(Step::Register { .. }));
        self.in_flight.clone_from(&step);
        step
    }

    /// Tells whether the next step waits for another attempt. Names alone hold nothing up.
    const fn pauses(&self) -> bool {
        self.retry_at.is_some() && !self.names_failed
    }

    fn step_up(&self) -> Option<Step> {
        let goal = self.goal.as_ref()?;
        if !self.looked_up {
            return Some(Step::Lookup);
        }
        if !self.releasing.is_empty() {
            return Some(self.step_release(goal));
        }
        if let Some(step) = self.step_addresses(goal) {
            return Some(step);
        }
        if !self.is_attached_to(goal.pid) {
            return Some(Step::Attach { pid: goal.pid, addresses: interface_addresses(&self.addresses()) });
        }
        self.step_names(goal)
    }

    fn step_prepare(&self) -> Option<Step> {
        let goal = self.goal.as_ref().filter(|_| !self.unprepared)?;
        if !self.looked_up {
            return Some(Step::Lookup);
        }
        self.step_addresses(goal)
    }

    /// Asks for the next address that is missing.
    fn step_addresses(&self, goal: &Goal) -> Option<Step> {
        let missing = goal.addresses.iter().find(|asked| self.given.iter().all(|(argument, _)| argument != *asked))?;
        Some(match missing {
            AddressArgument::Default => Step::Allocate { subnet: None },
            AddressArgument::Subnet(subnet) => Step::Allocate { subnet: Some(*subnet) },
            AddressArgument::Given(address) => Step::Claim { address: *address },
        })
    }

    /// Tells whether this process has an interface with exactly the addresses that the container has got.
    fn is_attached_to(&self, pid: u32) -> bool {
        let addresses = interface_addresses(&self.addresses());
        let attached = self.attached.as_ref().filter(|_| self.again == Again::No);
        attached.is_some_and(|attached| attached.pid == pid && attached.asked == addresses)
    }

    /// Names before interface before address, as everything is undone.
    fn step_release(&self, goal: &Goal) -> Step {
        if let Some(step) = self.step_names(goal) {
            return step;
        }
        let released = interface_addresses(&self.releasing);
        let attached = self.attached.as_ref().map_or(&[][..], |attached| &attached.asked);
        if attached.iter().any(|address| released.contains(address)) {
            return Step::Detach { addresses: released };
        }
        Step::Free { addresses: v4(&self.releasing) }
    }

    fn step_names(&self, goal: &Goal) -> Option<Step> {
        if self.names_failed {
            return None;
        }
        let addresses: Vec<IpAddr> = interface_addresses(&self.usable_addresses()).iter().map(IpNet::addr).collect();
        let names = if addresses.is_empty() { Vec::new() } else { goal.names.clone() };
        let wanted = Registered { names, addresses, unhealthy: goal.unhealthy };
        let Registered { names, addresses, unhealthy } = wanted.clone();
        (self.registered.as_ref() != Some(&wanted)).then_some(Step::Register { names, addresses, unhealthy })
    }

    fn step_down(&self) -> Option<Step> {
        if !self.deregistered {
            return Some(Step::Deregister);
        }
        if !self.detached {
            return Some(Step::Detach { addresses: Vec::new() });
        }
        if self.freed {
            return None;
        }
        match self.life {
            Life::Removed => Some(Step::Free { addresses: Vec::new() }),
            Life::Abandoned => {
                let new = v4(&self.newly_given());
                (!new.is_empty()).then_some(Step::Free { addresses: new })
            }
            Life::Dead | Life::Preparing | Life::Running => None,
        }
    }

    /// Tells whether nothing is left to be done for a container that no longer runs.
    pub(super) fn is_over(&self) -> bool {
        let ended = !matches!(self.life, Life::Preparing | Life::Running);
        ended && self.in_flight.is_none() && self.retry_at.is_none() && self.step_down().is_none()
    }

    /// Tells whether something is still to come; to be asked when there is no next step.
    pub(super) fn is_under_way(&self) -> bool {
        self.life == Life::Preparing || self.in_flight.is_some() || self.retry_at.is_some()
    }

    /// Tells whether the end is worth an event: one that was given up was reported already.
    pub(super) fn tells_end(&self) -> bool {
        self.life != Life::Abandoned
    }

    /// Returns what is to be told of a container that has all it is to have.
    pub(super) fn take_ready(&mut self) -> Option<(u32, Vec<DualAddress>)> {
        let at_rest = self.in_flight.is_none() && !self.pauses();
        if self.life != Life::Running || !at_rest || self.attached.is_none() {
            return None;
        }
        self.deadline = None;
        if !self.names_failed {
            self.problem = None;
        }
        let goal = self.goal.as_ref()?;
        self.settled = Some(goal.addresses.clone());
        std::mem::take(&mut self.tell).then(|| (goal.pid, self.usable_addresses()))
    }

    /// Takes the outcome of the step under way; returns why the start is given up, if it is.
    pub(super) fn take_outcome(&mut self, outcome: Outcome, now: Instant) -> Option<String> {
        let step = self.in_flight.take()?;
        if self.again == Again::UnderWay {
            self.again = if matches!(outcome, Outcome::Attached(_)) { Again::No } else { Again::Wanted };
        }
        match (step, outcome) {
            (step, Outcome::Failed { reason, permanent }) => return self.fail(&step, reason, permanent, now),
            (Step::Lookup, Outcome::Held(held)) => {
                self.held = held;
                self.held.retain(|address| !self.releasing.contains(address));
                self.looked_up = true;
            }
            (Step::Allocate { subnet }, Outcome::Given(address)) => {
                self.take_address(subnet.map_or(AddressArgument::Default, AddressArgument::Subnet), address);
            }
            (Step::Claim { address: asked }, Outcome::Given(address)) => {
                self.take_address(AddressArgument::Given(asked), address);
            }
            (Step::Attach { pid, addresses: asked }, Outcome::Attached(configured)) => {
                self.attached = Some(Attached { pid, asked, configured });
            }
            (Step::Register { names, addresses, unhealthy }, Outcome::Done) => {
                self.registered = Some(Registered { names, addresses, unhealthy });
                if std::mem::take(&mut self.names_failed) {
                    self.retry_at = None;
                }
            }
            (step @ (Step::Deregister | Step::Detach { .. } | Step::Free { .. }), Outcome::Done) => self.undone(&step),
            (step, Outcome::Held(_) | Outcome::Given(_) | Outcome::Attached(_) | Outcome::Done) => {
                return self.fail(&step, "a service gave an answer of another kind".to_owned(), true, now);
            }
        }
        self.failures = 0;
        None
    }

    /// Notes an address. What is no longer asked for, because the goal changed meanwhile, goes back.
    fn take_address(&mut self, argument: AddressArgument, address: DualAddress) {
        let asked = self.goal.as_ref().is_some_and(|goal| goal.addresses.contains(&argument));
        if asked || self.life != Life::Running {
            self.given.push((argument, address));
        } else if !self.addresses().contains(&address) {
            self.releasing.push(address);
        }
    }

    /// Notes what was taken away.
    fn undone(&mut self, step: &Step) {
        match step {
            Step::Deregister => (self.registered, self.deregistered) = (Some(Registered::default()), true),
            Step::Detach { addresses } if addresses.is_empty() => (self.attached, self.detached) = (None, true),
            Step::Detach { addresses } => {
                if let Some(attached) = &mut self.attached {
                    attached.asked.retain(|address| !addresses.contains(address));
                    attached.configured.retain(|address| !addresses.contains(address));
                }
            }
            Step::Free { addresses } => {
                if self.life == Life::Running {
                    self.releasing.retain(|address| !addresses.contains(&address.v4));
                } else {
                    self.freed = true;
                }
                self.given.retain(|(_, address)| !addresses.is_empty() && !addresses.contains(&address.v4));
                self.held.retain(|address| !addresses.is_empty() && !addresses.contains(&address.v4));
            }
            Step::Lookup | Step::Allocate { .. } | Step::Claim { .. } | Step::Attach { .. } | Step::Register { .. } => {
            }
        }
    }

    /// Decides what follows from a failure: another attempt, going on without, or giving up with a reason.
    fn fail(&mut self, step: &Step, reason: String, permanent: bool, now: Instant) -> Option<String> {
        if self.life == Life::Preparing {
            // The start tries it again, and reports it.
            self.unprepared = true;
            return None;
        }
        if self.is_stale(step) {
            return None;
        }
        let since = self.problem.as_ref().map_or(now, |(_, since)| *since);
        self.problem = Some((reason.clone(), since));
        self.failures = self.failures.saturating_add(1);
        let takes_away = matches!(step, Step::Deregister | Step::Detach { .. } | Step::Free { .. });
        if permanent && takes_away {
            // The service will never do it, so nothing is gained by waiting for it.
            self.undone(step);
            self.failures = 0;
            return None;
        }
        if permanent && self.life == Life::Running && self.deadline.is_some() && !matches!(step, Step::Register { .. })
        {
            return Some(self.give_up(reason));
        }
        let names = matches!(step, Step::Register { .. } | Step::Deregister);
        self.names_failed = self.life == Life::Running && names && (permanent || self.failures >= NAME_ATTEMPTS);
        self.retry_at = Some(now + if permanent { RETRY.1 } else { back_off(self.failures) });
        None
    }

    /// Tells whether a step does not matter any more, because the goal changed while it was under way.
    fn is_stale(&self, step: &Step) -> bool {
        let running = self.goal.as_ref().filter(|_| self.life == Life::Running);
        match step {
            Step::Deregister | Step::Detach { .. } | Step::Free { .. } => false,
            Step::Lookup | Step::Register { .. } => running.is_none(),
            Step::Attach { pid, .. } => running.is_none_or(|goal| goal.pid != *pid),
            Step::Allocate { subnet } => {
                let argument = subnet.map_or(AddressArgument::Default, AddressArgument::Subnet);
                running.is_none_or(|goal| !goal.addresses.contains(&argument))
            }
            Step::Claim { address } => {
                running.is_none_or(|goal| !goal.addresses.contains(&AddressArgument::Given(*address)))
            }
        }
    }

    /// Undoes what was asked for last and returns the reason. A container that had been ready keeps what it had then.
    fn give_up(&mut self, reason: String) -> String {
        (self.deadline, self.tell) = (None, false);
        (self.retry_at, self.failures) = (None, 0);
        if let (Some(settled), Some(goal)) = (self.settled.clone(), &mut self.goal) {
            let new = self.given.iter().filter(|(argument, _)| !settled.contains(argument));
            let new: Vec<_> = new.map(|(_, address)| *address).filter(|address| !self.held.contains(address)).collect();
            self.given.retain(|(argument, _)| settled.contains(argument));
            goal.addresses = settled;
            let kept = self.addresses();
            self.releasing.extend(new.into_iter().filter(|address| !kept.contains(address)));
        } else {
            self.life = Life::Abandoned;
            (self.deregistered, self.detached, self.freed) = (!self.register_tried, !self.attach_tried, false);
        }
        reason
    }

    pub(super) fn timeout(&self) -> Option<(Instant, &'static str)> {
        let retry = self.retry_at.map(|at| (at, "a step is tried again"));
        retry.into_iter().chain(self.deadline.map(|at| (at, "a start is given up"))).min()
    }

    /// Lets a failed step be tried again; returns why the start is given up, if its deadline is over.
    pub(super) fn expire(&mut self, now: Instant) -> Option<String> {
        if self.retry_at.is_some_and(|at| at <= now) {
            (self.retry_at, self.names_failed) = (None, false);
        }
        if self.deadline.is_none_or(|at| at > now) {
            return None;
        }
        self.deadline = None;
        if self.has_interface() {
            self.names_failed = true;
            self.retry_at = self.retry_at.or(Some(now + RETRY.1));
            return None;
        }
        let reason = self.problem.as_ref().map(|(reason, _)| reason.clone());
        Some(self.give_up(reason.unwrap_or_else(|| "the network was not ready in time".to_owned())))
    }

    /// Tells whether the newest process has all addresses that were asked for.
    fn has_interface(&self) -> bool {
        let Some(goal) = &self.goal else { return false };
        let complete = goal.addresses.iter().all(|asked| self.given.iter().any(|(argument, _)| argument == asked));
        complete && self.is_attached_to(goal.pid)
    }

    pub(super) fn status(&self) -> Option<Status> {
        let goal = self.goal.as_ref().filter(|_| self.life == Life::Running)?;
        Some(Status {
            attached: self.attached.as_ref().is_some_and(|attached| attached.pid == goal.pid),
            addresses: self.usable_addresses(),
            names: goal.names.clone(),
            problem: self.problem.clone(),
        })
    }

    /// Returns what the container has got: in the order asked for, then what it held besides.
    fn addresses(&self) -> Vec<DualAddress> {
        let asked = self.goal.as_ref().map_or(&[][..], |goal| &goal.addresses);
        let given = asked.iter().filter_map(|asked| self.given.iter().find(|(argument, _)| argument == asked));
        let all = given.map(|(_, address)| *address).chain(self.held.iter().copied());
        let mut addresses = Vec::new();
        for address in all {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Returns what the container has got, without the twins that its interface could not take.
    fn usable_addresses(&self) -> Vec<DualAddress> {
        let mut addresses = self.addresses();
        if let Some(attached) = &self.attached {
            let refused =
                |v6: Ipv6Net| attached.asked.contains(&v6.into()) && !attached.configured.contains(&v6.into());
            addresses.iter_mut().for_each(|address| address.v6 = address.v6.filter(|v6| !refused(*v6)));
        }
        addresses
    }

    fn newly_given(&self) -> Vec<DualAddress> {
        let given = self.given.iter().map(|(_, address)| *address);
        given.filter(|address| !self.held.contains(address)).collect()
    }
}

fn back_off(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    RETRY.0.saturating_mul(factor).min(RETRY.1)
}

fn interface_addresses(addresses: &[DualAddress]) -> Vec<IpNet> {
    addresses.iter().flat_map(|address| [Some(IpNet::V4(address.v4)), address.v6.map(IpNet::V6)]).flatten().collect()
}

fn v4(addresses: &[DualAddress]) -> Vec<Ipv4Net> {
    addresses.iter().map(|address| address.v4).collect()
}
