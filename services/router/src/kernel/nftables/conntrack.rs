//! Connections that the kernel tracks, of datagrams that are led elsewhere (linux/netfilter/nfnetlink_conntrack.h).

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context;
use ipnet::IpNet;
use weft_router_core::hostnet::Entrance;

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

/// A service by UDP, and whom it was and is led to.
#[derive(Debug)]
pub(in super::super) struct Led {
    pub(in super::super) entrance: Entrance,
    pub(in super::super) port: u16,
    /// Unknown where this run did not lead it.
    pub(in super::super) former: Option<BTreeSet<SocketAddr>>,
    pub(in super::super) targets: BTreeSet<SocketAddr>,
}

impl Led {
    /// Tells whether a client who asks there asks for the service. `own` are the host's addresses.
    fn is_at(&self, asked: SocketAddr, own: &BTreeSet<IpAddr>) -> bool {
        let there = match self.entrance {
            Entrance::Host(None) => !asked.ip().is_loopback() && own.contains(&asked.ip()),
            Entrance::Host(Some(address)) | Entrance::Overlay(address) => asked.ip() == address,
        };
        there && asked.port() == self.port
    }

    /// Tells whether it was us who led a client there. An earlier run's were in the subnets of the overlay, or are all that ask at
    /// an address which is there for nothing else.
    fn led_to(&self, target: SocketAddr, overlay: &BTreeSet<IpNet>) -> bool {
        match (&self.former, self.entrance) {
            (Some(former), _) => former.contains(&target),
            (None, Entrance::Host(_)) => overlay.iter().any(|subnet| subnet.contains(&target.ip())),
            (None, Entrance::Overlay(_)) => true,
        }
    }

    fn is_changed(&self) -> bool {
        self.former.as_ref() != Some(&self.targets)
    }
}

