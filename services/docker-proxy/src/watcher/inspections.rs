//! Asks the engine about containers that something happened to: of each one thing after the other, of many side by side.
//!
//! An inspection that fails says nothing about the container, and is tried again for as long as the engine knows of it;
//! meanwhile those of others go on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::Semaphore, task::JoinSet};
use weft_docker_proxy_core::Container;
use weft_types::ContainerId;

use crate::engine::Engine;

/// Inspections at a time; others wait.
const SIDE_BY_SIDE: usize = 8;

/// Pause before an inspection that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What happened to a container since it was inspected last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Its process was started.
    pub(super) started: bool,
    /// Its process ended.
    pub(super) died: bool,
    /// Its names or its health changed.
    pub(super) changed: bool,
    /// It was removed, which is the last that happens to it.
    pub(super) destroyed: bool,
}

impl News {
    fn add(&mut self, more: Self) {
        self.started |= more.started;
        self.died |= more.died;
        self.changed |= more.changed;
        self.destroyed |= more.destroyed;
    }
}

/// What is known after an inspection.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: ContainerId,
    pub(super) news: News,
    /// Nothing if there is no such container any more.
    pub(super) container: Option<Container>,
}

/// Inspections under way: at most one of each container.
#[derive(Debug)]
pub(super) struct Inspections {
    engine: Engine,
    under_way: JoinSet<(ContainerId, News, anyhow::Result<Option<Container>>)>,
    /// Whose inspection is under way, and what happened to them since it began.
    since: BTreeMap<ContainerId, News>,
    slots: Arc<Semaphore>,
}

impl Inspections {
    pub(super) fn new(engine: Engine) -> Self {
        let slots = Arc::new(Semaphore::new(SIDE_BY_SIDE));
        Self { engine, under_way: JoinSet::new(), since: BTreeMap::new(), slots }
    }

    /// Has a container inspected because something happened to it.
    pub(super) fn begin(&mut self, id: ContainerId, news: News) {
        match self.since.get_mut(&id) {
            Some(since) => since.add(news),
            None => self.spawn(id, news, Duration::ZERO),
        }
    }

    /// Waits for the next container that something is known of. Cancel safe.
    ///
    /// # Errors
    /// If an inspection was cut short, so that it is not known whose.
    pub(super) async fn next(&mut self) -> anyhow::Result<Found> {
        loop {
            let Some(ended) = self.under_way.join_next().await else { return std::future::pending().await };
            let (id, mut news, inspected) = ended.context("an inspection was cut short")?;
            let since = self.since.remove(&id).unwrap_or_default();
            match inspected {
                Ok(_) if since.destroyed => return Ok(Found { id, news: since, container: None }),
                Ok(container) => {
                    if since != News::default() {
                        self.spawn(id.clone(), since, Duration::ZERO);
                    }
                    return Ok(Found { id, news, container });
                }
                Err(error) => {
                    tracing::warn!(container = id.short(), "failed to inspect a container, trying again: {error:#}");
                    news.add(since);
                    self.spawn(id, news, if news.destroyed { Duration::ZERO } else { RETRY });
                }
            }
        }
    }

    fn spawn(&mut self, id: ContainerId, news: News, pause: Duration) {
        self.since.insert(id.clone(), News::default());
        let (engine, slots) = (self.engine.clone(), Arc::clone(&self.slots));
        self.under_way.spawn(async move {
            tokio::time::sleep(pause).await;
            let _slot = slots.acquire().await;
            let inspected = if news.destroyed { Ok(None) } else { engine.container(id.as_str()).await };
            (id, news, inspected)
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixListener,
    };

    use super::*;

    const STARTED: News = News { started: true, died: false, changed: false, destroyed: false };
    const CHANGED: News = News { started: false, died: false, changed: true, destroyed: false };
    const DESTROYED: News = News { started: false, died: false, changed: false, destroyed: true };

    fn id(text: &str) -> ContainerId {
        text.parse().expect("valid")
    }

    /// Plays an engine that fails to inspect `bad` so many times.
    async fn engine(listener: UnixListener, mut failures: u32) {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            let mut head = String::new();
            let mut reader = BufReader::new(&mut stream);
            while !head.ends_with("\r\n\r\n") {
                assert!(reader.read_line(&mut head).await.expect("readable") > 0, "cut: {head}");
            }
            let name = head.split('/').nth(2).expect("GET /containers/NAME/json");
            let (status, body) = match name {
                "gone" => ("404 Not Found", String::new()),
                "bad" if failures > 0 => {
                    failures -= 1;
                    ("500 Internal Server Error", String::new())
                }
                name => ("200 OK", format!("{{\"Id\":\"{name}\"}}")),
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("writable");
        }
    }

    fn inspections(failures: u32) -> (Inspections, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let socket = folder.path().join("engine.sock");
        tokio::spawn(engine(UnixListener::bind(&socket).expect("the socket can be bound"), failures));
        (Inspections::new(Engine::new(socket)), folder)
    }

    #[tokio::test]
    async fn a_failing_inspection_is_tried_again_and_holds_up_nobody() {
        let (mut inspections, _folder) = inspections(1);
        inspections.begin(id("bad"), STARTED);
        inspections.begin(id("good"), CHANGED);
        inspections.begin(id("bad"), CHANGED);
        let found = inspections.next().await.expect("known");
        assert_eq!((found.id, found.news), (id("good"), CHANGED));
        let found = inspections.next().await.expect("known");
        assert_eq!((found.id, found.news.started, found.news.changed), (id("bad"), true, true));
        assert_eq!(found.container.expect("there").id, id("bad"));
        assert!(inspections.since.is_empty(), "{inspections:?}");
    }

    #[tokio::test]
    async fn what_is_gone_is_over_and_what_happens_meanwhile_is_looked_at_again() {
        let (mut inspections, _folder) = inspections(0);
        inspections.begin(id("gone"), STARTED);
        assert!(inspections.next().await.expect("known").container.is_none());
        inspections.begin(id("good"), STARTED);
        inspections.begin(id("good"), CHANGED);
        assert_eq!(inspections.next().await.expect("known").news, STARTED);
        assert_eq!(inspections.next().await.expect("known").news, CHANGED);
        inspections.begin(id("good"), STARTED);
        inspections.begin(id("good"), DESTROYED);
        let found = inspections.next().await.expect("known");
        assert!(found.news == DESTROYED && found.container.is_none(), "{found:?}");
        assert!(inspections.since.is_empty(), "{inspections:?}");
    }
}
