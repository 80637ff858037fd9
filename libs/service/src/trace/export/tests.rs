//! What becomes of spans, with receivers of each kind.

use std::{net::SocketAddr, sync::MutexGuard};

use opentelemetry::trace::{Tracer as _, TracerProvider as _};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response,
    service::Routes,
    transport::{Server, server::Router},
};

use super::*;

/// Takes all spans, and notes how large each message is.
#[derive(Debug, Clone, Default)]
struct Taker(Arc<Mutex<Vec<usize>>>);

impl Taker {
    fn messages(&self) -> MutexGuard<'_, Vec<usize>> {
        self.0.lock().expect("no test panicked")
    }
}

#[tonic::async_trait]
impl TraceService for Taker {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.messages().push(request.get_ref().encoded_len());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A process that records. Its exporter runs while the test waits.
struct Process {
    tracer: SdkTracer,
    relay: mpsc::Sender<Vec<ResourceSpans>>,
    tally: Arc<Tally>,
    exporting: Exporting,
}

impl Process {
    fn start(receiver: SocketAddr) -> Self {
        let endpoint = format!("http://{receiver}").parse().expect("valid");
        let tally = Arc::new(Tally::default());
        let (relay, relayed) = mpsc::channel(RELAYED);
        let resource = Resource::builder_empty().build();
        let (queue, exporting) = spawn(Receiver::collector(&endpoint), &resource, Arc::clone(&tally), relayed);
        let tracer = SdkTracerProvider::builder().with_span_processor(queue).build().tracer("test");
        Self { tracer, relay, tally, exporting }
    }

    fn record(&self, name: &str) {
        drop(self.tracer.start(name.to_owned()));
    }

    /// Returns how many spans were sent, and how many lost.
    fn counts(&self) -> (u64, u64) {
        (self.tally.sent.load(Ordering::Relaxed), self.tally.lost.load(Ordering::Relaxed))
    }

    async fn until(&self, counts: (u64, u64)) {
        let reached = timeout(Duration::from_secs(20), async {
            while self.counts() != counts {
                sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(reached.await.is_ok(), "{:?} instead of {counts:?}", self.counts());
    }
}

async fn serve(server: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[tokio::test]
async fn what_does_not_fit_and_what_is_refused_is_lost_and_holds_up_nobody() {
    // Speaks gRPC, and knows nothing of spans.
    let address = serve(Server::builder().add_routes(Routes::default())).await;
    let process = Process::start(address);
    for _ in 0..QUEUE.0 + 5 {
        process.record("span");
    }
    assert_eq!(process.counts(), (0, 5));
    process.until((0, (QUEUE.0 + 5) as u64)).await;
    let problem = process.tally.problem(Instant::now()).unwrap_or_default();
    assert!(problem.starts_with(&format!("traces do not arrive at http://{address} (")), "{problem}");
    process.exporting.stop().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_for_the_receiver_is_lost_and_holds_up_nobody() {
    let taker = TraceServiceServer::new(Taker::default()).max_decoding_message_size(1000);
    let process = Process::start(serve(Server::builder().add_service(taker)).await);
    process.record(&"x".repeat(2000));
    process.until((0, 1)).await;
    assert!(process.tally.problem(Instant::now()).is_some());
    process.record("x");
    process.until((1, 1)).await;
    assert_eq!(process.tally.problem(Instant::now()), None);
    process.exporting.stop().await;
}

#[tokio::test]
async fn spans_that_wait_and_messages_are_bounded_in_bytes() {
    let taker = Taker::default();
    let process = Process::start(serve(Server::builder().add_service(TraceServiceServer::new(taker.clone()))).await);
    let name = "x".repeat(100_000);
    let fitting = QUEUE.1 / 100_500;
    for _ in 0..fitting + 5 {
        process.record(&name);
    }
    assert_eq!(process.counts(), (0, 5));
    // Of other services come as many bytes.
    let span = || opentelemetry_proto::tonic::trace::v1::Span { name: name.clone(), ..Default::default() };
    for _ in 0..4 {
        let scope = opentelemetry_proto::tonic::trace::v1::ScopeSpans {
            spans: (0..10).map(|_| span()).collect(),
            ..Default::default()
        };
        let spans = ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() };
        process.relay.try_send(vec![spans]).expect("there is room");
    }
    process.until((fitting as u64 + 40, 5)).await;
    let messages = taker.messages().clone();
    assert!(messages.len() >= 4 && messages.iter().all(|size| *size <= 2 * BATCH.1), "{messages:?}");
    process.exporting.stop().await;
}

#[tokio::test]
async fn what_is_left_when_the_service_stops_is_lost() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("there is a port").local_addr().expect("bound");
    let process = Process::start(nobody);
    for _ in 0..BATCH.0 + 1 {
        process.record("span");
    }
    process.exporting.stop().await;
    let (sent, lost) = (&process.tally.sent, &process.tally.lost);
    assert_eq!((sent.load(Ordering::Relaxed), lost.load(Ordering::Relaxed)), (0, BATCH.0 as u64 + 1));
}

#[test]
fn the_newest_reason_is_told_and_a_refusal_for_a_while() {
    let tally = Tally::default();
    let now = Instant::now();
    let problem = |text: &str, until| Some(Problem { text: text.into(), until });
    tally.note(problem("away", None));
    assert_eq!(tally.problem(now + 1000 * REMEMBERED).as_deref(), Some("away"), "something waits");
    tally.note(problem("refused", Some(now + REMEMBERED)));
    assert_eq!(tally.problem(now + REMEMBERED / 2).as_deref(), Some("refused"));
    assert_eq!(tally.problem(now + REMEMBERED), None);
    tally.note(problem("away", None));
    tally.note(None);
    assert_eq!(tally.problem(now), None);
}
