//! Has the kernel guard the ports of containers: what each may send, and who may exchange frames.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use ipnet::IpNet;
use weft_router_core::{
    forward::DropReason,
    hostnet::{self, ALIAS, Family, OverlayBridge, PortChanges, PortSources, Ports, Problem, Table},
};
use weft_types::{AllowedAddresses, MacAddress};

use super::{
    KernelConfig,
    nftables::{Nftables, Step},
};

/// Elements that one transaction changes: all of it has to fit the socket's buffer.
const ELEMENTS: usize = 1000;

/// What guards the ports of a host. Clones are the same; each change is one transaction on a socket of its own, so that who
/// attaches a container waits for nobody else's work.
#[derive(Debug, Clone)]
pub(super) struct PortGuard {
    inner: Arc<Mutex<Inner>>,
    /// Number of the socket.
    socket: Option<u32>,
}

#[derive(Debug)]
struct Inner {
    nftables: Option<Nftables>,
    bridge: OverlayBridge,
    ports: Ports,
    /// Whether it has begun: only then the kernel is told.
    active: bool,
    /// What the kernel remembers of an earlier run, once it was read.
    remembered: Option<BTreeMap<String, PortSources>>,
    /// Whether the kernel has what it was told, as far as this process knows.
    in_step: bool,
    problem: Option<Problem>,
    /// What the rules had counted when they were read last.
    counted: BTreeMap<DropReason, u64>,
    /// What rules have counted, those that were flushed included.
    dropped: BTreeMap<DropReason, u64>,
}

impl PortGuard {
    /// Makes one for the network namespace that the thread is in.
    pub(super) fn open(config: &KernelConfig) -> Self {
        let nftables = Nftables::open().ok();
        let socket = nftables.as_ref().map(Nftables::port);
        let inner = Inner {
            nftables,
            bridge: OverlayBridge {
                tap: config.tap.clone(),
                dns_port: config.dns_port.clone(),
                mac: config.bridge_mac,
            },
            ports: Ports::default(),
            active: false,
            remembered: None,
            in_step: false,
            problem: None,
            counted: BTreeMap::new(),
            dropped: BTreeMap::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), socket }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number by which the kernel names what changes the table.
    pub(super) fn socket(&self) -> Option<u32> {
        self.socket
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        self.lock().problem.clone()
    }

    /// Lets a port send from these addresses too, or from them alone if it is a new one, or if nobody confirmed others. What it is allowed beside its own is
    /// what it was allowed last. Returns what [`PortGuard::restore`] takes.
    pub(super) fn permit(&self, port: &str, mut sources: PortSources, new: bool) -> Option<PortSources> {
        let mut inner = self.lock();
        let before = inner.ports.get(port).filter(|_| !new).cloned();
        if let Some(before) = before.as_ref().filter(|before| before.mac == sources.mac && before.confirmed) {
            sources.addresses.extend(&before.addresses);
        }
        let changes = inner.ports.set(port, Some(sources));
        inner.change(changes.as_ref());
        before
    }

    /// Lets a port send what it might before, which is nothing if it was a new one.
    pub(super) fn restore(&self, port: &str, before: Option<PortSources>) {
        let mut inner = self.lock();
        let changes = inner.ports.set(port, before);
        inner.change(changes.as_ref());
    }

    /// Takes addresses from a port.
    pub(super) fn withdraw(&self, port: &str, addresses: &[IpNet]) {
        let mut inner = self.lock();
        let Some(mut sources) = inner.ports.get(port).cloned() else { return };
        sources.addresses.retain(|address| !addresses.contains(address));
        let changes = inner.ports.set(port, Some(sources));
        inner.change(changes.as_ref());
    }

    /// Tells which of these addresses somebody gave to a port's container.
    pub(super) fn permitted(&self, port: &str, mut addresses: Vec<IpNet>) -> Vec<IpNet> {
        let inner = self.lock();
        let sources = inner.ports.get(port).filter(|sources| sources.confirmed);
        addresses.retain(|address| sources.is_some_and(|sources| sources.addresses.contains(address)));
        addresses
    }

