//! Keeps the host's own addresses on the bridge, and the rules that let them be of use.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use ipnet::IpNet;
use weft_router_core::hostnet::{
    self, ChainRef, EXPOSE_COMMENT, EXPOSE_TABLE, Exposure, Family, ForwardRule, PUBLISH_TABLE,
};

use super::{
    Problem,
    attach::announce,
    host::Owner,
    legacy::keep_forward,
    links::{self, IPV6_MINIMUM_MTU},
    nftables::{Nftables, Step, legacy_filter},
};

/// After so many rounds of observing and changing, somebody else is undoing what we do.
const ROUNDS: usize = 8;

/// What there should be, and whether anything of it is there.
#[derive(Debug, Default)]
pub(super) struct Exposed {
    exposures: Vec<Exposure>,
    /// Addresses that the host has for services alone: nobody else reaches it there, or anything through it.
    held: Vec<IpNet>,
    /// Whether an earlier run left nothing, or it was removed.
    clean: bool,
    problem: Option<Problem>,
}

impl Exposed {
    pub(super) const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    pub(super) fn exposures(&self) -> &[Exposure] {
        &self.exposures
    }

    pub(super) fn hold(&mut self, addresses: Vec<IpNet>) {
        self.held = addresses;
        self.clean = false;
    }

    pub(super) fn held(&self) -> &[IpNet] {
        &self.held
    }

    /// Returns all addresses on the bridge.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.exposures.iter().map(|exposure| exposure.address).chain(self.held.iter().copied())
    }

    /// Returns the subnets that the host is in.
    pub(super) fn subnets(&self) -> BTreeSet<IpNet> {
        self.addresses().map(|address| address.trunc()).collect()
    }

    fn is_empty(&self) -> bool {
        self.addresses().next().is_none()
    }

    /// Returns what chains of others have to let pass. The table of our own lets pass less of it.
    fn let_pass(&self) -> Vec<Exposure> {
        self.addresses().map(|address| Exposure { address, masquerade: true }).collect()
    }
}

impl Owner {
    /// Says which addresses the host has on the overlay, and returns them without those of IPv6 where there is none.
    pub(super) fn set_exposed(&mut self, mut exposures: Vec<Exposure>) -> Vec<Exposure> {
        let ipv6 = self.config.mtu >= IPV6_MINIMUM_MTU && self.config.proc_sys.join("net/ipv6").exists();
        exposures.retain(|exposure| ipv6 || exposure.address.addr().is_ipv4());
        self.exposed.exposures.clone_from(&exposures);
        self.exposed.clean = false;
        self.guard.set_host(self.exposed.subnets());
        exposures
    }

    /// Makes addresses and rules as they should be, and returns how many changes that took.
    pub(super) fn reconcile_exposed(&mut self) -> anyhow::Result<usize> {
        if self.exposed.clean && self.exposed.is_empty() {
            return Ok(0);
        }
        let outcome = self.change_exposed();
        let let_pass = self.exposed.let_pass();
        let legacy = self
            .keep_legacy_rules(EXPOSE_COMMENT, |family| hostnet::forward_rules(family, &self.config.bridge, &let_pass));
        self.exposed.clean = outcome.is_ok() && !legacy.failed;
        self.exposed.problem = match &outcome {
            Err(error) => Some(Problem {
                reason: "expose_refused",
                message: format!(
                    "the host is not exposed as it should be, which is tried again ({error:#}): correct that, or `weft hide` the \
                     address"
                ),
            }),
            Ok(_) => legacy.problem,
        };
        outcome.map(|changes| changes + legacy.changes)
    }

    fn change_exposed(&mut self) -> anyhow::Result<usize> {
        let mut count = 0;
        for _ in 0..ROUNDS {
            let changes = self.change_addresses()? + self.change_masquerading()? + self.change_forwarding()?;
            if changes == 0 {
                return Ok(count);
            }
            tracing::info!(changes, "the host's exposure differs from what it should be");
            count += changes;
        }
        bail!("another program keeps undoing what exposes the host: see the log for what")
    }

    fn change_addresses(&mut self) -> anyhow::Result<usize> {
        let Some(bridge) = self.channel.link(&self.config.bridge)?.filter(|link| link.kind == "bridge") else {
            return Ok(0);
        };
        let present = self.channel.addresses(bridge.index)?;
        let wanted: Vec<IpNet> = self.exposed.addresses().collect();
        let missing: Vec<IpNet> = wanted.iter().filter(|address| !present.contains(address)).copied().collect();
        let surplus = present.iter().filter(|address| !wanted.contains(address));
        let removals = surplus.map(|address| links::remove_address(bridge.index, *address));
        let additions = missing.iter().map(|address| links::add_address(bridge.index, *address));
        let requests: Vec<_> = removals.chain(additions).collect();
        let changes = requests.len();
        self.channel.perform(requests)?;
        if !missing.is_empty() {
            announce(bridge.index, self.config.bridge_mac, &missing.iter().map(IpNet::addr).collect::<Vec<_>>())?;
        }
        Ok(changes)
    }

