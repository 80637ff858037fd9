//! What local services and the operator ask the mesh for.

use std::time::Instant;

use bytes::Bytes;
use weft_types::PeerName;

use super::{
    ATTACHMENTS_CHANNEL, ConnectionId, ForgetError, GoodbyeReason, LINKS_CHANNEL, Mesh, PEERS_CHANNEL, PublishError,
    REVOCATIONS_CHANNEL, RingId, SendError, SessionMessage, message, message::RoutedBody,
};
use crate::{
    gossip::{Entry, check_channel},
    target::Target,
};

impl Mesh {
    /// Changes what this host publishes on a service's channel, all or nothing. With `snapshot`, `entries` are all there
    /// are.
    ///
    /// # Errors
    /// [`PublishError`]; nothing is changed then.
    pub fn publish(
        &mut self,
        channel: &str,
        snapshot: bool,
        entries: Vec<Entry>,
        now: Instant,
    ) -> Result<(), PublishError> {
        if [PEERS_CHANNEL, LINKS_CHANNEL, ATTACHMENTS_CHANNEL, REVOCATIONS_CHANNEL].contains(&channel) {
            return Err(PublishError::Reserved { channel: channel.to_owned() });
        }
        self.publish_on(channel, snapshot, entries, now)?;
        self.note_published(channel, snapshot);
        Ok(())
    }

    /// Sets all attachments of this host, as key (container id) and value (encoded `AttachmentInfo`).
    ///
    /// # Errors
    /// [`PublishError::Gossip`] if a limit is exceeded; nothing is changed then.
    pub fn publish_attachments(&mut self, entries: Vec<(Bytes, Bytes)>, now: Instant) -> Result<(), PublishError> {
        let entries = entries.into_iter().map(|(key, value)| Entry { key, value: Some(value) }).collect();
        Ok(self.publish_on(ATTACHMENTS_CHANNEL, true, entries, now)?)
    }

    /// Adds targets, to be persisted as [`Mesh::target_texts`], and dials them now, also those that were there already and
    /// wait. With `replace`, others are removed; their connections stay.
    pub fn add_targets(&mut self, targets: Vec<Target>, replace: bool, now: Instant) {
        if replace {
            let others: Vec<String> = self.target_texts();
            for text in others.iter().filter(|text| targets.iter().all(|target| target.text() != *text)) {
                self.dialler.remove(text);
            }
        }
        for target in targets {
            self.dialler.add(target, now);
        }
        self.targets_changed(now);
    }

    /// Removes targets by their text, to be persisted, and returns those texts that were none. Connections stay.
    pub fn remove_targets(&mut self, texts: &[String], now: Instant) -> Vec<String> {
        let unknown = texts.iter().filter(|text| !self.dialler.remove(text)).cloned().collect();
        self.targets_changed(now);
        unknown
    }

    /// Sends a message to the subscribers of a channel at a peer, which may be the local one. It may get lost.
    ///
    /// # Errors
    /// [`SendError`] if it cannot even leave.
    pub fn send(
        &mut self,
        channel: &str,
        destination: PeerName,
        payload: Bytes,
        _now: Instant,
    ) -> Result<(), SendError> {
        check_channel(channel)?;
        if payload.len() > message::MAX_PAYLOAD_LENGTH {
            return Err(SendError::TooLong { length: payload.len() });
        }
        self.send_body(destination, RoutedBody::Channel { channel: channel.to_owned(), payload })
    }

    /// Sends a message of the data key agreement. It may get lost.
    ///
    /// # Errors
    /// [`SendError`] if it cannot even leave.
    pub fn send_session_message(
        &mut self,
        destination: PeerName,
        message: SessionMessage,
        _now: Instant,
    ) -> Result<(), SendError> {
        self.send_body(destination, RoutedBody::Session(message))
    }

    /// Says which ring the host's addresses come from. Peers of other rings are refused from now on, and connections with
    /// them closed.
    pub fn set_ring_id(&mut self, ring_id: Option<RingId>, now: Instant) {
        if self.ring_id == ring_id {
            return;
        }
        self.ring_id = ring_id;
        self.publish_own_facts(now);
        let connected: Vec<PeerName> = self.by_peer.keys().copied().collect();
        for peer in connected {
            self.part_from_other_ring(peer, now);
        }
        self.dial(now);
    }

    /// Forgets what an unreachable peer published, as if its time had come. It is known again once it returns.
    ///
    /// # Errors
    /// [`ForgetError`] if it is reachable or unknown.
    pub fn forget_peer(&mut self, peer: PeerName, now: Instant) -> Result<(), ForgetError> {
        if self.is_reachable(peer) {
            return Err(ForgetError::Reachable { peer });
        }
        if self.store.position(peer).is_none() || self.store.is_forgotten(peer) {
            return Err(ForgetError::Unknown { peer });
        }
        self.forget(peer, now);
        Ok(())
    }

    /// Closes all connections with a goodbye and dials no more.
    pub fn stop(&mut self, _now: Instant) {
        self.stopped = true;
        let contenders = std::mem::take(&mut self.contenders).into_values().map(|contender| contender.connection);
        let all: Vec<ConnectionId> = self.connections.keys().copied().chain(contenders).collect();
        for connection in all {
            let message = format!("weft is stopping on {}", self.config.nickname);
            self.close(connection, GoodbyeReason::Stopping, message, None);
        }
        self.connections.clear();
        self.by_peer.clear();
    }
}
