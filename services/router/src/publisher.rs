//! Has ports of the host lead to containers, and names inside to services outside: knows what is published and imported, finds out
//! who is there, and tells the kernel.
//!
//! One task owns all of it. It hears of names from dns, of addresses from the driver, and takes the host's own addresses from ipam.

mod asked;
mod forwarder;
mod import;
mod imports;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tonic::transport::Channel;
use weft_proto::{
    client::{Service, channel},
    ipam::v1::{
        AllocateRequest, DualAddress, FreeRequest, ListAllocationsRequest, address_service_client::AddressServiceClient,
    },
};
use weft_router_core::mesh::Problem;
use weft_service::{Shutdown, Store};

use self::{
    forwarder::{Forwarder, Leads},
    imports::Imports,
    names::Names,
};
use crate::{
    driver::{self, DriverHandle},
    exposed,
    kernel::Kernel,
    published::{HostPort, Import, MOST_PORTS, PUBLISHED_FILE, Protocol, Published, Target, Terms, v4_subnet},
};

/// Holder of the addresses that the host has to reach containers.
const HOLDER: &str = "weft:publish";

/// Commands that may wait; who sends more waits.
const COMMANDS: usize = 64;

/// How often is looked for who is where, and what failed is tried again.
const TICK: Duration = Duration::from_secs(1);

/// How long ipam may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may look for an address, in milliseconds: it is to give up before nobody hears its answer.
const LOOKING: u32 = 4000;

/// How long after the start addresses count as there that were: other hosts are met again within seconds.
const HOLD: Duration = Duration::from_secs(10);

/// What the task starts with.
#[derive(Debug)]
pub struct Parts {
    /// The driver.
    pub driver: DriverHandle,
    /// The owner of kernel network state.
    pub kernel: Kernel,
    /// Where state is kept.
    pub store: Store,
    /// What was published, and is in the kernel.
    pub published: Published,
    /// The overlay's range.
    pub range: Ipv4Net,
    /// Ports of TCP and UDP that are weft's own.
    pub own_ports: BTreeSet<u16>,
}

/// Why something is not published.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Something has to be otherwise first.
    #[error("{0}")]
    NotNow(String),
    /// Somebody did not do what was asked.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// A port as it is now.
#[derive(Debug, Clone)]
pub struct View {
    /// Which.
    pub port: HostPort,
    /// Where it leads.
    pub terms: Terms,
    /// Interface addresses of the containers that get connections.
    pub backends: BTreeSet<IpNet>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

#[derive(Debug)]
enum Command {
    Publish {
        port: HostPort,
        terms: Terms,
        found: BTreeSet<IpAddr>,
        reply: oneshot::Sender<Result<View, Refused>>,
    },
    Unpublish {
        which: Which,
        reply: oneshot::Sender<Result<Vec<View>, Refused>>,
    },
    List {
        reply: oneshot::Sender<Vec<View>>,
    },
    Import {
        name: String,
        import: Import,
        known: BTreeSet<IpAddr>,
        reply: oneshot::Sender<Result<ImportView, Refused>>,
    },
    Unimport {
        name: String,
        reply: oneshot::Sender<Result<Vec<ImportView>, Refused>>,
    },
    ListImports {
        reply: oneshot::Sender<Vec<ImportView>>,
    },
}

/// A service outside as it is now.
#[derive(Debug, Clone)]
pub struct ImportView {
    /// Its name inside.
    pub name: String,
    /// Where it leads.
    pub import: Import,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Ports that are meant.
#[derive(Debug, Clone, Copy)]
pub struct Which {
    /// Their number.
    pub port: u16,
    /// Of this protocol, or both.
    pub protocol: Option<Protocol>,
    /// Of this address, or whatever it is.
    pub address: Option<IpAddr>,
}

/// Reaches the task.
#[derive(Debug, Clone)]
pub struct PublisherHandle {
    commands: mpsc::Sender<Command>,
    dns: Channel,
    /// Where the host's root folder is seen.
    host_root: PathBuf,
}

impl PublisherHandle {
    /// Has a port lead to containers.
    ///
    /// # Errors
    /// [`Refused`]; then all is as it was.
    pub async fn publish(&self, port: HostPort, terms: Terms) -> Result<View, Refused> {
        // Who takes his time with an answer keeps nobody else waiting.
        let found = match &terms.target {
            Target::Name(name) => names::ask(&self.dns, name).await?,
            Target::Address(address) => [*address].into(),
        };
        self.ask(|reply| Command::Publish { port, terms, found, reply }).await?
    }

