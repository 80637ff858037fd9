//! What the host's network should look like, and what has to change to make it so.
//!
//! [`difference`] compares what the kernel has with what it should have and returns the [`Change`]s between; it neither
//! knows nor needs what was written before. What is ours is marked in the kernel itself (link aliases, comments of
//! rules), so that what an earlier run left is found again. How the kernel is asked and told is the shell's.

mod announce;
mod difference;
mod expose;
mod firewall;
mod forward;
mod hosts_file;
mod legacy;
mod marker;
mod ports;
mod publish;
mod trusted;

pub use announce::{announcement, announcements};
pub use difference::{
    Change, DesiredHost, ForwardingEntry, ObservedBridge, ObservedHost, ObservedLink, ObservedPort, ObservedVxlan,
    PortRole, Sysctl, difference,
};
pub use expose::{EXPOSE_COMMENT, EXPOSE_TABLE, Exposure, forward_rules, keep_apart, let_in, masquerade_table};
pub use firewall::{
    ACCEPTING_CHAINS, BaseChain, ChainRef, Comparison, Expression, Family, Hook, KeyPart, MetaKey, PayloadBase, Rule,
    Set, Table, TransportProtocol, Verdict, accept_rule, own_table,
};
pub use forward::{ForwardRule, Placement, place};
pub use hosts_file::{HostsFile, rewrite_hosts};
pub use legacy::{legacy_accept, legacy_forward, legacy_removals};
pub use marker::{ALIAS, PORT_PREFIX, PortMarker, host_interface};
pub use ports::{
    OverlayBridge, PortChanges, PortElement, PortSet, PortSources, Ports, drop_reason, ports_table, remembered,
};
pub use publish::{
    Entrance, Gateway, PUBLISH_TABLE, Surroundings, Translation, answer_rules, let_translated, translation_table,
};
pub use trusted::{
    DesiredTrusted, ObservedTrusted, Sources, TrustedChange, TrustedLink, VXLAN_PORT, VXLAN_PREFIX, VXLAN_TABLE,
    source_keys, trusted_difference, trusted_tables, vxlan_name,
};

/// What keeps the host's network from being as it should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// A stable word that programs may compare, as in `legacy_xtables`.
    pub reason: &'static str,
    /// One sentence that names the thing, the reason and the remedy.
    pub message: String,
}

#[cfg(test)]
mod tests;
