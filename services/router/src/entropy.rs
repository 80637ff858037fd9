//! Randomness of the system, for seeds and keys; the cores have none of their own.

use rand::{TryRngCore, rngs::OsRng};

/// Returns 32 secret bytes.
pub(crate) fn secret() -> [u8; 32] {
    let mut bytes = [0; 32];
    OsRng.try_fill_bytes(&mut bytes).expect("getrandom does not fail once the system is up");
    bytes
}

/// Returns a number that nobody can foresee.
pub(crate) fn number() -> u64 {
    OsRng.try_next_u64().expect("getrandom does not fail once the system is up")
}
