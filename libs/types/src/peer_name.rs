//! The name of a peer: its long-term public key.

use std::{fmt, str::FromStr};

/// Names a peer by its long-term X25519 public key.
///
/// Who holds the private key is the peer, so a name can neither be taken by another host nor be given out twice. People
/// see the short form (`Display`), eight hexadecimal digits, or the name set with `--name`, which is not this type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName([u8; Self::LENGTH]);

impl PeerName {
    /// Length of the key, in bytes (RFC 7748, section 5).
    pub const LENGTH: usize = 32;

    /// Wraps a public key.
    #[must_use]
    pub const fn from_public_key(key: [u8; Self::LENGTH]) -> Self {
        Self(key)
    }

    /// Returns the public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }

    /// Returns the whole key in hexadecimal, for files and for programs.
    #[must_use]
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0[..4]))
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerName({self})")
    }
}

/// The input is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a peer's key has 32 bytes (64 hexadecimal digits), not {length} bytes")]
pub struct InvalidPeerName {
    /// What was given, in bytes (half of the digits for text).
    pub length: usize,
}

impl TryFrom<&[u8]> for PeerName {
    type Error = InvalidPeerName;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        let key = bytes.try_into().map_err(|_| InvalidPeerName { length: bytes.len() })?;
        Ok(Self(key))
    }
}

impl FromStr for PeerName {
    type Err = InvalidPeerName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = InvalidPeerName { length: text.len() / 2 };
        if text.len() != 2 * Self::LENGTH || !text.is_ascii() {
            return Err(invalid);
        }
        let mut key = [0; Self::LENGTH];
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| invalid.clone())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid.clone())?;
        }
        Ok(Self(key))
    }
}

/// Returns bytes as hexadecimal digits, lower case.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_form_round_trips() {
        let name = PeerName::from_public_key(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(name.to_hex().parse(), Ok(name));
    }

    #[test]
    fn short_form_has_eight_digits() {
        assert_eq!(PeerName::from_public_key([0xa5; 32]).to_string(), "a5a5a5a5");
    }

    #[test]
    fn other_lengths_and_digits_are_refused() {
        assert!(PeerName::try_from(&[0u8; 31][..]).is_err());
        assert!("zz".repeat(32).parse::<PeerName>().is_err());
        assert!("é".repeat(32).parse::<PeerName>().is_err());
    }
}
