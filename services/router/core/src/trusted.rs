//! VXLAN of the kernel with trusted peers: who is one, how the way to it proves itself, and when it is used.
//!
//! Devices and their filter are [`crate::hostnet`]'s. Why it is so: `docs/decisions/trusted-subnets.md`.

pub mod probe;
mod way;

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use weft_types::PeerName;

pub use way::{Fault, Kind, Request, Way};

/// Subnets that a host may trust at most.
pub const MAX_SUBNETS: usize = 64;

/// What both ends of a control connection agree on who trust each other's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Our address, as the peer sees it.
    pub local: IpAddr,
    /// The peer's, as we see it.
    pub remote: IpAddr,
}

/// Why two hosts do not trust each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// Neither trusts any subnet: nobody asked for it.
    Unwanted,
    /// This host trusts none.
    WeTrustNone,
    /// The peer trusts none, or is of a version that does not know of it.
    PeerTrustsNone,
    /// The peer does not say where it sees us, or says nonsense.
    Unseen,
    /// The peer is outside of ours.
    PeerOutside {
        /// Where we see it.
        address: IpAddr,
        /// Ours.
        subnets: Vec<IpNet>,
    },
    /// We are outside of the peer's.
    WeOutside {
        /// Where it sees us.
        address: IpAddr,
        /// Its own.
        subnets: Vec<IpNet>,
    },
}

impl Distrust {
    /// Returns the reason in words, with the name of the peer; nothing where nobody asked for it.
    #[must_use]
    pub fn reason(&self, peer: &str) -> Option<String> {
        match self {
            Self::Unwanted => None,
            Self::WeTrustNone => Some(format!("{peer} has trusted subnets and this host has none")),
            Self::PeerTrustsNone => Some(format!("{peer} has no trusted subnets")),
            Self::Unseen => Some(format!("{peer} does not say at which address it sees this host")),
            Self::PeerOutside { address, subnets } => {
                Some(format!("{address} is outside the trusted subnets {} of this host", List(subnets)))
            }
            Self::WeOutside { address, subnets } => {
                Some(format!("{address} is outside the trusted subnets {} of {peer}", List(subnets)))
            }
        }
    }
}

struct List<'a>(&'a [IpNet]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, subnet) in self.0.iter().enumerate() {
            write!(f, "{}{subnet}", if number == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// Finds out whether two hosts trust each other. `remote` is where we see the peer, `observed` where it says that it sees us:
/// each has to be in the other's subnets.
///
/// # Errors
/// Why not.
pub fn agree(ours: &[IpNet], theirs: &[IpNet], remote: IpAddr, observed: Option<IpAddr>) -> Result<Agreed, Distrust> {
    match (ours.is_empty(), theirs.is_empty()) {
        (true, true) => return Err(Distrust::Unwanted),
        (true, false) => return Err(Distrust::WeTrustNone),
        (false, true) => return Err(Distrust::PeerTrustsNone),
        (false, false) => {}
    }
    let remote = remote.to_canonical();
    let local = observed.map(|address| address.to_canonical());
    let local = local.filter(|local| local.is_ipv4() == remote.is_ipv4() && !local.is_unspecified());
    let local = local.ok_or(Distrust::Unseen)?;
    let outside = |subnets: &[IpNet], address: IpAddr| !subnets.iter().any(|subnet| subnet.contains(&address));
    if outside(ours, remote) {
        return Err(Distrust::PeerOutside { address: remote, subnets: ours.to_vec() });
    }
    if outside(theirs, local) {
        return Err(Distrust::WeOutside { address: local, subnets: theirs.to_vec() });
    }
    Ok(Agreed { local, remote })
}

/// Returns the number that VXLAN between two peers has, the same at both ends: 24 bits, not 0.
///
/// It tells pairs apart and is no secret.
#[must_use]
pub fn pair_number(one: PeerName, other: PeerName) -> u32 {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    let hash = Sha256::new().chain_update(b"weft vxlan").chain_update(low.as_bytes()).chain_update(high.as_bytes());
    let [a, b, c, ..] = <[u8; 32]>::from(hash.finalize());
    u32::from_be_bytes([0, a, b, c]).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("valid")).collect()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("valid")
    }

    #[test]
    fn both_ends_have_to_find_the_other_in_their_subnets() {
        let (a, b) = (address("10.0.0.7"), address("10.1.0.9"));
        let (all, of_a, of_b) = (nets(&["10.0.0.0/8"]), nets(&["10.0.0.0/16"]), nets(&["fd00::/8", "10.1.0.0/16"]));
        // As A sees it, then as B does.
        for (ours, theirs, fine) in
            [(&all, &all, true), (&of_b, &of_a, true), (&of_a, &all, false), (&all, &of_b, false)]
        {
            let (first, second) = (agree(ours, theirs, b, Some(a)), agree(theirs, ours, a, Some(b)));
            assert_eq!((first.is_ok(), second.is_ok()), (fine, fine), "{ours:?} {theirs:?}");
            if let (Ok(first), Ok(second)) = (first, second) {
                assert_eq!((first.local, first.remote), (second.remote, second.local));
            }
        }
    }

    #[test]
    fn reasons_name_address_subnets_and_whose_they_are() {
        let (a, b) = (address("10.0.0.7"), address("10.1.0.9"));
        let (wide, narrow) = (nets(&["10.0.0.0/8"]), nets(&["10.1.0.0/16", "10.2.0.0/16"]));
        let reason =
            |ours: &[IpNet], theirs: &[IpNet], observed| agree(ours, theirs, b, observed).err()?.reason("host2");
        assert_eq!(
            reason(&wide, &narrow, Some(a)).as_deref(),
            Some("10.0.0.7 is outside the trusted subnets 10.1.0.0/16, 10.2.0.0/16 of host2")
        );
        let of_ours = reason(&nets(&["10.0.0.0/16"]), &wide, Some(a));
        assert_eq!(of_ours.as_deref(), Some("10.1.0.9 is outside the trusted subnets 10.0.0.0/16 of this host"));
        assert_eq!(reason(&[], &[], Some(a)), None, "nobody asked for it");
        assert!(reason(&wide, &[], Some(a)).expect("a reason").contains("host2 has no trusted subnets"));
        assert!(reason(&[], &wide, Some(a)).expect("a reason").contains("this host has none"));
        for nonsense in [None, Some(address("fd00::1")), Some(address("0.0.0.0"))] {
            assert!(reason(&wide, &wide, nonsense).expect("a reason").contains("does not say"));
        }
    }

    #[test]
    fn mapped_addresses_are_what_they_are() {
        let subnets = nets(&["10.0.0.0/8"]);
        let agreed = agree(&subnets, &subnets, address("::ffff:10.0.0.1"), Some(address("::ffff:10.0.0.2")));
        assert_eq!(agreed, Ok(Agreed { local: address("10.0.0.2"), remote: address("10.0.0.1") }));
    }

    #[test]
    fn a_pair_has_one_number() {
        let [a, b, c] = [1, 2, 3].map(|byte| PeerName::from_public_key([byte; 32]));
        assert_eq!(pair_number(a, b), pair_number(b, a));
        assert_ne!(pair_number(a, b), pair_number(a, c));
        assert!((1..1 << 24).contains(&pair_number(b, c)));
    }
}