    /// Takes ports back, and returns those that there were.
    ///
    /// # Errors
    /// If they could not be taken back.
    pub async fn unpublish(&self, which: Which) -> Result<Vec<View>, Refused> {
        self.ask(|reply| Command::Unpublish { which, reply }).await?
    }

    /// Lists all ports, in order.
    ///
    /// # Errors
    /// If the router is stopping.
    pub async fn list(&self) -> Result<Vec<View>, Refused> {
        self.ask(|reply| Command::List { reply }).await
    }

    /// Gives a service outside a name inside.
    ///
    /// # Errors
    /// [`Refused`]; then all is as it was.
    pub async fn import(&self, name: String, mut import: Import) -> Result<ImportView, Refused> {
        import::check_name(&name)?;
        let known = names::ask(&self.dns, &name).await?;
        import.targets = imports::ask(&self.host_root, &import).await.map_err(|why| {
            Refused::NotNow(format!(
                "the host {} is not found ({why}): name one that this host finds, or its address",
                import.host
            ))
        })?;
        self.ask(|reply| Command::Import { name, import, known, reply }).await?
    }

    /// Takes a service outside away, and returns it if it was there.
    ///
    /// # Errors
    /// If it could not be taken away.
    pub async fn unimport(&self, name: String) -> Result<Vec<ImportView>, Refused> {
        self.ask(|reply| Command::Unimport { name, reply }).await?
    }

    /// Lists all services outside, in order of their names.
    ///
    /// # Errors
    /// If the router is stopping.
    pub async fn list_imports(&self) -> Result<Vec<ImportView>, Refused> {
        self.ask(|reply| Command::ListImports { reply }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Refused> {
        let stopping = || Refused::NotNow(driver::Stopping.to_string());
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }
}

/// Makes the handle, and what the task of [`run`] is to be given. The last is where it says what is wrong. `sockets` is the folder of
/// the services' sockets, `host_root` where the host's root folder is seen.
#[must_use]
pub fn make(sockets: &Path, host_root: &Path) -> (PublisherHandle, Inbox, watch::Receiver<Vec<Problem>>) {
    let (commands, queue) = mpsc::channel(COMMANDS);
    let (sender, problems) = watch::channel(Vec::new());
    let dns = channel(&Service::Dns.socket(sockets));
    let handle = PublisherHandle { commands, dns, host_root: host_root.to_owned() };
    let inbox = Inbox {
        commands: queue,
        problems: sender,
        dns: handle.dns.clone(),
        ipam: channel(&Service::Ipam.socket(sockets)),
        host_root: handle.host_root.clone(),
    };
    (handle, inbox, problems)
}

/// What the task listens to, and speaks by.
#[derive(Debug)]
pub struct Inbox {
    commands: mpsc::Receiver<Command>,
    problems: watch::Sender<Vec<Problem>>,
    dns: Channel,
    ipam: Channel,
    host_root: PathBuf,
}

/// Does all of it until `shutdown`. What is published stays in the kernel.
pub async fn run(parts: Parts, mut inbox: Inbox, shutdown: Shutdown) {
    let mut names = Names::new(inbox.dns.clone());
    let mut imports = Imports::new(&inbox.host_root);
    let mut publisher = Publisher {
        driver: parts.driver,
        kernel: parts.kernel,
        store: parts.store,
        ipam: inbox.ipam.clone(),
        dns: inbox.dns.clone(),
        range: parts.range,
        own_ports: parts.own_ports,
        told: Some(parts.published.clone()),
        published: parts.published,
        confirmed: BTreeSet::new(),
        refused: BTreeMap::new(),
        confirmed_imports: BTreeSet::new(),
        unswept: true,
        forwarders: BTreeMap::new(),
        problems: BTreeMap::new(),
        import_problems: BTreeMap::new(),
        began: Instant::now(),
    };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            command = inbox.commands.recv() => match command {
                Some(command) => publisher.perform(command, &names, &imports).await,
                None => return,
            },
            () = names.changed() => publisher.settle(&names, &imports).await,
            () = imports.changed() => publisher.settle(&names, &imports).await,
            _ = tick.tick() => publisher.settle(&names, &imports).await,
        }
        imports.watch(&publisher.published.imports);
        let targets = publisher.published.ports.values().filter_map(|terms| match &terms.target {
            Target::Name(name) => Some(name.as_str()),
            Target::Address(_) => None,
        });
        names.watch(targets.chain(publisher.published.imports.keys().map(String::as_str)));
        let problems =
            publisher.problems.values().chain(publisher.import_problems.values()).flatten().cloned().collect();
        inbox.problems.send_if_modified(|known| {
            let changed = *known != problems;
            *known = problems;
            changed
        });
    }
}

struct Publisher {
    driver: DriverHandle,
    kernel: Kernel,
    store: Store,
    ipam: Channel,
    dns: Channel,
    range: Ipv4Net,
    own_ports: BTreeSet<u16>,
    published: Published,
    /// What kernel, mesh and disk have, if they have the same.
    told: Option<Published>,
    /// Subnets in which ipam has said since the start that the address is ours.
    confirmed: BTreeSet<Ipv4Net>,
    /// Why it gave none.
    refused: BTreeMap<Ipv4Net, String>,
    /// Imports of which it has said so.
    confirmed_imports: BTreeSet<String>,
    /// Whether ipam may hold addresses for what there is no longer.
    unswept: bool,
    forwarders: BTreeMap<HostPort, Forwarder>,
    /// What is wrong with a port; `None` has what is wrong with all.
    problems: BTreeMap<Option<HostPort>, Vec<Problem>>,
    /// What is wrong with an import.
    import_problems: BTreeMap<String, Vec<Problem>>,
    began: Instant,
}

impl Publisher {
    async fn perform(&mut self, command: Command, names: &Names, imports: &Imports) {
        // Whoever asked may have gone meanwhile: what is done stays done.
        match command {
            Command::Publish { port, terms, found, reply } => {
                let _ = reply.send(self.publish(port, terms, &found, names, imports).await);
            }
            Command::Unpublish { which, reply } => {
                let _ = reply.send(self.unpublish(which).await);
            }
            Command::List { reply } => {
                let _ = reply.send(self.published.ports.iter().map(|(port, terms)| self.view(*port, terms)).collect());
            }
            Command::Import { name, import, known, reply } => {
                let _ = reply.send(self.import(name, import, &known).await);
            }
            Command::Unimport { name, reply } => {
                let _ = reply.send(self.unimport(&name).await);
            }
            Command::ListImports { reply } => {
                let _ = reply.send(self.imports());
            }
        }
    }

