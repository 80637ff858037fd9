//! In which order a container gets its addresses, its interface and its names, and loses them again.
//!
//! One [`Workflow`] holds all containers of the host. For each container at most one [`Step`] is under way: the shell
//! performs what [`Workflow::poll_step`] returns and reports exactly one [`Outcome`] for it. What happens meanwhile (the
//! container dies, starts again with another pid, is removed) changes the goal, and the next step follows the newest one.

mod progress;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_types::ContainerId;

use crate::AddressArgument;
use progress::{Life, Progress};

/// What a running container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    /// The main process, in the host's pid namespace.
    pub pid: u32,
    /// The addresses it asks for, in order; what it holds besides stays.
    pub addresses: Vec<AddressArgument>,
    /// Its names relative to the zone; may be empty.
    pub names: Vec<String>,
    /// Its health check says that it is not healthy.
    pub unhealthy: bool,
}

/// An address that ipam gave, with its twin of the other family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DualAddress {
    /// The interface address.
    pub v4: Ipv4Net,
    /// Its twin; none for an address given by hand outside the range.
    pub v6: Option<Ipv6Net>,
}

/// One call to another service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Asks ipam what the container holds. Answered with [`Outcome::Held`].
    Lookup,
    /// Asks ipam for an address of the subnet, none being the default one. Answered with [`Outcome::Given`].
    Allocate {
        /// The subnet.
        subnet: Option<Ipv4Net>,
    },
    /// Asks ipam for this address. Answered with [`Outcome::Given`].
    Claim {
        /// The interface address.
        address: Ipv4Net,
    },
    /// Asks the router to attach. Answered with [`Outcome::Attached`].
    Attach {
        /// The main process.
        pid: u32,
        /// All interface addresses, IPv4 before its twin.
        addresses: Vec<IpNet>,
    },
    /// Asks dns to register. Answered with [`Outcome::Done`].
    Register {
        /// Names relative to the zone; without any, only those stay that were given by hand.
        names: Vec<String>,
        /// All addresses.
        addresses: Vec<IpAddr>,
        /// Whether it is left out while a healthy one has the name.
        unhealthy: bool,
    },
    /// Asks dns to forget the container, and what was given to it by hand. Answered with [`Outcome::Done`].
    Deregister,
    /// Asks the router to detach the addresses; empty: all. Answered with [`Outcome::Done`].
    Detach {
        /// Interface addresses.
        addresses: Vec<IpNet>,
    },
    /// Gives addresses back to ipam; empty: all. Answered with [`Outcome::Done`].
    Free {
        /// Interface addresses.
        addresses: Vec<Ipv4Net>,
    },
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The container holds these addresses.
    Held(Vec<DualAddress>),
    /// The container got this address.
    Given(DualAddress),
    /// The container's interface works and has these addresses, perhaps among others: IPv6 may be missing.
    Attached(Vec<IpNet>),
    /// It is done.
    Done,
    /// It was not possible.
    Failed {
        /// One sentence.
        reason: String,
        /// It makes no sense to try again (`INVALID_ARGUMENT`, `FAILED_PRECONDITION`, `ALREADY_EXISTS` and the like).
        permanent: bool,
    },
}

/// What the shell tells those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The container has its network, and its names unless dns is away.
    Ready {
        /// The container.
        container: ContainerId,
        /// The process that has it.
        pid: u32,
        /// Its addresses.
        addresses: Vec<DualAddress>,
    },
    /// The container could not get its network; everything was undone.
    Failed {
        /// The container.
        container: ContainerId,
        /// The process that was to have it.
        pid: u32,
        /// One sentence.
        reason: String,
    },
    /// All that was to be taken from the container was taken.
    Gone {
        /// The container.
        container: ContainerId,
    },
}

/// What the workflow knows of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// It has its network.
    pub attached: bool,
    /// What it has got so far, in the order asked for.
    pub addresses: Vec<DualAddress>,
    /// The names it is to have.
    pub names: Vec<String>,
    /// Why it is not as it should be, and since when.
    pub problem: Option<(String, Instant)>,
}

