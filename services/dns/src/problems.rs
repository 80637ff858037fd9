//! What keeps dns from working as it should, for status and log.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::time::Instant;
use weft_proto::common::v1::Problem;

/// One thing that can be wrong at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The sockets that containers ask.
    Sockets,
    /// The mesh's gossip.
    Gossip,
    /// The host's resolvers.
    Upstream,
    /// The file that says which those are.
    Resolvers,
    /// The file of names that were given by hand.
    Store,
}

impl Part {
    const fn reason(self) -> &'static str {
        match self {
            Self::Sockets => "no_sockets",
            Self::Gossip => "no_gossip",
            Self::Upstream => "no_upstream",
            Self::Resolvers => "resolvers_not_followed",
            Self::Store => "names_not_kept",
        }
    }
}

/// What is wrong now, and since when. Each change is logged once.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<BTreeMap<Part, (String, Instant)>>);

impl Problems {
    /// Says that `part` does not work, and why. The time counts from the first of several reasons.
    pub(crate) fn set(&self, part: Part, message: String) {
        let mut problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = problems.get(&part);
        if known.is_none_or(|(known, _)| *known != message) {
            tracing::warn!(reason = part.reason(), problem = message, "not working as it should");
        }
        let since = known.map_or_else(Instant::now, |(_, since)| *since);
        problems.insert(part, (message, since));
    }

    /// Says that `part` works.
    pub(crate) fn clear(&self, part: Part) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&part).is_some() {
            tracing::info!(reason = part.reason(), "works again");
        }
    }

    pub(crate) fn list(&self) -> Vec<Problem> {
        let problems = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = |(part, (message, since)): (&Part, &(String, Instant))| Problem {
            reason: part.reason().to_owned(),
            message: message.clone(),
            age_seconds: since.elapsed().as_secs(),
        };
        problems.iter().map(problem).collect()
    }
}
