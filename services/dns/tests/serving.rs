//! The service as containers, the router and docker-proxy see it: real sockets, a fake router.

mod fake;

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use clap::Parser;
use fake::{FRIEND, LOCAL, Router};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use hickory_server::{
    Server,
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, transport::Channel};
use weft_dns::Config;
use weft_proto::dns::v1::{
    AddNamesRequest, DeregisterRequest, GetStatusRequest, ListRecordsRequest, LookupRequest, NameRecord,
    RegisterRequest, Registration, RemoveNamesRequest, name_service_client::NameServiceClient,
};
use weft_service::{Shutdown, ShutdownTrigger};

/// A running dns; stops when dropped.
struct Dns {
    stop: ShutdownTrigger,
    running: JoinHandle<weft_service::Result>,
    api: NameServiceClient<Channel>,
}

impl Dns {
    /// Starts and waits until it is ready.
    async fn start(folder: &Path, options: &[&str]) -> Self {
        let dns = Self::launch(folder, options);
        eventually("dns gets ready", async || weft_service::check(&folder.join("dns.sock")).await.is_ok()).await;
        dns
    }

    fn launch(folder: &Path, options: &[&str]) -> Self {
        let folder_text = folder.to_str().expect("text");
        // A file that does not exist keeps the machine's resolvers out of the test.
        let state = folder.join("state");
        let mut line = vec!["weft-dns", "--socket-folder", folder_text, "--state-folder"];
        line.push(state.to_str().expect("text"));
        if !options.contains(&"--resolv-conf") {
            line.extend(["--resolv-conf", "/nonexistent/resolv.conf"]);
        }
        line.extend(options);
        let config = Config::try_parse_from(line).expect("valid options");
        let (stop, shutdown) = Shutdown::triggered();
        let running = tokio::spawn(weft_dns::run(config, shutdown));
        let api = NameServiceClient::new(weft_proto::client::channel(&folder.join("dns.sock")));
        Self { stop, running, api }
    }

    /// Ends as when the process is killed.
    async fn kill(self) {
        self.running.abort();
        assert!(self.running.await.is_err_and(|error| error.is_cancelled()));
    }

    async fn stop(self) {
        self.stop.request();
        self.running.await.expect("no panic").expect("a clean stop");
    }

    async fn add(&mut self, container: &str, name: &str, address: &str) -> Result<(), tonic::Status> {
        let (names, addresses) = (vec![name.to_owned()], vec![address.parse::<IpAddr>().expect("valid").into()]);
        let request = AddNamesRequest { container_id: container.to_owned(), names, addresses };
        self.api.add_names(request).await.map(drop)
    }

    async fn remove(&mut self, container: &str) -> Result<u64, tonic::Status> {
        let request = RemoveNamesRequest { container_id: container.to_owned(), ..RemoveNamesRequest::default() };
        self.api.remove_names(request).await.map(|answer| answer.into_inner().removed)
    }

    async fn deregister(&mut self, container: &str) {
        let request = DeregisterRequest { container_id: container.to_owned(), names: vec![] };
        self.api.deregister(request).await.expect("works");
    }

    /// Returns the names by hand, and whether each waits.
    async fn by_hand(&mut self) -> Vec<(String, bool)> {
        let records = self.api.list_records(ListRecordsRequest {}).await.expect("answers").into_inner().records;
        let by_hand = records.into_iter().filter(|record| record.by_hand);
        by_hand.map(|record| (record.name.replace(".weft.internal.", ""), record.waiting)).collect()
    }

    /// Returns why names are not kept, if they are not.
    async fn not_kept(&mut self) -> Option<String> {
        let status = self.api.get_status(GetStatusRequest {}).await.expect("answers").into_inner();
        let problem = status.problems.into_iter().find(|problem| problem.reason == "names_not_kept");
        problem.map(|problem| problem.message)
    }

    async fn register(&mut self, container: &str, names: &[&str], addresses: &[&str]) {
        let request = RegisterRequest { registration: Some(registration(container, names, addresses)) };
        self.api.register(request).await.expect("the registration is taken");
    }
}

