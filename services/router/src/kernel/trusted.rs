//! Keeps the VXLAN devices of trusted peers, and what filters them, as they should be.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, bail};
use weft_router_core::hostnet::{
    self, DesiredTrusted, Family, ObservedLink, ObservedTrusted, Table, TrustedChange, TrustedLink, VXLAN_PREFIX,
};

use super::{
    LinkTraffic, Problem,
    host::Owner,
    links::{self, LinkChange, Which},
    nftables::{Nftables, SetRef, Step},
};

/// After so many rounds of observing and changing, somebody else is undoing what we do.
const ROUNDS: usize = 8;
/// Keys of a set that one transaction changes: all of it has to fit the socket's buffer.
const KEYS: usize = 1000;

/// What there should be, and whether anything of it is there.
#[derive(Debug, Default)]
pub(super) struct Trusted {
    desired: DesiredTrusted,
    /// Whether an earlier run left nothing, or it was removed.
    clean: bool,
    /// How often sources were let in ahead of what is desired.
    ahead: Arc<AtomicU64>,
    problem: Option<Problem>,
}

impl Trusted {
    pub(super) fn ahead(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.ahead)
    }

    pub(super) const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }
}

impl Owner {
    pub(super) fn set_trusted(&mut self, desired: DesiredTrusted) -> anyhow::Result<()> {
        self.trusted.desired = desired;
        self.reconcile_trusted().map(drop)
    }

    /// Makes devices, tables and forwarding entries as they should be, and returns how many changes that took.
    pub(super) fn reconcile_trusted(&mut self) -> anyhow::Result<usize> {
        if self.trusted.clean && !self.trusted.desired.enabled {
            return Ok(0);
        }
        let outcome = self.change_trusted();
        self.trusted.clean = outcome.is_ok() && !self.trusted.desired.enabled;
        self.trusted.problem = outcome.as_ref().err().map(|error| Problem {
            reason: "vxlan_refused",
            message: format!(
                "frames to trusted peers go sealed, because VXLAN cannot be set up and filtered ({error:#}): the kernel needs \
                 vxlan, nf_tables_bridge and nft_fib_inet"
            ),
        });
        outcome
    }

    fn change_trusted(&mut self) -> anyhow::Result<usize> {
        let mut count = 0;
        for _ in 0..ROUNDS {
            let observed = self.observe_trusted()?;
            let mut changes = hostnet::trusted_difference(&self.trusted.desired, &observed);
            if self.trusted.ahead.load(Ordering::Acquire) != self.trusted.desired.ahead {
                // What there is too much of may be what is desired next.
                changes.retain_mut(keep_sources);
            }
            if changes.is_empty() {
                return Ok(count);
            }
            count += changes.len();
            let mut failures = Vec::new();
            for change in changes {
                tracing::debug!(%change, "the network of trusted peers differs from what it should be");
                if let Err(error) = self.apply_trusted(change) {
                    failures.push(format!("{error:#}"));
                }
            }
            if !failures.is_empty() {
                bail!("{}", failures.join("; "));
            }
        }
        bail!("another program keeps undoing what weft sets up for trusted peers: see the log for what")
    }

    fn observe_trusted(&mut self) -> anyhow::Result<ObservedTrusted> {
        let links = self.channel.links()?;
        let bridge = links.iter().find(|link| link.name == self.config.bridge && link.kind == "bridge");
        let bridge = bridge.map(|bridge| bridge.index);
        let forwarding = bridge.map(|bridge| self.channel.forwarding(bridge)).transpose()?.unwrap_or_default();
        let mut observed = ObservedTrusted { bridge, links, forwarding, ..ObservedTrusted::default() };
        // Without nftables no table is ever as it should be, and so no device is made.
        let Some(nftables) = &mut self.nftables else { return Ok(observed) };
        for table in hostnet::trusted_tables() {
            observed.tables.extend(nftables.table(table.family, &table.name)?);
        }
        for table in &observed.tables {
            for set in &table.sets {
                let keys = nftables.keys(SetRef { family: table.family, table: &table.name, set: &set.name })?;
                observed.keys.insert((table.family, set.name.clone()), keys);
            }
        }
        Ok(observed)
    }

