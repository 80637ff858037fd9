//! The store on disk: records of the core, which peer they belong to, and the format they are in.

mod file;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableHandle as _};
use weft_ipam_core::{PeerInfo, Record, State};
use weft_metrics::Histogram;
use weft_service::Result;
use weft_types::PeerName;

use self::file::LARGEST;
use crate::driver::now;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
/// By key of a peer: its printed form and its host's name.
const NAMES: TableDefinition<'_, &[u8], (&str, &str)> = TableDefinition::new("names");

/// Version of the records' format. Raised when an older version could not read them.
const FORMAT: u32 = 1;

/// The open store. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    database: Arc<Database>,
    path: PathBuf,
    /// How long commits took.
    commits: Histogram,
}

impl Store {
    /// Opens the store in `folder`, or makes an empty one where there is none.
    ///
    /// What is there and cannot be read is left as it is.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("failed to make the state folder {}", folder.display()))?;
        let path = folder.join("ipam.redb");
        let size = match fs::metadata(&path) {
            Ok(metadata) => Some(metadata.len()).filter(|size| *size > 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("failed to look at the address store {}", path.display()));
            }
        };
        if let Some(size) = size.filter(|size| *size >= LARGEST) {
            bail!(
                "the address store {} has {} MB, more than weft ever writes: bring back a copy of it, or move it away, which \
                 gives up the addresses that this host owned",
                path.display(),
                size >> 20
            );
        }
        if size.is_some() {
            return Self::open_present(path);
        }
        // It appears under its name when it is whole, so that a break on the way leaves nothing that looks like a store.
        let unborn = path.with_extension("new");
        let making = || format!("failed to make the address store {}", path.display());
        match fs::remove_file(&unborn) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(making),
            _ => {}
        }
        let store = Self::fresh(file::open(&unborn).with_context(making)?, path.clone())?;
        fs::rename(&unborn, &path).and_then(|()| File::open(folder)?.sync_all()).with_context(making)?;
        Ok(store)
    }

    /// Opens a store, after a copy of it in memory could be opened and is of our format: opening repairs, and what cannot be
    /// used must be left as it is.
    fn open_present(path: PathBuf) -> Result<Self> {
        let refused = |error| refusal(&path, error);
        let copied = file::copy(&path).map_err(refused)?;
        Self::over(copied, path.clone()).check_format()?;
        let database = file::open(&path).map_err(refused)?;
        Ok(Self::over(database, path))
    }

    /// Makes an empty store of an empty database.
    pub(crate) fn fresh(database: Database, path: PathBuf) -> Result<Self> {
        let store = Self::over(database, path);
        store.write_meta("format", &FORMAT.to_be_bytes())?;
        Ok(store)
    }

    fn over(database: Database, path: PathBuf) -> Self {
        Self { database: Arc::new(database), path, commits: Histogram::noop() }
    }

    /// Has the duration of each commit recorded.
    pub(crate) fn measured(self, commits: Histogram) -> Self {
        Self { commits, ..self }
    }

    /// Returns where the store is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn check_format(&self) -> Result {
        let unreadable = || format!("failed to read the address store {}", self.path.display());
        let reading = self.database.begin_read().with_context(unreadable)?;
        let tables: Vec<String> =
            reading.list_tables().with_context(unreadable)?.map(|table| table.name().to_owned()).collect();
        if !tables.iter().any(|table| table == META.name()) {
            bail!("{} is a database of something else than weft: move it away", self.path.display());
        }
        let format = self.meta("format")?.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        match format {
            Some(FORMAT) => Ok(()),
            Some(newer) if newer > FORMAT => bail!(
                "the address store {} was written by a newer weft (format {newer}, this one knows {FORMAT}): use that version",
                self.path.display()
            ),
            Some(_) | None => bail!("the address store {} is damaged: its format is not said", self.path.display()),
        }
    }

    /// Returns the peer that the store belongs to, if it belongs to one yet.
    pub(crate) fn peer(&self) -> Result<Option<PeerName>> {
        let bytes = self.meta("peer")?;
        let peer = bytes.map(|bytes| PeerName::try_from(bytes.as_slice())).transpose();
        peer.with_context(|| format!("the address store {} is damaged", self.path.display()))
    }

    /// Gives an empty store to a peer.
    pub(crate) fn bind(&self, peer: PeerName) -> Result {
        self.write_meta("peer", peer.as_bytes())
    }

    /// Reads what was saved; a new state with the id `new_store` where nothing was.
    pub(crate) fn load(&self, new_store: u64) -> Result<State> {
        let unreadable = || format!("failed to read the address store {}", self.path.display());
        let reading = self.database.begin_read().with_context(unreadable)?;
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        match reading.open_table(RECORDS) {
            Ok(table) => {
                for record in table.iter().with_context(unreadable)? {
                    let (key, value) = record.with_context(unreadable)?;
                    records.push((key.value().to_vec(), value.value().to_vec()));
                }
            }
            Err(redb::TableError::TableDoesNotExist(_)) => {}
            Err(error) => return Err(error).with_context(unreadable),
        }
        if records.is_empty() {
            let state = State::new(new_store);
            self.write(&state.records())?;
            return Ok(state);
        }
        State::from_records(records).with_context(|| {
            format!("the address store {} is damaged: bring back a copy of it, or move it away", self.path.display())
        })
    }

    /// Writes all records or none, and returns when they are on disk.
    pub(crate) fn write(&self, records: &[Record]) -> Result {
        let write = || -> Result<(), redb::Error> {
            let writing = self.database.begin_write()?;
            {
                let mut table = writing.open_table(RECORDS)?;
                for (key, value) in records {
                    match value {
                        Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                        None => table.remove(key.as_slice())?,
                    };
                }
            }
            writing.commit()?;
            Ok(())
        };
        let began = now();
        write().map_err(|error| {
            let full = is_full(&error);
            let remedy = if full { ": make room there; nothing that was answered is lost" } else { "" };
            anyhow::Error::new(error).context(format!("failed to save addresses in {}{remedy}", self.path.display()))
        })?;
        self.commits.record(now().saturating_duration_since(began));
        Ok(())
    }

    /// Reads how people call the peers that were heard of; what makes no sense is left out.
    pub(crate) fn names(&self) -> Result<Vec<PeerInfo>> {
        let read = || -> Result<Vec<PeerInfo>, redb::Error> {
            let table = match self.database.begin_read()?.open_table(NAMES) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut names = Vec::new();
            for entry in table.iter()? {
                let (peer, name) = entry?;
                let (name, nickname) = name.value();
                let peer = PeerName::try_from(peer.value()).ok();
                names.extend(peer.map(|peer| PeerInfo { peer, name: name.to_owned(), nickname: nickname.to_owned() }));
            }
            Ok(names)
        };
        read().with_context(|| format!("failed to read the address store {}", self.path.display()))
    }

    /// Remembers how people call peers.
    pub(crate) fn write_names(&self, names: &[PeerInfo]) -> Result {
        let write = || -> Result<(), redb::Error> {
            let writing = self.database.begin_write()?;
            {
                let mut table = writing.open_table(NAMES)?;
                for PeerInfo { peer, name, nickname } in names {
                    table.insert(peer.as_bytes().as_slice(), (name.as_str(), nickname.as_str()))?;
                }
            }
            writing.commit()?;
            Ok(())
        };
        write().with_context(|| format!("failed to save the names of peers in {}", self.path.display()))
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let read = || -> Result<Option<Vec<u8>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(META)?;
            Ok(table.get(key)?.map(|value| value.value().to_vec()))
        };
        read().with_context(|| format!("failed to read the address store {}", self.path.display()))
    }

    fn write_meta(&self, key: &str, value: &[u8]) -> Result {
        let write = || -> Result<(), redb::Error> {
            let writing = self.database.begin_write()?;
            writing.open_table(META)?.insert(key, value)?;
            writing.commit()?;
            Ok(())
        };
        write().with_context(|| format!("failed to write the address store {}", self.path.display()))
    }
}

/// Says why a store is not opened, and what to do. Where the disk is at fault, the store need not be.
fn refusal(path: &Path, error: redb::DatabaseError) -> anyhow::Error {
    let path = path.display();
    if matches!(error, redb::DatabaseError::DatabaseAlreadyOpen) {
        return anyhow!("the address store {path} is in use by another process: stop that weft-ipam first");
    }
    if let redb::DatabaseError::UpgradeRequired(format) = error {
        return anyhow!(
            "the address store {path} was written by an older weft (file format {format}): use that version"
        );
    }
    if let redb::DatabaseError::Storage(redb::StorageError::Io(cause)) = &error
        && cause.raw_os_error().is_some()
    {
        let remedy = if cause.kind() == io::ErrorKind::StorageFull { ": make room there" } else { "" };
        return anyhow::Error::new(error).context(format!("failed to open the address store {path}{remedy}"));
    }
    anyhow!(
        "the address store {path} cannot be read ({error}): bring back a copy of it, or move it away, which gives up the \
         addresses that this host owned"
    )
}

fn is_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if error.kind() == io::ErrorKind::StorageFull)
}

#[cfg(test)]
mod tests;
