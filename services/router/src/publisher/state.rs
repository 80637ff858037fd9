//! What is published and imported, where it leads now, and what is wrong with it. Waits for the kernel, the driver and the disk, for
//! nobody else.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::{sync::watch, task::spawn_blocking, time::Instant};
use weft_router_core::mesh::Problem;
use weft_service::Store;
use weft_types::AllowedAddresses;

use super::{
    HOLD, ImportView, Parts, Refused, Shown, View, Which,
    forwarder::{Forwarder, Leads},
    imports::Imports,
    names::Names,
};
use crate::{
    driver::{self, Attachment, DriverHandle},
    exposed,
    kernel::Kernel,
    published::{HostPort, MOST_PORTS, PUBLISHED_FILE, Protocol, Published, Target, Terms, v4_subnet},
};

/// An address and its twin.
pub(super) type Given = (Ipv4Net, Option<Ipv6Net>);

/// All of it. Whoever has it waits for no other service.
pub(super) struct State {
    driver: DriverHandle,
    kernel: Kernel,
    store: Store,
    pub(super) range: Ipv4Net,
    own_ports: BTreeSet<u16>,
    pub(super) published: Published,
    /// What kernel, mesh and disk have, if they have the same.
    told: Option<Published>,
    /// Subnets in which ipam has said since the start that the address is ours.
    pub(super) confirmed: BTreeSet<Ipv4Net>,
    /// Why it gave none, and when.
    pub(super) refused: BTreeMap<Ipv4Net, (String, Instant)>,
    /// The same of imports.
    pub(super) confirmed_imports: BTreeSet<String>,
    pub(super) refused_imports: BTreeMap<String, (String, Instant)>,
    /// Whether ipam may hold addresses for what there is no longer.
    pub(super) unswept: bool,
    forwarders: BTreeMap<HostPort, Forwarder>,
    pub(super) names: Names,
    pub(super) imports: Imports,
    /// Why ports are not held.
    not_held: BTreeMap<HostPort, String>,
    /// Why not all is told.
    not_told: Option<String>,
    /// Why hosts of imports are not found.
    pub(super) not_found: BTreeMap<String, String>,
    /// Why dns does not know imports.
    pub(super) not_named: BTreeMap<String, String>,
    began: Instant,
    shown: watch::Sender<Option<Shown>>,
    problems: watch::Sender<Vec<Problem>>,
}

impl State {
    pub(super) fn new(
        parts: Parts,
        names: Names,
        imports: Imports,
        shown: watch::Sender<Option<Shown>>,
        problems: watch::Sender<Vec<Problem>>,
    ) -> Self {
        let mut state = Self {
            driver: parts.driver,
            kernel: parts.kernel,
            store: parts.store,
            range: parts.range,
            own_ports: parts.own_ports,
            told: Some(parts.published.clone()),
            published: parts.published,
            confirmed: BTreeSet::new(),
            refused: BTreeMap::new(),
            confirmed_imports: BTreeSet::new(),
            refused_imports: BTreeMap::new(),
            unswept: true,
            forwarders: BTreeMap::new(),
            names,
            imports,
            not_held: BTreeMap::new(),
            not_told: None,
            not_found: BTreeMap::new(),
            not_named: BTreeMap::new(),
            began: Instant::now(),
            shown,
            problems,
        };
        state.show();
        state
    }

    /// Makes all as it should be, as far as it can be; the rest is a problem, and tried again.
    pub(super) async fn settle(&mut self) {
        if self.published != Published::default() {
            self.find().await;
            self.find_imports();
        }
        self.lead();
        self.not_told = self.tell().await.err().map(|error| format!("{error:#}"));
        self.show();
    }

    /// Has others see what there is, and hears from now on of what that depends on.
    pub(super) fn show(&mut self) {
        self.imports.watch(&self.published.imports);
        let targets = self.published.ports.values().filter_map(|terms| match &terms.target {
            Target::Name(name) => Some(name.as_str()),
            Target::Address(_) => None,
        });
        self.names.watch(targets.chain(self.published.imports.keys().map(String::as_str)));
        let shown = Shown {
            ports: self.published.ports.iter().map(|(port, terms)| self.view(*port, terms)).collect(),
            imports: self.published.imports.keys().filter_map(|name| self.import_view(name)).collect(),
        };
        let all = self.problems_of_all().into_iter();
        let problems: Vec<Problem> = all
            .chain(shown.ports.iter().flat_map(|port| port.problems.iter().cloned()))
            .chain(shown.imports.iter().flat_map(|import| import.problems.iter().cloned()))
            .collect();
        self.shown.send_replace(Some(shown));
        self.problems.send_if_modified(|known| {
            let changed = *known != problems;
            *known = problems;
            changed
        });
    }

    pub(super) fn view(&self, port: HostPort, terms: &Terms) -> View {
        View {
            port,
            terms: terms.clone(),
            backends: self.published.backends(terms),
            problems: self.problems_of(port, terms),
        }
    }

    pub(super) fn import_view(&self, name: &str) -> Option<ImportView> {
        let import = self.published.imports.get(name)?.clone();
        let problems = self.problems_of_import(name, &import);
        Some(ImportView { name: name.to_owned(), import, problems })
    }