/// One of the other services, whose state may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Gives addresses.
    Ipam,
    /// Attaches.
    Router,
    /// Names.
    Dns,
}

/// Shortest and longest pause before a failed step is tried again.
pub const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// How many containers are held at most. Further ones are ignored; [`crate::reconcile`] finds them again.
pub const MAX_CONTAINERS: usize = 65_536;

/// The containers of the host, and what is under way for each.
#[derive(Debug, Default)]
pub struct Workflow {
    containers: BTreeMap<ContainerId, Progress>,
    /// Those that lost names and interface when they ended, and perhaps hold addresses.
    ended: BTreeSet<ContainerId>,
    /// Those that may have a step to perform.
    dirty: BTreeSet<ContainerId>,
    /// At most two for each call of a `handle_*`.
    events: VecDeque<Event>,
}

impl Workflow {
    /// Makes a workflow without containers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The container is about to start, and asks for these addresses: they are got meanwhile. A `new` one, which was just made,
    /// holds none.
    ///
    /// Followed by [`Self::handle_started`], [`Self::handle_not_started`], or the container's end. Ignored while anything
    /// else is under way for the container. What fails is tried again, and reported, by the start.
    pub fn prepare(&mut self, container: ContainerId, addresses: Vec<AddressArgument>, new: bool) {
        if !self.containers.contains_key(&container) && self.containers.len() < MAX_CONTAINERS {
            self.ended.remove(&container);
            self.dirty.insert(container.clone());
            self.containers.insert(container, Progress::preparing(addresses, new));
        }
    }

    /// The start that was prepared did not happen; for one that did, nothing changes.
    pub fn handle_not_started(&mut self, container: &ContainerId) {
        if let Some(progress) = self.containers.get_mut(container) {
            progress.cancel();
            self.dirty.insert(container.clone());
        }
    }

    /// The container runs with this goal, which replaces an earlier one; addresses that it got by [`Self::attach`] stay.
    ///
    /// With a `deadline` (somebody waits for the start), what has failed by then is undone and reported as
    /// [`Event::Failed`]; without one it is tried for ever. Every call is answered with one of the two events, unless the
    /// container dies or starts anew before. The newest process counts: the shell inspects the container after each sign
    /// of a start, so the last call is right.
    pub fn handle_started(&mut self, container: ContainerId, goal: Goal, deadline: Option<Instant>) {
        if let Some(progress) = self.progress(container) {
            progress.start(goal, deadline);
        }
    }

    /// Gives a running container more addresses (`weft attach`); as [`Self::handle_started`] if it has none yet.
    ///
    /// If they can't be had by the `deadline`, the container keeps what it had before.
    pub fn attach(&mut self, container: ContainerId, goal: Goal, deadline: Option<Instant>) {
        if let Some(progress) = self.progress(container) {
            progress.add(goal, deadline);
        }
    }

    /// The router is told of the container again, once it is: how it is attached has changed, beside its addresses.
    pub fn attach_again(&mut self, container: &ContainerId) {
        if let Some(progress) = self.containers.get_mut(container) {
            progress.attach_again();
            self.dirty.insert(container.clone());
        }
    }

    /// Takes addresses away (`weft detach`): those that were got for `arguments`; empty: all, with the interface.
    ///
    /// Answered with [`Event::Ready`], or [`Event::Gone`] if no address is left. Returns false, and does nothing, if it
    /// does not know the container.
    pub fn detach(&mut self, container: &ContainerId, arguments: &[AddressArgument]) -> bool {
        let Some(progress) = self.containers.get_mut(container) else { return false };
        progress.release(arguments);
        self.dirty.insert(container.clone());
        true
    }

    /// The container has other names, or its health changed.
    pub fn handle_renamed(&mut self, container: &ContainerId, names: Vec<String>, unhealthy: bool) {
        if let Some(progress) = self.containers.get_mut(container) {
            progress.rename(names, unhealthy);
            self.dirty.insert(container.clone());
        }
    }

