//! The host as a station of the overlay: its addresses on the bridge, what may pass because of them, and whose address it has.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_types::MacAddress;

use super::{
    BaseChain, Comparison, Expression, Family, ForwardRule, Hook, MetaKey, PayloadBase, Rule, Table, TransportProtocol,
    Verdict,
    firewall::{interface_name, marked},
    publish::translated,
};

/// Name of the table that translates addresses, in the family [`Family::Inet`].
pub const EXPOSE_TABLE: &str = "weft-expose";

/// What listings show of rules in chains of others that let pass what an exposure permits.
pub const EXPOSE_COMMENT: &str = "weft-expose";

/// An address that the host has on the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exposure {
    /// With the prefix length of its subnet.
    pub address: IpNet,
    /// Whether who comes from outside of the subnet has this address there, and who goes outside that of the link it leaves
    /// by. Without it, routes have to lead the answers back.
    pub masquerade: bool,
}

/// Has the table of our own ([`super::own_table`]) let pass what the exposures permit, before all that it drops:
///
/// - answers within connections that were let pass;
/// - from the subnet of an exposure to its address, and for IPv6 what neighbours ask and answer;
/// - routed by the host, what is from or to the subnet of an exposure.
#[must_use]
pub fn let_in(mut table: Table, bridge: &str, exposures: &[Exposure]) -> Table {
    if exposures.is_empty() {
        return table;
    }
    let accept = |parts: &[Vec<Expression>]| marked([parts.concat(), vec![accept()]].concat());
    let (from, to) = (|| link(MetaKey::InterfaceIn, true, bridge), || link(MetaKey::InterfaceOut, true, bridge));
    let answers = || accept(&[from(), answers()]);
    let mut input = vec![answers()];
    if exposures.iter().any(|exposure| is_ipv6(&exposure.address)) {
        input.extend([135, 136].map(|kind| accept(&[from(), neighbour(kind)])));
    }
    let mut forward = vec![answers()];
    for Exposure { address, .. } in exposures {
        let (subnet, host) = (address.trunc(), IpNet::from(address.addr()));
        input.push(accept(&[from(), within(End::Source, &subnet, true), within(End::Destination, &host, true)]));
        forward.push(accept(&[from(), within(End::Source, &subnet, true)]));
        forward.push(accept(&[to(), within(End::Destination, &subnet, true)]));
    }
    for (name, rules) in [("input", input), ("forward", forward)] {
        if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == name) {
            chain.rules.splice(0..0, rules);
        }
    }
    table
}

/// Has the table of our own drop, before all that it lets pass, what a host that has addresses on the overlay would carry from one
/// container to another: whether those may exchange anything is decided where frames pass between them, which this goes around.
/// What services lead elsewhere goes on.
///
/// Bridged frames pass the same hook, between the same links, where `bridge-nf-call-iptables` is on. Only what the host
/// routes was addressed to the bridge.
#[must_use]
pub fn keep_apart(mut table: Table, bridge: &str, mac: MacAddress) -> Table {
    let carried = || {
        let to_bridge = [
            Expression::Payload { base: PayloadBase::Link, offset: 0, length: 6 },
            Expression::Compare(Comparison::Equal, mac.octets().to_vec()),
        ];
        [link(MetaKey::InterfaceIn, true, bridge), link(MetaKey::InterfaceOut, true, bridge), to_bridge.into()].concat()
    };
    let led = marked([carried(), translated(), vec![accept()]].concat());
    let dropped = marked([carried(), vec![Expression::Counter, Expression::Verdict(Verdict::Drop)]].concat());
    if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == "forward") {
        chain.rules.splice(0..0, [led, dropped]);
    }
    table
}

