//! Services that the host passes on: to containers from outside of the overlay, and out of it for containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::{
    BaseChain, Comparison, Expression, Family, ForwardRule, Hook, MetaKey, PayloadBase, Rule, Table, TransportProtocol,
    expose::{End, accept, address_of, answers, in_subnet, is_ipv6, link, neighbour, within},
    firewall::marked,
};

/// Name of the table that translates addresses for services, in the family [`Family::Inet`].
pub const PUBLISH_TABLE: &str = "weft-publish";

/// Before the engine has its own ports lead to containers (`NF_IP_PRI_NAT_DST`, -100).
const BEFORE_ENGINE: i32 = -110;

/// After the sources that others translate have been (`NF_IP_PRI_NAT_SRC`, 100), before [`super::masquerade_table`].
const AFTER_ENGINE: i32 = 105;

/// A connection's destination was translated (`IPS_DST_NAT`, linux/netfilter/nf_conntrack_common.h).
const DESTINATION_TRANSLATED: u32 = 1 << 5;

/// An address of the host (`RTN_LOCAL`, linux/rtnetlink.h).
const OF_THE_HOST: u32 = 2;

/// Where clients begin a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entrance {
    /// From outside of the overlay, at any address of the host but loopback, or at this one.
    Host(Option<IpAddr>),
    /// From the overlay, or the host itself, at this address that the host has there.
    Overlay(IpAddr),
}

/// A service, and who performs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Translation {
    /// Where clients begin.
    pub entrance: Entrance,
    /// TCP or UDP.
    pub protocol: TransportProtocol,
    /// Port that clients ask for.
    pub port: u16,
    /// Who gets new connections, each of a family as many as the others; without any of a family there is no service in it.
    pub targets: BTreeSet<SocketAddr>,
}

impl Translation {
    /// Tells whether only the host's own programs ask for it, at an address that the kernel leads nowhere else: no answer from
    /// elsewhere could reach them.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        matches!(self.entrance, Entrance::Host(Some(address)) if address.is_loopback())
    }
}

/// How a container reaches what is no station of the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Name of this host's link that its default route leads to.
    pub link: String,
    /// Subnets whose clients it takes for this host: those that it reaches without it, and those of this host's bridges, between
    /// which the engine lets nothing pass, answers neither.
    pub masqueraded: BTreeSet<IpNet>,
}

/// What the rules depend on beside the services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Containers whose answers come through this host whatever address they answer to, but for the subnets that are named. They
    /// see who their clients are.
    pub direct: BTreeMap<IpAddr, Gateway>,
    /// Whether the host routes IPv4. Where it does not, only its own programs are led to targets elsewhere.
    pub routes_ipv4: bool,
    /// The same for IPv6.
    pub routes_ipv6: bool,
}

/// Has the table of our own ([`super::own_table`]) let pass what belongs to services, before all that it drops. `held` are the
/// addresses that the host has on the overlay for them.
#[must_use]
pub fn let_translated(mut table: Table, bridge: &str, held: &[IpNet], translations: &[Translation]) -> Table {
    if held.is_empty() {
        return table;
    }
    let accept = |parts: &[Vec<Expression>]| marked([parts.concat(), vec![accept()]].concat());
    let (from, to) = (|| link(MetaKey::InterfaceIn, true, bridge), || link(MetaKey::InterfaceOut, true, bridge));
    let mut input = vec![accept(&[from(), answers()])];
    if held.iter().any(is_ipv6) {
        input.extend([135, 136].map(|kind| accept(&[from(), neighbour(kind)])));
    }
    let mut forward = vec![accept(&[from(), answers()]), accept(&[to(), answers()])];
    for Translation { entrance, protocol, targets, .. } in translations {
        for target in targets {
            let led = || [translated(), for_target(*target, *protocol)].concat();
            match entrance {
                Entrance::Host(_) => forward.push(accept(&[to(), led()])),
                Entrance::Overlay(_) => {
                    forward.push(accept(&[from(), led()]));
                    // It may be the host itself.
                    input.push(accept(&[from(), led()]));
                }
            }
        }
    }
    for (name, rules) in [("input", input), ("forward", forward)] {
        if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == name) {
            chain.rules.splice(0..0, rules);
        }
    }
    table
}

