//! What has to be done so that what is matches what the engine runs.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::ContainerId;

/// A container of the engine's complete list (`all=true`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its process runs.
    pub running: bool,
    /// [`crate::eligibility::of_container`] says that it is attached.
    pub attach: bool,
}

/// What the other services hold, by container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Attached, says the router.
    pub attachments: BTreeSet<ContainerId>,
    /// Having addresses, says ipam.
    pub allocations: BTreeSet<ContainerId>,
    /// Having names, says dns.
    pub registrations: BTreeSet<ContainerId>,
}

/// What the shell tells the workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// [`crate::Workflow::handle_started`], with what an inspection says.
    Start(ContainerId),
    /// [`crate::Workflow::handle_died`].
    Died(ContainerId),
    /// [`crate::Workflow::handle_removed`].
    Removed(ContainerId),
}

/// Compares the engine's containers with what the services hold.
#[must_use]
pub fn reconcile(engine: &BTreeMap<ContainerId, Listed>, observed: &Observed) -> Vec<Action> {
    let _ = (engine, observed);
    Vec::new()
}
