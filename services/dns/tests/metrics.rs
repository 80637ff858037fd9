//! The metrics of dns, beside which no router runs.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use tokio::net::UdpSocket;
use weft_dns::Config;
use weft_metrics::{
    merge, shared,
    testing::{Scrape, read},
};
use weft_proto::{
    client::{Service, channel},
    dns::v1::{GetStatusRequest, RegisterRequest, Registration, name_service_client::NameServiceClient},
};
use weft_service::Shutdown;

const PATIENCE: Duration = Duration::from_secs(10);

async fn ask(server: SocketAddr, name: &str, record_type: RecordType) {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("valid"), record_type));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    socket.send_to(&message.to_vec().expect("encodes"), server).await.expect("sends");
    tokio::time::timeout(PATIENCE, socket.recv(&mut [0; 512])).await.expect("an answer in time").expect("received");
}

#[tokio::test]
async fn every_metric_is_there_and_queries_are_counted() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let sockets = folder.path().to_str().expect("text");
    let state = folder.path().join("state");
    let line = ["weft-dns", "--socket-folder", sockets, "--resolv-conf", "/nonexistent", "--listen", "127.0.0.1:0"];
    let state = ["--state-folder", state.to_str().expect("text")];
    let config = Config::try_parse_from(line.into_iter().chain(state)).expect("valid options");
    let (_stop, shutdown) = Shutdown::triggered();
    tokio::spawn(weft_dns::run(config, shutdown));
    let socket = Service::Dns.socket(folder.path());
    let mut api = NameServiceClient::new(channel(&socket));
    let started = tokio::time::timeout(PATIENCE, async {
        loop {
            match api.get_status(GetStatusRequest {}).await {
                Ok(status) => break status.into_inner(),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    let status = started.await.expect("dns starts");
    let server = SocketAddr::try_from(status.address.as_ref().expect("it listens")).expect("valid");
    let registration = Registration {
        container_id: "c".into(),
        names: vec!["db".into()],
        addresses: vec![std::net::IpAddr::from([10, 32, 0, 1]).into()],
        unhealthy: true,
    };
    api.register(RegisterRequest { registration: Some(registration) }).await.expect("registered");
    ask(server, "db.weft.internal.", RecordType::A).await;
    ask(server, "db.weft.internal.", RecordType::MX).await;
    ask(server, "nobody.weft.internal.", RecordType::AAAA).await;
    ask(server, "example.org.", RecordType::A).await;

    let scrape: Scrape = {
        let families = weft_service::fetch_metrics(channel(&socket)).await.expect("answered");
        read(&merge([families])).expect("well-formed")
    };
    let missing = scrape.missing(&[shared::FAMILIES, weft_dns::metrics::FAMILIES].concat());
    assert_eq!(missing, [shared::UP.name], "what only the router can say");
    let counts = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels) as u64;
    assert_eq!(counts("weft_dns_queries_total", &[("kind", "a"), ("result", "answered")]), 1);
    assert_eq!(counts("weft_dns_queries_total", &[("kind", "mx"), ("result", "empty")]), 1);
    assert_eq!(counts("weft_dns_queries_total", &[("kind", "aaaa"), ("result", "nxdomain")]), 1);
    assert_eq!(counts("weft_dns_queries_total", &[("kind", "a"), ("result", "servfail")]), 1);
    assert_eq!(counts("weft_dns_upstream_queries_total", &[("result", "no_upstream")]), 1);
    assert_eq!(counts("weft_dns_query_duration_seconds_count", &[("source", "weft")]), 3);
    assert_eq!(counts("weft_dns_query_duration_seconds_count", &[("source", "upstream")]), 1);
    assert_eq!(counts("weft_dns_upstream_up", &[]), 0);
    assert_eq!(counts("weft_dns_records", &[("state", "local")]), 1);
    assert_eq!(counts("weft_dns_unhealthy_records", &[]), 1);
    assert!(counts("weft_problems", &[("service", "dns")]) >= 1);
}