fn registration(container: &str, names: &[&str], addresses: &[&str]) -> Registration {
    Registration {
        container_id: container.to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        addresses: addresses.iter().map(|text| text.parse::<IpAddr>().expect("valid").into()).collect(),
        unhealthy: false,
    }
}

/// A record as another peer publishes it.
fn gossip(name: &str, address: &str) -> Vec<u8> {
    let address: IpAddr = address.parse().expect("valid");
    NameRecord { names: vec![name.to_owned()], addresses: vec![address.into()], ..NameRecord::default() }
        .encode_to_vec()
}

/// Waits for a condition, for at most 10 s.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("valid"), record_type));
    message
}

async fn ask_udp(server: SocketAddr, message: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    socket.connect(server).await.expect("connects");
    socket.send(&message.to_vec().expect("encodes")).await.expect("sends");
    let mut buffer = vec![0; 65_535];
    let length =
        timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.expect("an answer").expect("receives");
    (Message::from_vec(&buffer[..length]).expect("decodes"), length)
}

async fn ask_tcp(server: SocketAddr, message: &Message) -> Message {
    ask_over(TcpStream::connect(server).await.expect("connects"), message).await
}

async fn ask_over(mut stream: TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().expect("encodes");
    stream.write_u16(bytes.len().try_into().expect("short")).await.expect("sends");
    stream.write_all(&bytes).await.expect("sends");
    let length = timeout(Duration::from_secs(10), stream.read_u16()).await.expect("an answer").expect("receives");
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await.expect("receives");
    Message::from_vec(&buffer).expect("decodes")
}

/// Asks by UDP and returns code and data, sorted.
async fn ask(server: SocketAddr, name: &str, record_type: RecordType) -> String {
    let (answer, _) = ask_udp(server, &question(name, record_type)).await;
    let mut data: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    format!("{:?} {}", answer.metadata.response_code, data.join(" ")).trim_end().to_owned()
}

#[tokio::test]
async fn names_of_this_host_and_of_others_are_answered_on_the_routers_sockets() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    let mut dns = Dns::start(folder.path(), &[]).await;
    let at = router.address;

    dns.register("c1", &["db"], &["10.32.0.1", "fd00::1"]).await;
    assert_eq!(ask(at, "db.weft.internal.", RecordType::A).await, "NoError 10.32.0.1");
    assert_eq!(ask(at, "db.weft.internal.", RecordType::AAAA).await, "NoError fd00::1");
    assert_eq!(ask(at, "1.0.32.10.in-addr.arpa.", RecordType::PTR).await, "NoError db.weft.internal.");
    assert_eq!(ask(at, "nobody.weft.internal.", RecordType::A).await, "NXDomain");
    eventually("our names are published", async || router.published() == ["c1"]).await;

    router.update(FRIEND, "f1", Some(gossip("web.weft.internal.", "10.40.0.1"))).await;
    eventually("names of others arrive", async || ask(at, "web.", RecordType::A).await == "NoError 10.40.0.1").await;
    router.reach(&[LOCAL]).await;
    eventually("they go with their host", async || ask(at, "web.", RecordType::A).await == "NXDomain").await;
    let records = dns.api.list_records(ListRecordsRequest {}).await.expect("answers").into_inner().records;
    let suspended: Vec<_> = records.iter().map(|record| (record.name.as_str(), record.suspended)).collect();
    assert_eq!(suspended, [("db.weft.internal.", false), ("web.weft.internal.", true)]);
    assert_eq!(records[1].origin_nickname, "host");
    router.reach(&[LOCAL, FRIEND]).await;
    eventually("and come back with it", async || ask(at, "web.", RecordType::A).await == "NoError 10.40.0.1").await;
    router.update(FRIEND, "f1", None).await;
    eventually("deleted names are gone", async || ask(at, "web.", RecordType::A).await == "NXDomain").await;

    dns.api.deregister(DeregisterRequest { container_id: "c1".to_owned(), names: vec![] }).await.expect("works");
    assert_eq!(ask(at, "db.", RecordType::A).await, "NXDomain");
    eventually("that is published too", async || router.published().is_empty()).await;
    dns.stop().await;
}

