//! The command against fake services on sockets of a temporary folder.

#[path = "services/completions.rs"]
mod completions;
#[path = "services/floating.rs"]
mod floating;
#[path = "services/json.rs"]
mod json;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use clap::Parser;
use tokio::{net::UnixListener, task::JoinHandle};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use weft::{Cli, Environment, Outcome};
use weft_proto::{
    common::v1::{
        IpPrefix, SetLogLevelRequest, SetLogLevelResponse,
        log_service_server::{LogService, LogServiceServer},
    },
    dns::v1::{
        self as dns,
        name_service_server::{NameService, NameServiceServer},
    },
    ipam::v1::{
        self as ipam,
        address_service_server::{AddressService, AddressServiceServer},
    },
    proxy::v1::{
        self as proxy,
        container_service_server::{ContainerService, ContainerServiceServer},
    },
};

struct Proxy;

#[tonic::async_trait]
impl ContainerService for Proxy {
    async fn get_status(
        &self,
        _: Request<proxy::GetStatusRequest>,
    ) -> Result<Response<proxy::GetStatusResponse>, Status> {
        Ok(Response::new(proxy::GetStatusResponse {
            version: "0.1.0".to_owned(),
            listeners: vec![proxy::Listener {
                address: "unix:///run/weft/docker/docker.sock".to_owned(),
                ..proxy::Listener::default()
            }],
            ..proxy::GetStatusResponse::default()
        }))
    }

    async fn list_containers(
        &self,
        _: Request<proxy::ListContainersRequest>,
    ) -> Result<Response<proxy::ListContainersResponse>, Status> {
        let container = |id: &str, name: &str| proxy::Container {
            container_id: id.to_owned(),
            name: name.to_owned(),
            state: proxy::ContainerState::Attached.into(),
            mac: Some(weft_proto::common::v1::MacAddress { octets: vec![2, 0, 0, 0, 0, 1] }),
            ..proxy::Container::default()
        };
        let mut db = container("aaaaaaaaaaaaaaaa", "db");
        db.addresses = vec!["10.32.0.1/12".parse::<ipnet::IpNet>().expect("valid").into()];
        db.dns_names = vec!["db".to_owned()];
        let containers = vec![db, container("bbbbbbbbbbbbbbbb", "web"), container("bbbbcccccccccccc", "late")];
        Ok(Response::new(proxy::ListContainersResponse { containers }))
    }

    async fn attach(&self, request: Request<proxy::AttachRequest>) -> Result<Response<proxy::AttachResponse>, Status> {
        let request = request.into_inner();
        if request.container != "db" {
            return Err(Status::not_found(format!("there is no container {}", request.container)));
        }
        let addresses = ["10.32.0.1/12", "fd00::1/108"];
        let addresses = addresses.map(|text| IpPrefix::from(text.parse::<ipnet::IpNet>().expect("valid"))).into();
        Ok(Response::new(proxy::AttachResponse { addresses }))
    }

    async fn detach(&self, _: Request<proxy::DetachRequest>) -> Result<Response<proxy::DetachResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Answers, and remembers what it is asked to change.
#[derive(Default)]
struct Dns {
    changes: Changes,
    /// Its records are too many for an answer.
    overfull: bool,
}

type Changes = Arc<Mutex<Vec<String>>>;

impl Dns {
    fn note(&self, verb: &str, container: &str, names: &[String], addresses: &[weft_proto::common::v1::IpAddress]) {
        let addresses = addresses.iter().map(|address| std::net::IpAddr::try_from(address).expect("valid").to_string());
        let addresses = addresses.collect::<Vec<_>>().join(" ");
        self.changes.lock().expect("no panic").push(format!("{verb} [{container}] {} = {addresses}", names.join(" ")));
    }
}

#[tonic::async_trait]
impl NameService for Dns {
    type WatchStream = tokio_stream::Pending<Result<dns::WatchResponse, Status>>;

