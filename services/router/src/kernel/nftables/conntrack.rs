//! Connections that the kernel tracks, of datagrams that are led elsewhere (linux/netfilter/nfnetlink_conntrack.h).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context;

use super::{
    NLM_F_DUMP, Nftables,
    attributes::{Attributes, Writer},
};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const SOURCE_4: u16 = 1;
const DESTINATION_4: u16 = 2;
const SOURCE_6: u16 = 3;
const DESTINATION_6: u16 = 4;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const UDP: u8 = 17;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    source: SocketAddr,
    destination: SocketAddr,
}

impl Nftables {
    /// Has the kernel forget the connections of UDP to these ports that go to none of their targets: those that were led elsewhere,
    /// and those that began before they were led at all.
    pub(in super::super) fn forget_datagrams(
        &mut self,
        targets: &BTreeMap<u16, BTreeSet<SocketAddr>>,
    ) -> anyhow::Result<()> {
        let keep = |entry: &[u8]| is_stale(entry, targets);
        let stale = self
            .request(SUBSYSTEM << 8 | GET, 0, NLM_F_DUMP, &Writer::default(), keep)
            .context("failed to list the connections that the kernel tracks")?;
        for entry in &stale {
            let (entry, mut which) = (Attributes::new(entry), Writer::default());
            for kind in [ORIGINAL, ID, ZONE] {
                if let Some(value) = entry.value(kind) {
                    if kind == ORIGINAL { which.nest_of(kind, value) } else { which.bytes_of(kind, value) }
                }
            }
            let deleted = self.request(SUBSYSTEM << 8 | DELETE, family(entry), 0, &which, |_| false);
            // It may have ended meanwhile.
            if let Err(error) = deleted
                .map(drop)
                .or_else(|error| if error.raw_os_error() == Some(libc::ENOENT) { Ok(()) } else { Err(error) })
            {
                return Err(error).context("failed to have the kernel forget a connection");
            }
        }
        Ok(())
    }
}

fn family(entry: Attributes<'_>) -> u8 {
    let ipv6 = tuple(entry, ORIGINAL).is_some_and(|(_, tuple)| tuple.source.is_ipv6());
    if ipv6 { 10 } else { 2 }
}

fn is_stale(entry: &[u8], targets: &BTreeMap<u16, BTreeSet<SocketAddr>>) -> bool {
    let entry = Attributes::new(entry);
    let (Some((UDP, asked)), Some((_, answered))) = (tuple(entry, ORIGINAL), tuple(entry, REPLY)) else { return false };
    let Some(targets) = targets.get(&asked.destination.port()) else { return false };
    let led = answered.source != asked.destination;
    // One that nobody translated, to whoever it is, begins anew as it was.
    let untouched = !led && answered.destination == asked.source;
    (led || untouched) && !targets.contains(&answered.source)
}

fn tuple(entry: Attributes<'_>, which: u16) -> Option<(u8, Tuple)> {
    let tuple = Attributes::new(entry.value(which)?);
    let (ip, protocol) = (Attributes::new(tuple.value(TUPLE_IP)?), Attributes::new(tuple.value(TUPLE_PROTOCOL)?));
    let address = |kind_4: u16, kind_6: u16| -> Option<IpAddr> {
        let v4 = ip
            .value(kind_4)
            .and_then(|value| <[u8; 4]>::try_from(value).ok())
            .map(|bytes| Ipv4Addr::from(bytes).into());
        v4.or_else(|| Some(Ipv6Addr::from(<[u8; 16]>::try_from(ip.value(kind_6)?).ok()?).into()))
    };
    let port = |kind: u16| Some(u16::from_be_bytes(protocol.value(kind)?.try_into().ok()?));
    let source = SocketAddr::new(address(SOURCE_4, SOURCE_6)?, port(SOURCE_PORT)?);
    let destination = SocketAddr::new(address(DESTINATION_4, DESTINATION_6)?, port(DESTINATION_PORT)?);
    Some((*protocol.value(NUMBER)?.first()?, Tuple { source, destination }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(protocol: u8, original: [&str; 2], reply: [&str; 2]) -> Vec<u8> {
        let mut writer = Writer::default();
        for (kind, ends) in [(ORIGINAL, original), (REPLY, reply)] {
            let [source, destination] = ends.map(|text| text.parse::<SocketAddr>().expect("valid"));
            writer.nested(kind, |tuple| {
                tuple.nested(TUPLE_IP, |ip| {
                    for (kind, address) in [(SOURCE_4, source.ip()), (DESTINATION_4, destination.ip())] {
                        match address {
                            IpAddr::V4(address) => ip.bytes_of(kind, &address.octets()),
                            IpAddr::V6(address) => ip.bytes_of(kind + 2, &address.octets()),
                        }
                    }
                });
                tuple.nested(TUPLE_PROTOCOL, |part| {
                    part.bytes_of(NUMBER, &[protocol]);
                    part.bytes_of(SOURCE_PORT, &source.port().to_be_bytes());
                    part.bytes_of(DESTINATION_PORT, &destination.port().to_be_bytes());
                });
            });
        }
        writer.bytes().to_vec()
    }

    #[test]
    fn what_goes_to_nobody_of_the_service_is_stale() {
        let live: SocketAddr = "10.32.0.1:53".parse().expect("valid");
        let targets = BTreeMap::from([(5353, BTreeSet::from([live]))]);
        let (client, host) = ("192.0.2.9:4000", "192.0.2.1:5353");
        for (protocol, original, reply, stale) in [
            (UDP, [client, host], ["10.32.0.1:53", client], false),
            (UDP, [client, host], ["10.32.0.2:53", client], true),
            (UDP, [client, host], ["10.32.0.2:53", "10.32.0.9:4000"], true),
            (UDP, [client, host], [host, client], true),
            (UDP, [client, "192.0.2.1:53"], ["192.0.2.1:53", client], false),
            (6, [client, host], ["10.32.0.2:53", client], false),
            // What a container asks outside is masqueraded, and nobody else's.
            (UDP, ["172.17.0.2:4000", "198.51.100.1:5353"], ["198.51.100.1:5353", "192.0.2.1:4000"], false),
            (UDP, ["[fd00::9]:1", "[fd00::1]:5353"], ["[fd12::2]:53", "[fd00::9]:1"], true),
        ] {
            assert_eq!(is_stale(&entry(protocol, original, reply), &targets), stale, "{original:?} {reply:?}");
        }
        assert!(!is_stale(&[], &targets));
    }
}
