//! The packet filter rules that the overlay needs, in the terms of nftables.

use std::net::Ipv4Addr;

use super::{ALIAS, PORT_PREFIX};

/// Family of an nftables table (`NFPROTO_*`, linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6 alike.
    Inet,
    /// IPv4 alone, as iptables-nft uses it.
    Ipv4,
    /// IPv6 alone, as ip6tables-nft uses it.
    Ipv6,
    /// Frames that bridges pass on.
    Bridge,
}

/// Where a base chain hangs (`NF_INET_*`, linux/netfilter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// All that comes in: frames at the ports of bridges, in the family of bridges.
    Prerouting,
    /// Packets to the host itself.
    Input,
    /// What the host itself sends: frames of bridges, in the family of bridges.
    Output,
    /// Packets passing through, bridged ones included where `bridge-nf-call-iptables` is on.
    Forward,
    /// Where source addresses of new connections are translated, after routing.
    TranslateSource,
    /// Where destinations of new connections that come in are translated, before routing.
    TranslateDestination,
    /// Where destinations of new connections of the host's own programs are translated.
    TranslateOutgoing,
}

/// What a `meta` expression loads (`NFT_META_*`, linux/netfilter/nf_tables.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// Name of the link that the packet came by.
    InterfaceIn,
    /// Name of the link that the packet leaves by.
    InterfaceOut,
    /// Network protocol, one of `NFPROTO_*`.
    NetworkProtocol,
    /// Transport protocol, an IP protocol number.
    TransportProtocol,
    /// Whom a frame is for, as the host sees it (`PACKET_*`, linux/if_packet.h).
    PacketType,
}

/// IP protocol numbers that rules name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransportProtocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// ICMP of IPv6.
    Icmpv6 = 58,
}

/// Header that a `payload` expression reads from (`NFT_PAYLOAD_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    /// Of Ethernet.
    Link,
    /// Of IPv4 or IPv6.
    Network,
    /// Of TCP or UDP.
    Transport,
}

/// How a `cmp` expression compares (`NFT_CMP_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
}

/// How a rule ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes on.
    Accept,
    /// The packet ends here.
    Drop,
}

/// One step of a rule. All load into and compare the first register, but for [`Expression::Into`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Loads a fact about the packet.
    Meta(MetaKey),
    /// Loads bytes of the packet.
    Payload {
        /// Header to read from.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// Number of bytes.
        length: u32,
    },
    /// Keeps only the bits of the mask.
    Mask(Vec<u8>),
    /// Ends the rule unless the register compares so.
    Compare(Comparison, Vec<u8>),
    /// Counts packets and bytes.
    Counter,
    /// Decides.
    Verdict(Verdict),
    /// Goes through this chain first, in rules of others.
    Jump(String),
    /// Loads into the register so many units of four bytes behind the first, for a key of several parts.
    Into(u8, Box<Self>),
    /// Ends the rule unless the key in the registers from the first on is in a set of the table, or is not if `inverted`.
    Lookup {
        /// Name of the set.
        set: String,
        /// Whether it must not be in the set.
        inverted: bool,
    },
    /// Loads the number of the link by which the packet's source is reached, 0 if that is not the link that it came by.
    ReversePath,
    /// Loads the state of the packet's connection, as bits (`NFT_CT_STATE`).
    ConnectionState,
    /// Loads the status of the packet's connection, as bits (`NFT_CT_STATUS`).
    ConnectionStatus,
    /// Loads what the packet's source, or its destination, is to the host (`RTN_*`, linux/rtnetlink.h).
    AddressKind {
        /// Of the source.
        source: bool,
    },
    /// Loads these bytes.
    Immediate(Vec<u8>),
    /// Loads a random number below this one.
    Random(u32),
    /// Gives the connection the address of the link that it leaves by as its source, and ends the rule.
    Masquerade,
    /// Gives the connection the address in the first register as its source, and ends the rule.
    TranslateSource(Family),
    /// Leads the connection to the address in the first register and the port four units behind it, and ends the rule.
    TranslateDestination(Family),
    /// Ends the rule unless a match of xtables applies (`NFTA_MATCH_*`).
    Match {
        /// Its name.
        name: String,
        /// Which version of its settings.
        revision: u32,
        /// Its settings, as the kernel's structure has them.
        info: Vec<u8>,
    },
    /// An expression that rules of ours do not have, by its name.
    Other(String),
}

/// A rule, marked by its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it does, step by step.
    pub expressions: Vec<Expression>,
    /// What listings show; [`ALIAS`] for rules of ours.
    pub comment: Option<String>,
}

/// A chain that hangs on a hook; its policy is to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// Name in its table.
    pub name: String,
    /// Where it hangs.
    pub hook: Hook,
    /// Order among the chains of the hook: lower is earlier.
    pub priority: i32,
    /// In order.
    pub rules: Vec<Rule>,
}

/// A part of the key of a set: what it means to people, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPart {
    /// Name of a link, 16 bytes.
    Interface,
    /// Ethernet address, 6 bytes.
    Mac,
    /// IPv4 address, 4 bytes.
    Ipv4,
    /// IPv6 address, 16 bytes.
    Ipv6,
    /// Any number of up to 4 bytes.
    Number,
}

impl KeyPart {
    /// Returns how many units of four bytes it takes in registers.
    #[must_use]
    pub const fn units(self) -> u8 {
        match self {
            Self::Interface | Self::Ipv6 => 4,
            Self::Mac => 2,
            Self::Ipv4 | Self::Number => 1,
        }
    }

