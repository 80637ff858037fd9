//! The way of spans out of the process.

use std::{
    error::Error,
    mem,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_proto::{
    tonic::{
        collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
        common::v1::KeyValue,
        trace::v1::ResourceSpans,
    },
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use weft_metrics::{Counter, Registry, shared};

use super::{HOST_NAME, OtlpEndpoint};

/// Spans of this process that may wait; those that come then are lost, and counted.
const QUEUE: usize = 2048;

/// Messages of other services that may wait; who sends more is told to try again.
const RELAYED: usize = 8;

/// Spans that are sent together, about.
const BATCH: usize = 512;

/// How long spans are collected before they are sent.
const DELAY: Duration = Duration::from_millis(500);

/// How long a receiver may take to be connected with, and to answer.
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);

/// Shortest and longest pause before a receiver that is away is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long a service that stops waits for its last spans to be taken.
const GOODBYE: Duration = Duration::from_millis(800);

/// What all parts of this process' one export share.
#[derive(Debug)]
struct Shared {
    tally: Arc<Tally>,
    relayed: Option<mpsc::Sender<Vec<ResourceSpans>>>,
}

static SHARED: OnceLock<Shared> = OnceLock::new();

/// Returns why spans do not arrive where they should, if this process is the one that sends them there.
#[must_use]
pub fn problem() -> Option<String> {
    let shared = SHARED.get().filter(|shared| shared.relayed.is_some())?;
    shared.tally.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Returns where spans of other services are taken, if they are.
pub(super) fn relayed() -> Option<mpsc::Sender<Vec<ResourceSpans>>> {
    SHARED.get()?.relayed.clone()
}

/// Counts in `registry` what becomes of spans, if there are some.
pub(super) fn count_in(registry: &Registry) {
    if let Some(shared) = SHARED.get() {
        let counter = |result| registry.counter(&shared::TRACE_SPANS, &[registry.service(), result]);
        // A process that has several servers has one set of metrics.
        let _ = shared.tally.counters.set([counter("sent"), counter("lost")]);
    }
}

/// What became of spans.
#[derive(Debug, Default)]
struct Tally {
    sent: AtomicU64,
    lost: AtomicU64,
    counters: OnceLock<[Counter; 2]>,
    problem: Mutex<Option<String>>,
}

impl Tally {
    fn sent(&self, count: u64) {
        self.sent.fetch_add(count, Ordering::Relaxed);
        self.show();
    }

    fn lost(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
        self.show();
    }

    fn show(&self) {
        if let Some([sent, lost]) = self.counters.get() {
            sent.absolute(self.sent.load(Ordering::Relaxed));
            lost.absolute(self.lost.load(Ordering::Relaxed));
        }
    }

    /// Notes that the receiver took spans, or the first reason why it did not.
    fn note(&self, reason: Option<String>) {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if reason.is_none() || problem.is_none() {
            *problem = reason;
        }
    }
}

/// Who takes spans.
#[derive(Debug)]
pub(super) struct Receiver {
    channel: Channel,
    /// For sentences.
    name: String,
    /// Whether it gets the spans of all services of the host.
    is_last: bool,
}

impl Receiver {
    /// What the operator named.
    pub(super) fn collector(endpoint: &OtlpEndpoint) -> Self {
        let channel = Endpoint::from(endpoint.uri()).connect_timeout(CONNECT).connect_lazy();
        Self { channel, name: endpoint.to_string(), is_last: true }
    }

    /// The router of this host, which listens on `socket`.
    pub(super) fn router(socket: &Path) -> Self {
        Self { channel: weft_proto::client::channel(socket), name: socket.display().to_string(), is_last: false }
    }
}

/// Starts to hand on spans.
pub(super) fn start(receiver: Receiver, resource: &Resource) -> (Queue, Exporting) {
    let tally = Arc::new(Tally::default());
    let (relay, relayed) = mpsc::channel(RELAYED);
    // Who records already, goes on.
    let _ = SHARED.set(Shared { tally: Arc::clone(&tally), relayed: receiver.is_last.then_some(relay) });
    spawn(receiver, resource, tally, relayed)
}

fn spawn(
    receiver: Receiver,
    resource: &Resource,
    tally: Arc<Tally>,
    relayed: mpsc::Receiver<Vec<ResourceSpans>>,
) -> (Queue, Exporting) {
    let (queue, spans) = mpsc::channel(QUEUE);
    let Receiver { channel, name, is_last } = receiver;
    let resource = ResourceAttributesWithSchema::from(resource);
    let host = resource.attributes.0.iter().find(|attribute| attribute.key == HOST_NAME).cloned();
    let exporter = Exporter {
        spans,
        relayed,
        waiting: Vec::new(),
        request: None,
        client: TraceServiceClient::new(channel),
        receiver: name,
        is_last,
        resource,
        host,
        tally: Arc::clone(&tally),
    };
    let (stop, stopping) = oneshot::channel();
    let task = tokio::spawn(exporter.run(stopping));
    (Queue { spans: queue, tally }, Exporting { stop, task })
}

/// Takes the spans of this process as they end.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    tally: Arc<Tally>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.spans.try_send(span).is_err() {
            self.tally.lost(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Spans are being handed on.
#[derive(Debug)]
pub struct Exporting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Hands on what there is, once and for a moment, and ends.
    pub async fn stop(self) {
        // A task that has ended already does not hear it.
        let _ = self.stop.send(());
        let _ = timeout(GOODBYE, self.task).await;
    }
}

#[derive(Debug)]
struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    relayed: mpsc::Receiver<Vec<ResourceSpans>>,
    /// Taken from the queues, and not in a message yet.
    waiting: Vec<ResourceSpans>,
    /// A message that was not taken yet.
    request: Option<ExportTraceServiceRequest>,
    client: TraceServiceClient<Channel>,
    receiver: String,
    is_last: bool,
    resource: ResourceAttributesWithSchema,
    /// Says which host it is; other services do not know.
    host: Option<KeyValue>,
    tally: Arc<Tally>,
}

impl Exporter {
    async fn run(mut self, stopping: oneshot::Receiver<()>) {
        tokio::select! {
            () = self.work() => {}
            // Either way the service ends.
            _ = stopping => {}
        }
        loop {
            if self.request.is_none() && !self.take() {
                break;
            }
            if self.send().await.is_err() {
                break;
            }
        }
    }

    /// Hands on what comes; ends when nothing can come any more. What it holds when it is dropped stays here.
    async fn work(&mut self) {
        let mut pause = PAUSE.0;
        loop {
            if self.request.is_none() {
                if !self.wait().await {
                    return;
                }
                if self.spans.len() < BATCH {
                    sleep(DELAY).await;
                }
                self.take();
            }
            match self.send().await {
                Ok(()) => pause = PAUSE.0,
                Err(()) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Waits until there is something.
    async fn wait(&mut self) -> bool {
        tokio::select! {
            Some(span) = self.spans.recv() => self.waiting.push(ResourceSpans::new(span, &self.resource)),
            Some(spans) = self.relayed.recv() => self.waiting.extend(spans),
            else => return false,
        }
        true
    }

    /// Makes a message of what there is. Tells whether there is something.
    fn take(&mut self) -> bool {
        let mut own = Vec::new();
        while own.len() < BATCH
            && let Ok(span) = self.spans.try_recv()
        {
            own.push(span);
        }
        let mut spans = mem::take(&mut self.waiting);
        if !own.is_empty() {
            spans.extend(group_spans_by_resource_and_scope(own, &self.resource));
        }
        while count(&spans) < BATCH
            && let Ok(more) = self.relayed.try_recv()
        {
            spans.extend(more);
        }
        for resource in spans.iter_mut().filter_map(|spans| spans.resource.as_mut()) {
            if !resource.attributes.iter().any(|attribute| attribute.key == HOST_NAME) {
                resource.attributes.extend(self.host.clone());
            }
        }
        self.request = (!spans.is_empty()).then_some(ExportTraceServiceRequest { resource_spans: spans });
        self.request.is_some()
    }

    /// Sends the message, if there is one. It stays if the receiver may take it another time.
    async fn send(&mut self) -> Result<(), ()> {
        let Some(request) = self.request.clone() else { return Ok(()) };
        let spans = count(&request.resource_spans);
        let sent = timeout(ANSWER, self.client.export(request)).await;
        let sent = sent.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer")));
        match sent {
            Ok(answer) => {
                let rejected = answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
                let rejected = usize::try_from(rejected).unwrap_or(0).min(spans);
                self.tally.sent((spans - rejected) as u64);
                self.tally.lost(rejected as u64);
                self.tally.note(None);
            }
            Err(status) => {
                let reason = reason(&status);
                tracing::debug!(receiver = self.receiver, reason, "spans are not taken");
                self.tally.note(Some(format!(
                    "traces do not arrive at {} ({reason}): see that a receiver of OTLP by gRPC listens there, or unset \
                     WEFT_OTLP_ENDPOINT",
                    self.receiver
                )));
                if may_be_tried_again(&status) {
                    return Err(());
                }
                if !self.is_last {
                    tracing::warn!(reason, "the router does not take spans: give it --otlp-endpoint too");
                }
                self.tally.lost(spans as u64);
            }
        }
        self.request = None;
        Ok(())
    }
}

fn count(spans: &[ResourceSpans]) -> usize {
    spans.iter().flat_map(|spans| &spans.scope_spans).map(|scope| scope.spans.len()).sum()
}

/// Returns what is at the bottom of a failure.
fn reason(status: &Status) -> String {
    let mut cause: &dyn Error = status;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if std::ptr::addr_eq(cause, status) { status.message().to_owned() } else { cause.to_string() }
}

/// Tells whether a receiver may take later what it did not take now (OTLP specification, failures).
fn may_be_tried_again(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // What did not come from the receiver is a broken connection.
        Code::Unknown | Code::Internal => status.source().is_some(),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Unimplemented
        | Code::Unauthenticated => false,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{service::Routes, transport::Server};

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_and_what_is_refused_is_lost_and_holds_up_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a port");
        let address = listener.local_addr().expect("bound");
        // Speaks gRPC, and knows nothing of spans.
        let server = Server::builder().add_routes(Routes::default());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

        let endpoint = format!("http://{address}").parse().expect("valid");
        let tally = Arc::new(Tally::default());
        let (_relay, relayed) = mpsc::channel(1);
        let resource = Resource::builder_empty().build();
        let (queue, exporting) = spawn(Receiver::collector(&endpoint), &resource, Arc::clone(&tally), relayed);
        let tracer = SdkTracerProvider::builder().with_span_processor(queue).build().tracer("test");
        // The task that takes them runs on this thread.
        for _ in 0..QUEUE + 5 {
            drop(tracer.start("span"));
        }
        assert_eq!(tally.lost.load(Ordering::Relaxed), 5);

        let all = (QUEUE + 5) as u64;
        timeout(Duration::from_secs(20), async {
            while tally.lost.load(Ordering::Relaxed) < all {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("they are given up");
        assert_eq!((tally.lost.load(Ordering::Relaxed), tally.sent.load(Ordering::Relaxed)), (all, 0));
        let problem = tally.problem.lock().expect("sound").clone().unwrap_or_default();
        assert!(problem.starts_with(&format!("traces do not arrive at http://{address} (")), "{problem}");
        exporting.stop().await;
    }
}
