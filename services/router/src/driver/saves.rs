//! Writes state away from the loop, which must not wait for a disk: one writing at a time, and of each file only what is
//! newest. Who asked is answered when what was asked for, or something newer, is on disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use anyhow::anyhow;
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
};
use weft_service::Store;
use weft_types::PeerName;

use super::{CHANNELS_FILE, EXPOSED_FILE, TARGETS_FILE, handle::Revoked};
use crate::{
    admitted::{self, Revocations},
    exposed::Exposed,
    identity::Identity,
    kept_targets::KeptTargets,
};

/// Answers of one file that wait for the disk; who asks more is answered at once, with a refusal where the disk decides.
const MOST_WAITING: usize = 1024;

/// What a file is to hold.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Identity(Identity),
    Targets(KeptTargets),
    Channels(BTreeSet<String>),
    Revocations(Revocations),
    KnownPeers(BTreeSet<PeerName>),
    Exposed(Exposed),
}

impl Content {
    const fn file(&self) -> State {
        match self {
            Self::Identity(_) => State::Identity,
            Self::Targets(_) => State::Targets,
            Self::Channels(_) => State::Channels,
            Self::Revocations(_) => State::Revocations,
            Self::KnownPeers(_) => State::KnownPeers,
            Self::Exposed(_) => State::Exposed,
        }
    }

    fn write(&self, store: &Store) -> anyhow::Result<()> {
        match self {
            Self::Identity(identity) => identity.save(store),
            Self::Targets(targets) => store.save(TARGETS_FILE, targets),
            Self::Channels(channels) => store.save(CHANNELS_FILE, channels),
            Self::Revocations(revocations) => revocations.save(store),
            Self::KnownPeers(peers) => admitted::save_known_peers(store, peers),
            Self::Exposed(exposed) => store.save(EXPOSED_FILE, exposed),
        }
    }
}

/// State that is written when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Identity,
    Targets,
    Channels,
    Revocations,
    KnownPeers,
    Exposed,
}

/// An answer that waits for the disk. Whoever asked may have gone meanwhile: what is done stays done.
#[derive(Debug)]
pub(super) enum Reply {
    Done(oneshot::Sender<anyhow::Result<()>>),
    Unknown(oneshot::Sender<anyhow::Result<Vec<String>>>, Vec<String>),
    Revoked(oneshot::Sender<anyhow::Result<Revoked>>, Revoked),
}

impl Reply {
    pub(super) fn send(self, outcome: anyhow::Result<()>) {
        match self {
            Self::Done(reply) => drop(reply.send(outcome)),
            Self::Unknown(reply, unknown) => drop(reply.send(outcome.map(|()| unknown))),
            Self::Revoked(reply, revoked) => drop(reply.send(outcome.map(|()| revoked))),
        }
    }
}

type Outcomes = Vec<(Content, anyhow::Result<()>)>;

/// What is to be written, what is being written, and what could not be.
#[derive(Debug)]
pub(super) struct Saves {
    store: Store,
    wanted: BTreeMap<State, Content>,
    waiting: BTreeMap<State, Vec<Reply>>,
    writing: Option<JoinHandle<Outcomes>>,
    /// What is being written, and who waits for it.
    written_for: BTreeMap<State, Vec<Reply>>,
    failed: BTreeMap<State, (Content, String)>,
}

impl Saves {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            wanted: BTreeMap::new(),
            waiting: BTreeMap::new(),
            writing: None,
            written_for: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Has a file written, and the answer given when it is on disk.
    pub(super) fn save(&mut self, content: Content, reply: Option<Reply>) {
        let waiting = self.waiting.entry(content.file()).or_default();
        if waiting.len() >= MOST_WAITING {
            if let Some(reply) = reply {
                reply.send(Err(anyhow!("{MOST_WAITING} answers wait for the disk already: try again later")));
            }
        } else {
            waiting.extend(reply);
        }
        self.wanted.insert(content.file(), content);
        self.go_on();
    }

    /// Tries again to write what could not be.
    pub(super) fn retry(&mut self) {
        // What is being written may be newer.
        if self.writing.is_some() {
            return;
        }
        for (state, (content, _)) in &self.failed {
            self.wanted.entry(*state).or_insert_with(|| content.clone());
        }
        self.go_on();
    }