    fn change_masquerading(&mut self) -> anyhow::Result<usize> {
        let wanted = hostnet::masquerade_table(&self.config.bridge, &self.exposed.exposures);
        let Some(nftables) = &mut self.nftables else { return Ok(0) };
        let present = nftables.table(Family::Inet, EXPOSE_TABLE)?;
        let step = match &wanted {
            _ if present == wanted => return Ok(0),
            Some(table) => Step::ReplaceTable(table),
            None => Step::RemoveTable(Family::Inet, EXPOSE_TABLE),
        };
        nftables.transact(&[step]).with_context(|| format!("failed to change the nftables table {EXPOSE_TABLE}"))?;
        Ok(1)
    }

    fn change_forwarding(&mut self) -> anyhow::Result<usize> {
        let let_pass = self.exposed.let_pass();
        let Some(nftables) = &mut self.nftables else { return Ok(0) };
        keep_rules(nftables, EXPOSE_COMMENT, |family| hostnet::forward_rules(family, &self.config.bridge, &let_pass))
    }

    /// Makes the rules of ours with this comment in the chains `FORWARD` of legacy xtables as they should be, where the host has such.
    pub(super) fn keep_legacy_rules(&self, comment: &str, wanted: impl Fn(Family) -> Vec<ForwardRule>) -> Legacy {
        let mut legacy = Legacy::default();
        for (family, tool) in [(Family::Ipv4, "iptables-legacy"), (Family::Ipv6, "ip6tables-legacy")] {
            if !legacy_filter(family).unwrap_or(false) {
                continue;
            }
            let wanted = wanted(family);
            match keep_forward(&self.config.host_root, family, comment, &wanted) {
                Ok(changes) => legacy.changes += changes,
                Err(error) => {
                    legacy.failed = true;
                    let commands = wanted.iter().map(|rule| format!("`{tool} -I FORWARD {}`", rule.specification()));
                    let commands: Vec<String> = commands.collect();
                    // Where nothing is wanted, nothing that anybody needs is away.
                    if !commands.is_empty() {
                        let message = format!(
                            "the host filters with legacy xtables, which may drop what it routes between the overlay and \
                             elsewhere, and weft's rules cannot be put there ({error:#}): run {} on the host, or let it use \
                             iptables-nft",
                            commands.join(" and ")
                        );
                        legacy.problem = Some(Problem { reason: "legacy_xtables", message });
                    }
                }
            }
        }
        legacy
    }
}

/// What became of rules in legacy xtables.
#[derive(Debug, Default)]
pub(super) struct Legacy {
    pub(super) changes: usize,
    /// Whether rules may be there that should not.
    pub(super) failed: bool,
    pub(super) problem: Option<Problem>,
}

type Rules = Vec<(ChainRef, Vec<(u64, hostnet::Rule)>)>;

/// Makes the rules of ours with this comment in the chains `FORWARD` as they should be, where they count ([`hostnet::place`]), and
/// returns how many changes that took. Where somebody else puts something before them, that is corrected once for each such change.
pub(super) fn keep_rules(
    nftables: &mut Nftables,
    comment: &str,
    wanted: impl Fn(Family) -> Vec<ForwardRule>,
) -> anyhow::Result<usize> {
    let mut changes = 0;
    for (chain, present) in forward_chains(nftables)? {
        let wanted: Vec<hostnet::Rule> = wanted(chain.family).iter().map(ForwardRule::rule).collect();
        let Some(placement) = hostnet::place(&present, comment, &wanted) else { continue };
        let deletes = placement.delete.iter().map(|handle| Step::DeleteRule(&chain, *handle));
        // Each comes before those that were put there just now.
        let inserts = wanted.iter().rev().map(|rule| match placement.after {
            Some(handle) => Step::InsertAfter(&chain, handle, rule),
            None => Step::InsertRule(&chain, rule),
        });
        let steps: Vec<Step<'_>> = deletes.chain(inserts).collect();
        nftables.transact(&steps).with_context(|| format!("failed to change the chain {}", chain.chain))?;
        changes += 1;
    }
    Ok(changes)
}

/// Lists the chains `FORWARD` that there are.
fn forward_chains(nftables: &mut Nftables) -> anyhow::Result<Rules> {
    let mut chains = Rules::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let chain = ChainRef { family, chain: "FORWARD".into() };
        if nftables.has_chain(&chain)? {
            let rules = nftables.filter_rules(&chain)?;
            chains.push((chain, rules));
        }
    }
    Ok(chains)
}

/// Removes the rules that let the host be reached and reach, and those of services; its addresses go with the bridge.
pub(super) fn remove_rules(nftables: &mut Nftables) -> anyhow::Result<()> {
    let chains = forward_chains(nftables)?;
    let ours = |rule: &hostnet::Rule| {
        rule.comment.as_deref().is_some_and(|comment| [EXPOSE_COMMENT, PUBLISH_TABLE].contains(&comment))
    };
    let deletes = chains.iter().flat_map(|(chain, rules)| {
        let ours = rules.iter().filter(|(_, rule)| ours(rule));
        ours.map(move |(handle, _)| Step::DeleteRule(chain, *handle))
    });
    let tables = [EXPOSE_TABLE, PUBLISH_TABLE].map(|name| Step::RemoveTable(Family::Inet, name));
    let steps: Vec<Step<'_>> = deletes.chain(tables).collect();
    nftables.transact(&steps)
}
