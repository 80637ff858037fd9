//! Keeps the rules by which services lead to containers, and out of the overlay.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_router_core::hostnet::{
    self, Entrance, Family, Gateway, PUBLISH_TABLE, Surroundings, Translation, TransportProtocol,
};

use super::{
    Problem,
    expose::{Legacy, keep_rules},
    host::Owner,
    links::IPV6_MINIMUM_MTU,
    nftables::{Led, Step},
};

/// A default route by a gateway (`RTF_GATEWAY`, linux/route.h).
const BY_GATEWAY: u32 = 2;

/// Services, and the addresses that the host has on the overlay because of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredServices {
    /// Interface addresses of both families.
    pub addresses: Vec<IpNet>,
    /// Who is led where.
    pub translations: Vec<Translation>,
}

/// What there should be, and what was there last.
#[derive(Debug, Default)]
pub(super) struct Published {
    desired: DesiredServices,
    /// Whether an earlier run left nothing, or it was removed.
    clean: bool,
    problem: Option<Problem>,
    /// What became of rules in legacy xtables.
    legacy: Legacy,
    /// Who sees the addresses of clients, for those who list that.
    direct: Arc<Mutex<BTreeSet<IpAddr>>>,
    /// Where datagrams were led, by where clients begin and the port that they ask for.
    datagrams: BTreeMap<(Entrance, u16), BTreeSet<SocketAddr>>,
}

impl Published {
    pub(super) fn new(direct: Arc<Mutex<BTreeSet<IpAddr>>>) -> Self {
        Self { direct, ..Self::default() }
    }

    pub(super) fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref().or(self.legacy.problem.as_ref())
    }

    pub(super) const fn desired(&self) -> &DesiredServices {
        &self.desired
    }
}

impl Owner {
    /// Says which services there are, and returns the addresses for them without those of IPv6 where there is none.
    pub(super) fn set_published(&mut self, mut desired: DesiredServices) -> Vec<IpNet> {
        let ipv6 = self.config.mtu >= IPV6_MINIMUM_MTU && self.config.proc_sys.join("net/ipv6").exists();
        desired.addresses.retain(|address| ipv6 || address.addr().is_ipv4());
        let addresses = desired.addresses.clone();
        self.exposed.hold(addresses.clone());
        self.guard.set_host(self.exposed.subnets());
        self.published.desired = desired;
        self.published.clean = false;
        addresses
    }

    /// Makes the rules as they should be, and returns how many changes that took.
    pub(super) fn reconcile_published(&mut self) -> anyhow::Result<usize> {
        let published = &self.published;
        if published.clean && published.desired.translations.is_empty() && published.datagrams.is_empty() {
            return Ok(0);
        }
        let outcome = self.change_translations();
        self.published.clean = outcome.is_ok() && !self.published.legacy.failed;
        self.published.problem = outcome.as_ref().err().map(|error| Problem {
            reason: "publish_refused",
            message: format!(
                "published ports do not lead where they should, which is tried again ({error:#}): correct that, or `weft unpublish` \
                 them"
            ),
        });
        outcome
    }

    fn change_translations(&mut self) -> anyhow::Result<usize> {
        let surroundings = self.surroundings()?;
        *self.published.direct.lock().unwrap_or_else(PoisonError::into_inner) =
            surroundings.direct.keys().copied().collect();
        let wanted =
            hostnet::translation_table(&self.config.bridge, &self.published.desired.translations, &surroundings);
        let Some(nftables) = &mut self.nftables else { return Ok(0) };
        let present = nftables.table(Family::Inet, PUBLISH_TABLE)?;
        let mut changes = 0;
        if present != wanted {
            let step = match &wanted {
                Some(table) => Step::ReplaceTable(table),
                None => Step::RemoveTable(Family::Inet, PUBLISH_TABLE),
            };
            let failed = || format!("failed to change the nftables table {PUBLISH_TABLE}");
            nftables.transact(&[step]).with_context(failed)?;
            changes = 1;
        }
        let answers = |family| hostnet::answer_rules(family, &surroundings);
        changes += keep_rules(nftables, PUBLISH_TABLE, answers)?;
        self.published.legacy = self.keep_legacy_rules(PUBLISH_TABLE, answers);
        changes += self.published.legacy.changes;
        self.redirect_datagrams()?;
        Ok(changes)
    }