    /// Waits until something was written. Cancel safe; has to be called until nothing is left.
    pub(super) async fn written(&mut self) {
        let Some(writing) = &mut self.writing else { return std::future::pending().await };
        let outcomes = writing.await;
        self.writing = None;
        self.settle(outcomes);
        self.go_on();
    }

    /// Writes all that is left.
    pub(super) async fn finish(&mut self) {
        while self.writing.is_some() {
            self.written().await;
        }
    }

    /// Returns why files could not be written, which are tried again.
    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        self.failed.values().map(|(_, message)| message.as_str())
    }

    fn go_on(&mut self) {
        if self.writing.is_some() || self.wanted.is_empty() {
            return;
        }
        let (store, wanted) = (self.store.clone(), mem::take(&mut self.wanted));
        self.written_for = mem::take(&mut self.waiting);
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let write = |content: Content| {
                let outcome = content.write(&store);
                (content, outcome)
            };
            wanted.into_values().map(write).collect()
        }));
    }

    fn settle(&mut self, outcomes: Result<Outcomes, JoinError>) {
        let mut replies = mem::take(&mut self.written_for);
        // Should the task have panicked, its answers are dropped, which those who wait take for the end of the service.
        for (content, outcome) in outcomes.unwrap_or_default() {
            let state = content.file();
            let message = outcome.err().map(|error| format!("{error:#}"));
            for reply in replies.remove(&state).unwrap_or_default() {
                reply.send(message.clone().map_or(Ok(()), |message| Err(anyhow!(message))));
            }
            match message {
                Some(message) => self.failed.insert(state, (content, message)),
                None => self.failed.remove(&state),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(texts: &[&str]) -> KeptTargets {
        KeptTargets::new(&[], texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn targets(texts: &[&str]) -> Content {
        Content::Targets(kept(texts))
    }

    fn waiter() -> (Option<Reply>, oneshot::Receiver<anyhow::Result<()>>) {
        let (reply, answer) = oneshot::channel();
        (Some(Reply::Done(reply)), answer)
    }

    #[tokio::test]
    async fn the_newest_is_written_and_all_are_answered_when_it_is_there() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        let mut saves = Saves::new(store.clone());
        let mut answers = Vec::new();
        for texts in [&["a"][..], &["a", "b"], &["c"]] {
            let (reply, mut answer) = waiter();
            saves.save(targets(texts), reply);
            assert!(answer.try_recv().is_err(), "it cannot be on disk yet");
            answers.push(answer);
        }
        saves.written().await;
        assert_eq!(store.load::<KeptTargets>(TARGETS_FILE).expect("read"), kept(&["a"]));
        answers.remove(0).try_recv().expect("answered").expect("written");
        assert!(answers[0].try_recv().is_err(), "what it asked for is being written");
        saves.finish().await;
        assert_eq!(store.load::<KeptTargets>(TARGETS_FILE).expect("read"), kept(&["c"]));
        for mut answer in answers {
            answer.try_recv().expect("answered").expect("written");
        }
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_told_and_tried_again() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let store = Store::open(folder.path()).expect("opened");
        let mut saves = Saves::new(store.clone());
        // A folder in the place of the file that is written to.
        let obstacle = store.path(&format!(".{TARGETS_FILE}.new"));
        std::fs::create_dir(&obstacle).expect("made");
        let (reply, mut answer) = waiter();
        saves.save(targets(&["a"]), reply);
        saves.finish().await;
        let error = format!("{:#}", answer.try_recv().expect("answered").expect_err("not written"));
        assert!(error.contains(TARGETS_FILE), "{error}");
        saves.retry();
        saves.finish().await;
        assert_eq!(saves.problems().collect::<Vec<_>>(), [error.as_str()]);
        std::fs::remove_dir(&obstacle).expect("removed");
        saves.retry();
        saves.finish().await;
        assert!(saves.problems().next().is_none());
        assert_eq!(store.load::<KeptTargets>(TARGETS_FILE).expect("read"), kept(&["a"]));
    }
}
