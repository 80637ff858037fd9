//! Containers that clients created just now: `docker run` is two calls, and what the first one found out serves the second.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use weft_docker_proxy_core::AddressArgument;
use weft_service::trace::Parent;
use weft_types::ContainerId;

/// For how long the start of a container is taken for a part of its creation.
const TOGETHER: Duration = Duration::from_secs(60);

/// How many are remembered at most; the oldest is forgotten first.
const MOST: usize = 256;

/// A container that a call created.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    /// Its id.
    pub(crate) container: ContainerId,
    /// The name that the client gave it; empty if the engine chose one.
    pub(crate) name: String,
    /// What it asks for, if it is to be attached.
    pub(crate) addresses: Option<Vec<AddressArgument>>,
    /// The call, if it is traced.
    pub(crate) call: Parent,
}

/// The creations of late; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Creations(Arc<Mutex<VecDeque<(Instant, Creation)>>>);

impl Creations {
    pub(crate) fn add(&self, creation: Creation, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.truncate(MOST - 1);
        all.push_front((now, creation));
    }

    /// Returns the creation of a container that is named by its id; once.
    pub(crate) fn take(&self, container: &str, now: Instant) -> Option<Creation> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(at, _)| now.duration_since(*at) < TOGETHER);
        let place = all.iter().position(|(_, creation)| creation.container.as_str() == container);
        place.and_then(|place| all.remove(place)).map(|(_, creation)| creation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creation(number: usize) -> Creation {
        let container = format!("{number:064x}").parse().expect("an id");
        Creation { container, name: String::new(), addresses: None, call: Parent::default() }
    }

    #[test]
    fn a_creation_serves_one_start_and_not_for_ever() {
        let creations = Creations::default();
        let now = Instant::now();
        let id = |number| creation(number).container.to_string();
        for number in 0..=MOST {
            creations.add(creation(number), now);
        }
        assert!(creations.take(&id(0), now).is_none(), "the oldest is forgotten");
        assert!(creations.take(&id(1), now).is_some());
        assert!(creations.take(&id(1), now).is_none());
        assert!(creations.take(&id(2)[..12], now).is_none(), "there may be another whose name is this");
        assert!(creations.take(&id(2), now + TOGETHER).is_none());
    }
}
