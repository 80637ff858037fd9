//! Expressions of rules (linux/netfilter/nf_tables.h).

use weft_router_core::hostnet::{Comparison, Expression, MetaKey, PayloadBase, Verdict};

use super::attributes::{Attributes, Writer};

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
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
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;

/// Appends an expression to a list. One that is only known by name is left out: it was never ours to write.
pub(super) fn write(list: &mut Writer, expression: &Expression) {
    let mut one = |name: &str, fill: &dyn Fn(&mut Writer)| {
        list.nested(LIST_ELEMENT, |element| {
            element.string(EXPRESSION_NAME, name);
            element.nested(EXPRESSION_DATA, |data| fill(data));
        });
    };
    match expression {
        Expression::Meta(key) => one("meta", &|data| {
            data.number(META_REGISTER, REGISTER);
            data.number(META_KEY, meta_number(*key));
        }),
        Expression::Payload { base, offset, length } => one("payload", &|data| {
            data.number(PAYLOAD_REGISTER, REGISTER);
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
        Expression::Other(_) => {}
    }
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
    match name {
        "meta" => {
            register(META_REGISTER, REGISTER)?;
            let number = data.number(META_KEY)?;
            let keys =
                [MetaKey::InterfaceIn, MetaKey::InterfaceOut, MetaKey::NetworkProtocol, MetaKey::TransportProtocol];
            keys.into_iter().find(|key| meta_number(*key) == number).map(Expression::Meta)
        }
        "payload" => {
            register(PAYLOAD_REGISTER, REGISTER)?;
            let number = data.number(PAYLOAD_BASE)?;
            let base =
                [PayloadBase::Network, PayloadBase::Transport].into_iter().find(|base| base_number(*base) == number)?;
            Some(Expression::Payload {
                base,
                offset: data.number(PAYLOAD_OFFSET)?,
                length: data.number(PAYLOAD_LENGTH)?,
            })
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
        "immediate" => {
            register(IMMEDIATE_REGISTER, VERDICT_REGISTER)?;
            let number = Attributes::new(inner(IMMEDIATE_DATA, DATA_VERDICT)?).number(VERDICT_CODE)?;
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
    }
}

fn base_number(base: PayloadBase) -> u32 {
    match base {
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
    use weft_router_core::hostnet::{accept_rule, own_table};

    use super::*;

    #[test]
    fn every_expression_of_ours_is_read_back() {
        let table = own_table("weft", &[6784]);
        let rules = table.chains.iter().flat_map(|chain| &chain.rules).chain([]).cloned();
        for expression in rules.chain([accept_rule("weft")]).flat_map(|rule| rule.expressions) {
            let mut list = Writer::default();
            write(&mut list, &expression);
            let read: Vec<_> = Attributes::new(list.bytes()).iter().map(|(_, element)| read(element)).collect();
            assert_eq!(read, [expression]);
        }
    }

    #[test]
    fn unknown_expressions_keep_their_name() {
        let mut element = Writer::default();
        element.string(EXPRESSION_NAME, "masq");
        assert_eq!(read(element.bytes()), Expression::Other("masq".into()));
    }
}