    /// The container's process ended: interface and names go, addresses stay.
    ///
    /// Events lag behind the calls that cause them: the shell inspects the container first, and reports a newer process
    /// instead if there is one.
    pub fn handle_died(&mut self, container: &ContainerId) {
        if let Some(progress) = self.progress(container.clone()) {
            progress.end(Life::Dead);
        }
    }

    /// The container was removed: its addresses go too.
    pub fn handle_removed(&mut self, container: &ContainerId) {
        let ended = self.ended.contains(container);
        if let Some(progress) = self.progress(container.clone()) {
            progress.end(Life::Removed);
            if ended {
                progress.skip_to_addresses();
            }
        }
    }

    /// A service came back, perhaps without its memory: what it had is stated again, and what failed is tried at once.
    pub fn handle_service_lost(&mut self, service: Service) {
        self.ended.clear();
        for (container, progress) in &mut self.containers {
            progress.forget(service);
            self.dirty.insert(container.clone());
        }
    }

    /// Takes what came of the container's step.
    pub fn handle_outcome(&mut self, container: &ContainerId, outcome: Outcome, now: Instant) {
        let Some(progress) = self.containers.get_mut(container) else { return };
        if let Some(reason) = progress.take_outcome(outcome, now) {
            let pid = progress.pid();
            self.events.push_back(Event::Failed { container: container.clone(), pid, reason });
        }
        self.dirty.insert(container.clone());
    }

    /// Lets failed steps be tried again, and gives up what is past its deadline.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (container, progress) in &mut self.containers {
            if progress.timeout().is_none_or(|(at, _)| at > now) {
                continue;
            }
            if let Some(reason) = progress.expire(now) {
                let pid = progress.pid();
                self.events.push_back(Event::Failed { container: container.clone(), pid, reason });
            }
            self.dirty.insert(container.clone());
        }
    }

    /// Returns the next step to perform; call until none. Events follow from it: poll those afterwards.
    pub fn poll_step(&mut self) -> Option<(ContainerId, Step)> {
        while let Some(container) = self.dirty.pop_first() {
            let Some(progress) = self.containers.get_mut(&container) else { continue };
            if let Some(step) = progress.next_step() {
                return Some((container, step));
            }
            if progress.is_over() {
                if progress.tells_end() {
                    self.events.push_back(Event::Gone { container: container.clone() });
                }
                if progress.may_hold_addresses() && self.ended.len() < MAX_CONTAINERS {
                    self.ended.insert(container.clone());
                }
                self.containers.remove(&container);
            } else if let Some((pid, addresses)) = progress.take_ready() {
                self.events.push_back(Event::Ready { container, pid, addresses });
            }
        }
        None
    }

    /// Returns the next thing to tell; call until none.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns when [`Self::handle_timeout`] is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.containers.values().filter_map(Progress::timeout).min()
    }

    /// Returns what is known of the container.
    #[must_use]
    pub fn status(&self, container: &ContainerId) -> Option<Status> {
        self.containers.get(container).and_then(Progress::status)
    }

    /// Tells whether something is still to come for the container, whether it will be told or not: a step, another attempt, or
    /// the start that it was prepared for.
    #[must_use]
    pub fn is_under_way(&self, container: &ContainerId) -> bool {
        self.containers.get(container).is_some_and(Progress::is_under_way)
    }

    /// Returns what the container's process is to have; none if it is not attached nor to be.
    #[must_use]
    pub fn asked(&self, container: &ContainerId) -> Option<&[AddressArgument]> {
        self.containers.get(container)?.asked()
    }

    /// Returns the containers that are, or are to be, attached.
    pub fn containers(&self) -> impl Iterator<Item = (&ContainerId, Status)> {
        self.containers.iter().filter_map(|(container, progress)| Some((container, progress.status()?)))
    }

    /// Returns the container's progress, a new one if need be and there is room.
    fn progress(&mut self, container: ContainerId) -> Option<&mut Progress> {
        if self.containers.len() >= MAX_CONTAINERS && !self.containers.contains_key(&container) {
            return None;
        }
        self.ended.remove(&container);
        self.dirty.insert(container.clone());
        Some(self.containers.entry(container).or_default())
    }
}

#[cfg(test)]
mod tests;
