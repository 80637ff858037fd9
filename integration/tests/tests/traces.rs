//! A receiver of OTLP sees one trace of what a client asks for, over all services of the host; a receiver that is away holds up
//! nothing.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail, ensure};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{ResourceSpans, span::SpanKind},
};
use serde_json::Value as Json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};
use weft_integration_tests::{OtlpReceiver, PASSWORD, SOON, hosts_with_images};
use weft_lab::{Host, Launch, Weft, eventually, image};

/// The trace of a client, and the spans that it calls in.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CREATES: &str = "b7ad6b7169203331";
const STARTS: &str = "c7ad6b7169203332";

/// What ipam, the router and dns are asked for when a container starts, each by docker-proxy.
const CALLS: [(&str, &str); 3] = [
    ("weft-ipam", "weft.ipam.v1.AddressService/Allocate"),
    ("weft-router", "weft.router.v1.AttachmentService/Attach"),
    ("weft-dns", "weft.dns.v1.NameService/Register"),
];

/// A span, as far as it is looked at here.
#[derive(Debug, Clone)]
struct Span {
    service: String,
    host: String,
    name: String,
    kind: SpanKind,
    trace: String,
    id: String,
    parent: String,
    /// When it began and ended.
    time: (u64, u64),
}

/// What a receiver on a host has been sent.
struct Traces {
    receiver: OtlpReceiver,
    spans: Vec<Span>,
}

impl Traces {
    async fn start(weft: &Weft) -> anyhow::Result<Self> {
        Ok(Self { receiver: OtlpReceiver::start(weft).await?, spans: Vec::new() })
    }

    /// Returns all spans of a trace once `is_whole` says so.
    async fn trace(&mut self, what: &str, is_whole: impl Fn(&[Span]) -> bool) -> anyhow::Result<Vec<Span>> {
        let whole = timeout(SOON, async {
            loop {
                let mut traces: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
                for span in &self.spans {
                    traces.entry(&span.trace).or_default().push(span.clone());
                }
                if let Some(spans) = traces.into_values().find(|spans| is_whole(spans)) {
                    return Ok(spans);
                }
                match self.receiver.next().await {
                    Some(request) => self.spans.extend(request.resource_spans.iter().flat_map(spans)),
                    None => bail!("the receiver has ended"),
                }
            }
        });
        whole.await.unwrap_or_else(|_| bail!("there is no {what} in {:#?}", self.spans))
    }
}

fn spans(message: &ResourceSpans) -> Vec<Span> {
    let of = message.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let span = |span: &opentelemetry_proto::tonic::trace::v1::Span| Span {
        service: text(of, "service.name"),
        host: text(of, "host.name"),
        name: span.name.clone(),
        kind: span.kind(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        time: (span.start_time_unix_nano, span.end_time_unix_nano),
    };
    message.scope_spans.iter().flat_map(|scope| &scope.spans).map(span).collect()
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.as_ref());
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn find<'a>(spans: &'a [Span], service: &str, name: &str, kind: SpanKind) -> Option<&'a Span> {
    spans.iter().find(|span| span.service == service && span.name == name && span.kind == kind)
}

/// Tells whether spans show a container's creation and start, over all services.
fn is_run(spans: &[Span]) -> bool {
    let has = |service, name, kind| find(spans, service, name, kind).is_some();
    has("weft-docker-proxy", "POST /containers/create", SpanKind::Server)
        && has("weft-docker-proxy", "POST /containers/{id}/start", SpanKind::Server)
        && CALLS.iter().all(|(service, call)| has(service, call, SpanKind::Server))
}

/// Checks who asked whom: `create` and `start` are the parents of the two calls of the Docker API.
fn check(spans: &[Span], create: &str, start: &str) -> anyhow::Result<()> {
    let span = |service: &str, name: &str, kind| {
        find(spans, service, name, kind).with_context(|| format!("{service} has no {kind:?} span {name} in {spans:#?}"))
    };
    let created = span("weft-docker-proxy", "POST /containers/create", SpanKind::Server)?;
    let started = span("weft-docker-proxy", "POST /containers/{id}/start", SpanKind::Server)?;
    ensure!((created.parent.as_str(), started.parent.as_str()) == (create, start), "{created:?} {started:?}");
    for (service, call) in CALLS {
        let asked = span("weft-docker-proxy", call, SpanKind::Client)?;
        let answered = span(service, call, SpanKind::Server)?;
        ensure!(asked.parent == started.id && answered.parent == asked.id, "{asked:?} {answered:?}");
        let inside = |inner: (u64, u64), outer: (u64, u64)| outer.0 <= inner.0 && inner.1 <= outer.1;
        ensure!(inside(answered.time, asked.time) && inside(asked.time, started.time), "{asked:?} {answered:?}");
    }
    let attached = span("weft-router", CALLS[1].1, SpanKind::Server)?;
    let set_up = span("weft-router", "set up ethwe", SpanKind::Internal)?;
    ensure!(set_up.parent == attached.id, "{set_up:?}");
    for one in spans {
        let known = [create, start].contains(&one.parent.as_str()) || spans.iter().any(|span| span.id == one.parent);
        ensure!(known && one.host == created.host && !one.host.is_empty(), "{one:?} is on its own in {spans:#?}");
    }
    Ok(())
}

