//! The store on disk: names that were given by hand.
//!
//! What is asked for by hand is there when it is on disk, and not done where it cannot be written. What ends by itself, as names do
//! with their container, ends at once, and the file follows.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, oneshot},
    task::spawn_blocking,
    time::{sleep, timeout},
};
use weft_dns_core::{Given, Names, Needs, RegisterError, Zone, nobody};
use weft_service::{Result, Store};

use crate::{convert, problems::Part, state::State};

/// Name of the file in the folder of state.
const FILE: &str = "names.json";

/// Pause before what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How many changes may wait for the disk.
const MOST_CHANGES: usize = 1024;

/// How long a stop waits for the disk.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// Names of one address, as the file has them.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    /// Whose they are; nobody's without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    address: IpAddr,
    /// Relative to the domain, so that they follow when the operator changes it.
    names: Vec<String>,
    needs: StoredNeeds,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredNeeds {
    Nothing,
    Container,
    Address,
}

/// Why a change was not made.
#[derive(Debug)]
pub(crate) enum Unchanged {
    Refused(RegisterError),
    NotKept(anyhow::Error),
}

/// The open store.
#[derive(Debug)]
pub(crate) struct NameStore {
    file: Arc<File>,
    /// Held from deciding on a change to making it.
    turn: tokio::sync::Mutex<()>,
    /// For changes that wait for their turn.
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct File {
    store: Store,
    zone: Zone,
    /// What it holds; held while it is written.
    content: Mutex<Vec<Given>>,
}

impl NameStore {
    /// Opens the store in `folder`, and gives `names` what it holds.
    ///
    /// # Errors
    /// If what is there cannot be used. It is left as it is.
    pub(crate) fn open(folder: &Path, names: &mut Names) -> Result<Self> {
        let (store, zone) = (Store::open(folder)?, names.zone().clone());
        let given = load(&store, &zone)?;
        let is_there = given.is_some();
        let content = given.unwrap_or_default();
        // Without a file there may be names all the same, of a version that had none: the router has them.
        if is_there {
            names.restore(content.clone()).with_context(|| store.damaged(FILE))?;
        }
        let file = Arc::new(File { store, zone, content: Mutex::new(content) });
        Ok(Self { file, turn: tokio::sync::Mutex::default(), room: Arc::new(Semaphore::new(MOST_CHANGES)) })
    }

    /// Changes names by hand once what they will be is on disk. What has begun goes on if nobody waits for it any more; what has not
    /// is left.
    ///
    /// # Errors
    /// If it is refused, cannot be written, or too many wait for the disk; nothing has changed then.
    pub(crate) async fn change<T: Send + 'static>(
        self: Arc<Self>,
        state: Arc<State>,
        change: impl Fn(&mut Names) -> Result<T, RegisterError> + Send + Sync + 'static,
    ) -> Result<T, Unchanged> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Unchanged::NotKept(anyhow!("{MOST_CHANGES} changes wait for the disk already: try again when it is faster"))
        })?;
        let (reply, answer) = oneshot::channel();
        tokio::spawn(async move {
            let _room = room;
            let _turn = self.turn.lock().await;
            if !reply.is_closed() {
                // Whoever asked may be gone by now.
                let _ = reply.send(self.make(&state, change).await);
            }
        });
        answer.await.unwrap_or_else(|error| Err(Unchanged::NotKept(error.into())))
    }

    /// Makes a change, whose turn it is.
    async fn make<T>(
        &self,
        state: &State,
        change: impl Fn(&mut Names) -> Result<T, RegisterError>,
    ) -> Result<T, Unchanged> {
        let tried = state.read(|names| {
            let mut trial = names.trial();
            change(&mut trial).map(|_| trial.given())
        });
        self.write(tried.map_err(Unchanged::Refused)?).await.map_err(Unchanged::NotKept)?;
        let outcome = state.write(change).map_err(Unchanged::Refused);
        state.changed.notify_one();
        outcome
    }

    /// Keeps the file equal to what ends by itself. Never returns.
    pub(crate) async fn follow(&self, state: &State) {
        let mut versions = state.versions();
        loop {
            versions.mark_unchanged();
            if let Err(error) = self.save(state).await {
                let message = format!("{error:#}; until then a restart of dns may bring back names that ended");
                state.problems.set(Part::Store, message);
                sleep(RETRY).await;
                continue;
            }
            state.problems.clear(Part::Store);
            // The sender lives in the state.
            let _ = versions.changed().await;
        }
    }

    /// Writes what is left to write when the service stops.
    pub(crate) async fn finish(&self, state: &State) {
        match timeout(LAST_CHANCE, self.save(state)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = %format_args!("{error:#}"), "names by hand are not kept as they are");
            }
            Err(_) => tracing::warn!("names by hand may not be kept as they are: the disk takes longer than 2 s"),
        }
    }

    async fn save(&self, state: &State) -> Result {
        let _turn = self.turn.lock().await;
        self.write(state.read(Names::given)).await
    }

    async fn write(&self, given: Vec<Given>) -> Result {
        let file = Arc::clone(&self.file);
        spawn_blocking(move || file.write(given)).await.context("writing failed")?
    }
}

