//! Asks the engine about containers: of each one thing after the other, of many side by side.
//!
//! Those that something happened to do not wait for those that are merely compared with what the services hold. An inspection
//! that fails says nothing about the container, and is tried again for as long as the engine knows of it; meanwhile those of
//! others go on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context;
use ipnet::Ipv4Net;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use weft_docker_proxy_core::{Container, Decision, eligibility};
use weft_types::ContainerId;

use crate::{engine::Engine, services::Services};

/// Inspections at a time of containers that something happened to, and as many of those that are compared; others wait.
const SIDE_BY_SIDE: usize = 8;

/// Shortest and longest pause before an inspection that failed is tried again, unless something happens to the container.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What happened to a container since it was inspected last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Its process was started, or was found to run.
    pub(super) started: bool,
    /// Its process ended, or was found not to run.
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
    /// The addresses that it holds although it does not ask for any: it was attached by hand. Known only of one that was
    /// started, and while ipam answers; all is compared when ipam is back.
    pub(super) held: Vec<Ipv4Net>,
}

/// An inspection that ended.
#[derive(Debug)]
struct Inspected {
    id: ContainerId,
    news: News,
    /// How many failed before.
    failures: u32,
    outcome: anyhow::Result<(Option<Container>, Vec<Ipv4Net>)>,
}

/// An inspection that is to be tried again.
#[derive(Debug)]
struct Failed {
    news: News,
    failures: u32,
    again: Instant,
}

/// Inspections under way and to come: at most one of each container.
#[derive(Debug)]
pub(super) struct Inspections {
    engine: Engine,
    services: Services,
    under_way: JoinSet<Inspected>,
    /// Whose inspection is under way, and what happened to them since it began.
    since: BTreeMap<ContainerId, News>,
    /// Who is compared, and has not had a turn.
    compared: BTreeMap<ContainerId, News>,
    failed: BTreeMap<ContainerId, Failed>,
    slots: Arc<Semaphore>,
    slots_of_compared: Arc<Semaphore>,
}

impl Inspections {
    pub(super) fn new(engine: Engine, services: Services) -> Self {
        let [slots, slots_of_compared] = [SIDE_BY_SIDE; 2].map(|slots| Arc::new(Semaphore::new(slots)));
        let (since, compared, failed) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { engine, services, under_way: JoinSet::new(), since, compared, failed, slots, slots_of_compared }
    }

    /// Tells whether a container is being inspected, or is to be.
    pub(super) fn is_under_way(&self, id: &ContainerId) -> bool {
        self.since.contains_key(id) || self.compared.contains_key(id) || self.failed.contains_key(id)
    }

    /// Has a container inspected because something happened to it.
    pub(super) fn begin(&mut self, id: ContainerId, mut news: News) {
        if let Some(since) = self.since.get_mut(&id) {
            since.add(news);
            return;
        }
        let failed = self.failed.remove(&id);
        let failures = failed.as_ref().map_or(0, |failed| failed.failures);
        let before = self.compared.remove(&id).into_iter().chain(failed.map(|failed| failed.news));
        before.for_each(|before| news.add(before));
        self.spawn(id, news, failures, None);
    }

    /// Has a container inspected, in its turn, because it is compared with what the services hold.
    pub(super) fn compare(&mut self, id: ContainerId, news: News) {
        let known = self.since.get_mut(&id).or_else(|| self.failed.get_mut(&id).map(|failed| &mut failed.news));
        known.unwrap_or_else(|| self.compared.entry(id).or_default()).add(news);
    }

    /// Waits for the next container that something is known of. Cancel safe.
    ///
    /// # Errors
    /// If an inspection was cut short, so that it is not known whose.
    pub(super) async fn next(&mut self) -> anyhow::Result<Found> {
        loop {
            let again = self.failed.values().map(|failed| failed.again).min();
            tokio::select! {
                Some(ended) = self.under_way.join_next() => {
                    if let Some(found) = self.take(ended.context("an inspection was cut short")?) {
                        return Ok(found);
                    }
                }
                Ok(slot) = Arc::clone(&self.slots_of_compared).acquire_owned(), if !self.compared.is_empty() => {
                    if let Some((id, news)) = self.compared.pop_first() {
                        self.spawn(id, news, 0, Some(slot));
                    }
                }
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => self.try_again(),
                else => return std::future::pending().await,
            }
        }
    }

