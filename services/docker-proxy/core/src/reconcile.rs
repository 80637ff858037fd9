//! What has to be done so that what is matches what the engine runs.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::ContainerId;

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
    /// [`crate::Workflow::handle_started`], if an inspection says that it still runs, and that it is to be attached or was
    /// attached by hand.
    Runs(ContainerId),
    /// [`crate::Workflow::handle_died`], if an inspection says that it still does not run.
    Died(ContainerId),
    /// [`crate::Workflow::handle_removed`].
    Removed(ContainerId),
}

/// Compares the engine's containers with what the services hold.
///
/// `engine` says of each of its containers whether the process runs. The list must be complete (`all=true`): what is missing
/// from it loses its addresses. Holders whose ids are not those of Docker's containers (64 hexadecimal digits) are left alone.
#[must_use]
pub fn reconcile(engine: &BTreeMap<ContainerId, bool>, observed: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    let known: BTreeSet<&ContainerId> =
        observed.attachments.iter().chain(&observed.allocations).chain(&observed.registrations).collect();
    for id in known {
        match engine.get(id) {
            None if is_dockers(id) => actions.push(Action::Removed(id.clone())),
            Some(false) if observed.attachments.contains(id) || observed.registrations.contains(id) => {
                actions.push(Action::Died(id.clone()));
            }
            None | Some(_) => {}
        }
    }
    let running = engine.iter().filter(|(_, runs)| **runs);
    actions.extend(running.map(|(id, _)| Action::Runs(id.clone())));
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
        let engine = BTreeMap::from([(id('a'), true), (id('b'), false), (id('c'), true), (id('d'), false)]);
        let expose: ContainerId = "weft:expose".parse().expect("valid");
        let observed = Observed {
            attachments: BTreeSet::from([id('b'), id('c'), id('e'), expose.clone()]),
            allocations: BTreeSet::from([id('b'), id('c'), id('d'), id('f'), expose]),
            registrations: BTreeSet::from([id('c')]),
        };
        assert_eq!(
            reconcile(&engine, &observed),
            [
                Action::Died(id('b')),
                Action::Removed(id('e')),
                Action::Removed(id('f')),
                Action::Runs(id('a')),
                Action::Runs(id('c')),
            ]
        );
    }

    #[test]
    fn nothing_is_done_without_a_reason() {
        assert_eq!(reconcile(&BTreeMap::new(), &Observed::default()), []);
    }
}