#[tokio::test]
async fn responses_have_the_form_that_clients_expect() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    let mut dns = Dns::start(folder.path(), &["--ttl", "3"]).await;
    dns.register("c1", &["db"], &["10.32.0.1"]).await;

    let (answer, _) = ask_udp(router.address, &question("DB.weft.Internal.", RecordType::A)).await;
    assert_eq!(answer.metadata.id, 4711);
    assert!(answer.metadata.authoritative && answer.metadata.recursion_available && !answer.metadata.truncation);
    assert_eq!(answer.queries[0].name().to_ascii(), "DB.weft.Internal.");
    assert_eq!((answer.answers[0].name.to_ascii().as_str(), answer.answers[0].ttl), ("DB.weft.Internal.", 3));
    assert!(answer.edns.is_none(), "who sends no OPT record gets none");

    let mut with_edns = question("nobody.", RecordType::A);
    with_edns.set_edns(Edns::new());
    let (answer, _) = ask_udp(router.address, &with_edns).await;
    assert!(answer.edns.is_some());
    assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);

    with_edns.edns.as_mut().expect("set").set_version(1);
    let code = ask_udp(router.address, &with_edns).await.0.metadata.response_code;
    assert_eq!(u16::from(code), u16::from(ResponseCode::BADVERS));
    assert_eq!(ask(router.address, "weft.internal.", RecordType::AXFR).await, "Refused");
    let mut update = question("weft.internal.", RecordType::SOA);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(ask_udp(router.address, &update).await.0.metadata.response_code, ResponseCode::NotImp);
    dns.stop().await;
}

#[tokio::test]
async fn many_addresses_are_cut_by_udp_and_whole_by_tcp() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    let mut dns = Dns::start(folder.path(), &[]).await;
    for container in 0..2 {
        let addresses: Vec<_> = (1..=50).map(|host| format!("10.32.{container}.{host}")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        dns.register(&format!("c{container}"), &["web"], &addresses).await;
    }
    let mut message = question("web.weft.internal.", RecordType::A);
    let (answer, length) = ask_udp(router.address, &message).await;
    assert!(answer.metadata.truncation && length <= 512 && answer.answers.len() > 20, "{length}");
    assert_eq!(ask_tcp(router.address, &message).await.answers.len(), 100);
    message.set_edns(Edns::new()).edns.as_mut().expect("set").set_max_payload(4096);
    let (answer, length) = ask_udp(router.address, &message).await;
    assert!(answer.metadata.truncation && length > 1000 && length <= 1232, "{length}");
    dns.stop().await;
}

#[tokio::test]
async fn garbage_neither_kills_nor_hangs() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    let mut dns = Dns::start(folder.path(), &[]).await;
    dns.register("c1", &["db"], &["10.32.0.1"]).await;

    let good = question("db.", RecordType::A).to_vec().expect("encodes");
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    for length in 0..good.len() {
        socket.send_to(&good[..length], router.address).await.expect("sends");
        let mut bent = good.clone();
        bent[length] ^= 0xff;
        socket.send_to(&bent, router.address).await.expect("sends");
    }
    socket.send_to(&[0xff; 60_000], router.address).await.expect("sends");
    let mut open = Vec::new();
    for bytes in [&[0xff, 0xff, 1][..], &[0, 0], &[0, 1, 0xff], &[0, 12, 1]] {
        let mut stream = TcpStream::connect(router.address).await.expect("connects");
        stream.write_all(bytes).await.expect("sends");
        open.push(stream);
    }
    assert_eq!(ask(router.address, "db.", RecordType::A).await, "NoError 10.32.0.1");
    assert_eq!(ask_tcp(router.address, &question("db.", RecordType::A)).await.answers.len(), 1);
    // One container cannot keep the others out by holding connections.
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(router.address).await.expect("connects"));
    }
    let other = tokio::net::TcpSocket::new_v4().expect("a socket");
    other.bind("127.0.0.2:0".parse().expect("valid")).expect("binds");
    let stream = other.connect(router.address).await.expect("connects");
    assert_eq!(ask_over(stream, &question("db.", RecordType::A)).await.answers.len(), 1);
    drop(held);
    for mut stream in open {
        let closed = timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await;
        closed.expect("idle connections are closed").ok();
    }
    dns.stop().await;
}

