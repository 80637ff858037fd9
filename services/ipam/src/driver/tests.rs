//! The loop on a disk that is slow.

use std::io;

use redb::{StorageBackend, backends::InMemoryBackend};
use tokio::sync::{mpsc, oneshot};
use weft_ipam_core::{Creation, Reachability};

use super::*;

/// How long a sync takes, as on a disk that others use hard.
const SYNC: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct SlowDisk(InMemoryBackend);

impl StorageBackend for SlowDisk {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[expect(clippy::disallowed_methods, reason = "it stands for the disk")]
    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(SYNC);
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_delays_many_requests_as_little_as_one() {
    let database = redb::Builder::new().create_with_backend(SlowDisk(InMemoryBackend::new())).expect("a new database");
    let range: Ipv4Net = "10.32.0.0/12".parse().expect("valid");
    let plan = Plan { range, default_subnet: range, creation: Creation::Elect { voters: None } };
    let (commands, received) = mpsc::channel(1024);
    let (events, router) = mpsc::channel(16);
    let store = Store::fresh(database, "ipam.redb".into()).expect("writable");
    let driver = Driver::new(plan, store, received, router).expect("a new store");
    let (stop, shutdown) = Shutdown::triggered();
    let running = tokio::spawn(driver.run(shutdown));
    let (outgoing, _sent) = mpsc::channel(1024);
    let local_peer = PeerName::from_public_key([1; 32]);
    let connected =
        RouterEvent::Connected { local_peer, origins: Vec::new(), reachability: Reachability::default(), outgoing };
    events.send(connected).await.expect("the driver listens");

    let ask = |container: String| {
        let (reply, answer) = oneshot::channel();
        let timeout = Duration::from_secs(5);
        let container = container.parse().expect("a name");
        let command = Command::Allocate { container, subnet: None, timeout, reply };
        let commands = commands.clone();
        async move {
            commands.send(command).await.expect("the driver listens");
            answer.await.expect("answered").expect("a founder has addresses")
        }
    };
    ask("first".to_owned()).await;
    let began = now();
    let calls: Vec<_> = (0..200).map(|number| tokio::spawn(ask(format!("c{number}")))).collect();
    let mut given = std::collections::BTreeSet::new();
    for call in calls {
        assert!(given.insert(call.await.expect("no panic").v4.addr()), "an address was given twice");
    }
    let took = now().duration_since(began);
    assert!(took >= SYNC && took < 20 * SYNC, "200 requests took {took:?}");
    stop.request();
    running.await.expect("no panic").expect("ends well");
}