/// Returns the table that translates addresses; none where nothing is masqueraded.
///
/// Only packets that leave the overlay, or come into it from outside, are masqueraded. Bridged frames pass the same hook where
/// `bridge-nf-call-iptables` is on: they leave by the bridge, from an address of the subnet or, as the name server's, a link-local
/// one.
#[must_use]
pub fn masquerade_table(bridge: &str, exposures: &[Exposure]) -> Option<Table> {
    let rules: Vec<Rule> = exposures
        .iter()
        .filter(|exposure| exposure.masquerade)
        .flat_map(|Exposure { address, .. }| {
            let subnet = address.trunc();
            let masquerade = || vec![Expression::Counter, Expression::Masquerade];
            let out = [
                link(MetaKey::InterfaceOut, false, bridge),
                within(End::Source, &subnet, true),
                within(End::Destination, &subnet, false),
                within(End::Destination, &multicast(&subnet), false),
                masquerade(),
            ];
            let into = [
                link(MetaKey::InterfaceOut, true, bridge),
                within(End::Destination, &subnet, true),
                within(End::Source, &subnet, false),
                within(End::Source, &link_local(&subnet), false),
                masquerade(),
            ];
            [marked(out.concat()), marked(into.concat())]
        })
        .collect();
    // After the sources that others translate at the same place have been (NF_IP_PRI_NAT_SRC, 100).
    let chain = BaseChain { name: "postrouting".into(), hook: Hook::TranslateSource, priority: 110, rules };
    (!chain.rules.is_empty()).then(|| Table {
        family: Family::Inet,
        name: EXPOSE_TABLE.into(),
        sets: Vec::new(),
        chains: vec![chain],
    })
}

