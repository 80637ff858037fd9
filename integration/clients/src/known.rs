//! What differs, and why it has to. Whatever else differs is a fault.

use regex::Regex;

use crate::compare::Difference;

/// Differences that have one reason.
#[derive(Debug)]
pub(crate) struct Known {
    /// What a user sees.
    pub(crate) what: &'static str,
    /// Why it is so.
    pub(crate) reason: &'static str,
    /// Which they are: patterns of the call, the place, what the engine said, and what came through weft.
    at: &'static [[&'static str; 4]],
}

/// All of them.
pub(crate) const KNOWN: &[Known] = &[];

/// Returns the number of the reason for a difference; none if it is a fault.
pub(crate) fn reason(difference: &Difference) -> Option<usize> {
    let fits = |pattern: &str, text: &str| Regex::new(pattern).expect("it is valid").is_match(text);
    let matches = |[call, place, engine, weft]: &[&str; 4]| {
        fits(call, &difference.call)
            && fits(place, &difference.place)
            && fits(engine, &difference.engine)
            && fits(weft, &difference.weft)
    };
    KNOWN.iter().position(|known| known.at.iter().any(matches))
}