    /// Says what is wrong whatever port it is.
    fn problems_of_all(&self) -> Vec<Problem> {
        // Where the host has an address from before, that leads on.
        let subnets = self.refused.iter().filter(|(subnet, _)| self.published.is_in(**subnet));
        let subnets = subnets.map(|(subnet, (why, _))| format!("the host got no address in {subnet}: {why}"));
        let imports = self.refused_imports.iter();
        let imports = imports.map(|(name, (why, _))| format!("the imported service {name} got no address: {why}"));
        let all = self.not_told.iter().cloned().chain(subnets).chain(imports);
        all.map(|why| {
            let message =
                format!("published ports are not as they should be, which is tried again ({why}): correct that");
            problem("publish_refused", message)
        })
        .collect()
    }

    fn problems_of(&self, port: HostPort, terms: &Terms) -> Vec<Problem> {
        let held = self.not_held.get(&port).map(|why| {
            let message = format!(
                "{why}; until then the port is reached neither from the host's loopback nor by the PROXY protocol"
            );
            problem("port_not_held", message)
        });
        let refused = match &terms.target {
            Target::Name(name) => self.names.told(name).and_then(|told| told.as_ref().err()),
            Target::Address(_) => None,
        };
        let nobody = match refused {
            Some(why) => Some(problem(
                "name_refused",
                format!(
                    "port {port} leads to nobody, because dns takes {} for no name any more ({why}): `weft unpublish {}`, and \
                     publish it by a name that dns knows",
                    terms.target, port.port
                ),
            )),
            None if terms.backends.is_empty() => Some(problem(
                "nobody_to_publish",
                format!(
                    "port {port} leads to {}, and no container that can be reached has that at present: start one, or `weft \
                     unpublish {}`",
                    terms.target, port.port
                ),
            )),
            None => None,
        };
        held.into_iter().chain(nobody).chain(self.left_out(port, terms)).collect()
    }

    /// Says which containers get no connections for lack of a way to them.
    fn left_out(&self, port: HostPort, terms: &Terms) -> Vec<Problem> {
        let led = self.published.backends(terms);
        let why = |(subnet, (why, _)): (&Ipv4Net, &(String, Instant))| {
            let in_subnet = |address: &&IpNet| v4_subnet(address).as_ref() == Some(subnet) && !led.contains(*address);
            let left_out = terms.backends.iter().filter(in_subnet);
            let left_out: Vec<String> = left_out.map(|address| address.addr().to_string()).collect();
            let message = format!(
                "port {port} does not lead to {}, because this host has no address in {subnet}, for which it asks again ({why}): correct \
                 that, or give the container an address of another subnet",
                left_out.join(", ")
            );
            (!left_out.is_empty() && !self.published.is_in(*subnet)).then(|| problem("backend_left_out", message))
        };
        self.refused.iter().filter_map(why).collect()
    }

