//! Records of names that were given by hand, and whose they are.
//!
//! Each is one address of one holder, with the names that mean it, under a key of its own: so nobody who registers the holder's
//! other names touches it, and what is given again is found again.

use std::{fmt, net::IpAddr};

use hickory_proto::rr::LowerName;
use weft_types::ContainerId;

/// What the keys of records by hand begin with.
const PREFIX: &str = "weft:name:";

/// Holder of what is no container's.
const NOBODY: &str = "weft:extern";

/// Returns the holder of names that are no container's.
///
/// # Panics
/// Never: the text is an id.
#[must_use]
pub fn nobody() -> ContainerId {
    NOBODY.parse().expect("the text is an id")
}

/// Whose a record is, and whether it was given by hand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The container's id, or that of one of weft's own holders.
    pub id: &'a str,
    /// Whether it was given by hand.
    pub by_hand: bool,
}

impl<'a> Holder<'a> {
    /// Reads the key of a record, of this host or of another.
    #[must_use]
    pub fn of(key: &'a ContainerId) -> Self {
        let given = key.as_str().strip_prefix(PREFIX).map(|rest| match rest.strip_prefix(NOBODY) {
            Some(_) => NOBODY,
            // Ids that an engine gives have no colon, and addresses of IPv6 do.
            None => rest.split_once(':').map_or(rest, |(id, _)| id),
        });
        Self { id: given.unwrap_or(key.as_str()), by_hand: given.is_some() }
    }

    /// Returns whose names by hand a record has; `None` if it has others.
    pub(crate) fn given_by_hand_to(self) -> Option<&'a str> {
        self.by_hand.then_some(self.id)
    }
}

impl fmt::Debug for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.id, if self.by_hand { " by hand" } else { "" })
    }
}

/// Names of one address that were given by hand on this host, as they are kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Whose they are.
    pub holder: ContainerId,
    /// What each of the names means.
    pub address: IpAddr,
    /// The names.
    pub names: Vec<LowerName>,
    /// What has to hold for them to be answered.
    pub needs: Needs,
}

/// What names by hand rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    /// Nothing: they are nobody's, or of a container that is not attached.
    Nothing,
    /// That the container is attached.
    Container,
    /// That the container is attached with this address.
    Address,
}

/// Returns the key of the record that has `holder`'s names for `address`; `None` where no key can be: the id of a container has a
/// colon, or is too long.
pub(crate) fn key(holder: &ContainerId, address: IpAddr) -> Option<ContainerId> {
    let key: ContainerId = format!("{PREFIX}{holder}:{address}").parse().ok()?;
    (Holder::of(&key).id == holder.as_str()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_whose_the_record_is() {
        let container: ContainerId = "a1".repeat(32).parse().expect("valid");
        for address in ["192.0.2.1", "2001:db8:1111:2222:3333:4444:5555:6666"] {
            let address: IpAddr = address.parse().expect("valid");
            for holder in [&container, &nobody()] {
                let key = key(holder, address).expect("fits");
                assert_eq!(Holder::of(&key), Holder { id: holder.as_str(), by_hand: true });
            }
        }
        assert_eq!(Holder::of(&container), Holder { id: container.as_str(), by_hand: false });
    }

    #[test]
    fn ids_that_no_engine_gives_have_no_key() {
        let address = IpAddr::from([192, 0, 2, 1]);
        for id in ["a:b", "weft:expose", &"a".repeat(120)] {
            assert_eq!(key(&id.parse().expect("valid"), address), None, "{id}");
        }
    }

    #[test]
    fn keys_of_other_hosts_may_be_anything() {
        for text in ["weft:name:", "weft:name::", "weft:name:weft:extern", "weft:name:x"] {
            assert!(Holder::of(&text.parse().expect("valid")).by_hand, "{text}");
        }
    }
}
