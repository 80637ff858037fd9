//! Expressions of rules (linux/netfilter/nf_tables.h).

use weft_router_core::hostnet::{Comparison, Expression, Family, MetaKey, PayloadBase, Verdict};

use super::attributes::{Attributes, Writer};

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// Goes through a chain, and comes back (`NFT_JUMP`).
const JUMP: i32 = -3;
const VERDICT_REGISTER: u32 = 0;
/// The first of 16 bytes, as the iptables tools use it.
const REGISTER: u32 = 1;
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const COMPARE_REGISTER: u16 = 1;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3;
const PAYLOAD_REGISTER: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const BITWISE_SOURCE: u16 = 1;
const BITWISE_DESTINATION: u16 = 2;
const BITWISE_LENGTH: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
const LOOKUP_SET: u16 = 1;
const LOOKUP_REGISTER: u16 = 2;
const LOOKUP_FLAGS: u16 = 5;
const LOOKUP_INVERTED: u32 = 1;
const FIB_REGISTER: u16 = 1;
const FIB_RESULT: u16 = 2;
const FIB_FLAGS: u16 = 3;
/// The number of a link.
const FIB_RESULT_LINK: u32 = 1;
/// By the source, and only the link that the packet came by.
const FIB_REVERSE: u32 = 1 | 8;
/// What an address is to the host.
const FIB_RESULT_KIND: u32 = 3;
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const CONNECTION_REGISTER: u16 = 1;
const CONNECTION_KEY: u16 = 2;
/// State of the connection, as bits.
const CONNECTION_STATE: u32 = 0;
/// Status of the connection, as bits.
const CONNECTION_STATUS: u32 = 2;
const RANDOM_REGISTER: u16 = 1;
const RANDOM_BELOW: u16 = 2;
const RANDOM_KIND: u16 = 3;
/// Random, not one after the other.
const RANDOM: u32 = 1;
const NAT_KIND: u16 = 1;
const NAT_SOURCE: u32 = 0;
const NAT_DESTINATION: u32 = 1;
const NAT_FAMILY: u16 = 2;
const NAT_ADDRESS: u16 = 3;
const NAT_PORT: u16 = 5;
/// Units of four bytes that addresses take.
const ADDRESS_UNITS: u8 = 4;
const MATCH_NAME: u16 = 1;
const MATCH_REVISION: u16 = 2;
const MATCH_INFO: u16 = 3;
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;

/// Returns the number of the register so many units of four bytes behind the first. Those that begin one of 16 bytes go by its
/// number (`nft_dump_register`, net/netfilter/nf_tables_api.c).
const fn register_behind(units: u8) -> u32 {
    const UNITS_OF_REGISTER: u8 = 4;
    const FIRST_UNIT: u32 = 8;
    if units.is_multiple_of(UNITS_OF_REGISTER) {
        REGISTER + (units / UNITS_OF_REGISTER) as u32
    } else {
        FIRST_UNIT + units as u32
    }
}

/// Appends an expression to a list. One that is only known by name is left out: it was never ours to write.
pub(super) fn write(list: &mut Writer, expression: &Expression) {
    if let Expression::Into(units, load) = expression {
        write_into(list, load, register_behind(*units));
    } else {
        write_into(list, expression, REGISTER);
    }
}

