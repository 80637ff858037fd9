//! Where services outside are, looked up again and again.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::AbortHandle,
    time::{sleep, timeout},
};
use weft_router_core::target::DialAddress;

use crate::{
    control::resolve::resolve,
    published::{Import, Protocol},
};

/// News that may wait.
const NEWS: usize = 64;

/// How long looking up may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often an address is looked up.
const AGAIN: Duration = Duration::from_secs(30);

/// How often is looked which of several addresses accept connections, and after one could not be looked up.
const SOON: Duration = Duration::from_secs(3);

/// How long a service may take to accept a connection.
const ACCEPTING: Duration = Duration::from_secs(1);

/// What was found of a service: addresses, at most one of each family, or why there is none.
pub(super) type Found = Result<Vec<IpAddr>, String>;

/// Looks up until it is dropped.
#[derive(Debug)]
struct Watch {
    import: Import,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What was found for which name, of which service.
pub(super) type News = (String, Import, Found);

/// Looks up all services outside that there are.
#[derive(Debug)]
pub(super) struct Imports {
    root: PathBuf,
    watched: BTreeMap<String, Watch>,
    found: BTreeMap<String, Found>,
    news: mpsc::Sender<News>,
}

impl Imports {
    /// Makes it, and what news come by. `root` is where the host's root folder is seen.
    pub(super) fn new(root: &Path) -> (Self, mpsc::Receiver<News>) {
        let (news, heard) = mpsc::channel(NEWS);
        (Self { root: root.to_owned(), watched: BTreeMap::new(), found: BTreeMap::new(), news }, heard)
    }

    /// Looks these up and no others.
    pub(super) fn watch(&mut self, imports: &BTreeMap<String, Import>) {
        let same =
            |name: &String, watch: &Watch| imports.get(name).is_some_and(|import| import.leads_as(&watch.import));
        self.watched.retain(|name, watch| same(name, watch));
        self.found.retain(|name, _| self.watched.contains_key(name));
        for (name, import) in imports {
            if !self.watched.contains_key(name) {
                let task = tokio::spawn(follow(self.root.clone(), name.clone(), import.clone(), self.news.clone()));
                let watch = Watch { import: import.clone(), task: task.abort_handle() };
                self.watched.insert(name.clone(), watch);
            }
        }
    }

    /// Takes news in.
    pub(super) fn take_in(&mut self, (name, import, found): News) {
        // Meanwhile the name may mean another one.
        if self.watched.get(&name).is_some_and(|watch| watch.import.leads_as(&import)) {
            self.found.insert(name, found);
        }
    }

    /// Returns what was found last.
    pub(super) fn found(&self, name: &str) -> Option<&Found> {
        self.found.get(name)
    }
}

/// Looks a service up now.
pub(super) async fn ask(root: &Path, import: &Import) -> Found {
    find(root, import).await.map(|(chosen, _)| chosen)
}

async fn follow(root: PathBuf, name: String, import: Import, news: mpsc::Sender<News>) {
    loop {
        let (found, several) = match find(&root, &import).await {
            Ok((chosen, several)) => (Ok(chosen), several),
            Err(why) => (Err(why), true),
        };
        if news.send((name.clone(), import.clone(), found)).await.is_err() {
            return;
        }
        sleep(if several { SOON } else { AGAIN }).await;
    }
}

/// Returns where a service is, and whether there was a choice.
async fn find(root: &Path, import: &Import) -> Result<(Vec<IpAddr>, bool), String> {
    let addresses = match import.host.parse::<IpAddr>() {
        Ok(address) => vec![address.to_canonical()],
        Err(_) => {
            let name = DialAddress::Name { host: import.host.clone(), port: import.port };
            let found = timeout(PATIENCE, resolve(root, &name)).await;
            let found = found.map_err(|_| "no resolver of the host answered within 5 s".to_owned())??;
            found.into_iter().map(|address| address.ip().to_canonical()).collect()
        }
    };
    let mut chosen = Vec::new();
    let mut several = false;
    for ipv6 in [false, true] {
        let family: Vec<IpAddr> = addresses.iter().filter(|address| address.is_ipv6() == ipv6).copied().collect();
        several |= family.len() > 1;
        chosen.extend(choose(&family, import).await);
    }
    if chosen.is_empty() { Err("it has no address".to_owned()) } else { Ok((chosen, several)) }
}

/// Returns the first that accepts connections, or the first where none does or nobody can tell.
async fn choose(addresses: &[IpAddr], import: &Import) -> Option<IpAddr> {
    if addresses.len() > 1 && import.protocol == Protocol::Tcp {
        for address in addresses {
            let connected = timeout(ACCEPTING, TcpStream::connect(SocketAddr::new(*address, import.port))).await;
            if matches!(connected, Ok(Ok(_))) {
                return Some(*address);
            }
        }
    }
    addresses.first().copied()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn of_several_addresses_one_that_answers_is_chosen() {
        let listener = TcpListener::bind("127.0.0.2:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let import = |protocol| Import::new("example.org".into(), protocol, port);
        let addresses = ["127.0.0.3", "127.0.0.2"].map(|text| text.parse::<IpAddr>().expect("valid"));
        assert_eq!(choose(&addresses, &import(Protocol::Tcp)).await, Some(addresses[1]));
        assert_eq!(choose(&addresses, &import(Protocol::Udp)).await, Some(addresses[0]), "nobody can tell");
        drop(listener);
        assert_eq!(choose(&addresses, &import(Protocol::Tcp)).await, Some(addresses[0]), "nobody answers");
        assert_eq!(choose(&[], &import(Protocol::Tcp)).await, None);
    }

    #[tokio::test]
    async fn names_are_looked_up_as_the_host_does() {
        let root = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::create_dir(root.path().join("etc")).expect("made");
        std::fs::write(root.path().join("etc/hosts"), "192.0.2.7 printer\n2001:db8::7 printer\n").expect("written");
        std::fs::write(root.path().join("etc/resolv.conf"), "").expect("written");
        let import = Import::new("printer".into(), Protocol::Udp, 9100);
        let found = ask(root.path(), &import).await.expect("found");
        let expected = ["192.0.2.7", "2001:db8::7"].map(|text| text.parse::<IpAddr>().expect("valid"));
        assert_eq!(found, expected);
        for text in ["192.0.2.8", "::ffff:192.0.2.8"] {
            let import = Import::new(text.into(), Protocol::Udp, 9100);
            assert_eq!(ask(root.path(), &import).await.expect("found"), [IpAddr::from([192, 0, 2, 8])]);
        }
    }
}