#[tokio::test]
async fn names_by_hand_are_answered_until_they_or_their_container_are_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    let mut dns = Dns::start(folder.path(), &[]).await;
    dns.register("c1", &["db"], &["10.32.0.1"]).await;
    dns.add("c1", "alias", "10.32.0.1").await.expect("is taken");
    dns.add("", "printer", "192.0.2.9").await.expect("is taken");
    let refused = dns.add("", "www.example.org.", "192.0.2.9").await.expect_err("is not ours");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("outside of the zone weft.internal."), "{refused}");
    let refused = dns.api.add_names(AddNamesRequest::default()).await.expect_err("names nothing");
    assert_eq!(refused.code(), Code::InvalidArgument);

    dns.register("c1", &["renamed"], &["10.32.0.1"]).await;
    assert_eq!(ask(router.address, "alias.", RecordType::A).await, "NoError 10.32.0.1");
    let listed = dns.api.list_records(ListRecordsRequest {}).await.expect("answers").into_inner().records;
    let listed: Vec<_> = listed.iter().map(|r| (r.name.as_str(), r.container_id.as_str(), r.by_hand)).collect();
    let expected = [
        ("renamed.weft.internal.", "c1", false),
        ("alias.weft.internal.", "c1", true),
        ("printer.weft.internal.", "weft:extern", true),
    ];
    assert_eq!(listed, expected);

    eventually("all is published", async || router.published().len() == 3).await;
    dns.stop().await;
    let mut dns = Dns::start(folder.path(), &[]).await;
    assert_eq!(ask(router.address, "alias.", RecordType::A).await, "NoError 10.32.0.1");
    assert_eq!(ask(router.address, "printer.", RecordType::A).await, "NoError 192.0.2.9");

    dns.deregister("c1").await;
    assert_eq!(ask(router.address, "alias.", RecordType::A).await, "NXDomain");
    let remove = || RemoveNamesRequest { names: vec!["printer".to_owned()], ..RemoveNamesRequest::default() };
    assert_eq!(dns.api.remove_names(remove()).await.expect("works").into_inner().removed, 1);
    assert_eq!(ask(router.address, "printer.", RecordType::A).await, "NXDomain");
    assert_eq!(dns.api.remove_names(remove()).await.expect("works").into_inner().removed, 0);
    eventually("nothing is left", async || router.published().is_empty()).await;
    dns.stop().await;
}

/// Starts a router and a dns that know nothing but what is on disk.
async fn start_anew(folder: &Path) -> (Router, Dns) {
    let router = Router::start(folder);
    (router, Dns::start(folder, &[]).await)
}

#[tokio::test]
async fn names_by_hand_survive_restarts_of_dns_and_router_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (router, mut dns) = start_anew(folder.path()).await;
    for (container, address) in [("c1", "10.32.0.1"), ("c2", "10.32.0.2"), ("c3", "10.32.0.3")] {
        dns.register(container, &[], &[address]).await;
        dns.add(container, &format!("of-{container}"), address).await.expect("is taken");
    }
    dns.add("", "printer", "192.0.2.9").await.expect("is taken");
    dns.add("", "scanner", "192.0.2.8").await.expect("is taken");
    assert_eq!(dns.remove("c3").await.expect("works"), 1);
    dns.kill().await;
    drop(router);

    let (router, mut dns) = start_anew(folder.path()).await;
    assert_eq!(ask(router.address, "printer.", RecordType::A).await, "NoError 192.0.2.9");
    for name in ["of-c1.", "of-c2.", "of-c3."] {
        assert_eq!(ask(router.address, name, RecordType::A).await, "NXDomain", "{name} before its container is there");
    }
    let listed = [("of-c1", true), ("of-c2", true), ("scanner", false), ("printer", false)];
    assert_eq!(dns.by_hand().await, listed.map(|(name, waits)| (name.to_owned(), waits)));
    dns.register("c1", &[], &["10.32.0.1"]).await;
    assert_eq!(ask(router.address, "of-c1.", RecordType::A).await, "NoError 10.32.0.1");
    eventually("it is published", async || router.published().contains(&"weft:name:c1:10.32.0.1".to_owned())).await;
    // The second container is gone, says docker-proxy.
    dns.deregister("c2").await;
    dns.stop().await;
    drop(router);

    let (router, mut dns) = start_anew(folder.path()).await;
    dns.register("c1", &[], &["10.32.0.9"]).await;
    dns.register("c2", &[], &["10.32.0.2"]).await;
    assert_eq!(dns.by_hand().await, [("scanner", false), ("printer", false)].map(|(n, waits)| (n.to_owned(), waits)));
    assert_eq!(dns.remove("").await.expect("works"), 2);
    dns.stop().await;
    drop(router);
    let (_router, mut dns) = start_anew(folder.path()).await;
    assert_eq!(dns.by_hand().await, []);
    dns.stop().await;
}

