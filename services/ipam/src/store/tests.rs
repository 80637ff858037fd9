//! A store and what can befall it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use redb::{Builder, StorageBackend};

use super::*;

/// A disk that can lose its power: what was synced stays, what was written since is there or not, piece by piece.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    synced: Vec<u8>,
    now: Vec<u8>,
    since: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("no test panicked")
    }

    /// Returns what a power cut now leaves.
    fn cut(&self, random: &mut StdRng) -> Vec<u8> {
        let contents = self.contents();
        let mut left = contents.synced.clone();
        left.resize(contents.now.len(), 0);
        for (offset, written) in &contents.since {
            let whole = written.len();
            let kept = match random.random_range(0..3) {
                0 => 0,
                1 => whole,
                _ => random.random_range(0..=whole),
            };
            let offset = *offset as usize;
            // The file may have become shorter since.
            if let Some(place) = left.get_mut(offset..offset + kept) {
                place.copy_from_slice(&written[..kept]);
            }
        }
        left
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.contents().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        out.copy_from_slice(&self.contents().now[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.contents().now.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut contents = self.contents();
        contents.synced = contents.now.clone();
        contents.since.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut contents = self.contents();
        let place = offset as usize;
        contents.now[place..place + data.len()].copy_from_slice(data);
        contents.since.push((offset, data.to_vec()));
        Ok(())
    }
}

#[test]
fn a_store_cut_in_the_middle_of_a_write_has_all_that_was_saved() {
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let disk = Disk::default();
        let database = Builder::new().create_with_backend(disk.clone()).expect("a new database");
        let store = Store::fresh(database, "ipam.redb".into()).expect("writable");
        let mut saved: BTreeMap<Vec<u8>, Vec<u8>> = store
            .load(7)
            .expect("writable")
            .records()
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        for number in 0..random.random_range(1..6_u32) {
            let record = (format!("test/{number}").into_bytes(), vec![number as u8; random.random_range(1..9000)]);
            saved.insert(record.0.clone(), record.1.clone());
            store.write(&[(record.0, Some(record.1))]).expect("writable");
        }
        // The next write gets as far as it gets: all of its pieces are there before the sync, any of them may be kept.
        let writing = store.database.begin_write().expect("one writer");
        {
            let mut table = writing.open_table(RECORDS).expect("there");
            for number in 0..50_u32 {
                table.insert(format!("lost/{number}").as_bytes(), vec![1; 3000].as_slice()).expect("room");
            }
        }
        let left = disk.cut(&mut random);
        drop(writing);

        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        fs::write(folder.path().join("ipam.redb"), left).expect("writable");
        let again = Store::open(folder.path()).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
        let reading = again.database.begin_read().expect("readable");
        let table = reading.open_table(RECORDS).expect("there");
        let found: BTreeMap<Vec<u8>, Vec<u8>> = table
            .iter()
            .expect("readable")
            .map(|record| record.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).expect("readable"))
            .collect();
        assert_eq!(found, saved, "seed {seed}");
    }
}

#[test]
fn a_break_while_it_is_made_leaves_no_store() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for left in [&b"half a header"[..], b""] {
        fs::write(folder.path().join("ipam.new"), left).expect("writable");
        drop(Store::open(folder.path()).expect("opens"));
        assert!(!folder.path().join("ipam.new").exists());
        fs::remove_file(folder.path().join("ipam.redb")).expect("made");
    }
    fs::write(folder.path().join("ipam.redb"), "").expect("writable");
    drop(Store::open(folder.path()).expect("an empty file is no store yet"));
    drop(Store::open(folder.path()).expect("opens again"));
}

#[test]
fn what_is_larger_than_a_store_can_be_is_named_and_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("ipam.redb");
    File::create(&path).and_then(|file| file.set_len(LARGEST)).expect("a file with a hole");
    let error = Store::open(folder.path()).expect_err("refused").to_string();
    assert!(error.contains("ipam.redb has 64 MB"), "{error}");
    assert_eq!(fs::metadata(&path).expect("there").len(), LARGEST);
}