    fn take(&mut self, Inspected { id, mut news, failures, outcome }: Inspected) -> Option<Found> {
        let since = self.since.remove(&id).unwrap_or_default();
        match outcome {
            Ok(_) if since.destroyed => Some(Found { id, news: since, container: None, held: Vec::new() }),
            Ok((container, held)) => {
                if since != News::default() {
                    self.spawn(id.clone(), since, 0, None);
                }
                Some(Found { id, news, container, held })
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(container = id.short(), "failed to inspect a container, trying again: {error:#}");
                } else {
                    tracing::debug!(container = id.short(), failures, "failed to inspect a container: {error:#}");
                }
                news.add(since);
                let failures = failures.saturating_add(1);
                if news.destroyed {
                    self.spawn(id, news, failures, None);
                } else {
                    let pause = if since == News::default() { pause_after(failures) } else { PAUSE.0 };
                    self.failed.insert(id, Failed { news, failures, again: Instant::now() + pause });
                }
                None
            }
        }
    }

    /// Tries those again whose pause is over.
    fn try_again(&mut self) {
        let now = Instant::now();
        for (id, failed) in self.failed.extract_if(.., |_, failed| failed.again <= now).collect::<Vec<_>>() {
            self.spawn(id, failed.news, failed.failures, None);
        }
    }

    fn spawn(&mut self, id: ContainerId, news: News, failures: u32, slot: Option<OwnedSemaphorePermit>) {
        self.since.insert(id.clone(), News::default());
        let (engine, mut services, slots) = (self.engine.clone(), self.services.clone(), Arc::clone(&self.slots));
        self.under_way.spawn(async move {
            let slot = match slot {
                Some(slot) => Ok(slot),
                None => slots.acquire_owned().await,
            };
            let inspected = if news.destroyed { Ok(None) } else { engine.container(id.as_str()).await };
            // The inspections of others do not wait for ipam.
            drop(slot);
            let held = match &inspected {
                Ok(Some(container)) if news.started && asks_for_nothing(container) => {
                    services.held(&id).await.unwrap_or_default()
                }
                Ok(_) | Err(_) => Vec::new(),
            };
            Inspected { id, news, failures, outcome: inspected.map(|container| (container, held)) }
        });
    }
}

/// Tells whether a running container is to have nothing, unless somebody attached it by hand.
fn asks_for_nothing(container: &Container) -> bool {
    container.pid.is_some() && !matches!(eligibility::of_container(container), Decision::Attach { .. })
}

fn pause_after(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE.0.saturating_mul(factor).min(PAUSE.1)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
        net::UnixListener,
    };

    use super::*;
    use crate::services::Options;

    /// Longest time that anything may take on a busy machine.
    const SOON: Duration = Duration::from_secs(10);

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
        let options =
            Options { address_timeout: SOON, step_timeout: SOON, multicast_route: false, rewrite_hosts: false };
        (Inspections::new(Engine::new(socket), Services::new(folder.path(), options)), folder)
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

    #[tokio::test]
    async fn what_happens_to_a_container_ends_the_pause_after_failures() {
        // Their pauses together are longer than anything may take.
        const FAILURES: u32 = 6;
        let (mut inspections, _folder) = inspections(FAILURES);
        let found = tokio::time::timeout(SOON, async {
            for _ in 0..FAILURES {
                inspections.begin(id("bad"), CHANGED);
                while inspections.failed.is_empty() {
                    let none = tokio::time::timeout(Duration::from_millis(10), inspections.next()).await;
                    assert!(none.is_err(), "{none:?}");
                }
            }
            inspections.compare(id("bad"), STARTED);
            inspections.begin(id("bad"), CHANGED);
            inspections.next().await
        });
        let found = found.await.expect("no pause is waited for").expect("known");
        assert!(found.news.started && found.news.changed && found.container.is_some(), "{found:?}");
        assert!(inspections.since.is_empty() && inspections.failed.is_empty(), "{inspections:?}");
    }

    #[test]
    fn what_fails_again_and_again_is_tried_ever_more_seldom() {
        let pauses = [1, 2, 3, 6, 7, 32, 33, u32::MAX].map(|failures| pause_after(failures).as_secs());
        assert_eq!(pauses, [1, 2, 4, 32, 60, 60, 60, 60]);
    }

    #[tokio::test]
    async fn whoever_is_compared_has_one_inspection_also_if_something_happens_to_it() {
        let (mut inspections, _folder) = inspections(0);
        inspections.compare(id("good"), STARTED);
        inspections.compare(id("gone"), STARTED);
        inspections.begin(id("good"), CHANGED);
        let mut found = Vec::new();
        for _ in 0..2 {
            let Found { id, news, .. } = inspections.next().await.expect("known");
            found.push((id, news));
        }
        found.sort_by_key(|(id, _)| id.clone());
        assert_eq!(found, [(id("gone"), STARTED), (id("good"), News { changed: true, ..STARTED })]);
        assert!(inspections.since.is_empty() && inspections.compared.is_empty(), "{inspections:?}");
    }
}