impl File {
    fn write(&self, given: Vec<Given>) -> Result {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if *content == given {
            return Ok(());
        }
        let stored: Vec<_> = given.iter().map(|given| stored(&self.zone, given)).collect();
        let outcome = self.store.save(FILE, &stored);
        if outcome.is_ok() {
            *content = given;
        } else if let Ok(there) = load(&self.store, &self.zone) {
            // It failed after the file was replaced, perhaps.
            *content = there.unwrap_or_default();
        }
        outcome
    }
}

/// Reads the file, if there is one.
fn load(store: &Store, zone: &Zone) -> Result<Option<Vec<Given>>> {
    let Some(stored) = store.load::<Option<Vec<Stored>>>(FILE)? else { return Ok(None) };
    let given = stored.into_iter().map(|stored| given(zone, stored)).collect::<Result<_>>();
    given.map(Some).with_context(|| store.damaged(FILE))
}

fn stored(zone: &Zone, given: &Given) -> Stored {
    let Given { holder, address, names, needs } = given;
    let needs = match needs {
        Needs::Nothing => StoredNeeds::Nothing,
        Needs::Container => StoredNeeds::Container,
        Needs::Address => StoredNeeds::Address,
    };
    let container = (*holder != nobody()).then(|| holder.to_string());
    Stored { container, address: *address, names: names.iter().filter_map(|name| zone.relative(name)).collect(), needs }
}

