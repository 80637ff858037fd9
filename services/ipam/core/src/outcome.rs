//! Why a request was refused, in people's words.

use std::time::Duration;

use ipnet::Ipv4Net;
use weft_types::ContainerId;

use crate::PeerInfo;

/// Why a request was refused. The text is one sentence for people, [`Refusal::reason`] a word for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no ring to take addresses from.
    #[error("there are no addresses to give yet: {why}")]
    NoRing {
        /// What is being waited for.
        why: String,
    },
    /// Every address of the subnet is in use.
    #[error("all addresses of {subnet} are in use ({size}): remove containers, or use a larger subnet")]
    Exhausted {
        /// The subnet.
        subnet: Ipv4Net,
        /// How many addresses containers may have in it.
        size: u64,
    },
    /// What is free belongs to peers that cannot be asked.
    #[error("the free addresses of {subnet} are owned by peers that cannot be reached: {}", peers.join(", "))]
    OwnersUnreachable {
        /// The subnet.
        subnet: Ipv4Net,
        /// Their printed names.
        peers: Vec<String>,
    },
    /// The peers that have free space gave none in time.
    #[error("no other peer gave addresses of {subnet} within {} ms; asked: {}", waited.as_millis(), peers.join(", "))]
    NoAnswer {
        /// The subnet.
        subnet: Ipv4Net,
        /// How long the request has waited.
        waited: Duration,
        /// Who has free space by what is known.
        peers: Vec<String>,
    },
    /// The local router is away, so that nobody can be asked.
    #[error("this host has no free address of {subnet}, and its router cannot be reached to ask other hosts")]
    RouterAway {
        /// The subnet.
        subnet: Ipv4Net,
    },
    /// Another container has the address.
    #[error("the address {address} is already in use by {holder}")]
    Taken {
        /// The address.
        address: Ipv4Net,
        /// Container and, if it is another one, host.
        holder: String,
    },
    /// The peer that owns the address cannot be asked.
    #[error("the address {address} is owned by the peer {owner}, which {why}")]
    OwnerUnreachable {
        /// The address.
        address: Ipv4Net,
        /// The owner's printed name.
        owner: String,
        /// "cannot be reached" or "did not answer in time".
        why: &'static str,
    },
    /// The subnet is no part of the range.
    #[error("the subnet {subnet} lies outside the address range {range}: name a subnet inside the range")]
    OutOfRange {
        /// The subnet.
        subnet: Ipv4Net,
        /// The range.
        range: Ipv4Net,
    },
    /// Bits after the prefix are set where a network is meant.
    #[error("{given} is no subnet: bits after the prefix are not zero; did you mean {network}?")]
    HostBits {
        /// What was given.
        given: Ipv4Net,
        /// The network it lies in.
        network: Ipv4Net,
    },
    /// The subnet has no address for a container.
    #[error("the subnet {subnet} is too small: it needs a prefix length of 30 or less")]
    SubnetTooSmall {
        /// The subnet.
        subnet: Ipv4Net,
    },
    /// The first and the last address of a subnet mean all of it.
    #[error("{address} is the first or the last address of its subnet: a container cannot have it")]
    NotForContainers {
        /// The address.
        address: Ipv4Net,
    },
    /// Too many requests wait already.
    #[error("{0} requests for addresses wait already: try again later")]
    TooManyRequests(usize),
    /// Nobody of that name owns addresses.
    #[error("no peer called {given} owns addresses: `weft status ipam` lists those who do")]
    OwnsNothing {
        /// What was given.
        given: String,
    },
    /// Several peers are called so.
    #[error("several peers are called {given}: name one by its key: {}", peers.join(", "))]
    Ambiguous {
        /// What was given.
        given: String,
        /// Their keys.
        peers: Vec<String>,
    },
    /// The peer is not known to be gone.
    #[error("the addresses of {peer} cannot be taken over, because it {why}")]
    NotGone {
        /// Which one.
        peer: PeerInfo,
        /// What it is, and what can be done.
        why: &'static str,
    },
    /// The peer has not been away for long.
    #[error(
        "{peer} may come back, or this host be the one that is cut off: it has not been reached for {} s; if it is gone for \
         good, try again in {} s",
        away.as_secs(),
        left.as_millis().div_ceil(1000)
    )]
    TooSoon {
        /// Which one.
        peer: PeerInfo,
        /// How long it has not been reached.
        away: Duration,
        /// How long that is too short.
        left: Duration,
    },
    /// This host leaves, and owns nothing that it could give.
    #[error(
        "this host has handed its addresses to another one, and gives none any more: restart ipam to have it take part again"
    )]
    Leaving,
    /// Nobody can take what this host owns.
    #[error("no other host can be reached that would take the addresses of this one")]
    NoHeir,
    /// Who was to take what this host owned did not say that it has it.
    #[error("{peer} did not confirm in time that it has the addresses of this host, which were given to it")]
    NotConfirmed {
        /// Which one.
        peer: PeerInfo,
    },
    /// The container was removed meanwhile.
    #[error("the container {0} gave its addresses back while it waited for one")]
    Abandoned(ContainerId),
}

/// What the caller may do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Try again.
    Retry,
    /// Change something first.
    FixFirst,
    /// Make room first.
    FreeFirst,
    /// Ask for something else.
    AskOtherwise,
}

impl Refusal {
    /// Returns a stable word that programs may compare.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoRing { .. } => "no_ring",
            Self::Exhausted { .. } => "exhausted",
            Self::OwnersUnreachable { .. } => "owners_unreachable",
            Self::NoAnswer { .. } => "no_answer",
            Self::RouterAway { .. } => "router_away",
            Self::Taken { .. } => "address_taken",
            Self::OwnerUnreachable { .. } => "owner_unreachable",
            Self::OutOfRange { .. } => "out_of_range",
            Self::HostBits { .. } => "host_bits",
            Self::SubnetTooSmall { .. } => "subnet_too_small",
            Self::NotForContainers { .. } => "not_for_containers",
            Self::TooManyRequests(_) => "too_many_requests",
            Self::OwnsNothing { .. } => "owns_nothing",
            Self::Ambiguous { .. } => "ambiguous",
            Self::NotGone { .. } => "not_gone",
            Self::TooSoon { .. } => "too_soon",
            Self::Leaving => "leaving",
            Self::NoHeir => "no_heir",
            Self::NotConfirmed { .. } => "not_confirmed",
            Self::Abandoned(_) => "abandoned",
        }
    }

    /// Says what the caller may do.
    #[must_use]
    pub const fn remedy(&self) -> Remedy {
        match self {
            Self::NoRing { .. }
            | Self::OwnersUnreachable { .. }
            | Self::NoAnswer { .. }
            | Self::RouterAway { .. }
            | Self::OwnerUnreachable { .. }
            | Self::NoHeir
            | Self::NotConfirmed { .. }
            | Self::TooSoon { .. }
            | Self::TooManyRequests(_) => Remedy::Retry,
            Self::Taken { .. } | Self::NotGone { .. } | Self::Leaving | Self::Abandoned(_) => Remedy::FixFirst,
            Self::Exhausted { .. } => Remedy::FreeFirst,
            Self::OutOfRange { .. }
            | Self::HostBits { .. }
            | Self::SubnetTooSmall { .. }
            | Self::OwnsNothing { .. }
            | Self::Ambiguous { .. }
            | Self::NotForContainers { .. } => Remedy::AskOtherwise,
        }
    }
}