    fn view(&self, port: HostPort, terms: &Terms) -> View {
        View {
            port,
            terms: terms.clone(),
            backends: self.published.backends(terms),
            problems: self.problems.get(&Some(port)).cloned().unwrap_or_default(),
        }
    }

    async fn publish(
        &mut self,
        port: HostPort,
        mut terms: Terms,
        addresses: &BTreeSet<IpAddr>,
        names: &Names,
        imports: &Imports,
    ) -> Result<View, Refused> {
        self.check(port, &terms)?;
        if addresses.is_empty() {
            return Err(Refused::NotNow(format!(
                "no container has the name {}: start one, or see with `weft status dns` which names there are",
                terms.target
            )));
        }
        let located = self.locate().await?;
        let found: Vec<IpNet> = addresses.iter().filter_map(|address| located.get(address).copied()).collect();
        if found.is_empty() {
            return Err(self.nobody(&terms.target, addresses));
        }
        terms.set_backends(found);

        let before = self.published.ports.clone();
        self.published.ports.insert(port, terms);
        if let Err(error) = self.establish(port).await {
            self.published.ports = before;
            self.forwarders.retain(|port, _| self.published.ports.contains_key(port));
            self.settle(names, imports).await;
            return Err(error);
        }
        let terms = &self.published.ports[&port];
        Ok(self.view(port, terms))
    }