    /// Returns the addresses that were given to a port's container, if it is known what it may send.
    pub(super) fn given(&self, port: &str) -> Option<Vec<IpNet>> {
        self.lock().ports.get(port).map(|sources| sources.addresses.iter().copied().collect())
    }

    /// Returns what a port may send from though nobody gave it to the container.
    pub(super) fn allowed(&self, port: &str) -> AllowedAddresses {
        self.lock().ports.get(port).map(|sources| sources.allowed.clone()).unwrap_or_default()
    }

    /// Says in which subnets the containers of other hosts are.
    pub(super) fn set_remote(&self, remote: BTreeMap<MacAddress, BTreeSet<IpNet>>) {
        let mut inner = self.lock();
        let changes = inner.ports.set_remote(remote);
        inner.change(Some(&changes));
    }

    /// Says in which subnets the host itself has addresses: it exchanges frames with members of those alone.
    pub(super) fn set_host(&self, subnets: BTreeSet<IpNet>) {
        let mut inner = self.lock();
        if inner.ports.set_host(subnets) {
            inner.change(None);
        }
    }

    /// Tells whether it is known what a port may send: because somebody said so, or the kernel remembers it from an earlier run.
    ///
    /// # Errors
    /// If the kernel does not tell what it remembers.
    pub(super) fn knows(&self, port: &str, mac: MacAddress) -> anyhow::Result<bool> {
        let mut inner = self.lock();
        if inner.ports.get(port).is_some_and(|sources| sources.mac == mac) {
            return Ok(true);
        }
        if inner.active {
            return Ok(false);
        }
        let remembered = match inner.remembered.take() {
            Some(remembered) => remembered,
            None => inner.read_remembered().context("failed to read what containers may send")?,
        };
        let sources = remembered.get(port).filter(|sources| sources.mac == mac).cloned();
        inner.remembered = Some(remembered);
        let known = sources.is_some();
        if known {
            inner.ports.set(port, sources);
        }
        Ok(known)
    }

    /// Makes the table and what is in it as they should be, knows only these ports from then on, and returns how many changes that
    /// took. What is there is compared only if `check`, or if the kernel is known to be out of step.
    pub(super) fn keep(&self, ports: &BTreeSet<&str>, check: bool) -> usize {
        let mut inner = self.lock();
        let gone: Vec<String> = inner.ports.names().filter(|name| !ports.contains(name)).map(str::to_owned).collect();
        for name in gone {
            let changes = inner.ports.set(&name, None);
            inner.change(changes.as_ref());
        }
        (inner.active, inner.remembered) = (true, None);
        if check || !inner.in_step { inner.compare() } else { 0 }
    }

    /// Returns how many frames of containers were dropped, by reason.
    pub(super) fn dropped(&self) -> BTreeMap<DropReason, u64> {
        let mut inner = self.lock();
        inner.count();
        inner.dropped.clone()
    }

