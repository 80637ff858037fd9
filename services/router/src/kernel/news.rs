//! What the news of route netlink are about (rtnetlink(7)), found without reading more than that takes: the containers of a
//! busy engine make hundreds of them that are no concern of ours.

use std::collections::BTreeSet;

use weft_router_core::hostnet::PORT_PREFIX;

// linux/rtnetlink.h and linux/if_link.h
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// Length of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Where `struct ifinfomsg`, `struct ifaddrmsg` and `struct ndmsg` have the number of the interface.
pub(super) const INDEX: usize = 4;

/// The links that are ours, as they were listed last.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The bridge, if it exists.
    pub(super) bridge: Option<u32>,
    /// All of them.
    pub(super) links: BTreeSet<u32>,
}

impl Watched {
    /// Tells whether a datagram has news of one of our links, of a port of the bridge or its forwarding entries, of a link with
    /// one of these names or a port's, or of what is neither a link nor a forwarding entry.
    pub(super) fn concerns(&self, datagram: &[u8], names: &[&str]) -> bool {
        messages(datagram).any(|(kind, body)| match kind {
            RTM_NEWLINK | RTM_DELLINK => self.has(body) || self.is_named(body, names),
            RTM_NEWNEIGH | RTM_DELNEIGH => self.has(body),
            _ => true,
        })
    }

    fn has(&self, body: &[u8]) -> bool {
        word(body, INDEX).is_some_and(|index| self.links.contains(&index))
    }

    fn is_named(&self, body: &[u8], names: &[&str]) -> bool {
        attributes(body.get(LINK_HEADER..).unwrap_or_default()).any(|(kind, value)| match kind {
            IFLA_IFNAME => {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                name.starts_with(PORT_PREFIX.as_bytes()) || names.iter().any(|ours| ours.as_bytes() == name)
            }
            IFLA_MASTER => self.bridge.is_some() && word(value, 0) == self.bridge,
            _ => false,
        })
    }
}

/// Returns kind and body of each message of a datagram; what is cut is left out.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let message = datagram.get(..word(datagram, 0)? as usize)?;
        let body = message.get(HEADER..)?;
        datagram = datagram.get(message.len().next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([message[4], message[5]]), body))
    })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let attribute = bytes.get(..usize::from(u16::from_ne_bytes([a, b])))?;
        let value = attribute.get(4..)?;
        bytes = bytes.get(attribute.len().next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), value))
    })
}

/// Reads a number of 32 bits.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = u32::try_from(HEADER + body.len()).expect("short").to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    fn link(index: u32, name: &str, master: Option<u32>) -> Vec<u8> {
        let mut body = vec![0; LINK_HEADER];
        body[INDEX..INDEX + 4].copy_from_slice(&index.to_ne_bytes());
        let mut add = |kind: u16, value: &[u8]| {
            body.extend(u16::try_from(4 + value.len()).expect("short").to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        add(IFLA_IFNAME, format!("{name}\0").as_bytes());
        if let Some(master) = master {
            add(IFLA_MASTER, &master.to_ne_bytes());
        }
        body
    }

    fn watched() -> Watched {
        Watched { bridge: Some(7), links: [7, 8].into() }
    }

    #[test]
    fn news_of_others_are_no_concern() {
        let watched = watched();
        let concerns = |kind, body: &[u8]| {
            // Whatever comes before.
            let datagram = [message(RTM_NEWLINK, &link(5, "vethabc", Some(3))), message(kind, body)].concat();
            watched.concerns(&datagram, &["weft", "weft-tap"])
        };
        for kind in [RTM_NEWLINK, RTM_DELLINK] {
            assert!(!concerns(kind, &link(5, "docker0", Some(3))));
            assert!(!concerns(kind, &link(5, "weft2", None)));
            assert!(concerns(kind, &link(8, "renamed", None)));
            assert!(concerns(kind, &link(5, "weft", None)));
            assert!(concerns(kind, &link(5, "vethw012345678", None)));
            assert!(concerns(kind, &link(5, "foreign", Some(7))));
        }
        for kind in [RTM_NEWNEIGH, RTM_DELNEIGH] {
            assert!(!concerns(kind, &link(5, "", None)));
            assert!(concerns(kind, &link(8, "", None)));
        }
        const RTM_NEWADDR: u16 = 20;
        assert!(concerns(RTM_NEWADDR, &link(5, "", None)));
        assert!(!Watched::default().concerns(&message(RTM_NEWLINK, &link(5, "foreign", None)), &[]));
    }

    proptest! {
        #[test]
        fn nothing_that_the_kernel_might_say_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0..100_usize) {
            watched().concerns(&bytes, &["weft"]);
            let whole = [message(RTM_NEWLINK, &link(5, "a", None)), message(RTM_NEWLINK, &bytes)].concat();
            watched().concerns(&whole[..cut.min(whole.len())], &["weft"]);
        }
    }
}