    /// Refuses what cannot be, whoever is there.
    fn check(&self, port: HostPort, terms: &Terms) -> Result<(), Refused> {
        if self.own_ports.contains(&port.port) {
            return Err(Refused::Invalid(format!("port {} of the host is weft's own: choose another", port.port)));
        }
        if let Some(why) = port.address.and_then(no_address_of_a_host) {
            return Err(Refused::Invalid(format!("port {port} cannot be published: {why}")));
        }
        if terms.proxy_protocol && port.protocol == Protocol::Udp {
            let text = "the PROXY protocol is for connections of TCP: publish without it, or by TCP";
            return Err(Refused::Invalid(text.to_owned()));
        }
        let other = self.published.ports.keys().find(|known| **known != port && known.overlaps(&port));
        if let Some(other) = other {
            return Err(Refused::NotNow(format!(
                "port {port} is published as {other} already: `weft unpublish {}` first",
                other.port
            )));
        }
        if self.published.ports.len() >= MOST_PORTS && !self.published.ports.contains_key(&port) {
            return Err(Refused::NotNow(format!(
                "{MOST_PORTS} ports are published, and there may not be more: `weft unpublish` one first"
            )));
        }
        Ok(())
    }

    fn nobody(&self, target: &Target, addresses: &BTreeSet<IpAddr>) -> Refused {
        let outside = |address: &IpAddr| matches!(address, IpAddr::V4(address) if !self.range.contains(address));
        match target {
            Target::Address(address) if outside(address) => Refused::Invalid(format!(
                "{address} is no container's, and outside of the overlay's range {}: name a container, or its address as \
                 `weft ps` has it",
                self.range
            )),
            Target::Address(address) => Refused::NotNow(format!(
                "no container that can be reached has the address {address}: start it, or see with `weft ps` on its host which \
                 address it has"
            )),
            Target::Name(name) => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                Refused::NotNow(format!(
                    "the name {name} means {}, which is no container that can be reached: name one that runs",
                    addresses.join(", ")
                ))
            }
        }
    }

    /// Does all that a new port needs, or says what could not be done.
    async fn establish(&mut self, port: HostPort) -> Result<(), Refused> {
        self.listen(port).map_err(|error| listening(port, &error))?;
        let held = self.hold().await;
        let terms = &self.published.ports[&port];
        if self.published.backends(terms).is_empty() {
            let why = terms.subnets.iter().find_map(|subnet| Some((subnet, self.refused.get(subnet)?)));
            return Err(match (why, held) {
                (Some((subnet, why)), _) => Refused::NotNow(format!(
                    "this host has no address in {subnet} by which it would reach {}, and got none ({why}): correct that, or name a \
                     container with an address of another subnet",
                    terms.target
                )),
                (None, Err(error)) => Refused::Failed(error),
                (None, Ok(())) => Refused::NotNow(format!(
                    "{} is nowhere where this host could have an address: name a container of the overlay",
                    terms.target
                )),
            });
        }
        self.listen(port).map_err(|error| listening(port, &error))?;
        self.tell().await.map_err(Refused::Failed)
    }

    async fn unpublish(&mut self, which: Which) -> Result<Vec<View>, Refused> {
        let meant = |port: &HostPort| {
            let address = which.address.is_none() || which.address == port.address;
            port.port == which.port && address && which.protocol.is_none_or(|protocol| protocol == port.protocol)
        };
        let ports: Vec<HostPort> = self.published.ports.keys().filter(|port| meant(port)).copied().collect();
        let mut removed = Vec::new();
        for port in ports {
            if let Some(terms) = self.published.ports.remove(&port) {
                removed.push(self.view(port, &terms));
            }
            self.forwarders.remove(&port);
            self.problems.remove(&Some(port));
        }
        self.let_go();
        self.tell().await.map_err(Refused::Failed)?;
        self.sweep().await;
        Ok(removed)
    }

