//! How containers are attached where `weft attach` was told so, until they are detached: over restarts of containers, of this
//! service and of the host, as their addresses.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use weft_types::{AllowedAddresses, ContainerId};

/// Name of the file in the folder of state.
pub const FILE: &str = "chosen.json";

/// Version of the file's form.
const VERSION: u32 = 1;

/// What was chosen for one container; what is absent is as for all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choices {
    /// What it may give itself, instead of what its label says.
    pub allowed: Option<AllowedAddresses>,
    /// Register its names.
    pub names: Option<bool>,
    /// Write its addresses into its /etc/hosts.
    pub rewrite_hosts: Option<bool>,
    /// Further lines there, `name:address`.
    pub extra_hosts: Vec<String>,
    /// Route multicast to the overlay.
    pub multicast_route: Option<bool>,
}

impl Choices {
    /// Returns these with what was chosen since.
    fn followed_by(self, newer: Self) -> Self {
        Self {
            allowed: newer.allowed.or(self.allowed),
            names: newer.names.or(self.names),
            rewrite_hosts: newer.rewrite_hosts.or(self.rewrite_hosts),
            extra_hosts: if newer.extra_hosts.is_empty() { self.extra_hosts } else { newer.extra_hosts },
            multicast_route: newer.multicast_route.or(self.multicast_route),
        }
    }
}

/// What was chosen, and the file that remembers it.
#[derive(Debug)]
pub struct Chosen {
    file: PathBuf,
    containers: BTreeMap<ContainerId, Choices>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    containers: BTreeMap<String, StoredChoices>,
}

#[derive(Serialize, Deserialize)]
struct StoredChoices {
    allowed: Option<String>,
    names: Option<bool>,
    rewrite_hosts: Option<bool>,
    extra_hosts: Vec<String>,
    multicast_route: Option<bool>,
}

impl Chosen {
    /// Reads the file below a folder of state, if there is one.
    ///
    /// # Errors
    /// If it is damaged or of a later version; it is left as it is.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join(FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { file, containers: BTreeMap::new() });
            }
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", file.display())),
        };
        let damaged = || {
            format!(
                "the file {} is damaged: restore it, or remove it and repeat the options of `weft attach`",
                file.display()
            )
        };
        let stored: Stored = serde_json::from_str(&text).with_context(damaged)?;
        let later = || format!("the file {} was written by a later version of weft: use that version", file.display());
        ensure!(stored.version <= VERSION, later());
        let read = |(id, choices): (String, StoredChoices)| anyhow::Ok((id.parse()?, choices.try_into()?));
        let containers = stored.containers.into_iter().map(read).collect::<Result<_, _>>().with_context(damaged)?;
        Ok(Self { file, containers })
    }

    /// Returns what was chosen for a container.
    #[must_use]
    pub fn get(&self, container: &ContainerId) -> Choices {
        self.containers.get(container).cloned().unwrap_or_default()
    }

    /// Adds what is chosen for a container, and returns what was before if that makes a difference.
    pub fn choose(&mut self, container: &ContainerId, newer: Choices) -> Option<Choices> {
        let before = self.get(container);
        let next = before.clone().followed_by(newer);
        let changed = next != before;
        if changed {
            self.set(container, next);
        }
        changed.then_some(before)
    }

    /// Replaces what was chosen for a container; nothing forgets it.
    pub fn set(&mut self, container: &ContainerId, choices: Choices) {
        let before = if choices == Choices::default() {
            self.containers.remove(container)
        } else {
            self.containers.insert(container.clone(), choices.clone())
        };
        if before.unwrap_or_default() != choices
            && let Err(error) = self.write()
        {
            let file = self.file.display();
            tracing::warn!(%file, %error, "failed to remember how containers are attached: a restart will not know");
        }
    }

    fn write(&self) -> io::Result<()> {
        let containers = self.containers.iter().map(|(id, choices)| (id.to_string(), choices.clone().into())).collect();
        let text = serde_json::to_vec(&Stored { version: VERSION, containers })?;
        if let Some(folder) = self.file.parent() {
            weft_service::make_folder(folder)?;
        }
        let partial = self.file.with_extension("partial");
        let file = fs::File::create(&partial)?;
        io::Write::write_all(&mut &file, &text)?;
        file.sync_all()?;
        fs::rename(&partial, &self.file)
    }
}

impl From<Choices> for StoredChoices {
    fn from(Choices { allowed, names, rewrite_hosts, extra_hosts, multicast_route }: Choices) -> Self {
        Self { allowed: allowed.map(|allowed| allowed.to_string()), names, rewrite_hosts, extra_hosts, multicast_route }
    }
}

impl TryFrom<StoredChoices> for Choices {
    type Error = weft_types::InvalidAllowedAddresses;

    fn try_from(stored: StoredChoices) -> Result<Self, Self::Error> {
        let StoredChoices { allowed, names, rewrite_hosts, extra_hosts, multicast_route } = stored;
        let allowed = allowed.as_deref().map(str::parse).transpose()?;
        Ok(Self { allowed, names, rewrite_hosts, extra_hosts, multicast_route })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_holds_over_restarts_and_is_added_to() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let state = folder.path().join("state");
        let mut chosen = Chosen::load(&state).expect("nothing is there");
        let [a, b] = ["a", "b"].map(|id| id.parse::<ContainerId>().expect("valid"));
        let first = Choices {
            allowed: Some("10.32.0.100,fd00::7".parse().expect("valid")),
            extra_hosts: vec!["db:10.32.0.9".to_owned()],
            ..Choices::default()
        };
        let second = Choices { names: Some(false), multicast_route: Some(false), ..Choices::default() };
        assert_eq!(chosen.choose(&a, first.clone()), Some(Choices::default()));
        assert_eq!(chosen.choose(&a, second.clone()), Some(first.clone()));
        assert_eq!(chosen.choose(&a, second.clone()), None, "it is so already");
        assert_eq!(chosen.choose(&b, Choices::default()), None);
        chosen.choose(&b, second.clone());
        chosen.set(&b, Choices::default());

        let again = Chosen::load(&state).expect("read");
        assert_eq!(again.get(&a), Choices { names: Some(false), multicast_route: Some(false), ..first });
        assert_eq!((again.get(&b), again.containers.len()), (Choices::default(), 1));
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_left() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join(FILE);
        let none = r#"{"allowed":"x","names":null,"rewrite_hosts":null,"extra_hosts":[],"multicast_route":null}"#;
        for (text, says) in [
            ("{".to_owned(), "is damaged: restore it, or remove it"),
            (r#"{"version":2,"containers":{}}"#.to_owned(), "later version"),
            (format!(r#"{{"version":1,"containers":{{"a":{none}}}}}"#), "is damaged"),
        ] {
            fs::write(&file, &text).expect("written");
            let error = Chosen::load(folder.path()).expect_err("refused").to_string();
            assert!(error.contains(says) && error.contains(FILE), "{error}");
            assert_eq!(fs::read_to_string(&file).expect("there"), text);
        }
    }
}
