//! The mesh's password as the operator gives it: read at the start, and anew from its file when told so.

use std::{fs, path::Path};

use anyhow::{Context, bail};
use secrecy::{ExposeSecret, SecretString};
use weft_router_core::handshake::{Password, Passwords};

/// Fewest bytes of a password: whoever reaches the port may try one (NIST SP 800-63B, section 5.1.1.2).
const FEWEST: usize = 8;

/// Returns the passwords that the options give; an empty one is none.
///
/// # Errors
/// One sentence that names what makes no sense.
pub(crate) fn read(
    file: Option<&Path>,
    given: Option<&SecretString>,
    old: Option<&SecretString>,
) -> anyhow::Result<Option<Passwords>> {
    let (current, second) = match (file, given) {
        (Some(path), _) => of_file(path)?,
        (None, Some(given)) => of_text(given)?,
        (None, None) => (None, None),
    };
    let old = old.and_then(|old| password(old.expose_secret().trim_end_matches('\n')));
    if second.is_some() && old.is_some() {
        bail!("the old password is given twice: leave out WEFT_PASSWORD_OLD, or the second line of the password");
    }
    match (current, second.or(old)) {
        (Some(current), old) => Ok(Some(Passwords::new(current, old))),
        (None, None) => Ok(None),
        (None, Some(_)) => bail!("there is an old password and none that follows it: set WEFT_PASSWORD too"),
    }
}

/// Returns what the file says by now: the password, and the old one if there is a second line.
///
/// # Errors
/// One sentence, if there is no file, or no password in it.
pub(crate) fn read_again(file: Option<&Path>) -> anyhow::Result<Passwords> {
    let Some(path) = file else {
        bail!(
            "this router has its password from WEFT_PASSWORD (--password), which stays what it is while it runs: start it anew, \
             or give it a file (WEFT_PASSWORD_FILE), which can be read again"
        );
    };
    match of_file(path)? {
        (Some(current), old) => Ok(Passwords::new(current, old)),
        (None, _) => bail!("the first line of {} is no password: write the new one there", path.display()),
    }
}

type Lines = (Option<Password>, Option<Password>);

fn of_file(path: &Path) -> anyhow::Result<Lines> {
    let text = fs::read_to_string(path).map(SecretString::from);
    let text = text.with_context(|| format!("failed to read the password from {}", path.display()))?;
    of_text(&text)
}

/// Returns the password and, from a second line, the one before.
fn of_text(text: &SecretString) -> anyhow::Result<Lines> {
    let mut lines = text.expose_secret().split('\n');
    let first = lines.next().unwrap_or_default();
    let mut others = lines.map(password);
    let (current, second) = (password(first), others.next().flatten());
    if others.any(|line| line.is_some()) {
        bail!("the password has more than two lines: the first is the password, the second the one before");
    }
    let length = trimmed(first).len();
    if current.is_some() && length < FEWEST {
        bail!(
            "the password has {length} bytes, and whoever reaches the port may try: choose one of at least {FEWEST} \
             (`openssl rand -base64 24` makes one)"
        );
    }
    Ok((current, second))
}

/// Makes a password of a line.
fn password(line: &str) -> Option<Password> {
    let line = trimmed(line);
    (!line.is_empty()).then(|| Password::new(line.as_bytes()))
}

/// Takes off what editors end lines with and nobody means.
fn trimmed(line: &str) -> &str {
    line.trim_end_matches('\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(text: &str) -> Result<Passwords, String> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        fs::write(file.path(), text).expect("written");
        read_again(Some(file.path())).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_file_is_read_again_as_at_the_start() {
        let mark = |text: &str| Password::new(text.as_bytes()).mark();
        for (text, marks) in [
            ("the new one", vec![mark("the new one")]),
            ("the new one\n", vec![mark("the new one")]),
            ("the new one\r\nthe old one\r\n", vec![mark("the new one"), mark("the old one")]),
            ("the new one\nold\n\n", vec![mark("the new one"), mark("old")]),
        ] {
            assert_eq!(again(text).expect(text).marks(), marks, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_password_is_refused_with_a_sentence() {
        for (text, says) in [
            ("", "is no password: write the new one there"),
            ("\nthe old one", "is no password: write the new one there"),
            ("seven77\nthe old one", "the password has 7 bytes"),
            ("the new one\nthe old one\nanother", "more than two lines"),
        ] {
            let error = again(text).expect_err(text);
            assert!(error.contains(says), "{text:?}: {error}");
        }
        let error = format!("{:#}", read_again(Some(Path::new("/nowhere/at/all"))).expect_err("missing"));
        assert!(error.contains("failed to read the password from /nowhere/at/all: No such file"), "{error}");
        let error = read_again(None).expect_err("no file").to_string();
        assert!(error.contains("WEFT_PASSWORD_FILE"), "{error}");
    }
}
