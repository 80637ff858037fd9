//! Traces, from a service's socket to a receiver of OTLP.
//!
//! One test, since a process records for one service, once.

use std::{net::SocketAddr, path::Path, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_client::TraceServiceClient,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind},
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, service::Routes, transport::Server};
use weft_metrics::{Exposition, Registry, merge, testing::read};
use weft_proto::{
    client::{Service, channel},
    common::v1::{SetLogLevelRequest, log_service_client::LogServiceClient},
};
use weft_service::{CommonOptions, Health, Shutdown, bind, fetch_metrics, trace};

/// Longest time that anything may take here.
const SOON: Duration = Duration::from_secs(20);

/// What a client sends: the trace and the span that called.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// Passes on what it receives.
struct Receiver(mpsc::UnboundedSender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let taken = self.0.send(request.into_inner());
        taken
            .map(|()| Response::new(ExportTraceServiceResponse::default()))
            .map_err(|_| Status::cancelled("the test is over"))
    }
}

async fn receive(address: SocketAddr) -> mpsc::UnboundedReceiver<ExportTraceServiceRequest> {
    let listener = TcpListener::bind(address).await.expect("the port is still free");
    let (sender, received) = mpsc::unbounded_channel();
    let server = Server::builder().add_service(TraceServiceServer::new(Receiver(sender)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    received
}

#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    common: CommonOptions,
}

struct Nothing;

#[tonic::async_trait]
impl weft_metrics::Collect for Nothing {
    async fn collect(&self, _: &mut weft_metrics::Sheet) {}
}

#[test]
fn the_router_continues_traces_and_hands_on_those_of_others() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    // Nobody listens there yet.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let address = free.local_addr().expect("bound");
    drop(free);
    let socket_folder = folder.path().to_str().expect("text");
    let endpoint = format!("http://{address}");
    let arguments = ["test", "--socket-folder", socket_folder, "--otlp-endpoint", &endpoint];
    let options = <Options as clap::Parser>::try_parse_from(arguments).expect("valid").common;
    let socket = Service::Router.socket(folder.path());
    let code = weft_service::main(Service::Router, &options, |_| run(socket, address));
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}

async fn run(socket: std::path::PathBuf, address: SocketAddr) -> weft_service::Result {
    let registry = Registry::new("router", "1", &[]);
    let server = bind(&socket)?.with_metrics(std::sync::Arc::new(Exposition::new(registry, Nothing)));
    let (_trigger, shutdown) = Shutdown::triggered();
    let health = Health::starting().await;
    tokio::spawn(async move { server.serve(Routes::default(), &health, shutdown).await });

    call(&socket, None).await;
    call(&socket, Some(&format!("00-{TRACE}-{CALLER}-00"))).await;
    call(&socket, Some(&format!("00-{TRACE}-0000000000000000-01"))).await;
    let caller = format!("00-{TRACE}-{CALLER}-01");
    let caller = trace::Parent::received([caller.as_bytes()], [b"vendor=1".as_slice()]);
    let mut client = LogServiceClient::new(trace::Traced::new(channel(&socket)));
    let answer = caller.run(client.set_level(SetLogLevelRequest { level: "loud".to_owned() })).await;
    assert_eq!(answer.expect_err("no level").code(), tonic::Code::InvalidArgument);
    of_another_service(&socket).await;

    problem_is(true).await?;
    let problem = trace::problem().unwrap_or_default();
    let expected = format!("traces do not arrive at http://{address} (Connection refused");
    assert!(problem.starts_with(&expected), "{problem}");

    let mut received = receive(address).await;
    let mut spans: Vec<(Resource, Span)> = Vec::new();
    while spans.len() < 3 {
        let request = timeout(SOON, received.recv()).await?.expect("the receiver lives");
        for ResourceSpans { resource, scope_spans, .. } in request.resource_spans {
            let resource = resource.unwrap_or_default();
            let all = scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(all.map(|span| (resource.clone(), span)));
        }
    }
    // "other" first, then the client's side, whose parent is in another process.
    spans.sort_by_key(|(_, span)| (span.name.clone(), hex(&span.parent_span_id) != CALLER));
    let [(_, other), (resource, asked), (_, answered)] = spans.as_slice() else { panic!("not three: {spans:?}") };
    assert_eq!(other.name, "other");
    assert_eq!((hex(&asked.trace_id), hex(&asked.parent_span_id)), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!((&answered.trace_id, &answered.parent_span_id), (&asked.trace_id, &asked.span_id));
    for (span, kind) in [(asked, SpanKind::Client), (answered, SpanKind::Server)] {
        assert_eq!((span.name.as_str(), span.kind), ("weft.common.v1.LogService/SetLevel", kind as i32));
        assert_eq!(text(&span.attributes, "rpc.response.status_code"), Some("INVALID_ARGUMENT"));
        assert_eq!(span.trace_state, "vendor=1");
    }
    assert_eq!(text(&resource.attributes, "service.name"), Some("weft-router"));
    let host = text(&resource.attributes, "host.name").expect("the host has a name");
    for (resource, span) in &spans {
        assert_eq!(text(&resource.attributes, "host.name"), Some(host), "{span:?}");
    }
    problem_is(false).await?;
    let scrape = read(&merge([fetch_metrics(channel(&socket)).await?])).expect("well-formed");
    assert_eq!(scrape.sum("weft_trace_spans_total", &[("service", "router"), ("result", "sent")]), 3.0);
    assert_eq!(scrape.sum("weft_trace_spans_total", &[("result", "lost")]), 0.0);
    Ok(())
}

/// Waits until there is a problem, or none.
async fn problem_is(there: bool) -> Result<(), tokio::time::error::Elapsed> {
    timeout(SOON, async {
        while trace::problem().is_some() != there {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Asks for a level that there is not, which changes nothing.
async fn call(socket: &Path, parent: Option<&str>) {
    let mut request = Request::new(SetLogLevelRequest { level: "loud".to_owned() });
    if let Some(parent) = parent {
        request.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
    }
    let answer = LogServiceClient::new(channel(socket)).set_level(request).await;
    assert_eq!(answer.expect_err("no level").code(), tonic::Code::InvalidArgument);
}

async fn of_another_service(socket: &Path) {
    let span = Span { name: "other".to_owned(), ..Span::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }];
    let resource_spans = vec![ResourceSpans { resource: Some(Resource::default()), scope_spans, ..Default::default() }];
    let mut client = TraceServiceClient::new(channel(socket));
    client.export(ExportTraceServiceRequest { resource_spans }).await.expect("taken");
}

fn text<'a>(attributes: &'a [opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> Option<&'a str> {
    let value = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()?;
    if let Value::StringValue(text) = value { Some(text) } else { None }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