/// Returns the table that leads clients to targets, and gives those the host's address as the client's where answers would not
/// come back otherwise; none where there is nothing to lead to.
#[must_use]
pub fn translation_table(bridge: &str, translations: &[Translation], surroundings: &Surroundings) -> Option<Table> {
    let (mut coming, mut own, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
    for translation in translations.iter().filter(|translation| !translation.is_loopback()) {
        for ipv6 in [false, true] {
            let targets: Vec<SocketAddr> =
                translation.targets.iter().filter(|target| target.is_ipv6() == ipv6).copied().collect();
            let routed = if ipv6 { surroundings.routes_ipv6 } else { surroundings.routes_ipv4 };
            if routed {
                coming.extend(leading(&asked(bridge, translation, ipv6), &targets));
            }
            own.extend(leading(&asked_by_host(translation, ipv6), &targets));
        }
        leaving
            .extend(translation.targets.iter().flat_map(|target| sources(bridge, translation, *target, surroundings)));
    }
    let chain = |name: &str, hook, priority, rules| BaseChain { name: name.into(), hook, priority, rules };
    (!own.is_empty()).then(|| Table {
        family: Family::Inet,
        name: PUBLISH_TABLE.into(),
        sets: Vec::new(),
        chains: vec![
            chain("output", Hook::TranslateOutgoing, BEFORE_ENGINE, own),
            chain("postrouting", Hook::TranslateSource, AFTER_ENGINE, leaving),
            chain("prerouting", Hook::TranslateDestination, BEFORE_ENGINE, coming),
        ],
    })
}

/// Returns the rules that the chain `FORWARD` of the family needs: those for answers of containers that see their clients. They come by
/// the container's own gateway, which the engine's rules let pass as well, for as long as nobody flushes them.
#[must_use]
pub fn answer_rules(family: Family, surroundings: &Surroundings) -> Vec<ForwardRule> {
    let rule = |(container, Gateway { link: gateway, .. }): (&IpAddr, &Gateway)| ForwardRule {
        end: End::Source,
        subnet: IpNet::from(*container),
        by: (Comparison::Equal, gateway.clone()),
        out: (Comparison::NotEqual, gateway.clone()),
        answers: true,
        comment: PUBLISH_TABLE,
    };
    let of_family = surroundings.direct.iter().filter(|(container, _)| container.is_ipv6() == (family == Family::Ipv6));
    of_family.map(rule).collect()
}

/// Returns a rule for each target. Each takes its share of what those before it have left.
fn leading(asked: &Option<Vec<Expression>>, targets: &[SocketAddr]) -> Vec<Rule> {
    let Some(asked) = asked else { return Vec::new() };
    let rule = |(target, left): (&SocketAddr, u32)| {
        let share = if left > 1 {
            vec![Expression::Random(left), Expression::Compare(Comparison::Equal, vec![0; 4])]
        } else {
            Vec::new()
        };
        let to = vec![
            Expression::Counter,
            Expression::Immediate(octets(target.ip())),
            Expression::Into(4, Box::new(Expression::Immediate(target.port().to_be_bytes().to_vec()))),
            Expression::TranslateDestination(family_of(*target)),
        ];
        marked([asked.clone(), share, to].concat())
    };
    let left = (1..=u32::try_from(targets.len()).unwrap_or(u32::MAX)).rev();
    targets.iter().zip(left).map(rule).collect()
}

/// Passes what comes in and asks for the service in a family; nothing can where it has no address of the family.
fn asked(bridge: &str, translation: &Translation, ipv6: bool) -> Option<Vec<Expression>> {
    let overlay = matches!(translation.entrance, Entrance::Overlay(_));
    let by = link(MetaKey::InterfaceIn, overlay, bridge);
    Some([by, at_entrance(translation.entrance, ipv6)?, for_port(translation.protocol, translation.port)].concat())
}

/// The same for what the host's own programs send. Loopback stays what it is: no answer from elsewhere could reach it.
fn asked_by_host(translation: &Translation, ipv6: bool) -> Option<Vec<Expression>> {
    let loopback: IpNet = if ipv6 { "::1/128" } else { "127.0.0.0/8" }.parse().expect("the text is a subnet");
    let at = at_entrance(translation.entrance, ipv6)?;
    let outside = [address_of(End::Destination, &loopback), in_subnet(&loopback, false)].concat();
    Some([at, outside, for_port(translation.protocol, translation.port)].concat())
}

fn at_entrance(entrance: Entrance, ipv6: bool) -> Option<Vec<Expression>> {
    match entrance {
        Entrance::Host(None) => {
            let any: IpNet = if ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("the text is a subnet");
            let of_host = [Expression::AddressKind { source: false }, number(Comparison::Equal, OF_THE_HOST)];
            Some([of_family(&any), of_host.to_vec()].concat())
        }
        Entrance::Host(Some(address)) | Entrance::Overlay(address) => {
            (address.is_ipv6() == ipv6).then(|| within(End::Destination, &address.into(), true))
        }
    }
}

/// Returns the rules that decide as whom a target sees its clients.
fn sources(bridge: &str, translation: &Translation, target: SocketAddr, surroundings: &Surroundings) -> Vec<Rule> {
    let outwards = matches!(translation.entrance, Entrance::Overlay(_));
    let led = [link(MetaKey::InterfaceOut, !outwards, bridge), for_target(target, translation.protocol), translated()]
        .concat();
    let masquerade = marked([led.clone(), vec![Expression::Counter, Expression::Masquerade]].concat());
    // Programs answer datagrams from the address by which their kernel reaches the client: by a gateway that is another one.
    let by_datagrams = translation.protocol == TransportProtocol::Udp;
    let Some(gateway) = surroundings.direct.get(&target.ip()).filter(|_| !outwards && !by_datagrams) else {
        return vec![masquerade];
    };
    // A source that stays what it is counts as translated, and nobody translates it again.
    let like = IpNet::from(target.ip());
    let not_of_host = [Expression::AddressKind { source: true }, number(Comparison::NotEqual, OF_THE_HOST)];
    let elsewhere = gateway
        .masqueraded
        .iter()
        .filter(|subnet| is_ipv6(subnet) == target.is_ipv6())
        .flat_map(|subnet| [address_of(End::Source, subnet), in_subnet(subnet, false)].concat());
    let keep = vec![Expression::Counter]
        .into_iter()
        .chain(address_of(End::Source, &like))
        .chain([Expression::TranslateSource(family_of(target))]);
    vec![marked(led.into_iter().chain(not_of_host).chain(elsewhere).chain(keep).collect()), masquerade]
}

fn for_target(target: SocketAddr, protocol: TransportProtocol) -> Vec<Expression> {
    [within(End::Destination, &target.ip().into(), true), for_port(protocol, target.port())].concat()
}

/// Passes packets to a port (RFC 9293, section 3.1; RFC 768).
fn for_port(protocol: TransportProtocol, port: u16) -> Vec<Expression> {
    vec![
        Expression::Meta(MetaKey::TransportProtocol),
        Expression::Compare(Comparison::Equal, vec![protocol as u8]),
        Expression::Payload { base: PayloadBase::Transport, offset: 2, length: 2 },
        Expression::Compare(Comparison::Equal, port.to_be_bytes().to_vec()),
    ]
}

/// Passes connections that were led elsewhere than they were meant for.
pub(super) fn translated() -> Vec<Expression> {
    vec![
        Expression::ConnectionStatus,
        Expression::Mask(DESTINATION_TRANSLATED.to_ne_bytes().to_vec()),
        number(Comparison::NotEqual, 0),
    ]
}

fn of_family(like: &IpNet) -> Vec<Expression> {
    // The family alone, of what would be compared for the whole.
    within(End::Destination, like, true).into_iter().take(2).collect()
}

fn number(comparison: Comparison, value: u32) -> Expression {
    Expression::Compare(comparison, value.to_ne_bytes().to_vec())
}

fn family_of(target: SocketAddr) -> Family {
    if target.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::own_table, *};

    fn published(targets: &[&str]) -> Translation {
        Translation {
            entrance: Entrance::Host(None),
            protocol: TransportProtocol::Tcp,
            port: 8080,
            targets: targets.iter().map(|text| text.parse().expect("valid")).collect(),
        }
    }

    fn everything() -> Surroundings {
        Surroundings { routes_ipv4: true, routes_ipv6: true, direct: BTreeMap::new() }
    }

    fn chain<'a>(table: &'a Table, name: &str) -> &'a [Rule] {
        let chain = table.chains.iter().find(|chain| chain.name == name).expect("there is such a chain");
        &chain.rules
    }

    #[test]
    fn without_targets_there_is_no_table_and_without_addresses_nothing_is_let_in() {
        assert_eq!(translation_table("weft", &[published(&[])], &everything()), None);
        assert_eq!(translation_table("weft", &[], &everything()), None);
        let own = own_table("weft", &[1]);
        assert_eq!(let_translated(own.clone(), "weft", &[], &[published(&["10.32.0.1:80"])]), own);
    }

    #[test]
    fn each_target_gets_the_same_share() {
        let table = translation_table(
            "weft",
            &[published(&["10.32.0.1:80", "10.32.0.2:80", "10.32.0.3:80", "[fd12::1]:80"])],
            &everything(),
        )
        .expect("a table");
        for name in ["output", "prerouting"] {
            let shares: Vec<Option<u32>> = chain(&table, name)
                .iter()
                .map(|rule| {
                    rule.expressions.iter().find_map(|one| {
                        let Expression::Random(left) = one else { return None };
                        Some(*left)
                    })
                })
                .collect();
            assert_eq!(shares, [Some(3), Some(2), None, None], "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_on_the_loopback_is_led_nowhere() {
        for address in ["127.0.0.1", "::1"] {
            let entrance = Entrance::Host(Some(address.parse().expect("valid")));
            let loopback = Translation { entrance, ..published(&["10.32.0.1:80", "[fd12::1]:80"]) };
            assert_eq!(translation_table("weft", &[loopback], &everything()), None, "{address}");
        }
    }

    #[test]
    fn a_host_that_does_not_route_leads_its_own_programs_only() {
        let surroundings = Surroundings { routes_ipv6: false, ..everything() };
        let table =
            translation_table("weft", &[published(&["10.32.0.1:80", "[fd12::1]:80"])], &surroundings).expect("a table");
        assert_eq!((chain(&table, "prerouting").len(), chain(&table, "output").len()), (1, 2));
    }

    #[test]
    fn who_answers_through_this_host_sees_its_clients_and_all_others_the_host() {
        let masqueraded = BTreeSet::from(["172.17.0.0/16".parse().expect("valid")]);
        let gateway = Gateway { link: "docker0".into(), masqueraded };
        let direct = BTreeMap::from([("10.32.0.1".parse().expect("valid"), gateway)]);
        let surroundings = Surroundings { direct, ..everything() };
        assert_eq!(answer_rules(Family::Ipv4, &surroundings).len(), 1);
        assert_eq!(answer_rules(Family::Ipv6, &surroundings), []);
        let table =
            translation_table("weft", &[published(&["10.32.0.1:80", "10.32.0.2:80"])], &surroundings).expect("a table");
        let keeps = |rule: &Rule| rule.expressions.last() == Some(&Expression::TranslateSource(Family::Ipv4));
        let kept: Vec<bool> = chain(&table, "postrouting").iter().map(keeps).collect();
        assert_eq!(kept, [true, false, false]);
        let by_datagrams = Translation { protocol: TransportProtocol::Udp, ..published(&["10.32.0.1:80"]) };
        let by_datagrams = translation_table("weft", &[by_datagrams], &surroundings).expect("a table");
        assert!(!chain(&by_datagrams, "postrouting").iter().any(keeps));
        let text = format!("{:?}", chain(&table, "postrouting")[0]);
        assert!(text.contains("NotEqual, [172, 17, 0, 0]"), "{text}");
    }

    #[test]
    fn an_address_has_a_service_of_its_family_only() {
        let imported = Translation {
            entrance: Entrance::Overlay("10.32.0.9".parse().expect("valid")),
            ..published(&["192.0.2.1:5432", "[2001:db8::1]:5432"])
        };
        let table = translation_table("weft", std::slice::from_ref(&imported), &everything()).expect("a table");
        assert_eq!((chain(&table, "prerouting").len(), chain(&table, "output").len()), (1, 1));
        let held = ["10.32.0.9/12".parse().expect("valid")];
        let (closed, open) =
            (own_table("weft", &[]), let_translated(own_table("weft", &[]), "weft", &held, &[imported]));
        for (closed, open) in closed.chains.iter().zip(&open.chains) {
            let added = open.rules.len() - closed.rules.len();
            assert!(added > 0 && open.rules[added..] == closed.rules);
            assert!(open.rules[..added].iter().all(|rule| rule.expressions.last() == Some(&accept())));
        }
    }
}