#[tokio::test]
async fn names_by_hand_that_an_earlier_version_gave_are_kept() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    router.update(LOCAL, "weft:name:weft:extern:192.0.2.9", Some(gossip("printer.weft.internal.", "192.0.2.9"))).await;
    let mut dns = Dns::start(folder.path(), &[]).await;
    assert_eq!(dns.by_hand().await, [("printer".to_owned(), false)]);
    eventually("they are on disk", async || folder.path().join("state/names.json").exists()).await;
    dns.stop().await;
    drop(router);
    let (_router, mut dns) = start_anew(folder.path()).await;
    assert_eq!(dns.by_hand().await, [("printer".to_owned(), false)]);
    dns.stop().await;
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_done_and_what_ends_is_written_later() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (router, mut dns) = start_anew(folder.path()).await;
    dns.register("c1", &[], &["10.32.0.1"]).await;
    dns.add("c1", "alias", "10.32.0.1").await.expect("is taken");
    // A folder in the place of the file that is written to.
    let obstacle = folder.path().join("state/.names.json.new");
    std::fs::create_dir(&obstacle).expect("made");

    for error in [dns.add("", "printer", "192.0.2.9").await.err(), dns.remove("c1").await.err()] {
        let error = error.expect("not done");
        assert_eq!(error.code(), Code::Internal);
        assert!(error.message().starts_with("no name was changed, because that could not be kept"), "{error}");
        assert!(error.message().contains("names.json"), "{error}");
    }
    assert_eq!(dns.by_hand().await, [("alias".to_owned(), false)]);
    assert_eq!(ask(router.address, "printer.", RecordType::A).await, "NXDomain");
    assert_eq!(dns.not_kept().await, None, "what is there is on disk");

    dns.deregister("c1").await;
    assert_eq!(ask(router.address, "alias.", RecordType::A).await, "NXDomain");
    eventually("it is told", async || dns.not_kept().await.is_some_and(|told| told.contains("names.json"))).await;
    std::fs::remove_dir(&obstacle).expect("removed");
    eventually("it is made good", async || dns.not_kept().await.is_none()).await;
    dns.kill().await;
    drop(router);
    let (_router, mut dns) = start_anew(folder.path()).await;
    assert_eq!(dns.by_hand().await, []);
    dns.stop().await;
}

#[tokio::test]
async fn a_file_of_names_that_cannot_be_used_ends_dns_and_stays() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::create_dir(folder.path().join("state")).expect("made");
    let file = folder.path().join("state/names.json");
    for (text, says) in [
        (r#"{"version":1,"content":[{"addr"#, "names.json is damaged: restore it, or remove it to start without it"),
        (r#"{"version":2,"content":{}}"#, "names.json was written by a later version of weft: use that version"),
    ] {
        std::fs::write(&file, text).expect("written");
        let dns = Dns::launch(folder.path(), &[]);
        let error = dns.running.await.expect("no panic").expect_err("it ends");
        assert!(format!("{error:#}").contains(says), "{error:#}");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), text);
    }
}