#[test]
fn the_largest_store_that_makes_sense_fits() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = Store::open(folder.path()).expect("opens");
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..64 {
        let mut records = Vec::new();
        for _ in 0..1024 {
            let (container, address): (u128, u32) = (random.random(), random.random());
            let address = std::net::Ipv4Addr::from(address);
            records.push((format!("holding/{container:064x}/{address}").into_bytes(), Some(vec![24, 0])));
            records.push((format!("run/{:08x}", random.random::<u32>()).into_bytes(), Some(vec![0; 75])));
        }
        store.write(&records).expect("it fits");
    }
}

#[test]
fn a_store_never_becomes_larger_than_what_is_opened() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("ipam.redb");
    let store = Store::open(folder.path()).expect("opens");
    let records = |number: u32| -> Vec<Record> {
        (0..32_u32).map(|place| (format!("test/{number}/{place}").into_bytes(), Some(vec![1; 32_000]))).collect()
    };
    let (saved, error) = (0..)
        .find_map(|number| store.write(&records(number)).err().map(|error| (number, format!("{error:#}"))))
        .expect("there is a limit");
    assert!(error.contains("failed to save addresses in") && error.contains("more than an address store"), "{error}");
    drop(store);
    assert!(fs::metadata(&path).expect("there").len() < LARGEST);

    let store = Store::open(folder.path()).expect("opens again");
    let reading = store.database.begin_read().expect("readable");
    let table = reading.open_table(RECORDS).expect("there");
    for (key, value) in (0..saved).flat_map(records) {
        let found = table.get(key.as_slice()).expect("readable").map(|found| found.value().to_vec());
        assert!(found == value, "what was saved is there");
    }
}

#[test]
fn what_is_saved_is_read_again() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let peer = PeerName::from_public_key([5; 32]);
    let records = {
        let store = Store::open(folder.path()).expect("opens");
        assert_eq!(store.peer().expect("readable"), None);
        store.bind(peer).expect("writable");
        store.load(7).expect("readable").records()
    };
    let store = Store::open(folder.path()).expect("opens");
    assert_eq!(store.peer().expect("readable"), Some(peer));
    assert_eq!(store.load(8).expect("readable").records(), records);
}

#[test]
fn what_is_no_store_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("ipam.redb");
    let text = "something that somebody wrote here ".repeat(1000);
    fs::write(&path, &text).expect("writable");
    let error = Store::open(folder.path()).expect_err("no store").to_string();
    assert!(error.contains("ipam.redb cannot be read"), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("readable"), text);
}

#[test]
fn a_newer_store_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    Store::open(folder.path()).expect("opens").write_meta("format", &2_u32.to_be_bytes()).expect("writable");
    let before = fs::read(folder.path().join("ipam.redb")).expect("readable");
    let error = Store::open(folder.path()).expect_err("newer").to_string();
    assert!(error.contains("newer weft (format 2, this one knows 1)"), "{error}");
    let after = fs::read(folder.path().join("ipam.redb")).expect("readable");
    assert!(before == after, "not a byte is changed");
}

#[test]
fn a_damaged_record_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = Store::open(folder.path()).expect("opens");
    store.load(7).expect("readable");
    store.write(&[(b"run/0a200000".to_vec(), Some(vec![0xff]))]).expect("writable");
    let error = format!("{:#}", store.load(7).expect_err("damaged"));
    assert!(error.contains("run/0a200000") && error.contains("damaged"), "{error}");
}

#[test]
fn names_of_peers_are_read_again_and_may_change() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let info = |number: u8, nickname: &str| PeerInfo {
        peer: PeerName::from_public_key([number; 32]),
        name: format!("peer{number}"),
        nickname: nickname.to_owned(),
    };
    let store = Store::open(folder.path()).expect("made");
    assert_eq!(store.names().expect("read"), []);
    store.write_names(&[info(1, "db"), info(2, "")]).expect("written");
    store.write_names(&[info(2, "web")]).expect("written");
    drop(store);
    let again = Store::open(folder.path()).expect("opened");
    assert_eq!(again.names().expect("read"), [info(1, "db"), info(2, "web")]);
}