    async fn watch(&self, _: Request<dns::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn register(&self, _: Request<dns::RegisterRequest>) -> Result<Response<dns::RegisterResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn deregister(
        &self,
        _: Request<dns::DeregisterRequest>,
    ) -> Result<Response<dns::DeregisterResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn add_names(
        &self,
        request: Request<dns::AddNamesRequest>,
    ) -> Result<Response<dns::AddNamesResponse>, Status> {
        let request = request.into_inner();
        if request.names.iter().any(|name| name == "www.example.org.") {
            return Err(Status::invalid_argument("the name lies outside of the zone"));
        }
        self.note("add", &request.container_id, &request.names, &request.addresses);
        Ok(Response::new(dns::AddNamesResponse {}))
    }

    async fn remove_names(
        &self,
        request: Request<dns::RemoveNamesRequest>,
    ) -> Result<Response<dns::RemoveNamesResponse>, Status> {
        let request = request.into_inner();
        self.note("remove", &request.container_id, &request.names, &request.addresses);
        Ok(Response::new(dns::RemoveNamesResponse { removed: u64::from(!request.container_id.is_empty()) }))
    }

    async fn lookup(&self, request: Request<dns::LookupRequest>) -> Result<Response<dns::LookupResponse>, Status> {
        let known = request.into_inner().name == "db";
        let addresses = known.then(|| std::net::IpAddr::from([10, 32, 0, 1]).into()).into_iter().collect();
        Ok(Response::new(dns::LookupResponse { addresses }))
    }

    async fn list_records(
        &self,
        _: Request<dns::ListRecordsRequest>,
    ) -> Result<Response<dns::ListRecordsResponse>, Status> {
        if self.overfull {
            return Err(Status::out_of_range("the answer is too large"));
        }
        Ok(Response::new(dns::ListRecordsResponse::default()))
    }

    async fn get_status(&self, _: Request<dns::GetStatusRequest>) -> Result<Response<dns::GetStatusResponse>, Status> {
        let address = "169.254.83.53:53".parse::<std::net::SocketAddr>().expect("valid").into();
        let zone = "weft.internal.".to_owned();
        Ok(Response::new(dns::GetStatusResponse { zone, address: Some(address), ..Default::default() }))
    }
}

/// An ipam whose ring is made while it is asked for the second time.
#[derive(Default)]
struct Ipam {
    asked: AtomicU32,
    never: bool,
}

#[tonic::async_trait]
impl AddressService for Ipam {
    async fn allocate(&self, _: Request<ipam::AllocateRequest>) -> Result<Response<ipam::AllocateResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn claim(&self, _: Request<ipam::ClaimRequest>) -> Result<Response<ipam::ClaimResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn free(&self, _: Request<ipam::FreeRequest>) -> Result<Response<ipam::FreeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn lookup(&self, _: Request<ipam::LookupRequest>) -> Result<Response<ipam::LookupResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn take_over(&self, _: Request<ipam::TakeOverRequest>) -> Result<Response<ipam::TakeOverResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn hand_over(&self, _: Request<ipam::HandOverRequest>) -> Result<Response<ipam::HandOverResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_allocations(
        &self,
        _: Request<ipam::ListAllocationsRequest>,
    ) -> Result<Response<ipam::ListAllocationsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get_status(
        &self,
        _: Request<ipam::GetStatusRequest>,
    ) -> Result<Response<ipam::GetStatusResponse>, Status> {
        let first = self.asked.fetch_add(1, Ordering::Relaxed) == 0;
        let status = if first || self.never {
            let state = ipam::RingState::Electing.into();
            ipam::GetStatusResponse { state, voters: 3, voters_heard: 1, ..Default::default() }
        } else {
            let state = ipam::RingState::Ready.into();
            ipam::GetStatusResponse { state, ring_id: vec![0xab; 16], ..Default::default() }
        };
        Ok(Response::new(status))
    }
}

fn serve_ipam(folder: &Path, ipam: Ipam) -> JoinHandle<Result<(), tonic::transport::Error>> {
    let listener = UnixListener::bind(folder.join("ipam.sock")).expect("the socket can be bound");
    let server = Server::builder().add_service(AddressServiceServer::new(ipam));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)))
}

struct Log;

#[tonic::async_trait]
impl LogService for Log {
    async fn set_level(&self, request: Request<SetLogLevelRequest>) -> Result<Response<SetLogLevelResponse>, Status> {
        match request.into_inner().level.as_str() {
            "debug" => Ok(Response::new(SetLogLevelResponse { previous: "info".to_owned() })),
            level => Err(Status::invalid_argument(format!("the log level {level:?} is not valid"))),
        }
    }
}

/// Serves dns and docker-proxy, but neither router nor ipam.
fn serve(folder: &Path) -> [JoinHandle<Result<(), tonic::transport::Error>>; 2] {
    serve_with(folder, Dns::default())
}

