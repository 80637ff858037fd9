//! Sets of keys (linux/netfilter/nf_tables.h).

use std::collections::BTreeSet;

use weft_router_core::hostnet::{KeyPart, PortElement, PortSet, Set};

use super::attributes::{Attributes, Writer};

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_USERDATA: u16 = 6;
const DATA_VALUE: u16 = 1;
/// Bits of each part in the type of a key, which only listings read (nftables, datatype.h).
const TYPE_BITS: u32 = 6;

/// Names a set, and one of its table if it has no name.
pub(super) fn write_name(table: &str, set: Option<&str>) -> Writer {
    let mut writer = Writer::default();
    writer.string(SET_TABLE, table);
    if let Some(set) = set {
        writer.string(SET_NAME, set);
    }
    writer
}

/// Describes a set; `id` is another one for each set of a transaction.
pub(super) fn write_set(table: &str, set: &Set, id: u32) -> Writer {
    let mut writer = write_name(table, Some(&set.name));
    writer.number(SET_FLAGS, 0);
    writer.number(SET_KEY_TYPE, set.key.iter().fold(0, |kind, part| kind << TYPE_BITS | type_number(*part)));
    let length = match set.key[..] {
        [part] => part.bytes().into(),
        _ => set.key.iter().map(|part| u32::from(part.units()) * 4).sum(),
    };
    writer.number(SET_KEY_LENGTH, length);
    writer.number(SET_ID, id);
    if set.key == [KeyPart::Interface] {
        // Listings take the bytes of a single key to be a number otherwise: the order of bytes (type 0, four of them) is the host's.
        writer.bytes_of(SET_USERDATA, &[&[0, 4][..], &1u32.to_ne_bytes()].concat());
    }
    writer
}

/// Reads a set of the table. One that is unlike ours gets an empty key, which none of ours has.
pub(super) fn read_set(message: &[u8], table: &str) -> Option<Set> {
    let set = Attributes::new(message);
    if set.string(SET_TABLE)? != table {
        return None;
    }
    let name = set.string(SET_NAME)?;
    let read = || {
        let mut kind = set.number(SET_KEY_TYPE)?;
        let mut key = Vec::new();
        while kind > 0 {
            let number = kind & ((1 << TYPE_BITS) - 1);
            key.push(PARTS.into_iter().find(|part| type_number(*part) == number)?);
            kind >>= TYPE_BITS;
        }
        key.reverse();
        (set.number(SET_FLAGS).unwrap_or(0) == 0).then_some(key)
    };
    Some(Set { name, key: read().unwrap_or_default() })
}

/// Lists keys to add to a set, or to remove from it.
pub(super) fn write_keys(table: &str, set: &str, keys: &[Vec<u8>]) -> Writer {
    let mut writer = Writer::default();
    writer.string(ELEMENTS_TABLE, table);
    writer.string(ELEMENTS_SET, set);
    writer.nested(ELEMENTS, |list| {
        for key in keys {
            list.nested(LIST_ELEMENT, |element| {
                element.nested(ELEMENT_KEY, |data| data.bytes_of(DATA_VALUE, key));
            });
        }
    });
    writer
}

/// Reads the keys of one message of a listing.
pub(super) fn read_keys(message: &[u8], keys: &mut BTreeSet<Vec<u8>>) {
    let Some(list) = Attributes::new(message).value(ELEMENTS) else { return };
    let key = |element| Attributes::new(Attributes::new(element).value(ELEMENT_KEY)?).value(DATA_VALUE);
    keys.extend(Attributes::new(list).iter().filter_map(|(_, element)| key(element)).map(<[u8]>::to_vec));
}

/// Lists elements of one set, with their comments.
pub(super) fn write_elements(table: &str, set: &PortSet, elements: &[&PortElement]) -> Writer {
    let mut writer = Writer::default();
    writer.string(ELEMENTS_TABLE, table);
    writer.string(ELEMENTS_SET, &set.name());
    writer.nested(ELEMENTS, |list| {
        for PortElement { key, comment, .. } in elements {
            list.nested(LIST_ELEMENT, |element| {
                element.nested(ELEMENT_KEY, |data| data.bytes_of(DATA_VALUE, key));
                if let Some(comment) = comment {
                    element.bytes_of(ELEMENT_USERDATA, &super::write_comment(comment));
                }
            });
        }
    });
    writer
}

/// Reads the elements of one message of a listing.
pub(super) fn read_elements(message: &[u8], set: &PortSet, elements: &mut BTreeSet<PortElement>) {
    let Some(list) = Attributes::new(message).value(ELEMENTS) else { return };
    let read = |element| {
        let element = Attributes::new(element);
        Some(PortElement {
            set: set.clone(),
            key: Attributes::new(element.value(ELEMENT_KEY)?).value(DATA_VALUE)?.to_vec(),
            comment: element.value(ELEMENT_USERDATA).and_then(super::read_comment),
        })
    };
    elements.extend(Attributes::new(list).iter().filter_map(|(_, element)| read(element)));
}

const PARTS: [KeyPart; 5] = [KeyPart::Interface, KeyPart::Mac, KeyPart::Ipv4, KeyPart::Ipv6, KeyPart::Number];

/// `TYPE_*` (nftables, datatype.h), by which nft lists keys.
const fn type_number(part: KeyPart) -> u32 {
    match part {
        KeyPart::Ipv4 => 7,
        KeyPart::Ipv6 => 8,
        KeyPart::Mac => 9,
        // A mark of a packet.
        KeyPart::Number => 19,
        KeyPart::Interface => 41,
    }
}

#[cfg(test)]
mod tests {
    use weft_router_core::hostnet::{OverlayBridge, PortSources, Ports, ports_table, trusted_tables};
    use weft_types::MacAddress;

    use super::*;

    #[test]
    fn every_set_of_ours_is_read_back() {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let bridge = OverlayBridge { tap: "weft-tap".into(), dns_port: "weft-dns".into(), mac };
        let subnets = ["10.32.0.0/12".parse().expect("a subnet")].into();
        for table in trusted_tables("weft").into_iter().chain([ports_table(&bridge, &subnets, &subnets)]) {
            for set in &table.sets {
                let written = write_set(&table.name, set, 1);
                assert_eq!(read_set(written.bytes(), &table.name).as_ref(), Some(set));
                assert_eq!(read_set(written.bytes(), "other"), None);
            }
        }
    }

    #[test]
    fn keys_are_read_back() {
        let keys: BTreeSet<Vec<u8>> = [vec![1; 8], vec![2; 8]].into();
        let written = write_keys("table", "set", &keys.iter().cloned().collect::<Vec<_>>());
        let mut read = BTreeSet::new();
        read_keys(written.bytes(), &mut read);
        assert_eq!(read, keys);
    }

    #[test]
    fn elements_are_read_back_with_all_they_say() {
        let mut ports = Ports::default();
        let addresses = ["10.32.0.1/12", "fd00::1/108"].map(|text| text.parse().expect("an address")).into();
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let allowed = weft_types::AllowedAddresses::default();
        ports.set("vethwa", Some(PortSources { mac, addresses, allowed, confirmed: false }));
        let elements = ports.elements();
        let mut read = BTreeSet::new();
        for element in &elements {
            read_elements(write_elements("weft", &element.set, &[element]).bytes(), &element.set, &mut read);
        }
        assert_eq!(read, elements);
    }
}