/// Returns the rules that the chain `FORWARD` of the family needs: those for what leaves the overlay and comes into it.
#[must_use]
pub fn forward_rules(family: Family, bridge: &str, exposures: &[Exposure]) -> Vec<ForwardRule> {
    use Comparison::{Equal, NotEqual};
    let of_family = exposures.iter().filter(|exposure| is_ipv6(&exposure.address) == (family == Family::Ipv6));
    let rule = |subnet: IpNet, (end, by, out): (End, Comparison, Comparison)| ForwardRule {
        end,
        subnet,
        by: (by, bridge.into()),
        out: (out, bridge.into()),
        answers: false,
        comment: EXPOSE_COMMENT,
    };
    let mut rules: Vec<ForwardRule> = Vec::new();
    for exposure in of_family {
        let ways = [(End::Source, Equal, NotEqual), (End::Destination, NotEqual, Equal)];
        for rule in ways.map(|way| rule(exposure.address.trunc(), way)) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    rules
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

pub(super) fn accept() -> Expression {
    Expression::Verdict(Verdict::Accept)
}

pub(super) fn is_ipv6(net: &IpNet) -> bool {
    net.addr().is_ipv6()
}

fn multicast(like: &IpNet) -> IpNet {
    let net = if is_ipv6(like) { "ff00::/8" } else { "224.0.0.0/4" };
    net.parse().expect("the text is a subnet")
}

fn link_local(like: &IpNet) -> IpNet {
    let net = if is_ipv6(like) { "fe80::/10" } else { "169.254.0.0/16" };
    net.parse().expect("the text is a subnet")
}

fn comparison(equal: bool) -> Comparison {
    if equal { Comparison::Equal } else { Comparison::NotEqual }
}

pub(super) fn link(key: MetaKey, equal: bool, name: &str) -> Vec<Expression> {
    vec![Expression::Meta(key), Expression::Compare(comparison(equal), interface_name(name))]
}

/// Passes established and related connections (`NF_CT_STATE_BIT`, linux/netfilter/nf_conntrack_common.h).
pub(super) fn answers() -> Vec<Expression> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    vec![
        Expression::ConnectionState,
        Expression::Mask(ESTABLISHED_OR_RELATED.to_ne_bytes().to_vec()),
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ]
}

/// Passes a message of ICMPv6 (RFC 4861) of this type.
pub(super) fn neighbour(kind: u8) -> Vec<Expression> {
    vec![
        Expression::Meta(MetaKey::NetworkProtocol),
        Expression::Compare(Comparison::Equal, vec![NFPROTO_IPV6]),
        Expression::Meta(MetaKey::TransportProtocol),
        Expression::Compare(Comparison::Equal, vec![TransportProtocol::Icmpv6 as u8]),
        Expression::Payload { base: PayloadBase::Transport, offset: 0, length: 1 },
        Expression::Compare(Comparison::Equal, vec![kind]),
    ]
}

// linux/netfilter.h
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// Passes packets of the net's family with an address in it, or not in it.
pub(super) fn within(end: End, net: &IpNet, inside: bool) -> Vec<Expression> {
    let family = if is_ipv6(net) { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
    let family =
        [Expression::Meta(MetaKey::NetworkProtocol), Expression::Compare(Comparison::Equal, vec![family])].to_vec();
    [family, address_of(end, net), in_subnet(net, inside)].concat()
}

/// Loads an address: of IPv4 (RFC 791, section 3.1) or IPv6 (RFC 8200, section 3).
pub(super) fn address_of(end: End, like: &IpNet) -> Vec<Expression> {
    let (offset, length) = match (is_ipv6(like), end) {
        (false, End::Source) => (12, 4),
        (false, End::Destination) => (16, 4),
        (true, End::Source) => (8, 16),
        (true, End::Destination) => (24, 16),
    };
    vec![Expression::Payload { base: PayloadBase::Network, offset, length }]
}

pub(super) fn in_subnet(net: &IpNet, inside: bool) -> Vec<Expression> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mask = (net.prefix_len() < net.max_prefix_len()).then(|| Expression::Mask(bytes(net.netmask())));
    mask.into_iter().chain([Expression::Compare(comparison(inside), bytes(net.network()))]).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::own_table, *};

    fn exposures(masquerade: bool) -> Vec<Exposure> {
        let exposure = |text: &str| Exposure { address: text.parse().expect("valid"), masquerade };
        vec![exposure("10.32.0.1/12"), exposure("fd12::a20:1/108")]
    }

    #[test]
    fn nothing_is_let_in_where_nothing_is_exposed() {
        assert_eq!(let_in(own_table("weft", &[1]), "weft", &[]), own_table("weft", &[1]));
        assert_eq!(masquerade_table("weft", &[]), None);
        assert_eq!(forward_rules(Family::Ipv4, "weft", &[]), []);
    }

    #[test]
    fn what_is_let_in_comes_before_what_is_dropped() {
        let (closed, open) = (own_table("weft", &[1]), let_in(own_table("weft", &[1]), "weft", &exposures(true)));
        for (closed, open) in closed.chains.iter().zip(&open.chains) {
            let added = open.rules.len() - closed.rules.len();
            assert!(added > 0);
            assert_eq!(open.rules[added..], closed.rules);
            assert!(open.rules[..added].iter().all(|rule| rule.expressions.last() == Some(&accept())));
        }
    }

    #[test]
    fn what_would_be_carried_between_containers_is_dropped_before_anything_is_let_in() {
        let open = let_in(own_table("weft", &[1]), "weft", &exposures(true));
        let apart = keep_apart(open.clone(), "weft", MacAddress::new([2; 6]));
        let forward =
            |table: &Table| table.chains.iter().find(|chain| chain.name == "forward").expect("there").rules.clone();
        assert_eq!(forward(&apart)[2..], forward(&open));
        assert_eq!(forward(&apart)[1].expressions.last(), Some(&Expression::Verdict(Verdict::Drop)));
    }

    #[test]
    fn only_what_is_to_be_masqueraded_is() {
        assert_eq!(masquerade_table("weft", &exposures(false)), None);
        let table = masquerade_table("weft", &exposures(true)).expect("a table");
        assert_eq!(table.chains[0].rules.len(), 4, "out and into, of both families");
    }

    #[test]
    fn two_addresses_of_a_subnet_need_one_pair_of_rules() {
        let two = ["10.32.0.1/12", "10.32.0.2/12"]
            .map(|text| Exposure { address: text.parse().expect("valid"), masquerade: false });
        assert_eq!(forward_rules(Family::Ipv4, "weft", &two).len(), 2);
        assert_eq!(forward_rules(Family::Ipv6, "weft", &two), []);
    }
}
