//! What all parts of the service share.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tokio::sync::{Notify, watch};
use weft_dns_core::Names;

use crate::{metrics::Metrics, problems::Problems};

/// The names, and what the parts tell each other.
///
/// Queries read under a lock that is held for microseconds, so they neither wait for gossip nor for each other.
#[derive(Debug)]
pub(crate) struct State {
    names: RwLock<Names>,
    /// Rung after each change of the names by somebody else than gossip.
    pub(crate) changed: Notify,
    pub(crate) problems: Problems,
    pub(crate) metrics: Metrics,
    /// Where queries are served now.
    address: Mutex<Option<SocketAddr>>,
    progress: watch::Sender<Progress>,
    /// Counts changes of the names, whoever made them.
    version: watch::Sender<u64>,
    seed: AtomicU64,
}

/// What has worked at least once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    serving: bool,
    subscribed: bool,
}

impl State {
    pub(crate) fn new(names: Names, metrics: Metrics) -> Self {
        Self {
            names: RwLock::new(names),
            changed: Notify::new(),
            problems: Problems::default(),
            metrics,
            address: Mutex::new(None),
            progress: watch::channel(Progress::default()).0,
            version: watch::channel(0).0,
            seed: AtomicU64::new(SmallRng::from_os_rng().next_u64()),
        }
    }

    /// Looks at the names.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Names) -> T) -> T {
        look(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the names.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Names) -> T) -> T {
        let outcome = change(&mut self.names.write().unwrap_or_else(PoisonError::into_inner));
        self.version.send_modify(|version| *version = version.wrapping_add(1));
        outcome
    }

    /// Hears of each change of the names.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Returns a number for the order of the next answer.
    pub(crate) fn next_seed(&self) -> u64 {
        self.seed.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes where queries are served.
    pub(crate) fn set_serving(&self, address: SocketAddr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
        self.progress.send_modify(|progress| progress.serving = true);
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the names of the mesh are known.
    pub(crate) fn set_subscribed(&self) {
        self.progress.send_modify(|progress| progress.subscribed = true);
    }

    /// Waits until the names of the mesh are known.
    pub(crate) async fn subscribed(&self) {
        let mut progress = self.progress.subscribe();
        // The sender lives in this state, which the caller borrows.
        let _ = progress.wait_for(|progress| progress.subscribed).await;
    }

    /// Waits until queries are served and the names of the mesh are known.
    pub(crate) async fn working(&self) {
        let mut progress = self.progress.subscribe();
        let all = Progress { serving: true, subscribed: true };
        // The sender lives in this state, which the caller borrows.
        let _ = progress.wait_for(|progress| *progress == all).await;
    }
}
