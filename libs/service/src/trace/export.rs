//! The way of spans out of the process.

use std::{
    error::Error,
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
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use weft_metrics::{Counter, Registry, shared};

use super::{HOST_NAME, OtlpEndpoint};

/// Spans of this process that may wait, and bytes of them; those that come then are lost, and counted.
const QUEUE: (usize, usize) = (2048, 4 << 20);

/// Messages of other services that may wait; who sends more is told to try again.
const RELAYED: usize = 8;

/// Spans of this process, and those of other services, that are sent together, about, and bytes of either: receivers take
/// messages of up to 4 MiB.
const BATCH: (usize, usize) = (512, 1 << 20);

/// Largest message that is taken from another service, in bytes: a batch, and what is told with it.
pub(super) const LARGEST: usize = BATCH.1 + (64 << 10);

/// How long spans are collected before they are sent.
const DELAY: Duration = Duration::from_millis(500);

/// How long a receiver may take to be connected with, and to answer.
const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);

/// Shortest and longest pause before a receiver that is away is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// How long a refusal is told of, if nothing is sent afterwards.
const REMEMBERED: Duration = Duration::from_secs(60);

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
    shared.tally.problem(Instant::now())
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
    problem: Mutex<Option<Problem>>,
}

/// Why the receiver did not take spans.
#[derive(Debug)]
struct Problem {
    text: String,
    /// When it is history, where nothing waits whose sending would show that.
    until: Option<Instant>,
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

    /// Notes that the receiver took spans, or why it did not the last time.
    fn note(&self, problem: Option<Problem>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// Returns why spans do not arrive.
    fn problem(&self, now: Instant) -> Option<String> {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = problem.as_ref().filter(|problem| problem.until.is_none_or(|until| now < until));
        problem.map(|problem| problem.text.clone())
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
    let (queue, spans) = mpsc::channel(QUEUE.0);
    let Receiver { channel, name, is_last } = receiver;
    let resource = ResourceAttributesWithSchema::from(resource);
    let host = resource.attributes.0.iter().find(|attribute| attribute.key == HOST_NAME).cloned();
    let exporter = Exporter {
        spans,
        relayed,
        next_own: None,
        next_relayed: None,
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
    (Queue { spans: queue, room: Arc::new(Semaphore::new(QUEUE.1)), tally }, Exporting { stop, task })
}

/// Takes the spans of this process as they end.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<Waiting>,
    /// In bytes.
    room: Arc<Semaphore>,
    tally: Arc<Tally>,
}

/// A span that waits.
#[derive(Debug)]
struct Waiting {
    span: SpanData,
    /// In bytes.
    size: usize,
    /// Its part of the queue's.
    _room: OwnedSemaphorePermit,
}

impl Queue {
    /// Adds a span, if there is room.
    fn add(&self, span: SpanData) -> Option<()> {
        let size = size(&span);
        let room = Arc::clone(&self.room).try_acquire_many_owned(u32::try_from(size).ok()?).ok()?;
        self.spans.try_send(Waiting { span, size, _room: room }).ok()
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.add(span).is_none() {
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
        let _ = self.task.await;
    }
}

#[derive(Debug)]
struct Exporter {
    spans: mpsc::Receiver<Waiting>,
    relayed: mpsc::Receiver<Vec<ResourceSpans>>,
    /// Taken from the queues, and not in a message yet.
    next_own: Option<Waiting>,
    next_relayed: Option<Vec<ResourceSpans>>,
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
        let _ = timeout(GOODBYE, self.hand_on_rest()).await;
        let mut left = 0;
        while self.request.is_some() || self.take() {
            left += self.request.take().map_or(0, |request| count(&request.resource_spans));
        }
        if left > 0 {
            tracing::debug!(receiver = self.receiver, left, "spans are lost");
            self.tally.lost(left as u64);
        }
    }

    /// Hands on what there is, until there is nothing or it is not taken.
    async fn hand_on_rest(&mut self) {
        while self.request.is_some() || self.take() {
            if self.send().await.is_err() {
                return;
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
                if self.spans.len() < BATCH.0 {
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
        if self.next_own.is_some() || self.next_relayed.is_some() {
            return true;
        }
        tokio::select! {
            Some(span) = self.spans.recv() => self.next_own = Some(span),
            Some(spans) = self.relayed.recv() => self.next_relayed = Some(spans),
            else => return false,
        }
        true
    }

    /// Makes a message of what there is. Tells whether there is something.
    fn take(&mut self) -> bool {
        let (mut own, mut bytes) = (Vec::new(), 0);
        while own.len() < BATCH.0
            && let Some(span) = self.next_own.take().or_else(|| self.spans.try_recv().ok())
        {
            bytes += span.size;
            if bytes > BATCH.1 && !own.is_empty() {
                self.next_own = Some(span);
                break;
            }
            own.push(span.span);
        }
        let (mut spans, mut bytes) = (Vec::new(), 0);
        while count(&spans) < BATCH.0
            && let Some(more) = self.next_relayed.take().or_else(|| self.relayed.try_recv().ok())
        {
            bytes += more.iter().map(ResourceSpans::encoded_len).sum::<usize>();
            if bytes > BATCH.1 && !spans.is_empty() {
                self.next_relayed = Some(more);
                break;
            }
            spans.extend(more);
        }
        if !own.is_empty() {
            spans.extend(group_spans_by_resource_and_scope(own, &self.resource));
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
                let again = may_be_tried_again(&status);
                tracing::debug!(receiver = self.receiver, reason, again, "spans are not taken");
                let text = format!(
                    "traces do not arrive at {} ({reason}): see that a receiver of OTLP by gRPC listens there, or unset \
                     WEFT_OTLP_ENDPOINT",
                    self.receiver
                );
                self.tally.note(Some(Problem { text, until: (!again).then(|| Instant::now() + REMEMBERED) }));
                if again {
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

/// Returns about how many bytes a span takes in a message, rather too many than too few.
fn size(span: &SpanData) -> usize {
    /// Identifiers, times, kind and counts.
    const FIXED: usize = 192;
    /// What surrounds name and value.
    const ATTRIBUTE: usize = 32;
    let attributes = span.attributes.iter();
    let attributes: usize =
        attributes.map(|noted| ATTRIBUTE + noted.key.as_str().len() + noted.value.as_str().len()).sum();
    let reason =
        if let opentelemetry::trace::Status::Error { description } = &span.status { description.len() } else { 0 };
    FIXED + span.span_context.trace_state().header().len() + span.name.len() + attributes + reason
}

/// Returns what is at the bottom of a failure.
fn reason(status: &Status) -> String {
    let mut cause: &dyn Error = status;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    if std::ptr::addr_eq(cause, status) { status.message().to_owned() } else { cause.to_string() }
}

/// Tells whether a receiver may take later what it did not take now (OTLP specification, failures). `OutOfRange`, which
/// it counts among those, is what tonic says of a message that is too large.
fn may_be_tried_again(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::Unavailable | Code::DataLoss => true,
        // What did not come from the receiver is a broken connection.
        Code::Unknown | Code::Internal => status.source().is_some(),
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => false,
    }
}

#[cfg(test)]
mod tests;