    /// Removes the table, and knows nothing any more.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        let mut inner = self.lock();
        inner.count();
        inner.counted.clear();
        inner.ports = Ports::default();
        (inner.active, inner.in_step, inner.problem) = (false, false, None);
        let Inner { nftables: Some(nftables), .. } = &mut *inner else { return Ok(()) };
        match nftables.table(Family::Bridge, ALIAS)? {
            Some(_) => nftables.transact(&[Step::RemoveTable(Family::Bridge, ALIAS)]),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// Reads what ports may send from the kernel, if it has the table.
    fn read_remembered(&mut self) -> anyhow::Result<BTreeMap<String, PortSources>> {
        let Some(nftables) = &mut self.nftables else { return Ok(BTreeMap::new()) };
        let table = nftables.table(Family::Bridge, ALIAS)?;
        let elements = table.map(|table| nftables.elements(&table)).transpose()?;
        Ok(elements.map(|elements| hostnet::remembered(&elements)).unwrap_or_default())
    }

    /// Tells the kernel what changed, or all if it does not have what was before, or needs another table. What fails is tried
    /// again at the next comparison.
    fn change(&mut self, changes: Option<&PortChanges>) {
        if !self.active {
            return;
        }
        match changes {
            Some(changes) if self.in_step && !changes.is_empty() => self.in_step = self.write(None, changes).is_ok(),
            Some(_) => {}
            None => self.in_step = false,
        }
        if !self.in_step {
            self.compare();
        }
    }

    /// Compares all with the kernel, and returns how many changes that took.
    fn compare(&mut self) -> usize {
        let outcome = self.repair();
        self.in_step = outcome.is_ok();
        self.problem = outcome.as_ref().err().map(|error| Problem {
            reason: "ports_unguarded",
            message: format!(
                "what containers of this host send is not checked, so that they may pretend to be others ({error:#}): the \
                 kernel needs nf_tables and nf_tables_bridge"
            ),
        });
        outcome.unwrap_or_default()
    }

    fn repair(&mut self) -> anyhow::Result<usize> {
        let nftables = self.nftables.as_mut().context("the kernel has no nftables")?;
        let found = nftables.table(Family::Bridge, ALIAS)?;
        let table = self.ports.table(&self.bridge);
        let right = found.as_ref() == Some(&table);
        let present = if right { nftables.elements(&table)? } else { BTreeSet::new() };
        let changes = PortChanges::between(&present, &self.ports.elements());
        if right && changes.is_empty() {
            return Ok(0);
        }
        tracing::info!(
            table_is_right = right,
            add = changes.add.len(),
            remove = changes.remove.len(),
            "the guard of containers' ports differs from what it should be"
        );
        if found.is_some() && !right {
            self.count();
        }
        self.write((!right).then_some(&table), &changes)?;
        if !right {
            // Its rules have counted nothing yet.
            self.counted.clear();
        }
        Ok(changes.add.len() + changes.remove.len() + usize::from(!right))
    }

    /// Makes changes, in one transaction if they fit. With a table, that is made first.
    fn write(&mut self, table: Option<&Table>, changes: &PortChanges) -> anyhow::Result<()> {
        let nftables = self.nftables.as_mut().context("the kernel has no nftables")?;
        let mut transact = |steps: &[Step<'_>]| {
            let made = nftables.transact(steps);
            made.context("failed to make the nftables table bridge weft")
        };
        let table = table.map(Step::ReplaceTable);
        if changes.add.len() + changes.remove.len() <= ELEMENTS {
            let changed = [Step::RemoveElements(&changes.remove), Step::AddElements(&changes.add)];
            return transact(&table.into_iter().chain(changed).collect::<Vec<_>>());
        }
        if let Some(table) = table {
            transact(&[table])?;
        }
        changes.remove.chunks(ELEMENTS).try_for_each(|elements| transact(&[Step::RemoveElements(elements)]))?;
        changes.add.chunks(ELEMENTS).try_for_each(|elements| transact(&[Step::AddElements(elements)]))
    }

    /// Adds what rules counted since they were read last.
    fn count(&mut self) {
        // What cannot be read now is read later.
        let Ok(counted) = self.read_counted() else { return };
        for (reason, packets) in &counted {
            let before = self.counted.get(reason).copied().unwrap_or_default();
            // Fewer than before are those of new rules.
            let more = packets.checked_sub(before).unwrap_or(*packets);
            *self.dropped.entry(*reason).or_default() += more;
        }
        self.counted = counted;
    }

    /// Reads what the rules that there are have counted.
    fn read_counted(&mut self) -> anyhow::Result<BTreeMap<DropReason, u64>> {
        let nftables = self.nftables.as_mut().context("the kernel has no nftables")?;
        let mut counted: BTreeMap<DropReason, u64> = BTreeMap::new();
        for chain in ["forward", "input", "output", "prerouting"] {
            for (comment, packets) in nftables.counted(Family::Bridge, ALIAS, chain)? {
                if let Some(reason) = hostnet::drop_reason(&comment) {
                    *counted.entry(reason).or_default() += packets;
                }
            }
        }
        Ok(counted)
    }
}