fn write_into(list: &mut Writer, expression: &Expression, register: u32) {
    let mut one = |name: &str, fill: &dyn Fn(&mut Writer)| {
        list.nested(LIST_ELEMENT, |element| {
            element.string(EXPRESSION_NAME, name);
            element.nested(EXPRESSION_DATA, |data| fill(data));
        });
    };
    match expression {
        Expression::Meta(key) => one("meta", &|data| {
            data.number(META_REGISTER, register);
            data.number(META_KEY, meta_number(*key));
        }),
        Expression::Payload { base, offset, length } => one("payload", &|data| {
            data.number(PAYLOAD_REGISTER, register);
            data.number(PAYLOAD_BASE, base_number(*base));
            data.number(PAYLOAD_OFFSET, *offset);
            data.number(PAYLOAD_LENGTH, *length);
        }),
        Expression::Mask(mask) => one("bitwise", &|data| {
            data.number(BITWISE_SOURCE, REGISTER);
            data.number(BITWISE_DESTINATION, REGISTER);
            data.number(BITWISE_LENGTH, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            data.nested(BITWISE_MASK, |value| value.bytes_of(DATA_VALUE, mask));
            data.nested(BITWISE_XOR, |value| value.bytes_of(DATA_VALUE, &vec![0; mask.len()]));
        }),
        Expression::Compare(comparison, value) => one("cmp", &|data| {
            data.number(COMPARE_REGISTER, REGISTER);
            data.number(COMPARE_OPERATION, comparison_number(*comparison));
            data.nested(COMPARE_DATA, |data| data.bytes_of(DATA_VALUE, value));
        }),
        Expression::Counter => one("counter", &|data| {
            data.bytes_of(COUNTER_BYTES, &0u64.to_be_bytes());
            data.bytes_of(COUNTER_PACKETS, &0u64.to_be_bytes());
        }),
        Expression::Verdict(verdict) => one("immediate", &|data| {
            data.number(IMMEDIATE_REGISTER, VERDICT_REGISTER);
            data.nested(IMMEDIATE_DATA, |data| {
                data.nested(DATA_VERDICT, |data| data.number(VERDICT_CODE, verdict_number(*verdict)));
            });
        }),
        Expression::Lookup { set, inverted } => one("lookup", &|data| {
            data.string(LOOKUP_SET, set);
            data.number(LOOKUP_REGISTER, REGISTER);
            if *inverted {
                data.number(LOOKUP_FLAGS, LOOKUP_INVERTED);
            }
        }),
        Expression::ReversePath => one("fib", &|data| {
            data.number(FIB_REGISTER, register);
            data.number(FIB_RESULT, FIB_RESULT_LINK);
            data.number(FIB_FLAGS, FIB_REVERSE);
        }),
        Expression::ConnectionState => one("ct", &|data| {
            data.number(CONNECTION_REGISTER, register);
            data.number(CONNECTION_KEY, CONNECTION_STATE);
        }),
        Expression::ConnectionStatus => one("ct", &|data| {
            data.number(CONNECTION_REGISTER, register);
            data.number(CONNECTION_KEY, CONNECTION_STATUS);
        }),
        Expression::AddressKind { source } => one("fib", &|data| {
            data.number(FIB_REGISTER, register);
            data.number(FIB_RESULT, FIB_RESULT_KIND);
            data.number(FIB_FLAGS, if *source { FIB_SOURCE } else { FIB_DESTINATION });
        }),
        Expression::Immediate(value) => one("immediate", &|data| {
            data.number(IMMEDIATE_REGISTER, register);
            data.nested(IMMEDIATE_DATA, |data| data.bytes_of(DATA_VALUE, value));
        }),
        Expression::Random(below) => one("numgen", &|data| {
            data.number(RANDOM_REGISTER, register);
            data.number(RANDOM_BELOW, *below);
            data.number(RANDOM_KIND, RANDOM);
        }),
        Expression::Masquerade => one("masq", &|_| {}),
        Expression::TranslateSource(family) => one("nat", &|data| {
            data.number(NAT_KIND, NAT_SOURCE);
            data.number(NAT_FAMILY, super::number(*family).into());
            data.number(NAT_ADDRESS, REGISTER);
        }),
        Expression::TranslateDestination(family) => one("nat", &|data| {
            data.number(NAT_KIND, NAT_DESTINATION);
            data.number(NAT_FAMILY, super::number(*family).into());
            data.number(NAT_ADDRESS, REGISTER);
            data.number(NAT_PORT, register_behind(ADDRESS_UNITS));
        }),
        Expression::Match { name, revision, info } => one("match", &|data| {
            data.string(MATCH_NAME, name);
            data.number(MATCH_REVISION, *revision);
            data.bytes_of(MATCH_INFO, info);
        }),
        // A load into two places at once is none, and no rule of ours jumps.
        Expression::Into(..) | Expression::Jump(_) | Expression::Other(_) => {}
    }
}

/// Reads how often a counter was passed, if the element of a list is one.
pub(super) fn packets(element: &[u8]) -> Option<u64> {
    let element = Attributes::new(element);
    let data = Attributes::new(
        element.value(EXPRESSION_DATA).filter(|_| element.string(EXPRESSION_NAME).as_deref() == Some("counter"))?,
    );
    data.value(COUNTER_PACKETS)?.try_into().ok().map(u64::from_be_bytes)
}

/// Reads one element of a list.
pub(super) fn read(element: &[u8]) -> Expression {
    let element = Attributes::new(element);
    let name = element.string(EXPRESSION_NAME).unwrap_or_default();
    let data = Attributes::new(element.value(EXPRESSION_DATA).unwrap_or_default());
    known(&name, data).unwrap_or(Expression::Other(name))
}

fn known(name: &str, data: Attributes<'_>) -> Option<Expression> {
    let inner = |kind: u16, inner: u16| Attributes::new(data.value(kind)?).value(inner);
    let register = |kind: u16, expected: u32| data.number(kind).filter(|register| *register == expected);
    let into = |kind: u16, load: Expression| {
        let register = data.number(kind)?;
        let units = (0..16).find(|units| register_behind(*units) == register)?;
        Some(if units == 0 { load } else { Expression::Into(units, Box::new(load)) })
    };
    match name {
        "meta" => {
            let number = data.number(META_KEY)?;
            let keys = [
                MetaKey::InterfaceIn,
                MetaKey::InterfaceOut,
                MetaKey::NetworkProtocol,
                MetaKey::TransportProtocol,
                MetaKey::PacketType,
            ];
            into(META_REGISTER, Expression::Meta(keys.into_iter().find(|key| meta_number(*key) == number)?))
        }
        "payload" => {
            let number = data.number(PAYLOAD_BASE)?;
            let bases = [PayloadBase::Link, PayloadBase::Network, PayloadBase::Transport];
            let base = bases.into_iter().find(|base| base_number(*base) == number)?;
            let (offset, length) = (data.number(PAYLOAD_OFFSET)?, data.number(PAYLOAD_LENGTH)?);
            into(PAYLOAD_REGISTER, Expression::Payload { base, offset, length })
        }
        "bitwise" => {
            register(BITWISE_SOURCE, REGISTER)?;
            register(BITWISE_DESTINATION, REGISTER)?;
            inner(BITWISE_XOR, DATA_VALUE)?.iter().all(|byte| *byte == 0).then_some(())?;
            Some(Expression::Mask(inner(BITWISE_MASK, DATA_VALUE)?.to_vec()))
        }
        "cmp" => {
            register(COMPARE_REGISTER, REGISTER)?;
            let number = data.number(COMPARE_OPERATION)?;
            let comparison = [Comparison::Equal, Comparison::NotEqual]
                .into_iter()
                .find(|comparison| comparison_number(*comparison) == number)?;
            Some(Expression::Compare(comparison, inner(COMPARE_DATA, DATA_VALUE)?.to_vec()))
        }
        "counter" => Some(Expression::Counter),
        "lookup" => {
            register(LOOKUP_REGISTER, REGISTER)?;
            let inverted = match data.number(LOOKUP_FLAGS).unwrap_or(0) {
                0 => false,
                LOOKUP_INVERTED => true,
                _ => return None,
            };
            Some(Expression::Lookup { set: data.string(LOOKUP_SET)?, inverted })
        }
        "fib" => {
            register(FIB_REGISTER, REGISTER)?;
            match (data.number(FIB_RESULT)?, data.number(FIB_FLAGS)?) {
                (FIB_RESULT_LINK, FIB_REVERSE) => Some(Expression::ReversePath),
                (FIB_RESULT_KIND, FIB_SOURCE) => Some(Expression::AddressKind { source: true }),
                (FIB_RESULT_KIND, FIB_DESTINATION) => Some(Expression::AddressKind { source: false }),
                _ => None,
            }
        }
        "ct" => {
            register(CONNECTION_REGISTER, REGISTER)?;
            match data.number(CONNECTION_KEY)? {
                CONNECTION_STATE => Some(Expression::ConnectionState),
                CONNECTION_STATUS => Some(Expression::ConnectionStatus),
                _ => None,
            }
        }
        "numgen" => {
            register(RANDOM_REGISTER, REGISTER)?;
            (data.number(RANDOM_KIND)? == RANDOM).then_some(Expression::Random(data.number(RANDOM_BELOW)?))
        }
        "nat" => {
            register(NAT_ADDRESS, REGISTER)?;
            let number = data.number(NAT_FAMILY)?;
            let mut families = [Family::Ipv4, Family::Ipv6].into_iter();
            let family = families.find(|family| number == u32::from(super::number(*family)))?;
            match (data.number(NAT_KIND)?, data.number(NAT_PORT)) {
                (NAT_SOURCE, None) => Some(Expression::TranslateSource(family)),
                (NAT_DESTINATION, Some(port)) if port == register_behind(ADDRESS_UNITS) => {
                    Some(Expression::TranslateDestination(family))
                }
                _ => None,
            }
        }
        "match" => Some(Expression::Match {
            name: data.string(MATCH_NAME)?,
            revision: data.number(MATCH_REVISION)?,
            info: data.value(MATCH_INFO)?.to_vec(),
        }),
        // One with attributes chooses ports, or how.
        "masq" => data.iter().next().is_none().then_some(Expression::Masquerade),
        "immediate" if data.number(IMMEDIATE_REGISTER) != Some(VERDICT_REGISTER) => {
            into(IMMEDIATE_REGISTER, Expression::Immediate(inner(IMMEDIATE_DATA, DATA_VALUE)?.to_vec()))
        }
        "immediate" => {
            let verdict = Attributes::new(inner(IMMEDIATE_DATA, DATA_VERDICT)?);
            let number = verdict.number(VERDICT_CODE)?;
            if number.cast_signed() == JUMP {
                return verdict.string(VERDICT_CHAIN).map(Expression::Jump);
            }
            [Verdict::Accept, Verdict::Drop]
                .into_iter()
                .find(|verdict| verdict_number(*verdict) == number)
                .map(Expression::Verdict)
        }
        _ => None,
    }
}

fn meta_number(key: MetaKey) -> u32 {
    match key {
        MetaKey::InterfaceIn => 6,
        MetaKey::InterfaceOut => 7,
        MetaKey::NetworkProtocol => 15,
        MetaKey::TransportProtocol => 16,
        MetaKey::PacketType => 19,
    }
}

fn base_number(base: PayloadBase) -> u32 {
    match base {
        PayloadBase::Link => 0,
        PayloadBase::Network => 1,
        PayloadBase::Transport => 2,
    }
}

fn comparison_number(comparison: Comparison) -> u32 {
    match comparison {
        Comparison::Equal => 0,
        Comparison::NotEqual => 1,
    }
}

fn verdict_number(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Drop => 0,
        Verdict::Accept => 1,
    }
}

