//! The file of a store, which never becomes larger than what is opened again.

use std::{
    fs::File,
    io::{self, Read as _},
    ops::Bound,
    path::Path,
};

use redb::{
    BackendError, Database, DatabaseError, StorageBackend,
    backends::{FileBackend, InMemoryBackend},
};

/// Size that no store reaches, in bytes. Larger ones are not opened, and none is made larger.
///
/// The largest store that makes sense is that of a host with 65,536 addresses in use (a kernel's bridge takes 1024 containers)
/// in a mesh of 1024 hosts that own 64 runs each: 131,072 records of some 100 bytes; a test writes as many. The size of the range makes no
/// difference to that. A file grows by doubling, so that not all of this may be of use.
pub(super) const LARGEST: u64 = 64 << 20;

/// Opens a database, or makes an empty one of an empty or missing file.
pub(super) fn open(path: &Path) -> Result<Database, DatabaseError> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    Database::builder().create_with_backend(Limited(FileBackend::new(file)?))
}

/// Opens a copy of a database in memory.
pub(super) fn copy(path: &Path) -> Result<Database, DatabaseError> {
    let mut file = File::open(path)?.take(LARGEST);
    let copy = InMemoryBackend::new();
    let mut piece = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        copy.set_len(length + read as u64)?;
        copy.write(length, &piece[..read])?;
        length += read as u64;
    }
    Database::builder().create_with_backend(copy)
}

/// A file that stays smaller than [`LARGEST`].
#[derive(Debug)]
struct Limited(FileBackend);

impl StorageBackend for Limited {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len >= LARGEST {
            let text = format!("it would have {} MB, more than an address store ever needs", len >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
