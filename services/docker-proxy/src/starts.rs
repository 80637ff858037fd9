//! Starts that clients wait for. Each has the container inspected once the engine has started it, so that what the engine's events
//! say of it before needs no inspection of its own: the engine takes a millisecond of a processor for each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use weft_types::ContainerId;

/// How many are remembered at most whose event has not come; of others each event leads to an inspection.
const MOST: usize = 4096;

/// The starts under way; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Starts(Arc<Mutex<BTreeMap<ContainerId, Start>>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    stage: Stage,
    /// The engine's event was read.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The engine has the call; the inspection comes after it.
    Passing,
    /// The inspection is under way, or what it found is.
    Looking,
    /// What it found is known, and the event has not come.
    Owed,
}

impl Starts {
    /// Notes that a start is about to be passed on to the engine. Of several of one container the first counts.
    #[must_use]
    pub fn begin(&self, container: &ContainerId) -> Starting {
        let mut starts = self.lock();
        let new = starts.len() < MOST && starts.get(container).is_none_or(|start| start.stage == Stage::Owed);
        if new {
            starts.insert(container.clone(), Start { stage: Stage::Passing, told: false });
        }
        Starting { starts: self.clone(), container: new.then(|| container.clone()) }
    }

    /// Takes note of an event that says that a container was started. Tells whether a start under way looks into it.
    #[must_use]
    pub fn handle_started(&self, container: &ContainerId) -> bool {
        let mut starts = self.lock();
        match starts.get_mut(container) {
            Some(Start { stage: Stage::Owed, .. }) => starts.remove(container).is_some(),
            Some(start) => !std::mem::replace(&mut start.told, true),
            None => false,
        }
    }

    /// Takes note of an event that says that a container's process ended: what is said of a start from now on may be about
    /// another one.
    pub fn handle_died(&self, container: &ContainerId) {
        self.lock().remove(container);
    }

    /// Tells whether an inspection is to come that will see whatever has changed.
    #[must_use]
    pub fn will_look(&self, container: &ContainerId) -> bool {
        self.lock().get(container).is_some_and(|start| start.stage == Stage::Passing)
    }

    /// Tells whether an inspection is under way, or what it found.
    #[must_use]
    pub fn is_looking(&self, container: &ContainerId) -> bool {
        self.lock().get(container).is_some_and(|start| start.stage == Stage::Looking)
    }

    /// Expects no event any more: there may be a gap in what the engine tells.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn set(&self, container: &ContainerId, stage: Stage) {
        if let Some(start) = self.lock().get_mut(container) {
            start.stage = stage;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Start>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One start. Dropped before [`Self::done`], it did not happen, as far as is known.
#[derive(Debug)]
pub struct Starting {
    starts: Starts,
    container: Option<ContainerId>,
}

impl Starting {
    /// Says that the engine has started the container, which is about to be inspected.
    pub fn looking(&self) {
        if let Some(container) = &self.container {
            self.starts.set(container, Stage::Looking);
        }
    }

    /// Says that what the inspection found is known.
    pub fn done(mut self) {
        let Some(container) = self.container.take() else { return };
        let mut starts = self.starts.lock();
        match starts.get_mut(&container) {
            Some(start) if !start.told => start.stage = Stage::Owed,
            Some(_) => drop(starts.remove(&container)),
            None => {}
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(container) = &self.container {
            self.starts.lock().remove(container);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ContainerId {
        "c0ffee".parse().expect("an id")
    }

    #[test]
    fn one_event_of_a_start_needs_no_inspection_whenever_it_comes() {
        let starts = Starts::default();
        for told_at in 0..3 {
            let starting = starts.begin(&id());
            assert!(starts.will_look(&id()) && !starts.is_looking(&id()));
            assert!(told_at != 0 || starts.handle_started(&id()));
            starting.looking();
            assert!(!starts.will_look(&id()) && starts.is_looking(&id()));
            assert!(told_at != 1 || starts.handle_started(&id()));
            starting.done();
            assert!(!starts.will_look(&id()) && !starts.is_looking(&id()));
            assert!(told_at != 2 || starts.handle_started(&id()));
            assert!(!starts.handle_started(&id()), "a second one is another start");
        }
    }

    #[test]
    fn a_second_event_is_another_start_also_while_the_first_is_under_way() {
        let starts = Starts::default();
        let starting = starts.begin(&id());
        assert!(starts.handle_started(&id()));
        assert!(!starts.handle_started(&id()));
        starting.done();
        assert!(!starts.handle_started(&id()));
    }

    #[test]
    fn after_an_end_or_a_gap_every_event_counts() {
        let starts = Starts::default();
        for forget in [Starts::handle_died, |starts: &Starts, _: &ContainerId| starts.clear()] {
            starts.begin(&id()).done();
            forget(&starts, &id());
            assert!(!starts.handle_started(&id()));
            let starting = starts.begin(&id());
            forget(&starts, &id());
            starting.looking();
            assert!(!starts.is_looking(&id()));
            starting.done();
            assert!(!starts.handle_started(&id()));
        }
    }

    #[test]
    fn what_did_not_happen_is_not_expected() {
        let starts = Starts::default();
        drop(starts.begin(&id()));
        assert!(!starts.will_look(&id()) && !starts.handle_started(&id()));
        let first = starts.begin(&id());
        drop(starts.begin(&id()));
        assert!(starts.will_look(&id()), "the first one counts");
        drop(first);
        assert!(starts.lock().is_empty());
    }
}
