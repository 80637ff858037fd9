//! The relay between a client and a scripted engine: what one side writes is what the other reads, byte for byte.

mod volume;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use weft_docker_proxy::{
    local_clients::{LocalClients, Names},
    relay::{Answer, Interceptor, Request, exchange, serve},
};
use weft_service::{Shutdown, ShutdownTrigger};

/// Longest time that anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(10);

/// Looks into requests whose path says so, and has the engine answer some of them.
struct Looking {
    engine: PathBuf,
}

impl Interceptor for Looking {
    fn wants(&self, _: &str, target: &str) -> bool {
        target.starts_with("/looked/into")
    }

    async fn answer(&self, request: &Request) -> Answer {
        if request.head.target != "/looked/into/and/passed" {
            return Answer::error(403, &format!("{} bytes", request.body.len()));
        }
        let engine = UnixStream::connect(&self.engine).await.expect("the engine listens");
        match exchange(engine, request, &request.body).await {
            Ok((response, body)) => Answer::of_engine(&response, body),
            Err(error) => Answer::error(502, &error.to_string()),
        }
    }

    fn answered(&self, _: &str, _: &str, _: u16, _: Duration) {}
}

/// The engine's socket, and a client whose other end the relay serves.
struct Setting {
    client: UnixStream,
    relay: JoinHandle<()>,
    stop: ShutdownTrigger,
    engine: UnixListener,
    folder: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let socket = folder.path().join("engine.sock");
        let engine = UnixListener::bind(&socket).expect("the socket can be bound");
        let (client, relay, stop) = connect(&socket);
        Self { client, relay, stop, engine, folder }
    }

    /// The same for a client by TCP, who may know this host as `proxy.example`.
    fn by_tcp() -> Self {
        let (client, served) = UnixStream::pair().expect("a pair of sockets");
        let setting = Self::new();
        let engine = setting.engine_socket();
        let local = LocalClients::new(Looking { engine: engine.clone() }, Names::parse("proxy.example"));
        let (stop, shutdown) = Shutdown::triggered();
        let relay = tokio::spawn(async move { serve(served, &engine, &local, &shutdown).await });
        Self { client, relay, stop, ..setting }
    }

    fn engine_socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    async fn accept(&self) -> UnixStream {
        soon("the relay connects", self.engine.accept()).await.expect("accepted").0
    }

    /// Plays one request and its answer.
    async fn exchange(&mut self, request: &str, answer: &str) {
        send(&mut self.client, request).await;
        let mut engine = self.accept().await;
        expect(&mut engine, request).await;
        send(&mut engine, answer).await;
        expect(&mut self.client, answer).await;
    }

    /// Checks that the connection is over, and that nobody asked the engine for more.
    async fn expect_over(mut self) {
        expect_end(&mut self.client).await;
        drop(self.client);
        soon("the relay lets go of the client", self.relay).await.expect("it does not panic");
        let none = timeout(Duration::ZERO, self.engine.accept()).await;
        assert!(none.is_err(), "the engine got another connection");
    }
}

