//! The metrics of a real docker-proxy process, before which no engine runs.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use weft_metrics::{merge, shared, testing::read};
use weft_proto::client::{Service, channel};

const PATIENCE: Duration = Duration::from_secs(10);

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn every_metric_is_there_and_calls_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-docker-proxy"));
    command.env_clear().stdin(Stdio::null()).args(["--host", "off"]);
    command.arg("--socket-folder").arg(folder.path()).arg("--shim-folder").arg(folder.path().join("shim"));
    command.arg("--engine-socket").arg(folder.path().join("no-engine.sock"));
    let _process = Process(command.spawn().expect("docker-proxy starts"));
    let socket = Service::DockerProxy.socket(folder.path());
    let started = tokio::time::timeout(PATIENCE, async {
        while weft_service::check(&socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    started.await.expect("docker-proxy gets ready");

    for target in ["/info", "/containers/json"] {
        let mut client = UnixStream::connect(folder.path().join("docker/docker.sock")).await.expect("served");
        let request = format!("GET {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let end = tokio::time::timeout(PATIENCE, client.read_to_string(&mut answer)).await;
        end.expect("an answer in time").expect("readable");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    }
    let held = UnixStream::connect(folder.path().join("docker/docker.sock")).await.expect("served");
    let scrapes = tokio::time::timeout(PATIENCE, async {
        loop {
            let families = weft_service::fetch_metrics(channel(&socket)).await.expect("answered");
            let scrape = read(&merge([families])).expect("well-formed");
            let missing = scrape.missing(&[shared::FAMILIES, weft_docker_proxy::metrics::FAMILIES].concat());
            assert_eq!(missing, [shared::UP.name], "what only the router can say");
            let counts = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels) as u64;
            assert_eq!(counts("weft_docker_proxy_requests_total", &[("call", "other"), ("result", "5xx")]), 1);
            assert_eq!(counts("weft_docker_proxy_requests_total", &[("call", "list"), ("result", "5xx")]), 1);
            assert_eq!(counts("weft_docker_proxy_added_duration_seconds_count", &[("call", "list")]), 1);
            assert_eq!(counts("weft_docker_proxy_engine_up", &[]), 0);
            // Those of the calls linger until their ends are seen.
            if counts("weft_docker_proxy_clients", &[]) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    scrapes.await.expect("the client that stays is counted");
    drop(held);
}