impl Nftables {
    /// Has the kernel forget the connections of UDP to these services that go to none of their targets, where those changed: which were
    /// led elsewhere, and which began before they were led at all. Those of others stay. `own` are the host's addresses, `overlay` the
    /// subnets that it is in there.
    pub(in super::super) fn forget_datagrams(
        &mut self,
        services: &[Led],
        own: &BTreeSet<IpAddr>,
        overlay: &BTreeSet<IpNet>,
    ) -> anyhow::Result<()> {
        let stale = |entry: &[u8]| is_stale(entry, services, own, overlay);
        let stale = self
            .request(SUBSYSTEM << 8 | GET, 0, NLM_F_DUMP, &Writer::default(), stale)
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

fn is_stale(entry: &[u8], services: &[Led], own: &BTreeSet<IpAddr>, overlay: &BTreeSet<IpNet>) -> bool {
    let entry = Attributes::new(entry);
    let (Some((UDP, asked)), Some((_, answered))) = (tuple(entry, ORIGINAL), tuple(entry, REPLY)) else { return false };
    let services: Vec<&Led> = services.iter().filter(|service| service.is_at(asked.destination, own)).collect();
    if services.iter().any(|service| service.targets.contains(&answered.source)) {
        return false;
    }
    let led = answered.source != asked.destination;
    // Somebody else may have given it another source.
    let untouched = !led && answered.destination == asked.source;
    let stale = |service: &&Led| {
        let is_served = || service.targets.iter().any(|target| target.is_ipv6() == asked.destination.is_ipv6());
        if led { service.led_to(answered.source, overlay) } else { untouched && is_served() }
    };
    services.into_iter().filter(|service| service.is_changed()).any(|service| stale(&service))
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

    fn set<T: Ord + std::str::FromStr<Err: std::fmt::Debug>>(texts: &[&str]) -> BTreeSet<T> {
        texts.iter().map(|text| text.parse().expect("valid")).collect()
    }

    /// Tells what becomes of an entry on a host with some addresses and a service that one target is left of.
    fn goes(entry: &[u8], entrance: Entrance, former: Option<&[&str]>) -> bool {
        let targets = set(&["10.32.0.1:53"]);
        let services = [Led { entrance, port: 5353, former: former.map(set), targets }];
        let own = set(&["127.0.0.1", "192.0.2.1", "192.0.2.10", "10.32.0.9", "fd00::1"]);
        is_stale(entry, &services, &own, &set(&["10.32.0.0/12"]))
    }

    fn stale(entrance: Entrance, former: Option<&[&str]>, original: [&str; 2], reply: [&str; 2]) -> bool {
        goes(&entry(UDP, original, reply), entrance, former)
    }

    #[test]
    fn what_goes_to_nobody_of_the_service_is_stale() {
        let (client, host) = ("192.0.2.9:4000", "192.0.2.1:5353");
        let former: Option<&[&str]> = Some(&["10.32.0.1:53", "10.32.0.2:53", "[fd12::2]:53"]);
        for (original, reply, expected) in [
            ([client, host], ["10.32.0.1:53", client], false),
            ([client, host], ["10.32.0.2:53", client], true),
            ([client, host], ["10.32.0.2:53", "10.32.0.9:4000"], true),
            ([client, host], [host, client], true),
            ([client, "192.0.2.1:53"], ["192.0.2.1:53", client], false),
            // What a container asks outside is masqueraded, and nobody else's.
            (["172.17.0.2:4000", "198.51.100.1:5353"], ["198.51.100.1:5353", "192.0.2.1:4000"], false),
            (["[fd00::9]:1", "[fd00::1]:5353"], ["[fd12::2]:53", "[fd00::9]:1"], true),
            // In this family it is led nowhere any more: whoever serves there goes on.
            (["[fd00::9]:1", "[fd00::1]:5353"], ["[fd00::1]:5353", "[fd00::9]:1"], false),
            // The host's own questions, and its loopback.
            (["192.0.2.1:4000", "198.51.100.1:5353"], ["198.51.100.1:5353", "192.0.2.1:4000"], false),
            (["127.0.0.1:4000", "127.0.0.1:5353"], ["127.0.0.1:5353", "127.0.0.1:4000"], false),
            // What the engine leads elsewhere, from wherever.
            ([client, "198.51.100.1:5353"], ["172.17.0.2:53", client], false),
            ([client, host], ["172.17.0.2:53", client], false),
        ] {
            assert_eq!(stale(Entrance::Host(None), former, original, reply), expected, "{original:?} {reply:?}");
        }
        assert!(!goes(&entry(6, [client, host], ["10.32.0.2:53", client]), Entrance::Host(None), former), "by TCP");
        assert!(!goes(&[], Entrance::Host(None), former));
    }

    #[test]
    fn an_address_is_the_only_one() {
        let at = Entrance::Host(Some("192.0.2.1".parse().expect("valid")));
        let client = "192.0.2.9:4000";
        let led_at = |host: &str, former| stale(at, former, [client, host], ["10.32.0.2:53", client]);
        let former: Option<&[&str]> = Some(&["10.32.0.2:53"]);
        assert!(led_at("192.0.2.1:5353", former));
        assert!(!led_at("192.0.2.10:5353", former));
        assert!(!stale(at, former, [client, "192.0.2.10:5353"], ["192.0.2.10:5353", client]));
        // Whom an earlier run led to is not known.
        assert!(led_at("192.0.2.1:5353", None));
        assert!(!stale(at, None, [client, "192.0.2.1:5353"], ["172.17.0.2:53", client]), "the engine's");
        let inside = Entrance::Overlay("10.32.0.9".parse().expect("valid"));
        assert!(stale(inside, None, ["10.32.0.5:4000", "10.32.0.9:5353"], ["198.51.100.7:5353", "192.0.2.1:4000"]));
        let same: Option<&[&str]> = Some(&["10.32.0.1:53"]);
        assert!(!stale(at, same, [client, "192.0.2.1:5353"], ["192.0.2.1:5353", client]), "nothing changed");
    }
}