    /// Makes all as it should be, as far as it can be; the rest is a problem, and tried again.
    async fn settle(&mut self, names: &Names, imports: &Imports) {
        if self.published == Published::default() && self.told.as_ref() == Some(&self.published) {
            self.problems.clear();
            self.sweep().await;
            return;
        }
        self.find(names).await;
        self.find_imports(imports);
        let ports: Vec<HostPort> = self.published.ports.keys().copied().collect();
        for port in ports {
            let mut problems = Vec::new();
            if let Err(error) = self.listen(port) {
                let message = format!(
                    "{}; until then the port is reached neither from the host's loopback nor by the PROXY protocol",
                    listening(port, &error)
                );
                problems.push(problem("port_not_held", message));
            }
            let terms = &self.published.ports[&port];
            if let Target::Name(name) = &terms.target
                && let Some(Err(why)) = names.told(name)
            {
                let message = format!(
                    "port {port} leads to nobody, because dns takes {name} for no name any more ({why}): `weft unpublish {}`, and \
                     publish it by a name that dns knows",
                    port.port
                );
                problems.push(problem("name_refused", message));
            } else if terms.backends.is_empty() {
                let message = format!(
                    "port {port} leads to {}, and no container that can be reached has that at present: start one, or `weft \
                     unpublish {}`",
                    terms.target, port.port
                );
                problems.push(problem("nobody_to_publish", message));
            }
            self.problems.insert(Some(port), problems);
        }
        self.problems.retain(|port, _| port.is_none_or(|port| self.published.ports.contains_key(&port)));
        let mut general = Vec::new();
        // Clients of who is gone do not wait for ipam.
        let told = self.tell().await;
        let held = self.hold().await;
        for (port, terms) in &self.published.ports {
            let left_out = self.left_out(*port, terms);
            self.problems.entry(Some(*port)).or_default().extend(left_out);
        }
        self.keep_names(names).await;
        for outcome in [told, held, self.tell().await] {
            if let Err(error) = outcome {
                let message = format!(
                    "published ports are not as they should be, which is tried again ({error:#}): correct that"
                );
                general.push(problem("publish_refused", message));
            }
        }
        general.dedup();
        self.problems.insert(None, general);
        self.sweep().await;
    }

    /// Says which containers get no connections for lack of a way to them.
    fn left_out(&self, port: HostPort, terms: &Terms) -> Vec<Problem> {
        let why = |(subnet, why): (&Ipv4Net, &String)| {
            let left_out = terms.backends.iter().filter(|address| v4_subnet(address).as_ref() == Some(subnet));
            let left_out: Vec<String> = left_out.map(|address| address.addr().to_string()).collect();
            let message = format!(
                "port {port} does not lead to {}, because this host has no address in {subnet}, for which it asks again ({why}): correct \
                 that, or give the container an address of another subnet",
                left_out.join(", ")
            );
            (!left_out.is_empty()).then(|| problem("backend_left_out", message))
        };
        self.refused.iter().filter_map(why).collect()
    }

    /// Finds out who is there now.
    async fn find(&mut self, names: &Names) {
        // The driver ends with the service.
        let Ok(located) = self.locate().await else { return };
        let settled = self.began.elapsed() > HOLD;
        for terms in self.published.ports.values_mut() {
            let known = terms.backends.iter().map(|net| (net.addr(), *net)).filter(|_| !settled).collect();
            let found: BTreeSet<IpAddr> = match &terms.target {
                // Until dns says who has the name, those have it who had.
                Target::Name(name) => match names.told(name) {
                    Some(Ok(addresses)) => addresses.clone(),
                    Some(Err(_)) => BTreeSet::new(),
                    None => terms.backends.iter().map(IpNet::addr).collect(),
                },
                Target::Address(address) => [*address].into(),
            };
            if terms.set_backends(place(&found, &located, &known)) {
                tracing::info!(target = %terms.target, backends = terms.backends.len(), "a published port leads elsewhere");
            }
        }
    }

    /// Returns the interface addresses of all containers that can be reached.
    async fn locate(&self) -> Result<BTreeMap<IpAddr, IpNet>, Refused> {
        let stopping = |error: driver::Stopping| Refused::NotNow(error.to_string());
        let own = self.driver.ask(driver::Command::Attachments).await.map_err(stopping)?;
        let located = self.driver.ask(driver::Command::Locations).await.map_err(stopping)?;
        let others = located.into_iter().filter(|located| located.reachable).map(|located| located.attachment);
        let containers = own.into_iter().chain(others).filter(|attachment| attachment.container != exposed::holder());
        Ok(containers.flat_map(|attachment| attachment.addresses).map(|net| (net.addr(), net)).collect())
    }

    /// Holds a port, and hands on what comes there to who is there now.
    fn listen(&mut self, port: HostPort) -> io::Result<()> {
        let Some(terms) = self.published.ports.get(&port) else { return Ok(()) };
        let forwarder = match self.forwarders.remove(&port) {
            Some(known) => known,
            None => Forwarder::start(port)?,
        };
        let backends = self.published.targets(terms).into_iter().collect();
        forwarder.lead(Leads { backends, proxy_protocol: terms.proxy_protocol });
        self.forwarders.insert(port, forwarder);
        Ok(())
    }

