//! Weave Net's HTTP API of a real docker-proxy process, without other services: who is let in, what makes no sense, and that no
//! request ends the service or holds it up.

#[path = "weave_api/services.rs"]
mod services;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use weft_proto::{
    client::{Service, channel},
    common::v1::{GetPageRequest, PageHeader, page_service_client::PageServiceClient},
    proxy::v1::{GetStatusRequest, container_service_client::ContainerServiceClient},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A docker-proxy process; ends with this.
struct Proxy {
    folder: tempfile::TempDir,
    address: SocketAddr,
    process: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn command(folder: &Path, http_addr: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-docker-proxy"));
    command.env_clear().stdin(Stdio::null()).args(["--host", "off", "--http-addr", http_addr]);
    command.arg("--socket-folder").arg(folder).arg("--shim-folder").arg(folder.join("shim"));
    command.arg("--engine-socket").arg(folder.join("engine.sock"));
    command
}

impl Proxy {
    async fn start() -> Self {
        let listener = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let proxy = Self::start_at(address).await;
        let answers = timeout(PATIENCE, async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        answers.await.expect("the API is offered");
        proxy
    }

    async fn start_at(address: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let process = command(folder.path(), &address.to_string()).spawn().expect("docker-proxy starts");
        let socket = Service::DockerProxy.socket(folder.path());
        let ready = timeout(PATIENCE, async {
            while weft_service::check(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        ready.await.expect("docker-proxy gets ready");
        Self { folder, address, process }
    }

    /// Sends bytes, and returns the status and the body of what is answered.
    async fn send(&self, request: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("accepted");
        stream.write_all(request).await.expect("sent");
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    async fn ask(&self, line: &str, headers: &str) -> (u16, String) {
        self.send(format!("{line} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", self.address).as_bytes()).await
    }

    async fn problems(&self) -> Vec<String> {
        let channel = channel(&Service::DockerProxy.socket(self.folder.path()));
        let status = ContainerServiceClient::new(channel).get_status(GetStatusRequest {}).await;
        status.expect("answered").into_inner().problems.into_iter().map(|problem| problem.message).collect()
    }
}

#[tokio::test]
async fn what_is_asked_is_answered_or_said_why_not() {
    let proxy = Proxy::start().await;
    for (line, headers, status, part) in [
        // Without the others the whole status is there, and says so.
        ("GET /status", "", 503, "Service: proxy"),
        ("GET /status", "", 503, "router is not running here"),
        ("GET /status/peers", "", 503, "router is not running here"),
        ("GET /ip", "", 503, "ipam is not running here"),
        ("GET /domain", "", 503, "dns is not running here"),
        ("PUT /name/c/10.32.0.1?fqdn=a.weft.internal&check-alive=1", "", 503, "dns is not running here"),
        ("POST /connect?peer=host1", "Content-Length: 0\r\n", 503, "router is not running here"),
        ("GET /proxyaddrs", "", 200, "docker/docker.sock\n"),
        ("GET /ipinfo/tracker", "", 200, ""),
        ("GET /metrics", "", 200, "weft_up{service=\"docker-proxy\"} 1\n"),
        ("GET /report", "Accept: text/html, application/json;q=0.9\r\n", 200, "    \"Ready\": false"),
        ("GET /report?format=%7B%7B.Ready%7D%7D", "", 200, "false"),
        ("GET /report?format=%7B%7B.Nothing", "", 400, "makes no sense"),
        ("GET /report", "", 400, "must supply one format parameter"),
        ("POST /connect", "Content-Length: 0\r\n", 400, "peer=host1"),
        ("DELETE /name", "", 400, "nothing says which names"),
        ("GET /debug/pprof/heap", "", 404, "no profiles of Go"),
        ("PUT /status", "Content-Length: 0\r\n", 405, "use GET"),
    ] {
        let (found, body) = proxy.ask(line, headers).await;
        assert!(found == status && body.contains(part), "{line}: {found} {body}");
    }
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let (status, body) = proxy.ask("POST /connect", &format!("{form}Content-Length: 5\r\n\r\npeer=")).await;
    assert!(status == 400 && body.contains("no peer is named"), "{status} {body}");
    let (status, _) = proxy.ask("HEAD /status", "").await;
    assert_eq!(status, 503);
}

#[tokio::test]
async fn web_pages_are_kept_out() {
    let proxy = Proxy::start().await;
    let port = proxy.address.port();
    let get = |host: &str, more: &str| format!("GET /proxyaddrs HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(proxy.send(get(&host, "").as_bytes()).await.0, 200, "{host}");
    }
    for (host, more) in [
        (format!("attacker.example:{port}"), ""),
        (format!("192.0.2.1:{port}"), ""),
        (format!("127.0.0.1:{port}"), "Origin: http://attacker.example\r\n"),
        (format!("127.0.0.1:{port}"), "Origin: null\r\n"),
        (format!("127.0.0.1:{port}"), "Sec-Fetch-Site: cross-site\r\n"),
    ] {
        let (status, body) = proxy.send(get(&host, more).as_bytes()).await;
        assert!(status == 403 && body.contains("web page"), "{host} {more}: {status} {body}");
    }

    // What the router asks for is guarded alike, and is the status alone.
    let channel = channel(&Service::DockerProxy.socket(proxy.folder.path()));
    let page = async |target: &str, host: &str| {
        let headers = vec![PageHeader { name: "Host".to_owned(), value: host.to_owned() }];
        let request = GetPageRequest { target: target.to_owned(), headers };
        let answer = PageServiceClient::new(channel.clone()).get_page(request).await.expect("answered");
        answer.into_inner().status
    };
    assert_eq!(page("/status", "127.0.0.1:6782").await, 503);
    assert_eq!(page("/report?format=x", "localhost").await, 200);
    assert_eq!(page("/status", "attacker.example").await, 403);
    assert_eq!(page("/proxyaddrs", "localhost").await, 404);
}

#[tokio::test]
async fn no_request_ends_the_service_or_holds_it_up() {
    let proxy = Proxy::start().await;
    let format = |template: &str| {
        let encoded: String = template.bytes().map(|byte| format!("%{byte:02x}")).collect();
        format!("GET /report?format={encoded}")
    };
    let begun = Instant::now();
    let endless = [
        r#"{{define "a"}}{{template "a"}}{{end}}{{template "a"}}"#.to_owned(),
        format!("{{{{{}.Ready{}}}}}", "(".repeat(1500), ")".repeat(1500)),
        format!("{}x{}", "{{range .VersionCheck}}".repeat(20), "{{end}}".repeat(20)),
        "a".repeat(4097),
    ];
    for template in &endless {
        let (status, body) = proxy.ask(&format(template), "").await;
        assert!(matches!(status, 200 | 400) && body.len() < 1 << 20, "{status} {body}");
    }
    let (status, body) = proxy.ask(&format(&endless[0]), "").await;
    assert!(status == 400 && body.contains("ask for JSON"), "{status} {body}");
    assert!(begun.elapsed() < PATIENCE * 2, "{:?}", begun.elapsed());

    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(32 << 10));
    assert!(matches!(proxy.send(long.as_bytes()).await.0, 414 | 431));
    let (status, body) =
        proxy.ask("POST /connect", &format!("Content-Length: 65537\r\n\r\n{}", "a".repeat(65537))).await;
    assert!(status == 413 && body.contains("65536"), "{status} {body}");
    for garbage in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", b"\r\n\r\n\r\n\r\n"] {
        let mut stream = TcpStream::connect(proxy.address).await.expect("accepted");
        stream.write_all(garbage).await.expect("sent");
    }
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(proxy.address).await.expect("accepted"));
    }
    assert_eq!(proxy.ask("GET /proxyaddrs", "").await.0, 200, "the silent keep others out");
}

#[tokio::test]
async fn a_port_in_use_is_a_problem_until_it_is_free() {
    let holder = StdTcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = holder.local_addr().expect("an address");
    let proxy = Proxy::start_at(address).await;
    let says = async || {
        let sentence = format!("HTTP API is not offered on {address}");
        proxy.problems().await.iter().any(|problem| problem.contains(&sentence))
    };
    let until = async |expected: bool| {
        let reached = timeout(PATIENCE, async {
            while says().await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("the problem is not {expected}"));
    };
    until(true).await;
    drop(holder);
    until(false).await;
    assert_eq!(proxy.ask("GET /proxyaddrs", "").await.0, 200);
}

#[test]
fn only_the_loopback_is_offered() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (address, says) in [("0.0.0.0:6784", "is not on the loopback"), ("6784", "is no IP address with a port")] {
        let output = command(folder.path(), address).output().expect("docker-proxy starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(says) && said.contains("--http-addr"), "{said}");
    }
}