/// Calls the Docker API as a client that has a trace, and returns the answer.
async fn call(host: &Host, target: &str, span: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(host.path("/run/weft/docker/docker.sock")).await?;
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\ntraceparent: 00-{TRACE}-{span}-01\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    timeout(SOON, stream.read_to_string(&mut answer)).await.context("no answer")??;
    Ok(answer)
}

#[tokio::test]
async fn a_run_is_one_trace_over_all_services() -> anyhow::Result<()> {
    let lab = hosts_with_images(1).await?;
    let host = lab.host(1);
    let launch = Launch::new(PASSWORD)
        .with("WEFT_OTLP_ENDPOINT", &format!("http://{}", OtlpReceiver::ADDRESS))
        .with("WEFT_LOG_LEVEL", "info,weft_dns=debug")
        .with("WEFT_LOG_FORMAT", "json");
    let weft = Weft::launch(host, launch).await?;
    weft.joined(0).await?;

    // Nobody receives yet: all works, and one sentence says so.
    host.docker_via_proxy(&["run", "--rm", image::BUSYBOX, "ip", "addr", "show", "ethwe"]).await?;
    eventually("the router says that traces do not arrive", SOON, async || {
        let problems = weft.router_status().await?.problems;
        let problem = problems.iter().find(|problem| problem.reason == "no_traces");
        let message = &problem.with_context(|| format!("{problems:?}"))?.message;
        ensure!(message.contains(OtlpReceiver::ADDRESS) && message.contains("Connection refused"), "{message}");
        Ok(())
    })
    .await?;

    let mut receiver = Traces::start(&weft).await?;
    let early = receiver.trace("run of docker", is_run).await?;
    let created = find(&early, "weft-docker-proxy", "POST /containers/create", SpanKind::Server);
    let created = created.context("it is there")?.id.clone();
    // The client has no trace: its two calls are joined.
    check(&early, "", &created)?;
    eventually("traces arrive", SOON, async || {
        let problems = weft.router_status().await?.problems;
        ensure!(problems.iter().all(|problem| problem.reason != "no_traces"), "{problems:?}");
        Ok(())
    })
    .await?;

    let body = format!(r#"{{"Image":"{}","Cmd":["sleep","600"]}}"#, image::BUSYBOX);
    let answer = call(host, "/containers/create?name=traced", CREATES, &body).await?;
    ensure!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let answer = call(host, "/containers/traced/start", STARTS, "").await?;
    ensure!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    let of_client = |spans: &[Span]| is_run(spans) && spans.iter().all(|span| span.trace == TRACE);
    let spans = receiver.trace("trace of the client", of_client).await?;
    check(&spans, CREATES, STARTS)?;

    for (service, message) in [("docker-proxy", "attached"), ("dns", "registering")] {
        let log = weft.logs(service).await?;
        // Compose adds codes for terminals.
        let object = |line: &str| serde_json::from_str(line.get(line.find('{')?..=line.rfind('}')?)?).ok();
        let lines: Vec<Json> = log.lines().filter_map(object).collect();
        let line =
            lines.iter().rfind(|line| line["message"] == message).with_context(|| format!("{service}: {log:?}"))?;
        let span = line["span_id"].as_str().unwrap_or_default();
        ensure!(line["trace_id"] == TRACE && spans.iter().any(|one| one.id == span), "{service}: {line}");
    }

    // Calls that only look have no trace; and nothing was lost.
    host.docker_via_proxy(&["ps", "--all"]).await?;
    let scrape = host.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1:6782/metrics"]).await?;
    let lost: Vec<&str> = scrape.lines().filter(|line| line.starts_with("weft_trace_spans_total")).collect();
    ensure!(lost.iter().filter(|line| line.contains("lost") && line.ends_with(" 0")).count() == 4, "{lost:?}");
    ensure!(
        timeout(
            Duration::from_secs(1),
            receiver.trace("span of ps", |spans| { spans.iter().any(|span| span.name.starts_with("GET")) })
        )
        .await
        .is_err(),
        "calls that only look are traced"
    );
    lab.stop().await
}
