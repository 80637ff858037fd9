//! A service's files that survive a restart: written whole, or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Serialize, de::DeserializeOwned};

/// Version of the JSON files' form.
const VERSION: u32 = 1;

/// Size that no file has more than, in bytes. Larger ones are not read, and none is written.
const LARGEST: u64 = 16 << 20;

/// The folder of state.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Versioned<T> {
    version: u32,
    content: T,
}

impl Store {
    /// Opens the folder, making it if need be.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("failed to make the folder {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Returns where the file `name` is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns what the JSON file `name` holds, or the default where there is none.
    ///
    /// # Errors
    /// If it is there and cannot be read, is too large, is damaged, or was written by a later version. It is left as it is.
    pub fn load<T: DeserializeOwned + Default>(&self, name: &str) -> anyhow::Result<T> {
        let path = self.path(name);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
            Err(error) => return Err(error).with_context(|| format!("failed to read {}", path.display())),
        };
        let damaged = || self.damaged(name);
        if bytes.len() as u64 > LARGEST {
            return Err(anyhow!("it has more than {} MB, and weft writes none so large", LARGEST >> 20))
                .with_context(damaged);
        }
        let value: serde_json::Value = serde_json::from_slice(&bytes).with_context(damaged)?;
        if value.get("version").and_then(serde_json::Value::as_u64).is_some_and(|version| version > VERSION.into()) {
            bail!("the file {} was written by a later version of weft: use that version", path.display());
        }
        let versioned: Versioned<T> = serde_json::from_value(value).with_context(damaged)?;
        Ok(versioned.content)
    }

    /// Says that the file `name` is damaged, and what to do.
    #[must_use]
    pub fn damaged(&self, name: &str) -> String {
        format!("the file {} is damaged: restore it, or remove it to start without it", self.path(name).display())
    }

    /// Writes the JSON file `name`.
    ///
    /// # Errors
    /// If it cannot be written; what it held before is still there.
    pub fn save<T: Serialize>(&self, name: &str, content: &T) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&Versioned { version: VERSION, content })
            .with_context(|| format!("failed to encode {name}"))?;
        self.replace(name, text.as_bytes())
    }

    /// Writes the file `name`, mode 0600, so that after a crash it holds either what it held or what it should.
    ///
    /// From the second time on the content before stays beside it, and its place is written to next: what does not grow is
    /// written on a full disk too.
    ///
    /// # Errors
    /// If it cannot be written, or would be too large to be read again; what it held before is still there.
    pub fn replace(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let path = self.path(name);
        if content.len() as u64 > LARGEST {
            let (most, size) = (LARGEST >> 20, content.len() >> 20);
            bail!("the file {} would have {size} MB, more than the {most} MB that it may have", path.display());
        }
        let spare = self.path(&format!(".{name}.new"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&spare)?;
            file.write_all(content)?;
            file.set_len(content.len() as u64)?;
            file.sync_all()?;
            // There is nothing to exchange with the first time, and some network file systems cannot.
            if renameat_with(CWD, &spare, CWD, &path, RenameFlags::EXCHANGE).is_err() {
                fs::rename(&spare, &path)?;
            }
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| {
            let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            let remedy = if full { "free some space: " } else { "" };
            anyhow::Error::new(error).context(format!("{remedy}failed to write {}", path.display()))
        })
    }
}

/// Reads a file, but not much more of it than it may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_write_that_was_cut_changes_nothing_and_later_ones_take_no_more_room() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        store.save("x.json", &["one"]).expect("written");
        fs::write(store.path(".x.json.new"), "{\"version\":1,\"content\":[\"tw").expect("written");
        assert_eq!(store.load::<Vec<String>>("x.json").expect("read"), ["one"]);
        let inodes = || {
            let mut inodes: Vec<u64> = fs::read_dir(folder.path())
                .expect("readable")
                .map(|entry| entry.expect("readable").metadata().expect("readable").ino())
                .collect();
            inodes.sort_unstable();
            inodes
        };
        let before = inodes();
        for content in [vec!["two"], vec![], vec!["three", "four"]] {
            store.save("x.json", &content).expect("written");
            assert_eq!(store.load::<Vec<String>>("x.json").expect("read"), content);
            assert_eq!(inodes(), before, "no file is made anew");
        }
    }

    #[test]
    fn files_are_read_back_and_bad_ones_are_named_and_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(&folder.path().join("a/b")).expect("the folder can be made");
        assert_eq!(store.load::<Vec<String>>("x.json").expect("missing is empty"), Vec::<String>::new());
        store.save("x.json", &["one", "two"]).expect("written");
        assert_eq!(store.load::<Vec<String>>("x.json").expect("read"), ["one", "two"]);
        for (content, says) in
            [("{", "damaged"), ("{\"version\":1}", "damaged"), ("{\"version\":2,\"content\":7}", "later version")]
        {
            store.replace("x.json", content.as_bytes()).expect("written");
            let error = format!("{:#}", store.load::<Vec<String>>("x.json").expect_err("refused"));
            assert!(error.contains(says), "{error}");
            assert_eq!(fs::read_to_string(store.path("x.json")).expect("still there"), content);
        }
    }

    #[test]
    fn nothing_is_written_that_would_not_be_read() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        store.save("x.json", &["one"]).expect("written");
        let large = "x".repeat(LARGEST as usize);
        let error = format!("{:#}", store.save("x.json", &[&large]).expect_err("refused"));
        assert!(error.contains("x.json would have 16 MB"), "{error}");
        assert_eq!(store.load::<Vec<String>>("x.json").expect("as before"), ["one"]);

        fs::write(store.path("x.json"), format!("[\"{large}\"]")).expect("written");
        let error = format!("{:#}", store.load::<Vec<String>>("x.json").expect_err("refused"));
        assert!(error.contains("x.json is damaged") && error.contains("more than 16 MB"), "{error}");
    }
}