fn serve_with(folder: &Path, names: Dns) -> [JoinHandle<Result<(), tonic::transport::Error>>; 2] {
    let incoming =
        |name| UnixListenerStream::new(UnixListener::bind(folder.join(name)).expect("the socket can be bound"));
    let proxy = incoming("docker-proxy.sock");
    let dns = incoming("dns.sock");
    [
        tokio::spawn(
            Server::builder()
                .add_service(ContainerServiceServer::new(Proxy))
                .add_service(LogServiceServer::new(Log))
                .serve_with_incoming(proxy),
        ),
        tokio::spawn(
            Server::builder()
                .add_service(NameServiceServer::new(names))
                .add_service(LogServiceServer::new(Log))
                .serve_with_incoming(dns),
        ),
    ]
}

/// Runs a command line and returns how it ended, and what it wrote to stdout and stderr.
async fn weft_in(folder: &Path, environment: Environment, line: &str) -> (Outcome, String, String) {
    let words = ["weft", "--socket-folder", folder.to_str().expect("text")].into_iter().chain(line.split(' '));
    let cli = Cli::try_parse_from(words).expect("a valid command line");
    let (mut out, mut complaints) = (Vec::new(), Vec::new());
    let outcome = weft::run(cli, &environment, &mut out, &mut complaints).await;
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (outcome, text(out), text(complaints))
}

#[tokio::test]
async fn verbs_print_what_scripts_expect() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    let done = async |line| {
        let (outcome, out, complaints) = weft_in(folder.path(), Environment::default(), line).await;
        assert_eq!((outcome, complaints.as_str()), (Outcome::Done, ""), "{line}");
        out
    };
    assert_eq!(done("attach db").await, "10.32.0.1 fd00::1\n");
    assert_eq!(done("ps web").await, "bbbbbbbbbbbb 02:00:00:00:00:01\n");
    assert_eq!(done("ps aaaa nobody").await.lines().count(), 1);
    assert_eq!(done("dns-lookup db").await, "10.32.0.1\n");
    assert_eq!(done("dns-lookup nobody").await, "");
    assert_eq!(done("status dns").await, "");
    let json: serde_json::Value = serde_json::from_str(&done("attach db --output json").await).expect("JSON");
    assert_eq!(json["addresses"][0], "10.32.0.1");
    assert_eq!(done("config").await, "-H=unix:///run/weft/docker/docker.sock\n");
    assert_eq!(done("dns-args").await, "--dns=169.254.83.53 --dns-search=weft.internal", "no newline");
    let json: serde_json::Value = serde_json::from_str(&done("-o json dns-args").await).expect("JSON");
    assert_eq!(json, serde_json::json!({"schema_version": 1, "dns": "169.254.83.53", "dns_search": "weft.internal"}));
    assert_eq!(done("env").await, "export DOCKER_HOST=unix:///run/weft/docker/docker.sock ORIG_DOCKER_HOST=\n");
}

#[tokio::test]
async fn env_can_be_repeated() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    let set = Environment::of([("DOCKER_HOST", "tcp://192.0.2.1:2375")]);
    let (_, out, _) = weft_in(folder.path(), set, "env").await;
    assert_eq!(out, "export DOCKER_HOST=unix:///run/weft/docker/docker.sock ORIG_DOCKER_HOST=tcp://192.0.2.1:2375\n");
    let again = Environment::of([("DOCKER_HOST", "unix:///run/weft/docker/docker.sock"), ("ORIG_DOCKER_HOST", "x")]);
    let (_, out, _) = weft_in(folder.path(), again, "env").await;
    assert_eq!(out, "export DOCKER_HOST=unix:///run/weft/docker/docker.sock\n", "the original is kept");
    let tls = Environment::of([("DOCKER_HOST", "tcp://192.0.2.1:2376"), ("DOCKER_TLS_VERIFY", "1")]);
    let (_, out, _) = weft_in(folder.path(), tls, "env").await;
    let expected = "export DOCKER_HOST=unix:///run/weft/docker/docker.sock ORIG_DOCKER_HOST=tcp://192.0.2.1:2376; \
                    export ORIG_DOCKER_TLS_VERIFY=1; unset DOCKER_TLS_VERIFY\n";
    assert_eq!(out, expected, "what is for TCP is kept from a Unix socket");
}

