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
    /// Attached, says the router; or to be, says the workflow.
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
///
/// `engine` must be a complete list: what is missing from it loses its addresses. Holders whose ids are not those of
/// Docker's containers (64 hexadecimal digits) are left alone, and so are running containers that were attached by hand.
#[must_use]
pub fn reconcile(engine: &BTreeMap<ContainerId, Listed>, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    let known: BTreeSet<&ContainerId> =
        observed.attachments.iter().chain(&observed.allocations).chain(&observed.registrations).collect();
    for id in known {
        match engine.get(id) {
            None if is_dockers(id) => actions.push(Action::Removed(id.clone())),
            Some(listed) if !listed.running => {
                if observed.attachments.contains(id) || observed.registrations.contains(id) {
                    actions.push(Action::Died(id.clone()));
                }
            }
            None | Some(_) => {}
        }
    }
    let started = engine.iter().filter(|(_, listed)| listed.running && listed.attach);
    actions.extend(started.map(|(id, _)| Action::Start(id.clone())));
    actions
}

/// Tells whether an id is one that Docker gives to containers.
fn is_dockers(id: &ContainerId) -> bool {
    id.as_str().len() == 64 && id.as_str().bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(letter: char) -> ContainerId {
        letter.to_string().repeat(64).parse().expect("valid")
    }

    #[test]
    fn what_differs_is_put_right() {
        let listed = |running, attach| Listed { running, attach };
        let engine = BTreeMap::from([
            (id('a'), listed(true, true)),
            (id('b'), listed(false, true)),
            (id('c'), listed(true, false)),
            (id('d'), listed(false, false)),
        ]);
        let expose: ContainerId = "weft:expose".parse().expect("valid");
        let observed = Observed {
            attachments: BTreeSet::from([id('b'), id('c'), id('e'), expose.clone()]),
            allocations: BTreeSet::from([id('b'), id('c'), id('d'), id('f'), expose]),
            registrations: BTreeSet::from([id('c')]),
        };
        assert_eq!(
            reconcile(&engine, &observed),
            [Action::Died(id('b')), Action::Removed(id('e')), Action::Removed(id('f')), Action::Start(id('a'))]
        );
    }

    #[test]
    fn nothing_is_done_without_a_reason() {
        assert_eq!(reconcile(&BTreeMap::new(), &Observed::default()), []);
    }
}
