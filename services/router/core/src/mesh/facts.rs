//! What peers say about themselves and their links, and what we say.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use prost::Message as _;
use weft_proto::mesh::v1 as pb;
use weft_types::PeerName;

use super::{
    Introduced, LINKS_CHANNEL, Mesh, PEERS_CHANNEL, RingId,
    introduction::MAX_NAME_LENGTH,
    message::{endpoint, printable},
    view::LinkView,
};
use crate::{gossip::Entry, handshake::PasswordMark};

/// Endpoints of one peer that are believed.
const MAX_ENDPOINTS: usize = 16;

/// What a peer says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PeerFacts {
    pub(super) name: String,
    pub(super) nickname: String,
    pub(super) version: String,
    /// Of which start of the peer this is.
    pub(super) instance: Option<u64>,
    pub(super) ring_id: Option<RingId>,
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) data_endpoints: Vec<SocketAddr>,
    /// Marks of its password, and of the old one that it takes too.
    pub(super) password_marks: Vec<PasswordMark>,
}

impl Mesh {
    pub(super) fn learn_facts(&mut self, origin: PeerName) {
        let info = self.store.value(origin, PEERS_CHANNEL, &[]).and_then(|value| pb::PeerInfo::decode(&value[..]).ok());
        let believed = |endpoints: &[weft_proto::common::v1::Endpoint]| {
            endpoints.iter().filter_map(|at| endpoint(Some(at))).take(MAX_ENDPOINTS).collect()
        };
        let facts = info.map(|info| PeerFacts {
            name: printable(&info.name, MAX_NAME_LENGTH),
            nickname: printable(&info.nickname, MAX_NAME_LENGTH),
            version: printable(&info.version, MAX_NAME_LENGTH),
            instance: info.instance.as_slice().try_into().ok().map(u64::from_be_bytes),
            ring_id: info.ring_id.as_slice().try_into().ok(),
            endpoints: believed(&info.endpoints),
            data_endpoints: believed(&info.data_endpoints),
            password_marks: info
                .password_marks
                .iter()
                .take(2)
                .filter_map(|mark| u16::try_from(*mark).ok().map(PasswordMark))
                .collect(),
        });
        match facts {
            Some(facts) => self.facts.insert(origin, facts),
            None => self.facts.remove(&origin),
        };
    }

    /// Returns the links that an origin publishes.
    #[must_use]
    pub fn links_of(&self, origin: PeerName) -> Vec<LinkView> {
        let link = |value: &[u8]| {
            let link = pb::Link::decode(value).ok()?;
            Some(LinkView {
                remote: link.remote.as_ref()?.try_into().ok()?,
                endpoint: endpoint(link.endpoint.as_ref()),
                outbound: link.outbound,
                data_direct: link.data_direct,
                data_stream: link.data_stream,
                cost: link.cost,
            })
        };
        self.store.entries(origin, LINKS_CHANNEL).filter_map(|(_, value)| link(value)).collect()
    }

    /// Publishes who the local peer is and where it is reached.
    pub(super) fn publish_own_facts(&mut self, now: Instant) {
        let config = &self.config;
        let info = pb::PeerInfo {
            name: config.name.clone(),
            nickname: config.nickname.clone(),
            version: config.version.clone(),
            endpoints: self.own_endpoints.iter().map(|endpoint| (*endpoint).into()).collect(),
            instance: config.instance.to_be_bytes().to_vec(),
            ring_id: self.ring_id.map(|ring| ring.to_vec()).unwrap_or_default(),
            data_endpoints: self.data_endpoints.iter().map(|endpoint| (*endpoint).into()).collect(),
            password_marks: config.password_marks.iter().map(|mark| mark.0.into()).collect(),
        };
        let entry = Entry { key: bytes::Bytes::new(), value: Some(info.encode_to_vec().into()) };
        // Within every limit: one entry of a few hundred bytes.
        let _ = self.publish_on(PEERS_CHANNEL, true, vec![entry], now);
    }

    /// Learns from a peer under which address it sees us. Only where we dialled is that one of our own.
    pub(super) fn learn_own_endpoint(&mut self, introduced: &Introduced, now: Instant) {
        let seen = introduced.introduction.observed.filter(|_| introduced.dial.is_some());
        let Some(seen) = seen.filter(|_| self.config.listen_port != 0) else { return };
        let endpoint = SocketAddr::new(seen.ip(), self.config.listen_port);
        if self.own_endpoints.len() < MAX_ENDPOINTS && self.own_endpoints.insert(endpoint) {
            self.publish_own_facts(now);
        }
    }

    /// Publishes the local peer's connections.
    pub(super) fn publish_own_links(&mut self, now: Instant) {
        self.links_due = None;
        let link = |state: &super::connection::Connection| {
            let data = self.data_links.get(&state.peer);
            let link = pb::Link {
                remote: Some(state.peer.into()),
                endpoint: Some(state.remote.into()),
                outbound: state.outbound,
                data_direct: data.is_some_and(|data| !data.stream),
                data_stream: data.is_some_and(|data| data.stream),
                cost: data.map_or(0, |data| data.cost),
            };
            let key = bytes::Bytes::copy_from_slice(state.peer.as_bytes());
            Entry { key, value: Some(link.encode_to_vec().into()) }
        };
        let entries = self.connections.values().map(link).collect();
        // Within every limit: connections are limited.
        let _ = self.publish_on(LINKS_CHANNEL, true, entries, now);
    }

    /// Where discovery may find peers that have no connection to us.
    pub(super) fn candidates(&self) -> BTreeMap<PeerName, Vec<SocketAddr>> {
        let mut candidates: BTreeMap<PeerName, Vec<SocketAddr>> = BTreeMap::new();
        if !self.config.discovery || self.stopped {
            return candidates;
        }
        for (peer, facts) in &self.facts {
            candidates.entry(*peer).or_default().extend(&facts.endpoints);
        }
        for origin in self.store.origins().filter(|origin| *origin != self.config.local) {
            for link in self.links_of(origin).into_iter().filter(|link| link.outbound) {
                candidates.entry(link.remote).or_default().extend(link.endpoint);
            }
        }
        candidates.remove(&self.config.local);
        candidates.retain(|peer, _| !self.is_revoked(*peer));
        for endpoints in candidates.values_mut() {
            endpoints.sort_unstable();
            endpoints.dedup();
            endpoints.truncate(MAX_ENDPOINTS);
        }
        candidates
    }
}