#[tokio::test]
async fn names_are_given_and_taken_away() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let changes = Changes::default();
    let _services = serve_with(folder.path(), Dns { changes: Arc::clone(&changes), ..Dns::default() });
    let run = async |line| weft_in(folder.path(), Environment::default(), line).await;
    for (line, change) in [
        ("dns-add db", "add [aaaaaaaaaaaaaaaa] db = 10.32.0.1"),
        ("dns-add aaaa -h alias", "add [aaaaaaaaaaaaaaaa] alias = 10.32.0.1"),
        (
            "dns-add 192.0.2.1 fd00::1 web -h a.weft.internal",
            "add [bbbbbbbbbbbbbbbb] a.weft.internal. = 192.0.2.1 fd00::1",
        ),
        ("dns-add 192.0.2.9 -h printer", "add [] printer = 192.0.2.9"),
        ("dns-remove db", "remove [aaaaaaaaaaaaaaaa]  = "),
        ("dns-remove 192.0.2.1 web -h a", "remove [bbbbbbbbbbbbbbbb] a = 192.0.2.1"),
    ] {
        assert_eq!(run(line).await, (Outcome::Done, String::new(), String::new()), "{line}");
        assert_eq!(changes.lock().expect("no panic").pop().as_deref(), Some(change), "{line}");
    }
    let (outcome, out, complaints) = run("dns-remove 192.0.2.8 -h nobody").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Done, ""));
    assert!(complaints.contains("nothing of that kind was added"), "{complaints}");
    changes.lock().expect("no panic").clear();

    for (line, part) in [
        ("dns-add nobody -h x", "`weft attach nobody`"),
        ("dns-add bbbb -h x", "the ids of 2 containers start with bbbb"),
        ("dns-add web -h x", "the container web has no address yet"),
        ("dns-add 192.0.2.1 web", "the container web has no name of its own"),
        ("dns-add 192.0.2.1 -h www.example.org", "outside of the zone"),
        ("dns-remove nobody", "no container nobody is attached here"),
    ] {
        let (outcome, out, complaints) = run(line).await;
        assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""), "{line}");
        assert!(complaints.contains(part), "{line}: {complaints}");
    }
    assert!(changes.lock().expect("no panic").is_empty());

    let (_, out, _) = run("dns-add db -h alias -o json").await;
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let expected = serde_json::json!({"container": "aaaaaaaaaaaaaaaa", "names": ["alias"], "addresses": ["10.32.0.1"]});
    assert_eq!(json::unversioned(json), expected);
}

#[tokio::test]
async fn prime_waits_for_a_ring() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let run = async |line| weft_in(folder.path(), Environment::default(), line).await;
    let (outcome, out, complaints) = run("prime --timeout 0").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
    assert!(complaints.contains("no address ring after 0 s: ipam is not running"), "{complaints}");

    // Services that are just being started are waited for, too.
    let starting = run("prime");
    let mut serving = None;
    let (starting, ()) = tokio::join!(starting, async {
        tokio::task::yield_now().await;
        serving = Some(serve_ipam(folder.path(), Ipam::default()));
    });
    assert_eq!((starting.0, starting.1.as_str()), (Outcome::Done, ""));
    assert!(starting.2.starts_with("weft: waiting for ipam: ipam is not running"), "{}", starting.2);
    assert_eq!(run("prime").await, (Outcome::Done, String::new(), String::new()));
    let (_, out, _) = run("prime --output json").await;
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["ring_id"], "ab".repeat(16));

    serving.expect("it was started").abort();
    std::fs::remove_file(folder.path().join("ipam.sock")).expect("the socket is there");
    let _serving = serve_ipam(folder.path(), Ipam { never: true, ..Ipam::default() });
    let (outcome, out, complaints) = run("prime --timeout 0").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
    assert!(complaints.contains("awaiting consensus (voters: 3, heard: 1)"), "{complaints}");
    assert!(complaints.contains("`weft status targets`"), "{complaints}");
}

#[tokio::test]
async fn a_report_has_what_all_verbs_say() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    let (outcome, out, complaints) = weft_in(folder.path(), Environment::default(), "report").await;
    assert_eq!((outcome, complaints.as_str()), (Outcome::Failed, ""), "router and ipam are away");
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(report["status"]["router"]["away"]["reason"], "not_running");
    assert_eq!(report["status"]["proxy"]["version"], "0.1.0");
    for part in ["peers", "connections", "targets", "ipam"] {
        assert_eq!(report[part]["away"]["reason"], "not_running", "{part}");
    }
    for (word, line) in [("status", "status"), ("dns", "status dns"), ("ps", "ps")] {
        let (_, out, _) = weft_in(folder.path(), Environment::default(), &format!("{line} -o json")).await;
        let alone: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(report[word], json::unversioned(alone), "{line}");
    }
    let (_, as_json, _) = weft_in(folder.path(), Environment::default(), "report -o json").await;
    assert_eq!(as_json, out, "there is no other form");
}