#[tokio::test]
async fn names_survive_restarts_of_dns_and_of_the_router() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    let mut dns = Dns::start(folder.path(), &[]).await;
    dns.register("c1", &["db"], &["10.32.0.1"]).await;
    dns.register("weft:extern", &["printer"], &["192.0.2.9"]).await;
    router.update(FRIEND, "f1", Some(gossip("web.weft.internal.", "10.40.0.1"))).await;
    eventually("all is published", async || router.published().len() == 2).await;
    dns.stop().await;

    let mut dns = Dns::start(folder.path(), &[]).await;
    assert_eq!(ask(router.address, "db.", RecordType::A).await, "NoError 10.32.0.1");
    assert_eq!(ask(router.address, "web.", RecordType::A).await, "NoError 10.40.0.1");

    let before = router.address;
    drop(router);
    eventually("the loss is seen", async || {
        let status = dns.api.get_status(GetStatusRequest {}).await.expect("answers").into_inner();
        status.problems.iter().any(|problem| problem.reason == "no_gossip")
    })
    .await;
    assert_eq!(ask(before, "db.", RecordType::A).await, "NoError 10.32.0.1", "the sockets in use are served on");
    let router = Router::start(folder.path());
    eventually("the new router learns our names", async || router.published().len() == 2).await;
    eventually("its sockets are served", async || {
        let status = dns.api.get_status(GetStatusRequest {}).await.expect("answers").into_inner();
        status.address.is_some_and(|address| SocketAddr::try_from(&address) == Ok(router.address))
    })
    .await;
    assert_eq!(ask(router.address, "db.", RecordType::A).await, "NoError 10.32.0.1");
    assert_eq!(
        ask(router.address, "web.", RecordType::A).await,
        "NoError 10.40.0.1",
        "held until its host is reached again"
    );
    dns.stop().await;
}

#[tokio::test]
async fn calls_that_make_no_sense_are_refused_with_a_sentence() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let mut dns = Dns::launch(folder.path(), &[]);
    eventually("dns serves without a router", async || dns.api.get_status(GetStatusRequest {}).await.is_ok()).await;
    assert!(weft_service::check(&folder.path().join("dns.sock")).await.is_err(), "but it is not ready");

    let request = RegisterRequest { registration: Some(registration("c1", &["db.example.org."], &[])) };
    let error = dns.api.register(request).await.expect_err("not ours");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("outside of the zone weft.internal."), "{}", error.message());
    let names: Vec<_> = (0..65).map(|n| format!("n{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let request = RegisterRequest { registration: Some(registration("c1", &names, &[])) };
    assert!(dns.api.register(request).await.expect_err("too many").message().contains("at most 64 names"));
    let error = dns.api.lookup(LookupRequest { name: String::new() }).await.expect_err("no name");
    assert_eq!(error.code(), Code::InvalidArgument);

    dns.register("c1", &["db"], &["10.32.0.1"]).await;
    let found = dns.api.lookup(LookupRequest { name: "db".to_owned() }).await.expect("answers").into_inner();
    assert_eq!(found.addresses, [IpAddr::from([10, 32, 0, 1]).into()]);
    let status = dns.api.get_status(GetStatusRequest {}).await.expect("answers").into_inner();
    let reasons: Vec<_> = status.problems.iter().map(|problem| problem.reason.as_str()).collect();
    assert_eq!(reasons, ["no_sockets", "no_gossip", "no_upstream"]);
    dns.stop().await;
}

/// Answers `small.` with one address, `big.` with 200, `none.` with NXDOMAIN, `silent.` never.
struct Resolver;

#[tonic::async_trait]
impl RequestHandler for Resolver {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut handle: R) -> ResponseInfo {
        let query = request.request_info().expect("one question").query.original().clone();
        let name = query.name().to_lowercase().to_ascii();
        let count = match name.as_str() {
            "small.example." => 1,
            "big.example." => 200,
            "silent.example." => std::future::pending().await,
            _ => 0,
        };
        let mut metadata = hickory_proto::op::Metadata::response_from_request(&request.metadata);
        if count == 0 {
            metadata.response_code = ResponseCode::NXDomain;
        }
        let record = |i| Record::from_rdata(query.name().clone(), 60, RData::A(A::new(192, 0, 2, i)));
        let records: Vec<_> = (0..count).map(record).collect();
        let response = MessageResponseBuilder::from_message_request(request).build(metadata, &records, [], [], []);
        handle.send_response(response).await.expect("sends")
    }
}