fn connect(engine: &Path) -> (UnixStream, JoinHandle<()>, ShutdownTrigger) {
    let (client, served) = UnixStream::pair().expect("a pair of sockets");
    let engine: PathBuf = engine.to_owned();
    let looking = Looking { engine: engine.clone() };
    let (stop, shutdown) = Shutdown::triggered();
    (client, tokio::spawn(async move { serve(served, &engine, &looking, &shutdown).await }), stop)
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

async fn send(stream: &mut UnixStream, text: &str) {
    soon("the bytes are taken", stream.write_all(text.as_bytes())).await.expect("the other end is open");
}

async fn expect(stream: &mut UnixStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    let mut filled = 0;
    while filled < bytes.len() {
        let read = timeout(SOON, stream.read(&mut bytes[filled..])).await;
        match read {
            Ok(Ok(length)) if length > 0 => filled += length,
            other => panic!("{other:?} after {:?} instead of {text:?}", String::from_utf8_lossy(&bytes[..filled])),
        }
    }
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

async fn expect_end(stream: &mut UnixStream) {
    let mut rest = Vec::new();
    // Whoever closes a socket before it has read all of it resets the other end.
    let _ = soon("the stream ends", stream.read_to_end(&mut rest)).await;
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

/// Reads up to the end, which must be an error as the engine itself words it, and returns status and message.
async fn expect_error(stream: &mut UnixStream) -> (u16, String) {
    let mut answer = Vec::new();
    soon("the answer ends", stream.read_to_end(&mut answer)).await.expect("the answer is not cut");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("Content-Type: application/json"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    (status, body["message"].as_str().expect("a message").to_owned())
}

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let mut setting = Setting::new();
    let odd = "GET /v1.41/info?a=b%20c HTTP/1.1\r\nhOST:  docker \r\nX-Odd:\tkept \r\n\r\n";
    setting.exchange(odd, "HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\none").await;
    setting.exchange("GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK").await;
    let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nOK";
    setting.exchange("POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\n\r\nbody", close).await;
    setting.expect_over().await;
}

#[tokio::test]
async fn old_clients_get_their_answer_and_the_end() {
    let mut setting = Setting::new();
    setting.exchange("GET /_ping HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nOK").await;
    setting.expect_over().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut setting = Setting::new();
    let requests =
        ["POST /a HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\n\r\nfirst", "GET /b HTTP/1.1\r\nHost: d\r\n\r\n"];
    send(&mut setting.client, &requests.concat()).await;
    for (request, body) in requests.iter().zip(["1", "2"]) {
        let mut engine = setting.accept().await;
        expect(&mut engine, request).await;
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}");
        send(&mut engine, &answer).await;
        expect(&mut setting.client, &answer).await;
        expect_end(&mut engine).await;
    }
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let mut setting = Setting::new();
    let chunks = "4\r\nweft\r\n00001;name=\"value\"\r\n!\r\n0\r\nTrailer-A: 1\r\nTrailer-B: 2\r\n\r\n";
    let request =
        format!("POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\nTrailer: Trailer-A\r\n\r\n{chunks}");
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    setting.exchange(&request, &answer).await;
    setting.exchange(&request, &answer).await;
}

#[tokio::test]
async fn a_client_that_asks_first_sends_its_body_when_told_to() {
    let mut setting = Setting::new();
    let head = "POST /x HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    send(&mut setting.client, head).await;
    let mut engine = setting.accept().await;
    expect(&mut engine, head).await;
    send(&mut engine, "HTTP/1.1 100 Continue\r\n\r\n").await;
    expect(&mut setting.client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    send(&mut setting.client, "body").await;
    expect(&mut engine, "body").await;
    let answer = "HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}";
    send(&mut engine, answer).await;
    expect(&mut setting.client, answer).await;
    setting.exchange("GET /y HTTP/1.1\r\nHost: d\r\n\r\n", answer).await;
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let mut setting = Setting::new();
    let head = "HEAD /containers/x/archive HTTP/1.1\r\nHost: d\r\n\r\n";
    setting.exchange(head, "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n").await;
    let post = "POST /containers/x/stop HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n";
    setting.exchange(post, "HTTP/1.1 204 No Content\r\n\r\n").await;
    setting.exchange(post, "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    setting.exchange(post, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    setting.exchange(head, "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n").await;
}

/// Plays a stream both ways, in which the client ends its side first.
async fn duplex(request: &str, answer: &str) {
    let mut setting = Setting::new();
    send(&mut setting.client, request).await;
    send(&mut setting.client, "sent early ").await;
    let mut engine = setting.accept().await;
    expect(&mut engine, request).await;
    send(&mut engine, &format!("{answer}at once ")).await;
    expect(&mut setting.client, &format!("{answer}at once ")).await;
    expect(&mut engine, "sent early ").await;
    for (from, to) in [("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"), ("\u{0}\r\n0\r\n\r\n", "\u{1}")] {
        send(&mut setting.client, from).await;
        expect(&mut engine, from).await;
        send(&mut engine, to).await;
        expect(&mut setting.client, to).await;
    }
    setting.client.shutdown().await.expect("the client can end its side");
    expect_end(&mut engine).await;
    send(&mut engine, "after the client's end").await;
    expect(&mut setting.client, "after the client's end").await;
    drop(engine);
    setting.expect_over().await;
}

#[tokio::test]
async fn an_upgraded_connection_is_a_stream() {
    duplex(
        "POST /containers/x/attach?stream=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    )
    .await;
}

#[tokio::test]
async fn a_raw_stream_is_one_without_an_upgrade() {
    for kind in ["raw-stream", "multiplexed-stream"] {
        duplex(
            "POST /exec/x/start HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\n{}",
            &format!("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.{kind}\r\n\r\n"),
        )
        .await;
    }
}

#[tokio::test]
async fn a_stream_may_begin_before_the_body_has_ended() {
    let mut setting = Setting::new();
    let request = "POST /exec/x/start HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n";
    send(&mut setting.client, request).await;
    let mut engine = setting.accept().await;
    expect(&mut engine, request).await;
    send(&mut engine, "HTTP/1.1 101 UPGRADED\r\n\r\n").await;
    expect(&mut setting.client, "HTTP/1.1 101 UPGRADED\r\n\r\n").await;
    send(&mut setting.client, "0\r\n\r\nfrom the client").await;
    expect(&mut engine, "0\r\n\r\nfrom the client").await;
    send(&mut engine, "from the engine").await;
    expect(&mut setting.client, "from the engine").await;
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_connection() {
    let mut setting = Setting::new();
    setting.exchange("GET /x HTTP/1.1\r\nHost: d\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nhowever long").await;
    setting.expect_over().await;
}

#[tokio::test]
async fn an_early_answer_arrives_while_the_client_still_sends() {
    let mut setting = Setting::new();
    let head = "POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: 100000000\r\n\r\n";
    send(&mut setting.client, head).await;
    let mut engine = setting.accept().await;
    expect(&mut engine, head).await;
    let answer = "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmuch";
    send(&mut engine, answer).await;
    drop(engine);
    // As much as a client gets rid of before it looks for an answer.
    let body = vec![b'x'; 1 << 20];
    let sent = timeout(SOON, setting.client.write_all(&body)).await;
    assert!(sent.is_ok(), "the client hangs");
    expect(&mut setting.client, answer).await;
    setting.expect_over().await;
}

#[tokio::test]
async fn an_engine_that_reads_no_head_may_answer() {
    let mut setting = Setting::new();
    let request = format!("GET /{} HTTP/1.1\r\nHost: d\r\n\r\n", "x".repeat(900_000));
    let engine = async {
        let mut engine = setting.engine.accept().await.expect("accepted").0;
        send(&mut engine, "HTTP/1.1 431 Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
        engine.shutdown().await.expect("it can end");
    };
    let client = setting.client.write_all(request.as_bytes());
    soon("both are done", async { tokio::join!(engine, client) }).await.1.expect("the request is taken");
    expect(&mut setting.client, "HTTP/1.1 431 Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
    setting.expect_over().await;
}

#[tokio::test]
async fn the_engine_learns_that_a_client_vanished() {
    for (request, answer) in [
        ("GET /events HTTP/1.1\r\nHost: d\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
        ("POST /attach HTTP/1.1\r\nHost: d\r\nUpgrade: tcp\r\n\r\n", "HTTP/1.1 101 UPGRADED\r\n\r\n"),
        ("POST /wait HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", ""),
        ("POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: 10\r\n\r\n12345", ""),
        ("POST /load HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123", ""),
    ] {
        let mut setting = Setting::new();
        send(&mut setting.client, request).await;
        let mut engine = setting.accept().await;
        expect(&mut engine, request).await;
        send(&mut engine, answer).await;
        expect(&mut setting.client, answer).await;
        drop(setting.client);
        expect_end(&mut engine).await;
        drop(engine);
        soon("the relay ends", setting.relay).await.expect("it does not panic");
    }
}

#[tokio::test]
async fn an_engine_that_vanishes_is_reported_as_it_would_itself() {
    for answer in ["", "HTTP/1.1 200 O", "HTTP/1.1 100 Continue\r\n\r\n", "SSH-2.0-OpenSSH\r\n\r\n"] {
        let mut setting = Setting::new();
        send(&mut setting.client, "GET /info HTTP/1.1\r\nHost: d\r\n\r\n").await;
        let mut engine = setting.accept().await;
        expect(&mut engine, "GET /info HTTP/1.1\r\n").await;
        send(&mut engine, answer).await;
        drop(engine);
        if answer.contains("100") {
            expect(&mut setting.client, answer).await;
        }
        let (status, message) = expect_error(&mut setting.client).await;
        assert!(status == 502 && message.contains("Docker Engine"), "{status} {message}");
        setting.expect_over().await;
    }
}

#[tokio::test]
async fn an_engine_that_vanishes_within_its_answer_cuts_it() {
    let mut setting = Setting::new();
    let cut = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123";
    setting.exchange("GET /info HTTP/1.1\r\nHost: d\r\n\r\n", cut).await;
    setting.expect_over().await;
}

#[tokio::test]
async fn an_engine_that_is_away_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let socket = folder.path().join("engine.sock");
    let (mut client, _relay, _stop) = connect(&socket);
    send(&mut client, "GET /info HTTP/1.1\r\nHost: d\r\n\r\n").await;
    let (status, message) = expect_error(&mut client).await;
    assert!(status == 503 && message.contains(&socket.display().to_string()), "{status} {message}");
}

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused() {
    for request in [
        "POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        "POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: d\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: -1\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: d\r\nContent-Length: 1, 1\r\n\r\na",
        "GET /x HTTP/1.1 GET /y HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /looked/into HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5 x\r\nabcde\r\n0\r\n\r\n",
        "POST /looked/into HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcdef\r\n0\r\n\r\n",
    ] {
        let mut setting = Setting::new();
        send(&mut setting.client, request).await;
        let (status, message) = expect_error(&mut setting.client).await;
        assert!(status == 400, "{request:?}: {status} {message}");
        setting.expect_over().await;
    }
}

#[tokio::test]
async fn a_malformed_upload_ends_where_it_is_malformed() {
    let mut setting = Setting::new();
    let head = "POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n";
    send(&mut setting.client, &format!("{head}5 /containers/create HTTP/1.1\r\nabcde\r\n0\r\n\r\n")).await;
    let mut engine = setting.accept().await;
    expect(&mut engine, head).await;
    expect_end(&mut engine).await;
    let answer = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    send(&mut engine, answer).await;
    expect(&mut setting.client, answer).await;
    setting.expect_over().await;
}

#[tokio::test]
async fn what_a_web_page_sends_never_reaches_the_engine() {
    for (target, field, says) in [
        ("/containers/json", "Host: page.example:12375", "DOCKER_HOST=tcp://127.0.0.1:12375"),
        ("/looked/into", "HOST: page.example", "WEFT_DOCKER_PROXY_TCP_NAMES"),
        (
            "/containers/json",
            "Host: 127.0.0.1:12375\r\nORIGIN: http://page.example",
            "a web page (http://page.example)",
        ),
        ("/looked/into", "Host: localhost:12375\r\nOrigin: null", "a web page (null)"),
        ("/containers/json", "Host: 127.0.0.1:12375\r\nSec-Fetch-Site: cross-site", "a web page (cross-site)"),
        (
            "/looked/into",
            "Host: localhost\r\nsec-fetch-mode: no-cors\r\nSEC-FETCH-SITE: Same-Site",
            "a web page (Same-Site)",
        ),
    ] {
        let mut setting = Setting::by_tcp();
        let request = format!("POST {target} HTTP/1.1\r\n{field}\r\nContent-Length: 4\r\n\r\nbody");
        send(&mut setting.client, &request).await;
        let (status, message) = expect_error(&mut setting.client).await;
        assert!(status == 403 && message.contains(says), "{field}: {status} {message}");
        setting.expect_over().await;
    }
    let mut setting = Setting::by_tcp();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
    for host in ["127.0.0.1:12375", "localhost:12375", "proxy.example"] {
        setting.exchange(&format!("GET /containers/json HTTP/1.1\r\nHost: {host}\r\n\r\n"), answer).await;
    }
    let typed = "GET /containers/json HTTP/1.1\r\nHost: localhost:12375\r\nSec-Fetch-Site: none\r\n\r\n";
    setting.exchange(typed, answer).await;
}

#[tokio::test]
async fn requests_that_are_looked_into_have_their_whole_body() {
    let mut setting = Setting::new();
    let answer = |length: usize| {
        let body = format!("{{\"message\":\"{length} bytes\"}}\n");
        let head = "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length";
        format!("{head}: {}\r\n\r\n{body}", body.len())
    };
    send(&mut setting.client, "POST /looked/into HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc").await;
    expect(&mut setting.client, &answer(3)).await;
    let head = "POST /looked/into HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    send(&mut setting.client, head).await;
    expect(&mut setting.client, "HTTP/1.1 100 Continue\r\n\r\n").await;
    send(&mut setting.client, "2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n").await;
    expect(&mut setting.client, &answer(4)).await;
    send(&mut setting.client, "POST /looked/into HTTP/1.1\r\nHost: d\r\nContent-Length: 100000000\r\n\r\nabc").await;
    let (status, message) = expect_error(&mut setting.client).await;
    assert!(status == 413 && message.contains("longer than"), "{status} {message}");
    setting.expect_over().await;
}

#[tokio::test]
async fn an_engine_may_answer_before_it_has_read_what_was_looked_into() {
    let head = "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\n";
    for closes in [true, false] {
        let mut setting = Setting::new();
        let request = "POST /looked/into/and/passed HTTP/1.1\r\nHost: d\r\nContent-Length: 4000000\r\n\r\n";
        send(&mut setting.client, request).await;
        let body = vec![b'x'; 4_000_000];
        soon("the body is taken", setting.client.write_all(&body)).await.expect("taken");
        let mut engine = setting.accept().await;
        send(&mut engine, &format!("{head}much")).await;
        let engine = Some(engine).filter(|_| !closes);
        expect(&mut setting.client, &format!("{head}much")).await;
        drop(engine);
    }
}

#[tokio::test]
async fn a_stop_ends_connections_cleanly() {
    // Between two requests: at once.
    let mut setting = Setting::new();
    setting.exchange("GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK").await;
    setting.stop.request();
    setting.expect_over().await;

    // A request under way is answered, and is the last.
    let mut setting = Setting::new();
    let request = "GET /info HTTP/1.1\r\nHost: d\r\n\r\n";
    send(&mut setting.client, request).await;
    let mut engine = setting.accept().await;
    setting.stop.request();
    expect(&mut engine, request).await;
    send(&mut engine, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    expect(&mut setting.client, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await;
    setting.expect_over().await;

    // One that takes too long is told, even while it still sends.
    for request in [request, "POST /load HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\nabc"] {
        let mut setting = Setting::new();
        send(&mut setting.client, request).await;
        let mut engine = setting.accept().await;
        expect(&mut engine, request).await;
        setting.stop.request();
        send(&mut setting.client, "more").await;
        let (status, message) = expect_error(&mut setting.client).await;
        assert!(status == 503 && message.contains("stopped"), "{status} {message}");
        setting.expect_over().await;
    }

    // A stream gets all that was sent, and an end that is not that of its message.
    for head in ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 101 UPGRADED\r\n\r\n"] {
        let mut setting = Setting::new();
        send(&mut setting.client, request).await;
        let mut engine = setting.accept().await;
        expect(&mut engine, request).await;
        send(&mut engine, head).await;
        setting.stop.request();
        send(&mut engine, "4\r\nlast\r\n").await;
        send(&mut setting.client, "unread").await;
        expect(&mut setting.client, &format!("{head}4\r\nlast\r\n")).await;
        setting.expect_over().await;
    }
}