#[tokio::test]
async fn what_a_report_lacks_has_its_reason_in_its_place() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve_with(folder.path(), Dns { overfull: true, ..Dns::default() });
    let _ipam = serve_ipam(folder.path(), Ipam::default());
    let (outcome, out, _) = weft_in(folder.path(), Environment::default(), "report").await;
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(outcome, Outcome::Failed);
    assert_eq!(report["status"]["dns"]["zone"], "weft.internal.", "dns itself answers");
    let away = serde_json::json!({"away": {"reason": "refused", "message": "the answer is too large"}});
    assert_eq!(report["dns"], away);
}

#[tokio::test]
async fn without_docker_proxy_nothing_is_printed_that_a_shell_would_run() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for (line, service) in [("config", "docker-proxy"), ("env", "docker-proxy"), ("dns-args", "dns")] {
        let (outcome, out, complaints) = weft_in(folder.path(), Environment::default(), line).await;
        assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""), "{line}");
        assert!(complaints.starts_with(&format!("weft: {service} is not running here")), "{complaints}");
    }
}

#[tokio::test]
async fn refusals_are_told_once_and_fail() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    let (outcome, out, complaints) = weft_in(folder.path(), Environment::default(), "attach nobody").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
    assert_eq!(complaints, "weft: there is no container nobody\n");
    let (_, _, complaints) = weft_in(folder.path(), Environment::default(), "detach db").await;
    assert!(complaints.contains("of another version"), "{complaints}");
}

#[tokio::test]
async fn log_levels_change_where_services_are() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    let run = async |line| weft_in(folder.path(), Environment::default(), line).await;
    let (outcome, out, complaints) = run("log-level dns debug").await;
    assert_eq!((outcome, complaints.as_str()), (Outcome::Done, ""));
    assert_eq!(out, "dns          debug (was info)\n");
    let (outcome, out, complaints) = run("log-level debug").await;
    assert_eq!((outcome, out.lines().count()), (Outcome::Failed, 2), "{out}");
    assert!(complaints.contains("router is not running") && complaints.contains("ipam is not running"), "{complaints}");
    let (outcome, out, complaints) = run("log-level docker-proxy verbose").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
    assert_eq!(complaints, "weft: the log level \"verbose\" is not valid\n");
}

#[tokio::test]
async fn a_service_that_is_away_costs_its_section_and_the_exit_code() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _services = serve(folder.path());
    // A socket that nobody serves any more.
    drop(UnixListener::bind(folder.path().join("ipam.sock")).expect("the socket can be bound"));
    let (outcome, out, complaints) = weft_in(folder.path(), Environment::default(), "status").await;
    assert_eq!((outcome, complaints.as_str()), (Outcome::Failed, ""));
    assert!(out.contains("Service: router\n        Problem: router is not running here, there is no socket"), "{out}");
    assert!(out.contains("Service: ipam\n        Problem: ipam is not running, nobody serves"), "{out}");
    assert!(out.contains("Domain: weft.internal.\n"), "{out}");
    assert!(out.contains("Address: unix:///run/weft/docker/docker.sock\n"), "{out}");

    let (outcome, out, _) = weft_in(folder.path(), Environment::default(), "status -o json").await;
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((outcome, &json["router"]["away"]["reason"]), (Outcome::Failed, &"not_running".into()));
    assert_eq!(json["dns"]["zone"], "weft.internal.");

    let (outcome, out, complaints) = weft_in(folder.path(), Environment::default(), "status peers").await;
    assert_eq!((outcome, out.as_str()), (Outcome::Failed, ""));
    assert!(complaints.contains("`docker compose up -d`"), "{complaints}");
    let (outcome, out, _) = weft_in(folder.path(), Environment::default(), "version").await;
    assert_eq!(outcome, Outcome::Done);
    assert!(out.contains("docker-proxy 0.1.0\n"), "{out}");
}

#[tokio::test]
async fn a_silent_service_does_not_hang_the_command() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let _silent = UnixListener::bind(folder.path().join("router.sock")).expect("the socket can be bound");
    let (outcome, _, complaints) = weft_in(folder.path(), Environment::default(), "status targets").await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(complaints.contains("router did not answer within 5 s"), "{complaints}");
    let asked = weft_in(folder.path(), Environment::default(), "status");
    let (_, out, _) =
        tokio::time::timeout(std::time::Duration::from_secs(30), asked).await.expect("it answers in time");
    assert!(out.contains("router did not answer within 5 s"), "{out}");
}

#[tokio::test]
async fn what_is_no_socket_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::write(folder.path().join("router.sock"), "").expect("writes");
    let (outcome, _, complaints) = weft_in(folder.path(), Environment::default(), "connect host2").await;
    assert_eq!(outcome, Outcome::Failed);
    assert!(complaints.contains("router.sock"), "{complaints}");
}