#[tokio::test]
async fn everything_else_is_asked_upstream() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let router = Router::start(folder.path());
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    let resolver = udp.local_addr().expect("bound");
    let tcp = TcpListener::bind(resolver).await.expect("the port is free for TCP too");
    let mut server = Server::new(Resolver);
    server.register_socket(udp);
    server.register_listener(tcp, Duration::from_secs(5), 32);
    let additional = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free").local_addr().expect("bound");
    let options = ["--upstream", &resolver.to_string(), "--listen", &additional.to_string()];
    let mut dns = Dns::start(folder.path(), &options).await;
    let at = router.address;

    let (answer, _) = ask_udp(at, &question("Small.Example.", RecordType::A)).await;
    assert_eq!(answer.answers[0].data.to_string(), "192.0.2.0");
    assert_eq!(answer.answers[0].name.to_ascii(), "Small.Example.");
    assert!(!answer.metadata.authoritative && answer.metadata.recursion_available);
    assert_eq!(ask(at, "nobody.example.", RecordType::A).await, "NXDomain");
    assert!(ask_udp(at, &question("big.example.", RecordType::A)).await.0.metadata.truncation);
    let whole = ask_tcp(at, &question("big.example.", RecordType::A)).await;
    assert_eq!(whole.answers.len(), 200, "truncated answers are asked for again by TCP");
    let found = dns.api.lookup(LookupRequest { name: "small.example".to_owned() }).await.expect("answers");
    assert_eq!(found.into_inner().addresses.len(), 1);
    let start = Instant::now();
    assert_eq!(ask(at, "silent.example.", RecordType::A).await, "ServFail");
    assert!(start.elapsed() < Duration::from_secs(7), "{:?}", start.elapsed());

    server.shutdown_gracefully().await.expect("stops");
    assert_eq!(ask(at, "small.example.", RecordType::A).await, "NoError 192.0.2.0", "answers are kept");
    let also = ask(additional, "small.example.", RecordType::A).await;
    assert_eq!(also, "NoError 192.0.2.0", "the additional address is served all the time");
    dns.stop().await;
}

#[tokio::test]
async fn resolvers_follow_the_file_and_never_lead_back_here() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 169.254.83.53\nnameserver 192.0.2.1\nsearch example\n").expect("writes");
    let mut dns = Dns::launch(folder.path(), &["--resolv-conf", file.to_str().expect("text")]);
    let mut servers = async || {
        let status = dns.api.get_status(GetStatusRequest {}).await.ok()?.into_inner();
        let servers = status.upstreams.iter().filter_map(|server| server.endpoint.as_ref());
        Some(servers.filter_map(|endpoint| SocketAddr::try_from(endpoint).ok()).collect::<Vec<_>>())
    };
    let one = vec!["192.0.2.1:53".parse().expect("valid")];
    eventually("the file is read", async || servers().await == Some(one.clone())).await;

    let replace = |text: &str| {
        let new = folder.path().join("new");
        std::fs::write(&new, text).expect("writes");
        std::fs::rename(&new, &file).expect("replaces");
    };
    replace("nameserver 2001:db8::1\n");
    let other = vec!["[2001:db8::1]:53".parse().expect("valid")];
    eventually("the change is seen", async || servers().await == Some(other.clone())).await;

    let says = async |api: &mut NameServiceClient<Channel>, part: &str| {
        let status = api.get_status(GetStatusRequest {}).await.expect("answers").into_inner();
        let problem = status.problems.into_iter().find(|problem| problem.reason == "resolvers_not_followed");
        problem.is_some_and(|problem| problem.message.contains(part) && problem.message.contains("[2001:db8::1]:53"))
    };
    replace("# nothing yet\n");
    eventually("an empty file is told", async || says(&mut dns.api, "names no resolver").await).await;
    replace("nameserver localhost\n");
    eventually("a malformed one", async || says(&mut dns.api, "line 1 of").await).await;
    std::fs::remove_file(&file).expect("there");
    eventually("a missing one", async || says(&mut dns.api, "No such file").await).await;
    replace("nameserver 192.0.2.1\nnameserver fe80::1%eth0\n");
    eventually("and what is right again counts", async || {
        let status = dns.api.get_status(GetStatusRequest {}).await.expect("answers").into_inner();
        status.problems.iter().all(|problem| problem.reason != "resolvers_not_followed") && status.upstreams.len() == 1
    })
    .await;
    dns.stop().await;
}