#[cfg(test)]
mod tests {
    use weft_router_core::hostnet::{
        Entrance, Exposure, Gateway, OverlayBridge, Surroundings, Translation, TransportProtocol, accept_rule,
        answer_rules, keep_apart, let_in, let_translated, masquerade_table, own_table, ports_table, translation_table,
        trusted_tables,
    };

    use super::*;

    #[test]
    fn every_expression_of_ours_is_read_back() {
        let exposures = ["10.32.0.1/12", "fd12::1/108"]
            .map(|text| Exposure { address: text.parse().expect("valid"), masquerade: true });
        let open = let_in(own_table("weft", &[6784]), "weft", &exposures);
        let masquerade = masquerade_table("weft", &exposures).expect("a table");
        let mac = weft_types::MacAddress::new([2; 6]);
        let bridge = OverlayBridge { tap: "weft-tap".into(), dns_port: "weft-dns".into(), mac };
        let subnets = ["10.32.0.0/12".parse().expect("a subnet")].into();
        let ports = ports_table(&bridge, &subnets, &subnets);
        let published = Translation {
            entrance: Entrance::Host(None),
            protocol: TransportProtocol::Udp,
            port: 53,
            targets: ["10.32.0.1:53", "10.32.0.2:53", "[fd12::1]:53"].map(|text| text.parse().expect("valid")).into(),
        };
        let gateway = Gateway { link: "docker0".into(), masqueraded: ["172.17.0.0/16".parse().expect("valid")].into() };
        let surroundings = Surroundings {
            direct: [("10.32.0.1".parse().expect("valid"), gateway)].into(),
            routes_ipv4: true,
            routes_ipv6: true,
        };
        let published = [published];
        let translation = translation_table("weft", &published, &surroundings).expect("a table");
        let open = let_translated(open, "weft", &["10.32.0.9/12".parse().expect("valid")], &published);
        let open = keep_apart(open, "weft", mac);
        let tables = [vec![open, masquerade, ports, translation], trusted_tables("weft").into()].concat();
        let rules = tables.iter().flat_map(|table| &table.chains).flat_map(|chain| &chain.rules).cloned();
        let in_chains_of_others =
            answer_rules(Family::Ipv4, &surroundings).into_iter().map(|rule| rule.rule()).chain([accept_rule("weft")]);
        for expression in rules.chain(in_chains_of_others).flat_map(|rule| rule.expressions) {
            let mut list = Writer::default();
            write(&mut list, &expression);
            let read: Vec<_> = Attributes::new(list.bytes()).iter().map(|(_, element)| read(element)).collect();
            assert_eq!(read, [expression]);
        }
    }

    #[test]
    fn unknown_expressions_keep_their_name() {
        let mut element = Writer::default();
        element.string(EXPRESSION_NAME, "log");
        assert_eq!(read(element.bytes()), Expression::Other("log".into()));
    }
}
