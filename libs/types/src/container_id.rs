//! Ids of containers.

use std::{fmt, str::FromStr, sync::Arc};

/// Identifies a container, or another holder of addresses, on its host.
///
/// Docker's ids are 64 hexadecimal digits; weft's own holders (`weft:expose`, `weft:extern`) are words. At most 128
/// characters of `a-z A-Z 0-9 _ . : -`, so that an id can be a file name, a key and a label value as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(Arc<str>);

impl ContainerId {
    /// Returns the id as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns at most the first twelve characters, as Docker prints an id.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContainerId({})", self.short())
    }
}

/// The input is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a container id has 1 to 128 characters of a-z A-Z 0-9 _ . : -")]
pub struct InvalidContainerId;

impl FromStr for ContainerId {
    type Err = InvalidContainerId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
        let a_name = !text.is_empty() && text != "." && text != "..";
        if a_name && text.len() <= 128 && text.chars().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidContainerId)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_file_names_are_refused() {
        for text in ["", ".", "..", "a/b", "a b", "é", &"a".repeat(129)] {
            assert_eq!(text.parse::<ContainerId>(), Err(InvalidContainerId), "{text:?}");
        }
        assert_eq!("weft:expose".parse::<ContainerId>().expect("valid").short(), "weft:expose");
    }
}
