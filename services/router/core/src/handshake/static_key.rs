//! The secrets of a peer: its long-term key and the mesh's password.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use snow::{
    params::DHChoice,
    resolvers::{CryptoResolver, DefaultResolver},
};
use weft_types::PeerName;
use zeroize::Zeroizing;

/// A long-term X25519 key pair; the public half is the peer's name.
#[derive(Clone)]
pub struct StaticKey {
    private: Zeroizing<[u8; 32]>,
    name: PeerName,
}

impl StaticKey {
    /// Makes the pair from its private half, which may be any 32 random bytes (RFC 7748, section 5).
    #[must_use]
    pub fn from_private(private: [u8; 32]) -> Self {
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("the build includes X25519");
        dh.set(&private);
        let mut public = [0; 32];
        public.copy_from_slice(dh.pubkey());
        Self { private: Zeroizing::new(private), name: PeerName::from_public_key(public) }
    }

    /// Returns the public half.
    #[must_use]
    pub const fn name(&self) -> PeerName {
        self.name
    }

    /// Returns the private half, for the Noise patterns and for the file that keeps it.
    #[must_use]
    pub fn private(&self) -> &[u8; 32] {
        &self.private
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKey({})", self.name)
    }
}

/// The mesh's password.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Vec<u8>>);

impl Password {
    /// Wraps the password's bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns what tells the password from others among peers.
    #[must_use]
    pub fn mark(&self) -> PasswordMark {
        let mut mark = [0; 2];
        Hkdf::<Sha256>::new(Some(b"weft password mark v1"), &self.0)
            .expand(b"mark", &mut mark)
            .expect("two bytes are within the limit of HKDF-SHA256");
        PasswordMark(u16::from_be_bytes(mark))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// Tells passwords apart among peers that are sealed from others: 16 bits of a hash. Short, so that whoever knows one password
/// of the mesh learns next to nothing of another; two passwords have the same one in 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PasswordMark(pub u16);

/// Which of a host's passwords.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PasswordAge {
    /// The one that it has.
    Current,
    /// The one that it had before, and takes from peers that it knows.
    Old,
}

/// The passwords that a host takes: its own, and while the mesh's is changed the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passwords {
    current: Password,
    old: Option<Password>,
}

impl Passwords {
    /// Joins them; an old one that is no other counts as none.
    #[must_use]
    pub fn new(current: Password, old: Option<Password>) -> Self {
        let old = old.filter(|old| *old != current);
        Self { current, old }
    }

    /// Returns the marks: of the current one, then of the old one.
    #[must_use]
    pub fn marks(&self) -> Vec<PasswordMark> {
        std::iter::once(&self.current).chain(&self.old).map(Password::mark).collect()
    }

    /// Tells whether there is an old one.
    #[must_use]
    pub const fn has_old(&self) -> bool {
        self.old.is_some()
    }

    /// Returns what a host that has these goes on with when its operator gives it others: with an old one among those, just
    /// them. Else the present password becomes the old one, so that hosts which have no other yet stay together with this.
    ///
    /// # Errors
    /// [`ChangeUnderWay`] if there are three then.
    pub fn followed_by(&self, given: Self) -> Result<Self, ChangeUnderWay> {
        if given.has_old() {
            return Ok(given);
        }
        let Self { current, .. } = given;
        match &self.old {
            _ if current == self.current => Ok(self.clone()),
            Some(old) if *old != current => Err(ChangeUnderWay),
            Some(_) | None => Ok(Self::new(current, Some(self.current.clone()))),
        }
    }

    /// Returns the current one alone.
    #[must_use]
    pub fn without_old(self) -> Self {
        Self { old: None, ..self }
    }

    /// Returns one, and which it is: the current one where there is no old one.
    pub(super) fn pick(&self, age: PasswordAge) -> (&Password, PasswordAge) {
        match (age, &self.old) {
            (PasswordAge::Old, Some(old)) => (old, PasswordAge::Old),
            (PasswordAge::Old, None) | (PasswordAge::Current, _) => (&self.current, PasswordAge::Current),
        }
    }
}

/// A password is to be changed, and the change before is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a change of the password is under way, and there would be three: wait until `weft status` says no more of it, or write the \
     one that hosts without the new one are to come in with below it, as the second line"
)]
pub struct ChangeUnderWay;

/// With which passwords an initiator tries: one connection is one guess, so where hosts have two, each pair takes a
/// connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordPair {
    /// Which of its own.
    pub ours: PasswordAge,
    /// Which the responder is asked to use.
    pub theirs: PasswordAge,
}

impl PasswordPair {
    /// The first to try.
    pub const FIRST: Self = Self { ours: PasswordAge::Current, theirs: PasswordAge::Current };

    /// Returns what to try after this one was wrong, given who has an old password.
    pub(super) const fn after(self, ours_old: bool, theirs_old: bool) -> Option<Self> {
        use PasswordAge::{Current, Old};
        match (self.ours, self.theirs) {
            (Current, Current) if theirs_old => Some(Self { ours: Current, theirs: Old }),
            (Current, _) if ours_old => Some(Self { ours: Old, theirs: Current }),
            (Old, Current) if theirs_old => Some(Self { ours: Old, theirs: Old }),
            (Current | Old, _) => None,
        }
    }
}