    /// Takes addresses from ipam for the subnets and imports that need one, and lets go of those that are needed no longer.
    async fn hold(&mut self) -> anyhow::Result<()> {
        let mut failures = Vec::new();
        for subnet in self.published.subnets().difference(&self.confirmed.clone()) {
            match self.allocate(HOLDER, Some(*subnet)).await {
                Ok((address, twin)) => {
                    self.published.held.retain(|known, _| known.trunc() != *subnet);
                    self.published.held.insert(address, twin);
                    self.confirmed.insert(*subnet);
                    self.refused.remove(subnet);
                }
                // Where it has one from before, that leads on.
                Err(error) if self.published.held.keys().any(|known| known.trunc() == *subnet) => {
                    failures.push(error.context(format!("the host got no address in {subnet}")));
                }
                Err(error) => drop(self.refused.insert(*subnet, format!("{error:#}"))),
            }
        }
        failures.extend(self.confirm_imports().await.err());
        self.let_go();
        failures.into_iter().next().map_or(Ok(()), Err)
    }

    /// Lets go of addresses in subnets that need none.
    fn let_go(&mut self) {
        let wanted = self.published.subnets();
        let before = self.published.held.len();
        self.published.held.retain(|address, _| wanted.contains(&address.trunc()));
        self.confirmed.retain(|subnet| wanted.contains(subnet));
        self.refused.retain(|subnet, _| wanted.contains(subnet));
        self.unswept |= self.published.held.len() < before;
    }

    /// Gives addresses back that ipam holds for what there is no longer; whatever fails is tried again. What an earlier run did not
    /// come to give back is found as well.
    async fn sweep(&mut self) {
        // Nobody else may get them before kernel, mesh and disk have let go of them.
        if self.unswept && self.told.as_ref() == Some(&self.published) {
            match self.give_back().await {
                Ok(()) => self.unswept = false,
                Err(error) => {
                    tracing::debug!(error = %format_args!("{error:#}"), "addresses are not given back yet");
                }
            }
        }
    }

