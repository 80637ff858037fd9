//! The forwarding table, as it follows from what is gossiped.

use std::net::IpAddr;

use ipnet::IpNet;
use prost::Message;
use weft_proto::mesh::v1::AttachmentInfo;
use weft_router_core::{forward::ForwardingTable, membership::subnets, mesh::OriginEntries};
use weft_types::{AllowedAddresses, ContainerId, MacAddress, PeerName};

/// One attachment as its origin publishes it.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// Whose it is.
    pub(super) container: ContainerId,
    /// Address of its interface.
    pub(super) mac: MacAddress,
    /// Its interface addresses.
    pub(super) addresses: Vec<IpNet>,
    /// Whether packets come from it that are from outside of the overlay.
    pub(super) routes: bool,
    /// What it may use beside its own addresses.
    pub(super) allowed: AllowedAddresses,
}

/// Returns the attachments of an origin; what cannot be read is left out.
pub(super) fn attachments(origin: &OriginEntries) -> impl Iterator<Item = Published> + '_ {
    origin.entries.iter().filter_map(|(_, value)| {
        let info = AttachmentInfo::decode(value.clone()).ok()?;
        Some(Published {
            container: info.container_id.parse().ok()?,
            mac: MacAddress::try_from(info.mac.as_ref()?).ok().filter(|mac| !mac.is_multicast())?,
            addresses: info.addresses.iter().filter_map(|prefix| IpNet::try_from(prefix).ok()).collect(),
            routes: info.routes,
            allowed: AllowedAddresses::possible(
                info.allowed.iter().filter_map(|address| IpAddr::try_from(address).ok()),
            ),
        })
    })
}

/// Computes the table. `reached` tells of which peers frames can go to. Where two origins claim one MAC or address, the
/// local one holds, then the lower name.
pub(super) fn table(local: PeerName, origins: &[OriginEntries], reached: impl Fn(PeerName) -> bool) -> ForwardingTable {
    let mut table = ForwardingTable::default();
    for attachment in origins.iter().filter(|origin| origin.origin == local).flat_map(attachments) {
        table.local_macs.insert(attachment.mac);
        table.subnets.insert(attachment.mac, subnets(&attachment.addresses));
        table.local_addresses.extend(attachment.addresses.iter().map(IpNet::addr));
    }
    let mut remote: Vec<&OriginEntries> =
        origins.iter().filter(|origin| origin.origin != local && reached(origin.origin)).collect();
    remote.sort_by_key(|origin| origin.origin);
    for origin in remote {
        for attachment in attachments(origin) {
            if table.local_macs.contains(&attachment.mac) {
                continue;
            }
            let holder = *table.macs.entry(attachment.mac).or_insert(origin.origin);
            if holder == origin.origin {
                table.subnets.insert(attachment.mac, subnets(&attachment.addresses));
                table.routers.extend(attachment.routes.then_some(attachment.mac));
                if !attachment.allowed.is_empty() {
                    table.allowed.insert(attachment.mac, attachment.allowed);
                }
            }
            let addresses: Vec<IpAddr> = attachment.addresses.iter().map(IpNet::addr).collect();
            for address in addresses {
                if holder == origin.origin && !table.local_addresses.contains(&address) {
                    table.addresses.entry(address).or_insert(attachment.mac);
                }
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(byte: u8) -> PeerName {
        PeerName::from_public_key([byte; 32])
    }

    fn origin(byte: u8, attachments: &[(u8, &str)]) -> OriginEntries {
        let entries = attachments.iter().map(|(mac, address)| {
            let info = AttachmentInfo {
                container_id: format!("c{mac}"),
                mac: Some(MacAddress::new([2, 0, 0, 0, 0, *mac]).into()),
                addresses: vec![address.parse::<IpNet>().expect("valid").into()],
                routes: *mac == 30,
                allowed: if *mac == 21 { vec![IpAddr::from([10, 32, 0, 100]).into()] } else { Vec::new() },
            };
            (info.container_id.clone().into(), info.encode_to_vec().into())
        });
        OriginEntries { origin: peer(byte), entries: entries.collect() }
    }

    #[test]
    fn reached_peers_are_known_and_what_is_ours_stays_ours() {
        let origins = [
            origin(3, &[(30, "10.32.0.3/12"), (10, "10.32.0.9/12"), (20, "10.32.0.8/12")]),
            origin(1, &[(10, "10.32.0.1/12")]),
            origin(2, &[(20, "10.32.0.2/12"), (21, "10.32.0.1/12")]),
            origin(4, &[(40, "10.32.0.4/12")]),
        ];
        let table = table(peer(1), &origins, |reached| reached != peer(4));
        let mac = |byte| MacAddress::new([2, 0, 0, 0, 0, byte]);
        assert_eq!(table.local_macs, [mac(10)].into());
        assert_eq!(table.macs, [(mac(20), peer(2)), (mac(21), peer(2)), (mac(30), peer(3))].into());
        let subnet = ["10.32.0.0/12".parse::<IpNet>().expect("valid")];
        assert_eq!(table.subnets.keys().copied().collect::<Vec<_>>(), [mac(10), mac(20), mac(21), mac(30)]);
        assert!(table.subnets.values().all(|subnets| subnets.iter().eq(&subnet)));
        let address = |text: &str| text.parse::<IpAddr>().expect("valid");
        assert_eq!(table.allowed, [(mac(21), "10.32.0.100".parse().expect("valid"))].into());
        assert_eq!(table.addresses, [(address("10.32.0.2"), mac(20)), (address("10.32.0.3"), mac(30))].into());
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut origin = origin(2, &[(20, "10.32.0.2/12")]);
        origin.entries.push((b"x".as_slice().into(), b"\xff\xff".as_slice().into()));
        assert_eq!(table(peer(1), &[origin], |_| true).macs.len(), 1);
    }
}
