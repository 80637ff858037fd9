//! Keeps the VXLAN devices of trusted peers, and what filters them, as they should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use anyhow::{Context, bail};
use weft_router_core::hostnet::{self, DesiredTrusted, Family, ObservedTrusted, Table, TrustedChange, TrustedLink};

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
/// Messages about new sources that may wait; what they say is let in a little later where that is full.
const MESSAGES: usize = 16;

/// What became of a desire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedState {
    /// Numbers of the pairs whose devices are as they should be.
    pub made: BTreeSet<u32>,
    /// What the kernel refused; empty if it did all.
    pub refused: String,
}

/// What there should be, and whether anything of it is there.
#[derive(Debug, Default)]
pub(super) struct Trusted {
    desired: DesiredTrusted,
    /// How often sources had been let in ahead when that was desired.
    known: u64,
    /// Numbers of the pairs whose devices are as they should be.
    made: BTreeSet<u32>,
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

    /// Desires nothing any more; what there is goes with the next comparison.
    pub(super) fn forget(&mut self) {
        *self = Self { ahead: Arc::clone(&self.ahead), ..Self::default() };
    }

    pub(super) const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }
}

impl Owner {
    pub(super) fn set_trusted(&mut self, desired: DesiredTrusted, ahead: u64) -> TrustedState {
        self.trusted.desired = desired;
        self.trusted.known = ahead;
        let refused = self.reconcile_trusted().err().map(|error| format!("{error:#}")).unwrap_or_default();
        TrustedState { made: self.trusted.made.clone(), refused }
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

    /// Changes all that it can: what is refused for one peer is no matter of the others.
    fn change_trusted(&mut self) -> anyhow::Result<usize> {
        let (mut count, mut refused, mut failures) = (0, Vec::new(), Vec::new());
        self.trusted.made.clear();
        for _ in 0..ROUNDS {
            let observed = self.observe_trusted()?;
            let desired = &self.trusted.desired;
            let made = desired.links.iter().filter(|link| observed.is_made(desired, link));
            self.trusted.made = made.map(|link| link.vni).collect();
            let mut changes = hostnet::trusted_difference(&self.config.bridge, desired, &observed);
            if self.trusted.ahead.load(Ordering::Acquire) != self.trusted.known {
                // What there is too much of may be what is desired next.
                changes.retain_mut(keep_sources);
            }
            changes.retain(|change| !refused.contains(change));
            if changes.is_empty() {
                return if failures.is_empty() { Ok(count) } else { bail!("{}", failures.join("; ")) };
            }
            count += changes.len();
            for change in changes {
                tracing::debug!(%change, "the network of trusted peers differs from what it should be");
                if let Err(error) = self.apply_trusted(&change) {
                    failures.push(format!("{error:#}"));
                    refused.push(change);
                }
            }
        }
        if !failures.is_empty() {
            bail!("{}", failures.join("; "));
        }
        bail!("another program keeps undoing what weft sets up for trusted peers: see the log for what")
    }

    fn observe_trusted(&mut self) -> anyhow::Result<ObservedTrusted> {
        let links = self.channel.vxlan_links()?;
        let bridge = self.channel.link(&self.config.bridge)?.filter(|link| link.kind == "bridge");
        let bridge = bridge.map(|bridge| bridge.index);
        let forwarding = bridge.map(|bridge| self.channel.forwarding(bridge)).transpose()?.unwrap_or_default();
        let mut observed = ObservedTrusted { bridge, links, forwarding, ..ObservedTrusted::default() };
        // Without nftables no table is ever as it should be, and so no device is made.
        let Some(nftables) = &mut self.nftables else { return Ok(observed) };
        for table in hostnet::trusted_tables(&self.config.bridge) {
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

    fn apply_trusted(&mut self, change: &TrustedChange) -> anyhow::Result<()> {
        let request = match change {
            TrustedChange::DeleteLink { index, name } => links::delete_link(*index, name),
            TrustedChange::CreateLink(link) => links::create_vxlan(link, self.trusted.desired.mtu),
            TrustedChange::SetLink { index, name, master, mtu } => {
                let alias = Some(hostnet::ALIAS.to_owned());
                let (mtu, master) = (Some(*mtu), Some(*master));
                let change = LinkChange { alias, mtu, master, quiet: true, up: true, ..LinkChange::default() };
                links::set_link(Which::Index(*index), name, change)
            }
            TrustedChange::SetPort { index, name, settings } => links::set_port(Which::Index(*index), name, *settings),
            TrustedChange::AddForwarding(entry) => links::add_forwarding(*entry),
            TrustedChange::RemoveForwarding(entry) => links::remove_forwarding(*entry),
            TrustedChange::RemoveTable(family, name) => return self.transact(&[Step::RemoveTable(*family, name)]),
            TrustedChange::ReplaceTable(table) => return self.replace_table(table),
            TrustedChange::ChangeSet { family, table, set, add, remove } => {
                let set = SetRef { family: *family, table, set };
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
    queue: SyncSender<Vec<TrustedLink>>,
    ahead: Arc<AtomicU64>,
}

impl Sources {
    /// Starts a thread, which ends with this.
    pub(super) fn open(ahead: Arc<AtomicU64>) -> anyhow::Result<Self> {
        let nftables = Nftables::open()?;
        let (queue, links) = sync_channel(MESSAGES);
        std::thread::Builder::new()
            .name("weft-sources".into())
            .spawn(move || let_in(nftables, &links))
            .context("failed to start the thread that lets sources in")?;
        Ok(Self { queue, ahead })
    }

    /// Returns how often sources were let in. Who desires something says what it was then ([`super::Kernel::set_trusted`]), so
    /// that nothing is taken out again by an older desire.
    #[must_use]
    pub fn ahead(&self) -> u64 {
        self.ahead.load(Ordering::Acquire)
    }

    /// Lets in what the links say that lives there, beside all that is let in already, and does not wait for it. The tables have to
    /// be there. What the kernel refuses, and what finds too much waiting, the owner lets in.
    pub fn add(&self, links: Vec<TrustedLink>) {
        if links.is_empty() {
            return;
        }
        // Before the kernel has them, or they could be taken for left over.
        self.ahead.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(links).is_err() {
            tracing::debug!("new sources are let in later: too many are waiting");
        }
    }
}

fn let_in(mut nftables: Nftables, queue: &Receiver<Vec<TrustedLink>>) {
    for links in queue {
        for (name, keys) in hostnet::source_keys(&links) {
            let set = SetRef { family: Family::Bridge, table: hostnet::VXLAN_TABLE, set: &name };
            for keys in keys.chunks(KEYS) {
                if let Err(error) = nftables.transact(&[Step::AddKeys(set, keys)]) {
                    tracing::debug!(error = %format_args!("{error:#}"), "new sources are let in later");
                }
            }
        }
    }
}

/// Takes the removal of sources out of a change; tells whether anything of it is left.
fn keep_sources(change: &mut TrustedChange) -> bool {
    let TrustedChange::ChangeSet { family: Family::Bridge, add, remove, .. } = change else { return true };
    remove.clear();
    !add.is_empty()
}