    async fn give_back(&self) -> anyhow::Result<()> {
        let mut client = AddressServiceClient::new(self.ipam.clone());
        let answer = timeout(PATIENCE, client.list_allocations(ListAllocationsRequest {}));
        let answer = answer.await.context("ipam did not answer within 5 s")??.into_inner();
        for allocation in answer.allocations {
            let holder = allocation.container_id;
            let name = holder.strip_prefix(import::HOLDER);
            let used = |address: &Ipv4Net| match name {
                Some(name) => self.published.imports.get(name).is_some_and(|import| import.address == Some(*address)),
                None => holder != HOLDER || self.published.held.contains_key(address),
            };
            let addresses = allocation.addresses.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?;
            let surplus: Vec<_> = addresses.into_iter().filter(|(address, _)| !used(address)).collect();
            if surplus.is_empty() {
                continue;
            }
            if let Some(name) = name {
                // Nobody is to be led to an address that is somebody else's.
                let twins = surplus.iter().filter_map(|(_, twin)| Some(IpAddr::V6(twin.as_ref()?.addr())));
                let named = surplus.iter().map(|(address, _)| IpAddr::V4(address.addr())).chain(twins);
                self.remove_names(name, &named.collect::<Vec<_>>()).await?;
            }
            self.free(&holder, &surplus.iter().map(|(address, _)| *address).collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Takes an address, of the default subnet if none is named.
    async fn allocate(&mut self, holder: &str, subnet: Option<Ipv4Net>) -> anyhow::Result<(Ipv4Net, Option<Ipv6Net>)> {
        let mut client = AddressServiceClient::new(self.ipam.clone());
        let subnet = subnet.map(Into::into);
        let request = AllocateRequest { container_id: holder.to_owned(), subnet, timeout_millis: LOOKING };
        let asked = async {
            let answer = timeout(PATIENCE, client.allocate(request)).await.context("ipam did not answer within 5 s")?;
            let address = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner().address;
            read(&address.context("ipam names no address")?)
        };
        let outcome = asked.await;
        // It may be given when nobody waits for it any more.
        self.unswept |= outcome.is_err();
        outcome
    }

    async fn free(&self, holder: &str, addresses: &[Ipv4Net]) -> anyhow::Result<()> {
        let mut client = AddressServiceClient::new(self.ipam.clone());
        let addresses = addresses.iter().map(|address| (*address).into()).collect();
        let request = FreeRequest { container_id: holder.to_owned(), addresses };
        let answer = timeout(PATIENCE, client.free(request)).await.context("ipam did not answer within 5 s")?;
        answer.map_err(|status| anyhow::anyhow!("{}", status.message())).map(drop)
    }

    /// Has kernel, mesh and disk know what is published, if that is news.
    async fn tell(&mut self) -> anyhow::Result<()> {
        if self.told.as_ref() == Some(&self.published) {
            return Ok(());
        }
        // Until all have it, it is not known who has what.
        let before = self.told.take();
        let addresses = self.kernel.set_published(self.published.desired()).await?;
        let held = |published: &Published| published.desired().addresses;
        if before.is_none_or(|before| held(&before) != held(&self.published)) {
            self.driver.ask(|reply| driver::Command::SetHeld { addresses, reply }).await?;
        }
        let (store, content) = (self.store.clone(), self.published.clone());
        spawn_blocking(move || store.save(PUBLISHED_FILE, &content)).await.context("writing failed")??;
        self.told = Some(self.published.clone());
        Ok(())
    }
}

/// Returns the interface addresses of containers that have these addresses: where they are, or else where they were.
fn place(
    addresses: &BTreeSet<IpAddr>,
    located: &BTreeMap<IpAddr, IpNet>,
    known: &BTreeMap<IpAddr, IpNet>,
) -> Vec<IpNet> {
    addresses.iter().filter_map(|address| located.get(address).or_else(|| known.get(address)).copied()).collect()
}

/// Reads an address and its twin.
fn read(address: &DualAddress) -> anyhow::Result<(Ipv4Net, Option<Ipv6Net>)> {
    let v4 = Ipv4Net::try_from(address.v4.as_ref().context("ipam names no address of IPv4")?)?;
    match address.v6.as_ref().map(IpNet::try_from).transpose()? {
        Some(IpNet::V6(twin)) => Ok((v4, Some(twin))),
        Some(IpNet::V4(_)) | None => Ok((v4, None)),
    }
}

/// Says why no host has a port at this address of its own.
fn no_address_of_a_host(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("name the port alone for all addresses of the host")
    } else if address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("nobody has that address alone: name one of the host, or none")
    } else if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        Some("that address means something on one link only: name another of the host, or none")
    } else {
        None
    }
}

/// Says why a port cannot be held.
fn listening(port: HostPort, error: &io::Error) -> Refused {
    let kind = error.kind();
    if kind == io::ErrorKind::AddrInUse {
        let text = "of the host is in use already: choose another, or stop what has it (`ss -lntup`)";
        Refused::NotNow(format!("port {port} {text}"))
    } else if kind == io::ErrorKind::AddrNotAvailable {
        Refused::Invalid(format!("the host does not have the address of port {port}: name one that it has, or none"))
    } else if kind == io::ErrorKind::PermissionDenied {
        let text = "start weft with the compose.yaml of this version, which lets it";
        Refused::NotNow(format!("the router may not open port {port}: {text}"))
    } else {
        Refused::Failed(anyhow::anyhow!("port {port} of the host cannot be opened: {error}"))
    }
}

fn problem(reason: &'static str, message: String) -> Problem {
    Problem { reason, message, is_final: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_is_nowhere_whoever_has_the_name() {
        let net = |text: &str| text.parse::<IpNet>().expect("valid");
        let all = |texts: &[&str]| texts.iter().map(|text| (net(text).addr(), net(text))).collect();
        let named = ["10.32.0.1", "10.32.0.2", "10.32.0.3"].map(|text| text.parse().expect("valid")).into();
        let (located, known) = (all(&["10.32.0.1/12"]), all(&["10.32.0.1/12", "10.32.0.2/12"]));
        assert_eq!(place(&named, &located, &known), [net("10.32.0.1/12"), net("10.32.0.2/12")], "just started");
        assert_eq!(place(&named, &located, &BTreeMap::new()), [net("10.32.0.1/12")]);
    }

    #[test]
    fn not_every_address_is_a_hosts() {
        let why = |text: &str| no_address_of_a_host(text.parse().expect("valid"));
        for odd in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1"] {
            assert!(why(odd).is_some(), "{odd}");
        }
        for address in ["192.0.2.1", "127.0.0.1", "::1", "2001:db8::1"] {
            assert_eq!(why(address), None, "{address}");
        }
    }
}