fn given(zone: &Zone, stored: Stored) -> Result<Given> {
    let Stored { container, address, names, needs } = stored;
    let holder = convert::holder(&container.unwrap_or_default())?;
    let names = names.iter().map(|name| zone.name(&format!("{name}.{}", zone.apex()))).collect::<Result<_, _>>()?;
    let needs = match needs {
        StoredNeeds::Nothing => Needs::Nothing,
        StoredNeeds::Container => Needs::Container,
        StoredNeeds::Address => Needs::Address,
    };
    Ok(Given { holder, address, names, needs })
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll};

    use super::*;
    use crate::metrics::Metrics;

    fn names(domain: &str) -> Names {
        let zone = Zone::new(domain, 1).expect("valid");
        Names::new(zone, "10.32.0.0/12".parse().expect("valid"))
    }

    fn given(holder: &str, address: &str, name: &str, needs: Needs) -> Given {
        let names = vec![names("weft.internal").zone().name(name).expect("valid")];
        let holder = convert::holder(holder).expect("valid");
        Given { holder, address: address.parse().expect("valid"), names, needs }
    }

    fn open(folder: &Path, domain: &str) -> Vec<Given> {
        let mut names = names(domain);
        NameStore::open(folder, &mut names).expect("opened");
        names.given()
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_follows_the_domain() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        assert_eq!(open(folder.path(), "weft.internal"), []);
        let store = NameStore::open(folder.path(), &mut names("weft.internal")).expect("opened");
        let all = vec![
            given("c1", "10.32.0.1", "alias", Needs::Address),
            given("c1", "192.0.2.7", "far.alias", Needs::Container),
            given("c2", "fd00::2", "loose", Needs::Nothing),
            given("", "192.0.2.9", "printer", Needs::Nothing),
        ];
        store.write(all.clone()).await.expect("written");
        assert_eq!(open(folder.path(), "weft.internal"), all);

        let text = std::fs::read_to_string(folder.path().join(FILE)).expect("there");
        let content: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!({ "version": 1, "content": [
            { "container": "c1", "address": "10.32.0.1", "names": ["alias"], "needs": "address" },
            { "container": "c1", "address": "192.0.2.7", "names": ["far.alias"], "needs": "container" },
            { "container": "c2", "address": "fd00::2", "names": ["loose"], "needs": "nothing" },
            { "address": "192.0.2.9", "names": ["printer"], "needs": "nothing" },
        ]});
        assert_eq!(content, expected);

        let moved: Vec<_> = open(folder.path(), "example.org").iter().map(|given| given.names[0].to_string()).collect();
        let expected = ["alias.example.org.", "far.alias.example.org.", "loose.example.org.", "printer.example.org."];
        assert_eq!(moved, expected);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut names = names("weft.internal");
        let store = Arc::new(NameStore::open(folder.path(), &mut names).expect("opened"));
        names.restore(Vec::new()).expect("nothing is no fault");
        let state = Arc::new(State::new(names, Metrics::new().1));
        let zone = store.file.zone.clone();
        let add = |name: &str| {
            let given = zone.record(&[name.to_owned()], &["192.0.2.9".parse().expect("valid")], true).expect("valid");
            move |names: &mut Names| names.add_by_hand(&nobody(), &given)
        };
        let turn = store.turn.lock().await;
        let mut waiting = Vec::new();
        for _ in 0..MOST_CHANGES {
            let mut change = Box::pin(Arc::clone(&store).change(Arc::clone(&state), add("late")));
            assert!(poll_fn(|context| Poll::Ready(change.as_mut().poll(context).is_pending())).await);
            waiting.push(change);
        }
        let refused = Arc::clone(&store).change(Arc::clone(&state), add("one-more")).await;
        assert!(matches!(refused, Err(Unchanged::NotKept(error)) if error.to_string().contains("try again")));
        drop((waiting, turn));
        // There is room again once all have seen that nobody waits.
        let taken = async {
            while Arc::clone(&store).change(Arc::clone(&state), add("printer")).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), taken).await.expect("there is room in time");
        let known: Vec<_> = state.read(Names::given).iter().map(|given| given.names[0].to_string()).collect();
        assert_eq!(known, ["printer.weft.internal."]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_left() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let file = folder.path().join(FILE);
        let long = "x".repeat(200);
        for (entry, says) in [
            (r#"{"container":"c","address":"192.0.2.1","names":["a"],"needs":"luck"}"#.to_owned(), "luck"),
            (r#"{"container":"weft:x","address":"192.0.2.1","names":["a"],"needs":"nothing"}"#.to_owned(), "weft:x"),
            (r#"{"address":"192.0.2","names":["a"],"needs":"nothing"}"#.to_owned(), "invalid IP address"),
            (r#"{"address":"192.0.2.1","names":["a b"],"needs":"nothing"}"#.to_owned(), "not a host name"),
            (format!(r#"{{"container":"{long}","address":"192.0.2.1","names":["a"],"needs":"nothing"}}"#), "container"),
        ] {
            let text = format!(r#"{{"version":1,"content":[{entry}]}}"#);
            std::fs::write(&file, &text).expect("written");
            let error = NameStore::open(folder.path(), &mut names("weft.internal")).expect_err("refused");
            let error = format!("{error:#}");
            assert!(error.contains("names.json is damaged: restore it") && error.contains(says), "{error}");
            assert_eq!(std::fs::read_to_string(&file).expect("there"), text);
        }
    }
}