    /// Finds whom a port that is to be published leads to, and takes it, if nothing is against that and nobody has it.
    pub(super) async fn begin(
        &mut self,
        port: HostPort,
        terms: &mut Terms,
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<Option<Forwarder>, Refused> {
        self.check(port, terms)?;
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
        let taken = (!self.forwarders.contains_key(&port)).then(|| Forwarder::start(port));
        taken.transpose().map_err(|error| listening(port, &error))
    }

    /// Has a port lead where it is to, with the addresses that there are for it, or leaves all as it was.
    pub(super) async fn establish(
        &mut self,
        port: HostPort,
        terms: Terms,
        taken: Option<Forwarder>,
    ) -> Result<View, Refused> {
        if self.published.backends(&terms).is_empty() {
            return Err(self.no_way(&terms));
        }
        self.forwarders.extend(taken.map(|forwarder| (port, forwarder)));
        let before = self.published.ports.insert(port, terms);
        self.lead();
        if let Err(error) = self.tell().await {
            match before {
                Some(before) => drop(self.published.ports.insert(port, before)),
                None => drop(self.published.ports.remove(&port)),
            }
            return Err(Refused::Failed(error));
        }
        Ok(self.view(port, &self.published.ports[&port]))
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

    /// Says why none of the containers is reached.
    fn no_way(&self, terms: &Terms) -> Refused {
        match terms.subnets.iter().find_map(|subnet| Some((subnet, self.refused.get(subnet)?))) {
            Some((subnet, (why, _))) => Refused::NotNow(format!(
                "this host has no address in {subnet} by which it would reach {}, and got none ({why}): correct that, or name a \
                 container with an address of another subnet",
                terms.target
            )),
            None => Refused::NotNow(format!(
                "{} is nowhere where this host could have an address: name a container of the overlay",
                terms.target
            )),
        }
    }

    /// Takes ports back, and returns those that there were.
    pub(super) async fn remove(&mut self, which: Which) -> Result<Vec<View>, Refused> {
        let meant = |port: &HostPort| {
            let address = which.address.is_none() || which.address == port.address;
            port.port == which.port && address && which.protocol.is_none_or(|protocol| protocol == port.protocol)
        };
        let ports: Vec<HostPort> = self.published.ports.keys().filter(|port| meant(port)).copied().collect();
        let removed = ports.iter().filter_map(|port| Some(self.view(*port, self.published.ports.get(port)?))).collect();
        self.published.ports.retain(|port, _| !ports.contains(port));
        self.let_go();
        self.lead();
        self.tell().await.map_err(Refused::Failed)?;
        Ok(removed)
    }

    /// Finds out who is there now.
    async fn find(&mut self) {
        // The driver ends with the service.
        let Ok(located) = self.locate().await else { return };
        let settled = self.began.elapsed() > HOLD;
        for terms in self.published.ports.values_mut() {
            let known = terms.backends.iter().map(|net| (net.addr(), *net)).filter(|_| !settled).collect();
            let found: BTreeSet<IpAddr> = match &terms.target {
                // Until dns says who has the name, those have it who had.
                Target::Name(name) => match self.names.told(name) {
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

    /// Returns the interface addresses of all containers that can be reached, and those that they may give themselves.
    async fn locate(&self) -> Result<BTreeMap<IpAddr, IpNet>, Refused> {
        let stopping = |error: driver::Stopping| Refused::NotNow(error.to_string());
        let own = self.driver.ask(driver::Command::Attachments).await.map_err(stopping)?;
        let located = self.driver.ask(driver::Command::Locations).await.map_err(stopping)?;
        let others = located.into_iter().filter(|located| located.reachable).map(|located| located.attachment);
        let containers = own.into_iter().chain(others).filter(|attachment| attachment.container != exposed::holder());
        let containers: Vec<Attachment> = containers.collect();
        let floating = containers.iter().flat_map(|one| floating(&one.addresses, &one.allowed));
        let given = containers.iter().flat_map(|one| one.addresses.iter().copied());
        // What was given to a container is nobody else's.
        Ok(floating.chain(given).map(|net| (net.addr(), net)).collect())
    }

    /// Holds the ports that there are and no others, and hands on what comes there to who is there now.
    fn lead(&mut self) {
        self.forwarders.retain(|port, _| self.published.ports.contains_key(port));
        self.not_held.clear();
        for (port, terms) in &self.published.ports {
            let forwarder = match self.forwarders.remove(port).map_or_else(|| Forwarder::start(*port), Ok) {
                Ok(forwarder) => forwarder,
                Err(error) => {
                    self.not_held.insert(*port, listening(*port, &error).to_string());
                    continue;
                }
            };
            let backends = self.published.targets(terms).into_iter().collect();
            forwarder.lead(Leads { backends, proxy_protocol: terms.proxy_protocol });
            self.forwarders.insert(*port, forwarder);
        }
    }

    /// Takes in what ipam says of an address in a subnet.
    pub(super) fn take_in(&mut self, subnet: Ipv4Net, outcome: anyhow::Result<Given>) {
        match outcome {
            Ok((address, twin)) => {
                self.published.held.retain(|known, _| known.trunc() != subnet);
                self.published.held.insert(address, twin);
                self.confirmed.insert(subnet);
                self.refused.remove(&subnet);
            }
            Err(error) => drop(self.refused.insert(subnet, (format!("{error:#}"), Instant::now()))),
        }
    }

    /// Lets go of addresses in subnets that need none.
    pub(super) fn let_go(&mut self) {
        let wanted = self.published.subnets();
        let before = self.published.held.len();
        self.published.held.retain(|address, _| wanted.contains(&address.trunc()));
        self.confirmed.retain(|subnet| wanted.contains(subnet));
        self.refused.retain(|subnet, _| wanted.contains(subnet));
        self.unswept |= self.published.held.len() < before;
    }

    /// Tells whether addresses may be given back: nobody else may get them before kernel, mesh and disk have let go of them.
    pub(super) fn may_give_back(&self) -> bool {
        self.unswept && self.told.as_ref() == Some(&self.published)
    }

    /// Has kernel, mesh and disk know what is published, if that is news.
    pub(super) async fn tell(&mut self) -> anyhow::Result<()> {
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

/// Returns addresses that a container may give itself as it would have them in the smallest of its subnets that they are in.
fn floating(addresses: &[IpNet], allowed: &AllowedAddresses) -> Vec<IpNet> {
    let within = |address: IpAddr| {
        let length = addresses.iter().filter(|net| net.contains(&address)).map(IpNet::prefix_len).max()?;
        IpNet::new(address, length).ok()
    };
    allowed.iter().filter_map(within).collect()
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

pub(super) fn problem(reason: &'static str, message: String) -> Problem {
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
    fn floating_addresses_are_in_subnets_of_who_may_have_them() {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("valid")).collect::<Vec<IpNet>>();
        let allowed = "10.32.0.100,10.40.0.100,192.0.2.1,fd12::100".parse().expect("valid");
        let addresses = nets(&["10.32.0.1/12", "10.40.0.1/24", "fd12::1/108"]);
        assert_eq!(floating(&addresses, &allowed), nets(&["10.32.0.100/12", "10.40.0.100/24", "fd12::100/108"]));
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