    /// Has the kernel forget the connections of datagrams that were led where they are led no longer: it would lead a client that
    /// goes on to the same target for ever. Those of TCP end by themselves.
    fn redirect_datagrams(&mut self) -> anyhow::Result<()> {
        let former = &self.published.datagrams;
        let translations = self.published.desired.translations.iter();
        let wanted: BTreeMap<(Entrance, u16), BTreeSet<SocketAddr>> = translations
            .filter(|one| one.protocol == TransportProtocol::Udp && !one.is_loopback())
            .map(|one| ((one.entrance, one.port), one.targets.clone()))
            .collect();
        if wanted != *former
            && let Some(nftables) = &mut self.nftables
        {
            let services: BTreeSet<(Entrance, u16)> = former.keys().chain(wanted.keys()).copied().collect();
            let service = |at: (Entrance, u16)| Led {
                entrance: at.0,
                port: at.1,
                former: former.get(&at).cloned(),
                targets: wanted.get(&at).cloned().unwrap_or_default(),
            };
            let services: Vec<Led> = services.into_iter().map(service).collect();
            let own = self.channel.all_addresses()?.iter().map(IpNet::addr).collect();
            let overlay = self.exposed.subnets();
            nftables
                .forget_datagrams(&services, &own, &overlay)
                .context("failed to have clients by UDP led to another target")?;
        }
        self.published.datagrams = wanted;
        Ok(())
    }

    /// Finds out what the rules depend on.
    fn surroundings(&mut self) -> anyhow::Result<Surroundings> {
        let is_on =
            |path: &str| fs::read_to_string(self.config.proc_sys.join(path)).is_ok_and(|value| value.trim() != "0");
        let (routes_ipv4, routes_ipv6) = (is_on("net/ipv4/ip_forward"), is_on("net/ipv6/conf/all/forwarding"));
        let from_outside =
            |one: &&Translation| matches!(one.entrance, Entrance::Host(_)) && one.protocol == TransportProtocol::Tcp;
        let translations = self.published.desired.translations.iter().filter(from_outside);
        let targets: BTreeSet<IpAddr> = translations.flat_map(|one| one.targets.iter().map(SocketAddr::ip)).collect();
        let mut direct = BTreeMap::new();
        if !targets.is_empty() {
            let (gateways, subnets) = self.gateways()?;
            for attachment in self.attachments()? {
                let own = attachment.addresses.iter().map(IpNet::addr).filter(|address| targets.contains(address));
                for address in own.collect::<Vec<_>>() {
                    let routes = if address.is_ipv6() { routes_6(attachment.pid) } else { routes_4(attachment.pid) };
                    if let Some(mut gateway) = gateway(&routes, &gateways) {
                        gateway.masqueraded.extend(&subnets);
                        direct.insert(address, gateway);
                    }
                }
            }
        }
        Ok(Surroundings { direct, routes_ipv4, routes_ipv6 })
    }

    /// Returns the addresses of this host at which it lets containers' answers in that come by another way than questions go, with
    /// the links that have them, and the subnets of all its bridges but ours.
    fn gateways(&mut self) -> anyhow::Result<(BTreeMap<IpAddr, String>, BTreeSet<IpNet>)> {
        let filter = |link: &str| {
            let path = self.config.proc_sys.join(format!("net/ipv4/conf/{link}/rp_filter"));
            fs::read_to_string(path).ok().and_then(|value| value.trim().parse::<u8>().ok()).unwrap_or_default()
        };
        let all = filter("all");
        let bridges =
            self.channel.links()?.into_iter().filter(|link| link.kind == "bridge" && link.name != self.config.bridge);
        // The higher one counts, and 1 lets a packet in only by the way back to its source (Documentation/networking/ip-sysctl.rst).
        let bridges: Vec<_> = bridges.map(|link| (link.index, filter(&link.name).max(all) == 1, link.name)).collect();
        let (mut gateways, mut subnets) = (BTreeMap::new(), BTreeSet::new());
        for (index, strict, link) in bridges {
            let addresses = self.channel.addresses(index)?;
            subnets.extend(addresses.iter().map(IpNet::trunc));
            let usable = addresses.iter().map(IpNet::addr).filter(|address| address.is_ipv6() || !strict);
            gateways.extend(usable.map(|address| (address, link.clone())));
        }
        Ok((gateways, subnets))
    }
}

