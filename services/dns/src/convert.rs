//! Between the contracts' messages and the core's types.

use std::{collections::BTreeMap, net::IpAddr};

use prost::Message;
use weft_dns_core::{NameRecord, Peer, RecordView, Snapshot, Zone, nobody};
use weft_proto::{
    common::v1::IpAddress,
    convert::InvalidMessage,
    dns::v1 as pb,
    router::v1::{ChannelSnapshot, Entry, PeerIdentity},
};
use weft_types::{ContainerId, PeerName};

/// Reads a container's id.
pub(crate) fn container(text: &str) -> Result<ContainerId, InvalidMessage> {
    text.parse().map_err(|error| InvalidMessage::invalid("container_id", error))
}

/// Reads a registration on this host.
pub(crate) fn registration(
    zone: &Zone,
    registration: &pb::Registration,
) -> Result<(ContainerId, NameRecord), InvalidMessage> {
    let container = container(&registration.container_id)?;
    let addresses = registration.addresses.iter().map(IpAddr::try_from).collect::<Result<Vec<_>, _>>()?;
    let record = zone.record(&registration.names, &addresses, !registration.unhealthy).map_err(|error| {
        InvalidMessage::invalid("registration", format!("container {}: {error}", container.short()))
    })?;
    Ok((container, record))
}

/// Reads whose the names are that are given or taken away by hand.
pub(crate) fn holder(text: &str) -> Result<ContainerId, InvalidMessage> {
    if text.is_empty() { Ok(nobody()) } else { container(text) }
}

/// Writes a record as gossip.
pub(crate) fn entry(container: &ContainerId, record: Option<&NameRecord>) -> Entry {
    let value = record.map(|record| {
        let message = pb::NameRecord {
            container_id: container.to_string(),
            names: record.names().iter().map(ToString::to_string).collect(),
            addresses: record.addresses().iter().copied().map(Into::into).collect(),
            unhealthy: !record.is_healthy(),
        };
        message.encode_to_vec()
    });
    Entry { key: container.as_str().into(), value }
}

/// Reads gossip; what makes no sense is left out, because nobody but its origin can set it right.
pub(crate) fn entries(zone: &Zone, entries: &[Entry]) -> Vec<(ContainerId, Option<NameRecord>)> {
    entries.iter().filter_map(|entry| foreign_entry(zone, entry)).collect()
}

fn foreign_entry(zone: &Zone, entry: &Entry) -> Option<(ContainerId, Option<NameRecord>)> {
    let container: ContainerId = std::str::from_utf8(&entry.key).ok()?.parse().ok()?;
    let Some(value) = &entry.value else { return Some((container, None)) };
    let Ok(message) = pb::NameRecord::decode(value.as_slice()) else {
        tracing::debug!(container = container.short(), "a record cannot be read");
        return None;
    };
    let addresses: Vec<_> = message.addresses.iter().filter_map(|address| IpAddr::try_from(address).ok()).collect();
    let record = zone.foreign_record(&message.names, &addresses, !message.unhealthy);
    Some((container, Some(record)))
}

/// Reads who is reachable.
pub(crate) fn reachable(peers: &[PeerIdentity]) -> BTreeMap<PeerName, Peer> {
    let peer = |identity: &PeerIdentity| {
        let peer_name = PeerName::try_from(identity.peer_name.as_ref()?).ok()?;
        Some((peer_name, Peer { name: identity.name.clone(), nickname: identity.nickname.clone() }))
    };
    peers.iter().filter_map(peer).collect()
}

/// Reads what a subscription begins with.
pub(crate) fn snapshot(zone: &Zone, snapshot: &ChannelSnapshot) -> Result<Snapshot, InvalidMessage> {
    let missing = InvalidMessage::missing("ChannelSnapshot.local_peer");
    let local = PeerName::try_from(snapshot.local_peer.as_ref().ok_or(missing)?)?;
    let mut origins = BTreeMap::new();
    for origin in &snapshot.origins {
        let Some(Ok(peer)) = origin.origin.as_ref().map(PeerName::try_from) else { continue };
        let records = entries(zone, &origin.entries).into_iter();
        origins.insert(peer, records.filter_map(|(container, record)| Some((container, record?))).collect());
    }
    Ok(Snapshot { local, origins, reachable: reachable(&snapshot.reachable) })
}

/// Writes a record for people: one message for each of its names.
pub(crate) fn shown(view: &RecordView<'_>) -> Vec<pb::Record> {
    let addresses: Vec<IpAddress> = view.record.addresses().iter().copied().map(Into::into).collect();
    let shown = |name: &_| pb::Record {
        name: ToString::to_string(name),
        addresses: addresses.clone(),
        container_id: view.holder.id.to_owned(),
        origin: view.origin.map(Into::into),
        origin_name: view.peer.name.clone(),
        origin_nickname: view.peer.nickname.clone(),
        unhealthy: !view.record.is_healthy(),
        suspended: view.suspended,
        waiting: view.waiting,
        by_hand: view.holder.by_hand,
    };
    view.record.names().iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_gossip_and_garbage_does_not() {
        let zone = Zone::new("weft.internal", 1).expect("valid");
        let addresses = ["10.32.0.1", "fd00::1"].map(|address| address.parse().expect("valid"));
        let record = zone.record(&["db".to_owned(), "web".to_owned()], &addresses, false).expect("valid");
        let container: ContainerId = "c1".parse().expect("valid");
        let sent = [
            entry(&container, Some(&record)),
            Entry { key: vec![0xff], value: Some(vec![]) },
            Entry { key: b"c2".to_vec(), value: Some(vec![0xff; 9]) },
            Entry { key: b"c3".to_vec(), value: None },
        ];
        let received = entries(&zone, &sent);
        assert_eq!(received, [(container, Some(record)), ("c3".parse().expect("valid"), None)]);
    }
}
