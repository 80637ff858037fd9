//! Who listens to which channel.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::sync::mpsc;
use weft_router_core::{
    gossip::Entry,
    mesh::{Mesh, OriginEntries, PeerIdentity},
};
use weft_types::PeerName;

/// Updates that may wait for a subscriber. One that is slower is cut off, subscribes again and gets a snapshot.
const QUEUE: usize = 1024;

/// One message to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// All there is; the first message.
    Snapshot {
        /// The local peer.
        local: PeerName,
        /// Entries of all origins.
        origins: Vec<OriginEntries>,
        /// Who takes part.
        reachable: Reachable,
    },
    /// What one origin changed.
    Changed {
        /// The origin.
        origin: PeerName,
        /// What changed.
        entries: Vec<Entry>,
    },
    /// Who takes part from now on.
    Reachability(Reachable),
    /// A message of another peer.
    Message {
        /// The peer.
        source: PeerName,
        /// Opaque here.
        payload: Bytes,
    },
}

/// Who takes part in the mesh, and where targets lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reachable {
    /// Peers that a chain of links leads to, the local one included.
    pub peers: Vec<PeerIdentity>,
    /// How many targets there are, without those that are ourselves.
    pub target_count: usize,
    /// Whether there is any target.
    pub targets_given: bool,
    /// Whom the targets have led to.
    pub target_peers: BTreeSet<PeerName>,
}

impl Reachable {
    pub(super) fn of(mesh: &Mesh) -> Self {
        Self {
            peers: mesh.reachable(),
            target_count: mesh.target_count(),
            targets_given: !mesh.target_texts().is_empty(),
            target_peers: mesh.target_peers(),
        }
    }
}

/// All subscriptions.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_channel: BTreeMap<String, Vec<mpsc::Sender<Update>>>,
    last: Option<Reachable>,
}

impl Subscriptions {
    /// Adds a subscriber and returns its updates, the snapshot first.
    pub(super) fn add(
        &mut self,
        channel: String,
        local: PeerName,
        origins: Vec<OriginEntries>,
        reachable: Reachable,
    ) -> mpsc::Receiver<Update> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        sender.try_send(Update::Snapshot { local, origins, reachable }).expect("a new queue has room");
        let senders = self.by_channel.entry(channel).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        receiver
    }

    pub(super) fn update(&mut self, channel: &str, origin: PeerName, entries: Vec<Entry>) {
        self.send(channel, &Update::Changed { origin, entries });
    }

    pub(super) fn message(&mut self, channel: &str, source: PeerName, payload: Bytes) {
        self.send(channel, &Update::Message { source, payload });
    }

    pub(super) fn reachability(&mut self, reachable: &Reachable) {
        if self.last.as_ref() == Some(reachable) {
            return;
        }
        self.last = Some(reachable.clone());
        let channels: Vec<String> = self.by_channel.keys().cloned().collect();
        for channel in channels {
            self.send(&channel, &Update::Reachability(reachable.clone()));
        }
    }

    fn send(&mut self, channel: &str, update: &Update) {
        let Some(senders) = self.by_channel.get_mut(channel) else { return };
        senders.retain(|sender| match sender.try_send(update.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!(channel, "a subscriber is too slow and has to subscribe again");
                false
            }
        });
        if senders.is_empty() {
            self.by_channel.remove(channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Reachable {
        Reachable { peers: Vec::new(), target_count: 0, targets_given: false, target_peers: BTreeSet::new() }
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_cut_off_and_others_are_not() {
        let local = PeerName::from_public_key([1; 32]);
        let mut subscriptions = Subscriptions::default();
        let mut slow = subscriptions.add("a".into(), local, Vec::new(), nobody());
        let mut other = subscriptions.add("b".into(), local, Vec::new(), nobody());
        for _ in 0..QUEUE {
            subscriptions.message("a", local, Bytes::new());
        }
        assert!(matches!(slow.recv().await, Some(Update::Snapshot { .. })));
        let mut count = 0;
        while slow.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, QUEUE - 1);
        subscriptions.reachability(&nobody());
        subscriptions.reachability(&nobody());
        assert!(matches!(other.recv().await, Some(Update::Snapshot { .. })));
        assert_eq!(other.recv().await, Some(Update::Reachability(nobody())));
        assert!(other.try_recv().is_err(), "said once");
    }
}
