//! Who this peer is: its long-term key, and how often it has lost its memory.

use std::{fs, io};

use anyhow::{Context, bail};
use weft_router_core::handshake::StaticKey;
use weft_service::Store;
use zeroize::Zeroizing;

const FILE: &str = "identity";
const TITLE: &str = "weft router identity ";

/// Key and generation of a running router.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The long-term key.
    pub key: StaticKey,
    /// Rises with every start.
    pub generation: u64,
}

impl Identity {
    /// Reads the identity, making it at the first start, and writes it back with a higher generation.
    ///
    /// # Errors
    /// If the file is damaged, of a later version, or cannot be written. It is left as it is.
    pub fn load(store: &Store) -> anyhow::Result<Self> {
        let path = store.path(FILE);
        let identity = match fs::read_to_string(&path) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                let identity = parse(&text).with_context(|| format!("the identity in {}", path.display()))?;
                let generation = identity.generation.checked_add(1).context("the generation cannot rise further")?;
                Self { generation, ..identity }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Self { key: StaticKey::from_private(crate::entropy::secret()), generation: 1 };
                // Twice, so that the place for the next writing is there whatever the disk is filled with meanwhile.
                made.save(store)?;
                made
            }
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
        };
        identity.save(store)?;
        Ok(identity)
    }

    /// Writes the identity.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, store: &Store) -> anyhow::Result<()> {
        let mut text = Zeroizing::new(format!("{TITLE}1\ngeneration {}\nkey ", self.generation));
        for byte in self.key.private() {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push('\n');
        store.replace(FILE, text.as_bytes())
    }
}

fn parse(text: &str) -> anyhow::Result<Identity> {
    let mut lines = text.lines();
    match lines.next().and_then(|line| line.strip_prefix(TITLE)) {
        Some("1") => {}
        Some(_) => bail!("was written by a later version of weft: use that version"),
        None => bail!("is damaged: restore the file, or remove it to become a new peer"),
    }
    let mut generation = None;
    let mut key = None;
    for line in lines {
        match line.split_once(' ') {
            Some(("generation", number)) => generation = number.parse().ok(),
            Some(("key", digits)) => key = parse_key(digits),
            Some(_) | None => bail!("is damaged: restore the file, or remove it to become a new peer"),
        }
    }
    match (generation, key) {
        (Some(generation), Some(key)) => Ok(Identity { key, generation }),
        _ => bail!("is damaged: restore the file, or remove it to become a new peer"),
    }
}

fn parse_key(digits: &str) -> Option<StaticKey> {
    let mut key = Zeroizing::new([0; 32]);
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(StaticKey::from_private(*key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_stays_the_generation_rises_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        let first = Identity::load(&store).expect("made");
        let second = Identity::load(&store).expect("read");
        assert_eq!(first.key.name(), second.key.name());
        assert_eq!((first.generation, second.generation), (1, 2));
        let mode = fs::metadata(store.path(FILE)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn damaged_and_newer_files_are_named_and_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        Identity::load(&store).expect("made");
        let good = fs::read_to_string(store.path(FILE)).expect("there");
        let newer = good.replacen("identity 1", "identity 2", 1);
        for (bad, says) in [("", "damaged"), (&good[..good.len() - 3], "damaged"), (&newer, "later version")] {
            fs::write(store.path(FILE), bad).expect("written");
            let error = format!("{:#}", Identity::load(&store).expect_err("refused"));
            assert!(error.contains(says), "{error}");
            assert_eq!(fs::read_to_string(store.path(FILE)).expect("kept"), bad);
        }
    }
}