    /// Returns how many bytes it has.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Mac => 6,
            Self::Interface | Self::Ipv4 | Self::Ipv6 | Self::Number => self.units() * 4,
        }
    }
}

/// A set of keys, in the order of registers: the parts of a key of several are padded to units of four bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Name in its table.
    pub name: String,
    /// What its keys consist of.
    pub key: Vec<KeyPart>,
}

/// A table that is ours alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Family of all its chains.
    pub family: Family,
    /// Name in its family.
    pub name: String,
    /// Sets without what they contain, in order of their names.
    pub sets: Vec<Set>,
    /// In order of their names.
    pub chains: Vec<BaseChain>,
}

/// Names a chain of somebody else's table `filter`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainRef {
    /// Family of the table.
    pub family: Family,
    /// Name of the chain.
    pub chain: String,
}

/// Chains of the table `filter` that must accept the overlay's bridged frames where they exist. The engine puts its rules, and
/// the jump to its chain for users, before those that `FORWARD` has; without that jump, as when somebody flushed `FORWARD`,
/// frames pass `FORWARD` alone.
pub const ACCEPTING_CHAINS: [&str; 2] = ["DOCKER-USER", "FORWARD"];

/// Returns the rule that accepts frames which enter and leave by the bridge, as iptables-nft writes
/// `-i BRIDGE -o BRIDGE -m comment --comment weft -j ACCEPT`, so that the iptables tools still understand the chain.
#[must_use]
pub fn accept_rule(bridge: &str) -> Rule {
    marked(vec![
        Expression::Meta(MetaKey::InterfaceIn),
        Expression::Compare(Comparison::Equal, interface_name(bridge)),
        Expression::Meta(MetaKey::InterfaceOut),
        Expression::Compare(Comparison::Equal, interface_name(bridge)),
        Expression::Counter,
        Expression::Verdict(Verdict::Accept),
    ])
}

/// Returns the table of our own.
///
/// - Frames that containers address to the host itself are dropped: the host is no station of the overlay. They come by the
///   bridge, and by its port if they are for `01:80:c2:00:00:0X` (IEEE 802.1Q-2018, table 8-1), which a bridge keeps to its host.
/// - The host routes neither from the overlay elsewhere nor from elsewhere into it.
/// - Ports that are meant for the host's loopback cannot be reached from outside by packets to 127.0.0.0/8, which some
///   hosts let in (`route_localnet`; CVE-2020-8558).
#[must_use]
pub fn own_table(bridge: &str, loopback_ports: &[u16]) -> Table {
    // Before the filters of others (priority 0), which might accept.
    const PRIORITY: i32 = -10;
    use Comparison::{Equal, NotEqual};
    use Expression::{Compare, Counter, Mask, Meta, Payload};

    let drop = Expression::Verdict(Verdict::Drop);
    let to_host =
        marked(vec![Meta(MetaKey::InterfaceIn), Compare(Equal, interface_name(bridge)), Counter, drop.clone()]);
    let from_port = marked(vec![Meta(MetaKey::InterfaceIn), Compare(Equal, PORT_PREFIX.into()), Counter, drop.clone()]);
    let crossing = |inwards: Comparison, outwards: Comparison| {
        marked(vec![
            Meta(MetaKey::InterfaceIn),
            Compare(inwards, interface_name(bridge)),
            Meta(MetaKey::InterfaceOut),
            Compare(outwards, interface_name(bridge)),
            Counter,
            drop.clone(),
        ])
    };
    let loopback_port = |port: &u16| {
        const NFPROTO_IPV4: u8 = 2;
        marked(vec![
            Meta(MetaKey::InterfaceIn),
            Compare(NotEqual, interface_name("lo")),
            Meta(MetaKey::NetworkProtocol),
            Compare(Equal, vec![NFPROTO_IPV4]),
            // Destination address of IPv4 (RFC 791).
            Payload { base: PayloadBase::Network, offset: 16, length: 4 },
            Mask(vec![255, 0, 0, 0]),
            Compare(Equal, Ipv4Addr::new(127, 0, 0, 0).octets().to_vec()),
            Meta(MetaKey::TransportProtocol),
            Compare(Equal, vec![TransportProtocol::Tcp as u8]),
            // Destination port of TCP (RFC 9293).
            Payload { base: PayloadBase::Transport, offset: 2, length: 2 },
            Compare(Equal, port.to_be_bytes().to_vec()),
            Counter,
            drop.clone(),
        ])
    };
    let input = [to_host, from_port].into_iter().chain(loopback_ports.iter().map(loopback_port)).collect();
    let forward = vec![crossing(Equal, NotEqual), crossing(NotEqual, Equal)];
    Table {
        family: Family::Inet,
        name: ALIAS.into(),
        sets: Vec::new(),
        chains: vec![
            BaseChain { name: "forward".into(), hook: Hook::Forward, priority: PRIORITY, rules: forward },
            BaseChain { name: "input".into(), hook: Hook::Input, priority: PRIORITY, rules: input },
        ],
    }
}

/// Returns a rule of ours.
pub(super) fn marked(expressions: Vec<Expression>) -> Rule {
    Rule { expressions, comment: Some(ALIAS.into()) }
}

/// The whole name with its end: without the end it would be a prefix.
pub(super) fn interface_name(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
