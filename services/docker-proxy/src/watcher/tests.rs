//! The watcher before a played engine.

use std::sync::Arc;

use clap::Parser;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Mutex,
};
use weft_service::Shutdown;

use super::*;
use crate::{
    chosen::Chosen,
    config::Config,
    detached::{self, Detached},
    driver::Driver,
    services::Options,
};

/// Longest time that anything may take on a busy machine; shorter than a call may take that hangs.
const SOON: Duration = Duration::from_secs(8);

/// Plays an engine; who asks for what it does not know, waits for ever.
struct Played {
    answers: BTreeMap<String, String>,
    events: Mutex<mpsc::UnboundedReceiver<String>>,
    /// Which containers were inspected.
    inspected: mpsc::UnboundedSender<String>,
}

impl Played {
    async fn listen(self: Arc<Self>, listener: UnixListener) {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            tokio::spawn(Arc::clone(&self).serve(stream));
        }
    }

    async fn serve(self: Arc<Self>, mut stream: UnixStream) {
        let mut head = String::new();
        let mut reader = BufReader::new(&mut stream);
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).await.expect("readable") > 0, "cut: {head}");
        }
        let path = head.split([' ', '?']).nth(1).expect("GET PATH");
        if path == "/events" {
            let mut answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
            let mut events = self.events.lock().await;
            loop {
                stream.write_all(answer.as_bytes()).await.expect("writable");
                let Some(event) = events.recv().await else { return };
                answer = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
            }
        }
        if let Some(id) = path.strip_prefix("/containers/").and_then(|rest| rest.strip_suffix("/json")) {
            self.inspected.send(id.to_owned()).expect("the test goes on");
        }
        match self.answers.get(path) {
            Some(body) => {
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.expect("writable");
            }
            None => std::future::pending().await,
        }
    }
}

/// A watcher with its driver, but without other services, before a played engine.
struct Setting {
    driver: Driver,
    happens: mpsc::UnboundedSender<String>,
    inspected: mpsc::UnboundedReceiver<String>,
    _again: mpsc::Sender<()>,
    _trigger: weft_service::ShutdownTrigger,
}

impl Setting {
    /// Begins. `running` is listed; of `known`, and whether each is to be attached, there are inspections.
    fn new(folder: &tempfile::TempDir, running: &[String], known: &[(&str, bool)]) -> Self {
        let socket = folder.path().join("engine.sock");
        let listed: Vec<_> = running.iter().map(|id| serde_json::json!({ "Id": id, "State": "running" })).collect();
        let mut answers = BTreeMap::from([
            ("/version".to_owned(), "{}".to_owned()),
            ("/containers/json".to_owned(), serde_json::json!(listed).to_string()),
        ]);
        for (id, attach) in known {
            let entrypoint = if *attach { "/./././///./.dockerenv" } else { "sh" };
            let (state, config) =
                (serde_json::json!({ "Running": true, "Pid": 7 }), serde_json::json!({ "Entrypoint": [entrypoint] }));
            let inspection = serde_json::json!({ "Id": id, "State": state, "Config": config });
            answers.insert(format!("/containers/{id}/json"), inspection.to_string());
        }
        let (happens, events) = mpsc::unbounded_channel();
        let (inspects, inspected) = mpsc::unbounded_channel();
        let played = Arc::new(Played { answers, events: Mutex::new(events), inspected: inspects });
        tokio::spawn(played.listen(UnixListener::bind(&socket).expect("the socket can be bound")));

        let (trigger, shutdown) = Shutdown::triggered();
        let options =
            Options { address_timeout: SOON, step_timeout: SOON, multicast_route: false, rewrite_hosts: false };
        let services = Services::new(folder.path(), options);
        let chosen = Chosen::load(folder.path()).expect("there is none");
        let driver =
            Driver::spawn(services.clone(), Detached::load(folder.path().join(detached::FILE)), chosen, shutdown);
        let engine = Engine::new(socket);
        let attacher = Attacher::new(&Config::parse_from(["weft-docker-proxy"]), engine.clone(), driver.clone());
        let (state, _) = watch::channel(EngineState::default());
        let (again, compare) = mpsc::channel(1);
        tokio::spawn(Watcher::new(engine, attacher, services, state, compare).run());
        Self { driver, happens, inspected, _again: again, _trigger: trigger }
    }

    /// Has the engine say that a container was started.
    fn starts(&self, id: &str) {
        let event = serde_json::json!({ "Type": "container", "Action": "start", "Actor": { "ID": id } });
        self.happens.send(event.to_string()).expect("the engine goes on");
    }

    async fn next_inspected(&mut self) -> String {
        soon(self.inspected.recv()).await.expect("the engine goes on")
    }

    /// Waits until these containers are to be attached.
    async fn attaches(&self, ids: &[&str]) {
        soon(async {
            loop {
                let views = self.driver.list().await;
                let found: Vec<_> = views.iter().map(|view| view.container.id.as_str()).collect();
                if found == ids {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("in time")
}

fn id(number: u32) -> String {
    format!("{number:064x}")
}

#[tokio::test]
async fn events_do_not_wait_for_a_comparison_of_many_containers() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let many: Vec<String> = (0..500).map(id).collect();
    let (last, new) = (&many[499], &id(1000));
    let mut setting = Setting::new(&folder, &many, &[(last, true), (new, true)]);
    let mut compared = Vec::new();
    for _ in 0..8 {
        compared.push(setting.next_inspected().await);
    }
    compared.sort();
    assert_eq!(compared, many[..8]);
    setting.starts(new);
    setting.starts(last);
    setting.attaches(&[last, new]).await;
    let mut others = [setting.next_inspected().await, setting.next_inspected().await];
    others.sort();
    assert_eq!(others, [last.clone(), new.clone()]);
    assert!(setting.inspected.try_recv().is_err(), "more at a time than the engine is asked for");
}

#[tokio::test]
async fn an_ipam_that_hangs_holds_up_no_event() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // Connections are taken by the kernel; nobody ever reads.
    let _ipam = UnixListener::bind(client::Service::Ipam.socket(folder.path())).expect("the socket can be bound");
    let (foreign, new) = (&id(1), &id(2));
    let mut setting = Setting::new(&folder, &[], &[(foreign, false), (new, true)]);
    setting.starts(foreign);
    assert_eq!(setting.next_inspected().await, *foreign);
    setting.starts(new);
    setting.attaches(&[new]).await;
}