/// A route of a container: where to, and by which gateway if not straight.
type Route = (IpNet, Option<IpAddr>);

/// Returns how a container reaches everything but some subnets, if that is by one of the host's gateways.
fn gateway(routes: &[Route], gateways: &BTreeMap<IpAddr, String>) -> Option<Gateway> {
    let default = routes.iter().find(|(destination, _)| destination.prefix_len() == 0)?;
    let link = gateways.get(&default.1?)?.clone();
    let narrow = routes.iter().filter(|(destination, _)| destination.prefix_len() > 0);
    Some(Gateway { link, masqueraded: narrow.map(|(destination, _)| *destination).collect() })
}

fn routes_4(pid: u32) -> Vec<Route> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/route")).unwrap_or_default();
    text.lines().filter_map(route_4).collect()
}

/// Reads a line as `fib_route_seq_show` (net/ipv4/fib_trie.c) writes it: addresses as the numbers that their bytes make here.
fn route_4(line: &str) -> Option<Route> {
    let mut fields = line.split_whitespace();
    let mut address = |skipped: usize| {
        let number = u32::from_str_radix(fields.nth(skipped)?, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let (destination, gateway, mask) = (address(1)?, address(0)?, address(4)?);
    let destination = Ipv4Net::with_netmask(destination, mask).ok()?;
    Some((destination.into(), (!gateway.is_unspecified()).then_some(gateway.into())))
}

fn routes_6(pid: u32) -> Vec<Route> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/ipv6_route")).unwrap_or_default();
    text.lines().filter_map(route_6).collect()
}

/// Reads a line as `rt6_info_route` (net/ipv6/route.c) writes it. Routes to the container itself lead nobody anywhere.
fn route_6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, length, _, _, gateway, _, _, _, flags, link] = fields[..] else { return None };
    if link == "lo" {
        return None;
    }
    let address = |text| u128::from_str_radix(text, 16).ok().map(Ipv6Addr::from);
    let destination = Ipv6Net::new(address(destination)?, u8::from_str_radix(length, 16).ok()?).ok()?;
    let by_gateway = u32::from_str_radix(flags, 16).ok()? & BY_GATEWAY != 0;
    Some((destination.into(), by_gateway.then_some(address(gateway)?.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn routes_of_containers_are_read() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        let routes: Vec<Route> = table.lines().filter_map(route_4).collect();
        let at: IpAddr = "172.17.0.1".parse().expect("valid");
        let gateways = BTreeMap::from([(at, "docker0".to_owned())]);
        let net = |text: &str| text.parse::<IpNet>().expect("valid");
        assert_eq!(routes, [(net("0.0.0.0/0"), Some(at)), (net("172.17.0.0/16"), None)]);
        let masqueraded = [net("172.17.0.0/16")].into();
        assert_eq!(gateway(&routes, &gateways), Some(Gateway { link: "docker0".to_owned(), masqueraded }));
        assert_eq!(gateway(&routes, &BTreeMap::new()), None, "another gateway");
        assert_eq!(gateway(&routes[1..], &gateways), None, "no default route");

        let zeros = "0".repeat(32);
        let to = "fd000000000000000000000000000001";
        let lines = [
            format!("{zeros} 00 {zeros} 00 {to} 00000400 00000001 00000000 00000003     eth0"),
            format!("{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo"),
            format!("fe80{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth0", "0".repeat(28)),
        ];
        let routes: Vec<Route> = lines.iter().filter_map(|line| route_6(line)).collect();
        assert_eq!(routes, [(net("::/0"), Some("fd00::1".parse().expect("valid"))), (net("fe80::/64"), None)]);
        for odd in ["", "eth0 xyz", "1 ff 3 4 5 6 7 8 9 10"] {
            assert_eq!((route_4(odd), route_6(odd)), (None, None), "{odd}");
        }
    }
}