    fn apply_trusted(&mut self, change: TrustedChange) -> anyhow::Result<()> {
        let request = match change {
            TrustedChange::DeleteLink { index, name } => links::delete_link(index, &name),
            TrustedChange::CreateLink(link) => links::create_vxlan(&link, self.trusted.desired.mtu),
            TrustedChange::SetLink { index, name, master, mtu } => {
                let alias = Some(hostnet::ALIAS.to_owned());
                let (mtu, master) = (Some(mtu), Some(master));
                let change = LinkChange { alias, mtu, master, quiet: true, up: true, ..LinkChange::default() };
                links::set_link(Which::Index(index), &name, change)
            }
            TrustedChange::SetPort { index, name, settings } => links::set_port(Which::Index(index), &name, settings),
            TrustedChange::AddForwarding(entry) => links::add_forwarding(entry),
            TrustedChange::RemoveForwarding(entry) => links::remove_forwarding(entry),
            TrustedChange::RemoveTable(family, name) => return self.transact(&[Step::RemoveTable(family, &name)]),
            TrustedChange::ReplaceTable(table) => return self.replace_table(&table),
            TrustedChange::ChangeSet { family, table, set, add, remove } => {
                let set = SetRef { family, table: &table, set: &set };
                let removed = remove.chunks(KEYS).map(|keys| Step::RemoveKeys(set, keys));
                for step in removed.chain(add.chunks(KEYS).map(|keys| Step::AddKeys(set, keys))) {
                    self.transact(&[step]).with_context(|| format!("failed to change the nftables set {}", set.set))?;
                }
                return Ok(());
            }
        };
        self.channel.perform(vec![request])
    }

    fn replace_table(&mut self, table: &Table) -> anyhow::Result<()> {
        let family = if table.family == Family::Bridge { "bridge" } else { "inet" };
        self.transact(&[Step::ReplaceTable(table)])
            .with_context(|| format!("failed to make the nftables table {family} {}", table.name))
    }

    pub(super) fn vxlan_traffic(&mut self) -> anyhow::Result<BTreeMap<String, LinkTraffic>> {
        self.channel.vxlan_traffic()
    }
}

/// Lets in what has just come to live at trusted peers, without waiting for whatever the owner of kernel network state does: the
/// owner compares all of it soon after. Containers talk within milliseconds of their start.
#[derive(Debug)]
pub struct Sources {
    nftables: Nftables,
    ahead: Arc<AtomicU64>,
}

impl Sources {
    pub(super) fn open(ahead: Arc<AtomicU64>) -> anyhow::Result<Self> {
        Ok(Self { nftables: Nftables::open()?, ahead })
    }

    /// Returns how often sources were let in. What is desired names it ([`DesiredTrusted::ahead`]), so that nothing is taken out
    /// again by an older desire.
    #[must_use]
    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Acquire)
    }

    /// Lets in what the links say that lives there, beside all that is let in already. The tables have to be there.
    ///
    /// # Errors
    /// If the kernel refuses it; the owner tries again.
    pub fn add(&mut self, links: &[TrustedLink]) -> anyhow::Result<()> {
        let keys = hostnet::source_keys(links);
        let set = |name| SetRef { family: Family::Bridge, table: hostnet::VXLAN_TABLE, set: name };
        let steps: Vec<Step<'_>> = keys.iter().map(|(name, keys)| Step::AddKeys(set(name), keys)).collect();
        if steps.is_empty() {
            return Ok(());
        }
        // Before the kernel has them, or they could be taken for left over.
        self.ahead.fetch_add(1, Ordering::AcqRel);
        self.nftables.transact(&steps)
    }
}

/// Takes the removal of sources out of a change; tells whether anything of it is left.
fn keep_sources(change: &mut TrustedChange) -> bool {
    let TrustedChange::ChangeSet { family: Family::Bridge, add, remove, .. } = change else { return true };
    remove.clear();
    !add.is_empty()
}

/// Tells whether a link leads to a trusted peer.
pub(super) fn is_ours(link: &ObservedLink) -> bool {
    link.kind == "vxlan" && link.name.starts_with(VXLAN_PREFIX)
}

/// Removes the tables, if they are there.
pub(super) fn remove_tables(nftables: &mut Nftables) -> anyhow::Result<()> {
    for table in hostnet::trusted_tables() {
        if nftables.table(table.family, &table.name)?.is_some() {
            nftables.transact(&[Step::RemoveTable(table.family, &table.name)])?;
        }
    }
    Ok(())
}
